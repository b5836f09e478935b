//! Delivering messages, in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow, types::Json};
use tokio::time::sleep;
use tracing::warn;

use crate::domain::{DeliveryId, FifoMode, Filter, Message, QueueName};

use super::{
    Conn,
    decode::get,
    error::{Error, Result},
    messages::{MSG_ID, seconds, try_decode},
    size_limited_rows::SizeLimitedRows,
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
    pub filter: Option<Filter>,
    /// Whether and how to read in groups.
    pub fifo: Option<FifoMode>,
    /// What happens to messages that were delivered in vain.
    pub dead_letters: Option<DeadLetters>,
    /// Bytes that it may come to; one message always fits.
    pub max_bytes: u64,
    /// Where groups take turns, the one that was served last.
    pub after_group: Option<Vec<u8>>,
    /// Whether to read as PGMQ does: in order of `msg_id`, at a cost that grows with the messages in
    /// flight.
    pub as_pgmq: bool,
    /// The `vt` from which on to look; from the lowest one where nothing is said.
    pub since: Option<DateTime<Utc>>,
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
    /// What the table did not give.
    pub kept: Option<Kept>,
    /// The ids of messages that were leased and cannot be read.
    pub unreadable: Vec<i64>,
    /// Where groups take turns, the one that was served last.
    pub last_group: Option<Vec<u8>>,
}

impl Found {
    /// Whether it met nothing that could be delivered.
    pub fn is_empty(&self) -> bool {
        let is_nothing_leased = self.messages.is_empty() && self.unreadable.is_empty();
        is_nothing_leased && self.dead == 0 && self.kept.is_none() && !self.more
    }
}

/// Messages that could be delivered, and that the table does not let go: a trigger, a policy or a constraint
/// keeps them as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many were met.
    pub count: i32,
    /// The SQLSTATE with which one was refused; nothing if that was done without a word.
    pub code: Option<String>,
}

/// Messages of a queue that a read leaves where they are, and counts among those that are [`Kept`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// The identity of the queue: another one of its name has other messages.
    pub queue_id: Option<i64>,
    /// Their ids.
    pub ids: Vec<i64>,
}

