//! Delivering messages, in SQL.

use std::time::Duration;

use sqlx::{Row, postgres::PgRow, types::Json};
use tracing::warn;

use crate::domain::{FifoMode, Message, QueueName, RawJson};

use super::{
    Conn,
    error::Result,
    fitted::Fitted,
    messages::{ids, seconds, try_decode},
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
    /// Bytes that it may come to; one message always fits.
    pub max_bytes: u64,
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
    /// Whether there are others that did not fit; they are visible again.
    pub more: bool,
}

/// Reads what can be delivered now, and hides it; what does not fit is given back. With `want_due`,
/// and fewer messages than asked for, tells when the next hidden one is visible.
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
             FROM pgmq.read(pgmq_gateway.queue_named($1), $2, $3, coalesce($4, '{}')) \
             ORDER BY msg_id",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(read.filter.as_deref().map(Json))
    } else {
        sqlx::query(
            "/* read_indexed */ SELECT * FROM pgmq_gateway.receive($1, $2, $3, $4, $5, $6, $7, $8) \
             ORDER BY msg_id",
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
    let (mut found, mut fitted) = (Found::default(), Fitted::new(read.max_bytes));
    let take = |row: PgRow| {
        // The last one may have no message.
        if row.try_get::<Option<i64>, _>("msg_id")?.is_some() {
            return fitted.take(&row, try_decode);
        }
        found.due_in = row.try_get::<Option<f64>, _>("due_in")?.map(seconds);
        let dead: Option<i32> = row.try_get("dead")?;
        found.dead = usize::try_from(dead.unwrap_or(0)).unwrap_or(0);
        Ok(())
    };
    conn.look_at_each(query, Duration::ZERO, take).await?;
    found.more = !fitted.left.is_empty();
    found.messages = leased(conn, &read.queue, fitted).await;
    Ok(found)
}

/// What fits of what was read, the rest given back.
async fn leased(conn: &mut Conn, queue: &QueueName, read: Fitted<Message>) -> Vec<Message> {
    if !read.left.is_empty()
        && let Err(error) = release(conn, queue, &read.left).await
    {
        let messages = read.left.len();
        warn!(%queue, messages, %error, "not given back: hidden until their timeout is over");
    }
    read.kept
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
         FROM pgmq.read_with_poll(pgmq_gateway.queue_named($1), $2, $3, $4, $5, coalesce($6, '{}')) \
         ORDER BY msg_id",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(i32::try_from(seconds).unwrap_or(i32::MAX))
    .bind(i32::try_from(poll_interval.as_millis()).unwrap_or(i32::MAX))
    .bind(read.filter.as_deref().map(Json));
    let wait = Duration::from_secs(seconds.into());
    let mut fitted = Fitted::new(read.max_bytes);
    conn.look_at_each(query, wait, |row: PgRow| fitted.take(&row, try_decode)).await?;
    Ok(leased(conn, &read.queue, fitted).await)
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

/// What to pop.
#[derive(Clone, Debug)]
pub struct Pop {
    /// The queue.
    pub queue: QueueName,
    /// The most messages to pop.
    pub qty: i32,
    /// Bytes that they may come to; one message always fits.
    pub max_bytes: u64,
    /// As for [`Read`].
    pub as_pgmq: bool,
    /// As for [`Read`].
    pub dead_letters: Option<DeadLetters>,
}

/// Reads and deletes in one statement. Whether several messages fit is known once they are read: if
/// they do not, nothing was deleted, and fewer are popped.
pub async fn pop(conn: &mut Conn, pop: &Pop) -> Result<Vec<Message>> {
    let mut qty = pop.qty;
    while qty > 1 {
        conn.look(sqlx::query("BEGIN")).await?;
        let popped = pop_at_once(conn, pop, qty).await;
        if popped.as_ref().is_ok_and(|popped| popped.left.is_empty()) {
            conn.change(sqlx::query("COMMIT")).await?;
            return popped.map(|popped| popped.kept);
        }
        if conn.is_reusable() {
            conn.look(sqlx::query("ROLLBACK")).await?;
        }
        let fit = i32::try_from(popped?.kept.len()).unwrap_or(1);
        qty = fit.min(qty / 2);
    }
    pop_at_once(conn, pop, 1).await.map(|popped| popped.kept)
}

async fn pop_at_once(conn: &mut Conn, pop: &Pop, qty: i32) -> Result<Fitted<Message>> {
    let (max_receives, target) = dead_letters(pop.dead_letters.as_ref());
    let query =
        sqlx::query("/* pop */ SELECT * FROM pgmq_gateway.pop($1, $2, $3, $4, $5) ORDER BY msg_id")
            .bind(pop.queue.as_str())
            .bind(qty)
            .bind(pop.as_pgmq)
            .bind(max_receives)
            .bind(target);
    let mut fitted = Fitted::new(pop.max_bytes);
    conn.change_each(query, |row: PgRow| fitted.take(&row, try_decode)).await?;
    Ok(fitted)
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
