//! Delivering messages, in SQL.

use std::time::Duration;

use sqlx::{Row, postgres::PgRow, types::Json};

use crate::domain::{FifoMode, Message, QueueName, RawJson};

use super::{
    Conn,
    error::{Error, Result},
    messages::{decode_all, ids, seconds},
};

/// Time to search for messages that are too large to be read: a read that was given up on may still
/// hold them, as PostgreSQL does not stop in the middle of writing one out.
const QUARANTINE_LIMIT: Duration = Duration::from_secs(60);

/// What to read from a queue.
#[derive(Clone, Debug)]
pub struct Read {
    /// The queue.
    pub queue: QueueName,
    /// Seconds that what is read stays hidden.
    pub vt: i32,
    /// The most messages to read.
    pub qty: i32,
    /// A JSON object that a message must contain.
    pub filter: Option<RawJson>,
    /// Whether and how to read in groups.
    pub fifo: Option<FifoMode>,
    /// What happens to messages that were delivered in vain.
    pub dead_letters: Option<DeadLetters>,
    /// Whether to read as PGMQ does: in order of `msg_id`, at a cost that grows with the messages in
    /// flight.
    pub as_pgmq: bool,
}

impl Read {
    /// Whether `pgmq.read` and its kin can do it.
    pub fn is_plain(&self) -> bool {
        self.fifo.is_none() && self.dead_letters.is_none()
    }
}

/// What happens to messages that were delivered in vain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeadLetters {
    /// Deliveries after which a message is moved away.
    pub max_receives: i32,
    /// Where to; the archive where nothing is said.
    pub queue: Option<QueueName>,
}

/// What a read found.
#[derive(Debug, Default)]
pub struct Found {
    /// What can be delivered, in order.
    pub messages: Vec<Message>,
    /// Time until the next hidden message becomes visible, if that was asked for and there is one.
    pub due_in: Option<Duration>,
    /// Messages that were moved away because they had been delivered often enough.
    pub dead: usize,
}

/// Reads what can be delivered now, and hides it. With `want_due`, and fewer messages than asked
/// for, tells when the next hidden one is visible.
pub async fn read(conn: &mut Conn, read: &Read, want_due: bool) -> Result<Found> {
    let (max_receives, target) = dead_letters(read.dead_letters.as_ref());
    let query = if let Some(mode) = read.fifo {
        sqlx::query(
            "/* read_fifo */ SELECT * FROM pgmq_gateway.receive_fifo($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(read.queue.as_str())
        .bind(mode.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(want_due)
        .bind(max_receives)
        .bind(target)
    } else if read.as_pgmq && read.is_plain() && conn.is_modern() {
        sqlx::query(
            "/* read */ SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, \
                    (SELECT pgmq_gateway.queue_table($1)::oid) AS relation, \
                    NULL::float8 AS due_in, NULL::integer AS dead \
             FROM pgmq.read($1, $2, $3, coalesce($4, '{}'))",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(read.filter.as_deref().map(Json))
    } else {
        sqlx::query(
            "/* read_indexed */ SELECT * FROM pgmq_gateway.receive($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(read.filter.as_deref().map(Json))
        .bind(read.as_pgmq)
        .bind(want_due)
        .bind(max_receives)
        .bind(target)
    };
    let rows = conn.look(query).await?;
    let mut found = found(&rows).map_err(Error::unexpected)??;
    if read.fifo.is_none() {
        in_order(&mut found.messages);
    }
    Ok(found)
}

/// Takes what the last row tells, if it has no message.
fn found(rows: &[PgRow]) -> std::result::Result<Result<Found>, sqlx::Error> {
    let mut found = Found::default();
    let mut rows = rows;
    if let Some((last, others)) = rows.split_last()
        && last.try_get::<Option<i64>, _>("msg_id")?.is_none()
    {
        found.due_in = last.try_get::<Option<f64>, _>("due_in")?.map(seconds);
        let dead: Option<i32> = last.try_get("dead")?;
        found.dead = usize::try_from(dead.unwrap_or(0)).unwrap_or(0);
        rows = others;
    }
    Ok(decode_all(rows).map(|messages| Found { messages, ..found }))
}

/// PostgreSQL returns what it read in no particular order; clients get it in the order it was sent.
fn in_order(messages: &mut [Message]) {
    messages.sort_unstable_by_key(|message| message.msg_id);
}

fn dead_letters(dead_letters: Option<&DeadLetters>) -> (Option<i32>, Option<&str>) {
    let target = dead_letters.and_then(|dead| dead.queue.as_ref()).map(QueueName::as_str);
    (dead_letters.map(|dead| dead.max_receives), target)
}

/// A plain read that looks every `poll_interval` for whole `seconds` until there is something.
pub async fn read_with_poll(
    conn: &mut Conn,
    read: &Read,
    seconds: u32,
    poll_interval: Duration,
) -> Result<Vec<Message>> {
    let query = sqlx::query(
        "/* read_with_poll */ \
         SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, \
                (SELECT pgmq_gateway.queue_table($1)::oid) AS relation \
         FROM pgmq.read_with_poll($1, $2, $3, $4, $5, coalesce($6, '{}'))",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(i32::try_from(seconds).unwrap_or(i32::MAX))
    .bind(i32::try_from(poll_interval.as_millis()).unwrap_or(i32::MAX))
    .bind(read.filter.as_deref().map(Json));
    let wait = Duration::from_secs(seconds.into());
    let mut messages = decode_all(&conn.look_waiting(query, wait).await?)?;
    in_order(&mut messages);
    Ok(messages)
}

/// Gives back deliveries that nobody took, unless somebody else has them by now.
pub async fn release(conn: &mut Conn, queue: &QueueName, delivered: &[(i64, i32)]) -> Result<()> {
    let (ids, counts): (Vec<i64>, Vec<i32>) = delivered.iter().copied().unzip();
    let query = sqlx::query("/* release */ SELECT pgmq_gateway.release($1, $2, $3)")
        .bind(queue.as_str())
        .bind(ids)
        .bind(counts);
    conn.look(query).await.map(drop)
}

/// Reads and deletes in one statement.
pub async fn pop(
    conn: &mut Conn,
    queue: &QueueName,
    qty: i32,
    as_pgmq: bool,
    dead: Option<&DeadLetters>,
) -> Result<Vec<Message>> {
    let (max_receives, target) = dead_letters(dead);
    let query = sqlx::query("/* pop */ SELECT * FROM pgmq_gateway.pop($1, $2, $3, $4, $5)")
        .bind(queue.as_str())
        .bind(qty)
        .bind(as_pgmq)
        .bind(max_receives)
        .bind(target);
    let mut messages = decode_all(&conn.change(query).await?)?;
    in_order(&mut messages);
    Ok(messages)
}

/// Archives those of the next `max_messages` whose numbers take more than `max_expanded` bytes once
/// they are written out or, without that, those that cannot be; returns their ids.
pub async fn quarantine(
    conn: &mut Conn,
    queue: &QueueName,
    max_messages: i32,
    max_expanded: Option<i64>,
) -> Result<Vec<i64>> {
    let query = sqlx::query("/* quarantine */ SELECT * FROM pgmq_gateway.quarantine($1, $2, $3)")
        .bind(queue.as_str())
        .bind(max_messages)
        .bind(max_expanded);
    ids(&conn.look_patiently(query, QUARANTINE_LIMIT).await?)
}