/// Reads what can be delivered now, and hides it; what does not fit is given back. With `want_due`,
/// and fewer messages than asked for, tells when the next hidden one is visible.
///
/// A row that its table refuses to update fails the whole, unless they are leased `one_by_one`. Where a trigger may
/// take long for a row, some can be `passed_over`.
pub async fn read(
    conn: &mut Conn,
    read: &Read,
    want_due: bool,
    one_by_one: bool,
    passed_over: &PassedOver,
) -> Result<Found> {
    let (max_receives, target) = dead_letters(read.dead_letters.as_ref());
    let query = if read.fifo == Some(FifoMode::Fair) {
        sqlx::query(
            "/* read_fair */ SELECT * FROM pgmq_gateway.receive_fair($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(want_due)
        .bind(max_receives)
        .bind(target)
        .bind(read.after_group.as_deref())
        .bind(one_by_one)
        .bind(read.since)
        .bind(&passed_over.ids)
        .bind(passed_over.queue_id)
    } else if let Some(mode) = read.fifo {
        sqlx::query(
            "/* read_fifo */ SELECT * FROM pgmq_gateway.receive_fifo($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(read.queue.as_str())
        .bind(mode.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(want_due)
        .bind(max_receives)
        .bind(target)
        .bind(one_by_one)
        .bind(read.since)
        .bind(&passed_over.ids)
        .bind(passed_over.queue_id)
    } else if read.as_pgmq && read.is_plain() && conn.is_modern() && !one_by_one {
        sqlx::query(
            "/* read */ SELECT m.*, NULL::float8 AS due_in, NULL::integer AS dead, \
                    NULL::integer AS kept, NULL::text AS kept_code \
             FROM pgmq_gateway.receive_by_pgmq($1, $2, $3, $4) m ORDER BY msg_id",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(read.filter.as_ref().map(|filter| Json(filter.json())))
    } else {
        sqlx::query(
            "/* read_indexed */ \
             SELECT * FROM pgmq_gateway.receive($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ORDER BY msg_id",
        )
        .bind(read.queue.as_str())
        .bind(read.vt)
        .bind(read.qty)
        .bind(read.filter.as_ref().map(|filter| Json(filter.json())))
        .bind(read.as_pgmq)
        .bind(want_due)
        .bind(max_receives)
        .bind(target)
        .bind(one_by_one)
        .bind(read.since)
        .bind(&passed_over.ids)
        .bind(passed_over.queue_id)
    };
    let (mut found, mut fitted) = (Found::default(), SizeLimitedRows::new(read.max_bytes));
    let take = |row: PgRow| {
        // The last one may have no message.
        if row.try_get::<Option<i64>, _>(MSG_ID)?.is_some() {
            return fitted.take(&row, try_decode);
        }
        found.due_in = row.try_get::<Option<f64>, _>("due_in")?.map(seconds);
        let dead: Option<i32> = row.try_get("dead")?;
        found.dead = usize::try_from(dead.unwrap_or(0)).unwrap_or(0);
        found.kept = kept(&row)?;
        if read.fifo == Some(FifoMode::Fair) {
            found.last_group = row.try_get("last_group")?;
        }
        Ok(())
    };
    conn.on(&read.queue).lease_each(query, Duration::ZERO, take).await?;
    found.more = !fitted.left.is_empty();
    found.unreadable = std::mem::take(&mut fitted.unreadable);
    found.messages = leased(conn, &read.queue, fitted).await;
    Ok(found)
}

/// What the table did not give, as the last row of an answer says.
pub(super) fn kept(row: &PgRow) -> std::result::Result<Option<Kept>, sqlx::Error> {
    let count: Option<i32> = row.try_get("kept")?;
    let Some(count) = count.filter(|count| *count > 0) else { return Ok(None) };
    Ok(Some(Kept { count, code: row.try_get("kept_code")? }))
}

/// What fits of what was read, the rest given back.
pub(super) async fn leased(
    conn: &mut Conn,
    queue: &QueueName,
    mut read: SizeLimitedRows<Message>,
) -> Vec<Message> {
    // What nothing tells from one that is kept would be taken from whoever gets that.
    read.left.retain(|left| !read.kept.iter().any(|kept| kept.delivery() == *left));
    if read.left.is_empty() {
        return read.kept;
    }
    let mut pauses = [10, 20, 40].map(Duration::from_millis).into_iter();
    while let Err(error) = release(conn, queue, &mut read.left).await {
        let Some(pause) = pauses.next().filter(|_| matches!(error, Error::Locked)) else {
            let messages = read.left.len();
            warn!(%queue, messages, %error, "not given back: hidden until their timeout is over");
            break;
        };
        sleep(pause).await;
    }
    read.kept
}

pub(super) fn dead_letters(dead_letters: Option<&DeadLetters>) -> (Option<i32>, Option<&str>) {
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
         SELECT * FROM pgmq_gateway.receive_with_poll($1, $2, $3, $4, $5, $6) ORDER BY msg_id",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(i32::try_from(seconds).unwrap_or(i32::MAX))
    .bind(i32::try_from(poll_interval.as_millis()).unwrap_or(i32::MAX))
    .bind(read.filter.as_ref().map(|filter| Json(filter.json())));
    let wait = Duration::from_secs(seconds.into());
    let mut fitted = SizeLimitedRows::new(read.max_bytes);
    conn.on(&read.queue)
        .lease_each(query, wait, |row: PgRow| fitted.take(&row, try_decode))
        .await?;
    Ok(leased(conn, &read.queue, fitted).await)
}

/// Gives back deliveries that nobody took, unless somebody else has them by now. Fails with
/// [`Error::Locked`] where somebody has some of them locked; those are left in `delivered`.
pub async fn release(
    conn: &mut Conn,
    queue: &QueueName,
    delivered: &mut Vec<DeliveryId>,
) -> Result<()> {
    let ids: Vec<i64> = delivered.iter().map(|delivery| delivery.msg_id).collect();
    let counts: Vec<i32> = delivered.iter().map(|delivery| delivery.read_ct).collect();
    let stamps: Vec<Option<i64>> = delivered.iter().map(|delivery| delivery.stamp()).collect();
    let query = sqlx::query("/* release */ SELECT pgmq_gateway.release($1, $2, $3, $4)")
        .bind(queue.as_str())
        .bind(ids)
        .bind(counts)
        .bind(stamps);
    // Once more, it might take away what somebody else has been given by then.
    let rows = conn.on(queue).give_back(query).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    let held: Vec<i64> = row.try_get(0).map_err(Error::unexpected)?;
    delivered.retain(|delivery| held.contains(&delivery.msg_id));
    if delivered.is_empty() { Ok(()) } else { Err(Error::Locked) }
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
    /// As for [`Read`].
    pub since: Option<DateTime<Utc>>,
}

/// What was popped.
#[derive(Debug, Default)]
pub struct Popped {
    /// In order; they are deleted.
    pub messages: Vec<Message>,
    /// What the table did not give.
    pub kept: Option<Kept>,
    /// Whether there was no room for others; they are still there.
    pub more: bool,
}

impl Popped {
    /// Whether it met nothing that could be popped.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.kept.is_none() && !self.more
    }
}

/// Reads and deletes in one statement, and one round trip. A row that its table refuses to delete fails the
/// whole, unless they are popped `one_by_one`.
pub async fn pop(conn: &mut Conn, pop: &Pop, one_by_one: bool) -> Result<Popped> {
    let (max_receives, target) = dead_letters(pop.dead_letters.as_ref());
    let query = sqlx::query(
        "/* pop */ SELECT * FROM pgmq_gateway.pop($1, $2, $3, $4, $5, $6, $7, $8) ORDER BY msg_id",
    )
    .bind(pop.queue.as_str())
    .bind(pop.qty)
    .bind(pop.as_pgmq)
    .bind(max_receives)
    .bind(target)
    .bind(one_by_one)
    .bind(i64::try_from(pop.max_bytes).unwrap_or(i64::MAX))
    .bind(pop.since);
    let (mut popped, mut unreadable) = (Popped::default(), Vec::new());
    let take = |row: PgRow| {
        popped.more |= row.try_get::<Option<bool>, _>("more")?.unwrap_or(false);
        let Some(msg_id) = row.try_get::<Option<i64>, _>(MSG_ID)? else {
            popped.kept = kept(&row)?;
            return Ok(());
        };
        match try_decode(&row) {
            Ok(message) => popped.messages.push(message),
            Err(sqlx::Error::ColumnDecode { .. }) => unreadable.push(msg_id),
            Err(error) => return Err(error),
        }
        Ok(())
    };
    conn.on(&pop.queue).change_each(query, take).await?;
    if !unreadable.is_empty() {
        warn!(queue = %pop.queue, ids = ?unreadable, "popped messages that make no sense are lost");
    }
    Ok(popped)
}

/// Messages that were taken out of the way, as they cannot be delivered.
#[derive(Debug, Default)]
pub struct Quarantined {
    /// Those that are in the archive now.
    pub archived: Vec<i64>,
    /// Those that the archive does not take: they stay in the queue, and are never visible again.
    pub hidden: Vec<i64>,
}

impl Quarantined {
    fn of(rows: &[PgRow]) -> Result<Self> {
        let mut quarantined = Self::default();
        for row in rows {
            let place = if get(row, "is_archived")? {
                &mut quarantined.archived
            } else {
                &mut quarantined.hidden
            };
            place.push(get(row, "id")?);
        }
        Ok(quarantined)
    }

    /// How many messages there are of both.
    pub fn count(&self) -> usize {
        self.archived.len() + self.hidden.len()
    }
}

/// Takes those of the next `max_messages` that the filter chooses out of the way whose numbers take more than
/// `max_expanded` bytes once they are written out or, without that, those that cannot be written out.
pub async fn quarantine(
    conn: &mut Conn,
    queue: &QueueName,
    max_messages: i32,
    max_expanded: Option<i64>,
    filter: Option<&Filter>,
) -> Result<Quarantined> {
    let query =
        sqlx::query("/* quarantine */ SELECT * FROM pgmq_gateway.quarantine($1, $2, $3, $4)")
            .bind(queue.as_str())
            .bind(max_messages)
            .bind(max_expanded)
            .bind(filter.map(|filter| Json(filter.json())));
    Quarantined::of(&conn.look_patiently(query, QUARANTINE_LIMIT).await?)
}

/// Takes messages out of the way that cannot be delivered; returns those that were.
pub async fn quarantine_these(
    conn: &mut Conn,
    queue: &QueueName,
    messages: &[i64],
) -> Result<Quarantined> {
    let query = sqlx::query("/* quarantine */ SELECT * FROM pgmq_gateway.quarantine_these($1, $2)");
    Quarantined::of(&conn.on(queue).change(query.bind(queue.as_str()).bind(messages)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_leased_and_cannot_be_read_is_something() {
        assert!(Found::default().is_empty());
        assert!(!Found { unreadable: vec![1], ..Found::default() }.is_empty());
    }
}
