//! Statements that serve several queues, in SQL.

use std::{sync::Arc, time::Duration};

use sqlx::{Row, postgres::PgRow};

use crate::domain::{Message, NewMessage, QueueName, Target};

use super::{
    Action, Conn,
    decode::get,
    error::{Error, Result},
    messages::{MSG_ID, body, headers, moments, seconds, try_decode, visibility},
    reads::{Found, leased},
    settling::Targets,
    size_limited_rows::SizeLimitedRows,
};

/// What a statement for several queues came to for one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueOutcome<T> {
    /// It is done.
    Done(T),
    /// Nothing was done: it needs a statement of its own, which tells why.
    Retry,
    /// The same, and so it will be for a while.
    Separate,
}

impl<T> QueueOutcome<T> {
    fn from_word(word: &str, done: impl FnOnce() -> Result<T>) -> Result<Self> {
        Ok(match word {
            "done" => Self::Done(done()?),
            "retry" => Self::Retry,
            "separate" => Self::Separate,
            other => return Err(Error::unexpected_word(other)),
        })
    }
}

/// Stores messages in several queues, those of a queue all or none, and returns their ids in order.
pub async fn send_to_queues(
    conn: &mut Conn,
    batches: &[(&QueueName, Vec<&NewMessage>)],
) -> Result<Vec<QueueOutcome<Vec<i64>>>> {
    let all = || batches.iter().flat_map(|(_, messages)| messages).copied();
    let (delays, times) = moments(all().map(visibility));
    let known = conn.known_tables().tell(batches.iter().map(|(queue, _)| *queue));
    let query = sqlx::query(
        "/* send_to_queues */ SELECT * FROM pgmq_gateway.send_to_queues( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ORDER BY place",
    )
    .bind(names(batches))
    .bind(counts(batches))
    .bind(all().map(body).collect::<Vec<_>>())
    .bind(all().map(headers).collect::<Vec<_>>())
    .bind(delays)
    .bind(times);
    let query = known.bind(query);
    let rows = conn.store(query).await?;
    learn(conn, batches, &rows)?;
    rows.iter()
        .zip(batches)
        .map(|(row, (_, messages))| {
            QueueOutcome::from_word(get(row, "outcome")?, || match get::<Vec<i64>>(row, "ids")? {
                ids if ids.len() == messages.len() => Ok(ids),
                _ => Err(Error::unexpected(sqlx::Error::RowNotFound)),
            })
        })
        .collect()
}

/// Deletes or archives messages of several queues, and returns the ids of those that were there and at the delivery
/// that is said.
pub async fn end_in_queues(
    conn: &mut Conn,
    action: &Action,
    batches: &[(&QueueName, Vec<&Target>)],
) -> Result<Vec<QueueOutcome<Vec<i64>>>> {
    let targets: Targets = batches.iter().flat_map(|(_, targets)| targets).copied().collect();
    let known = conn.known_tables().tell(batches.iter().map(|(queue, _)| *queue));
    let query = sqlx::query(
        "/* end_in_queues */ SELECT * FROM pgmq_gateway.end_in_queues( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ORDER BY place",
    )
    .bind(action.as_str())
    .bind(names(batches))
    .bind(counts(batches));
    let query = known.bind(targets.bind(query));
    let rows = conn.change(query).await?;
    learn(conn, batches, &rows)?;
    rows.iter()
        .map(|row| QueueOutcome::from_word(get(row, "outcome")?, || get(row, "ended")))
        .collect()
}

/// What to read of one of several queues.
#[derive(Clone, Copy, Debug)]
pub struct QueueRead<'a> {
    /// The queue.
    pub queue: &'a QueueName,
    /// Seconds that what is read stays hidden.
    pub vt: i32,
    /// The most messages to read.
    pub qty: i32,
    /// Whether to tell, where there are fewer, when the next hidden one is visible.
    pub want_due: bool,
    /// Bytes that they may come to; one message always fits.
    pub max_bytes: u64,
}

/// Reads what can be delivered now from several queues, and hides it; what does not fit is given back. Tells of
/// each how long that took.
pub async fn receive_from_queues(
    conn: &mut Conn,
    reads: &[QueueRead<'_>],
) -> Result<Vec<QueueOutcome<(Found, Duration)>>> {
    let known = conn.known_tables().tell(reads.iter().map(|read| read.queue));
    let query = sqlx::query(
        "/* receive_from_queues */ SELECT * FROM pgmq_gateway.receive_from_queues( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9) ORDER BY place, msg_id NULLS LAST",
    )
    .bind(reads.iter().map(|read| read.queue.as_str()).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.vt).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.qty).collect::<Vec<_>>())
    .bind(reads.iter().map(|read| read.want_due).collect::<Vec<_>>());
    let query = known.bind(query);
    let known_tables = Arc::clone(conn.known_tables());
    let limited = |read: &QueueRead<'_>| SizeLimitedRows::new(read.max_bytes);
    let mut rows: Vec<SizeLimitedRows<Message>> = reads.iter().map(limited).collect();
    let mut words: Vec<(String, Option<f64>, f64)> = Vec::new();
    let take = |row: PgRow| {
        if row.try_get::<Option<i64>, _>(MSG_ID)?.is_none() {
            if let Some(read) = reads.get(words.len()) {
                known_tables.learn(read.queue, &row)?;
            }
            words.push((row.try_get("outcome")?, row.try_get("due_in")?, row.try_get("took")?));
            return Ok(());
        }
        // Those of a queue stand behind the last row of the one before.
        match rows.get_mut(words.len()) {
            Some(of_queue) => of_queue.take(&row, try_decode),
            None => Err(sqlx::Error::RowNotFound),
        }
    };
    conn.lease_each(query, Duration::ZERO, take).await?;
    if words.len() != reads.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    let mut outcomes = Vec::new();
    for ((read, mut rows), (word, due_in, took)) in reads.iter().zip(rows).zip(words) {
        outcomes.push(match QueueOutcome::from_word(&word, || Ok(()))? {
            QueueOutcome::Retry => QueueOutcome::Retry,
            QueueOutcome::Separate => QueueOutcome::Separate,
            QueueOutcome::Done(()) => {
                let found = Found {
                    due_in: due_in.map(seconds),
                    more: !rows.left.is_empty(),
                    unreadable: std::mem::take(&mut rows.unreadable),
                    messages: leased(conn, read.queue, rows).await,
                    ..Found::default()
                };
                QueueOutcome::Done((found, seconds(took)))
            }
        });
    }
    Ok(outcomes)
}

/// Remembers what a statement found out about the tables, of which it has a row each.
fn learn<T>(conn: &Conn, batches: &[(&QueueName, Vec<T>)], rows: &[PgRow]) -> Result<()> {
    if rows.len() != batches.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter()
        .zip(batches)
        .try_for_each(|(row, (queue, _))| conn.known_tables().learn(queue, row))
        .map_err(Error::unexpected)
}

fn names<'a, T>(batches: &[(&'a QueueName, Vec<T>)]) -> Vec<&'a str> {
    batches.iter().map(|(queue, _)| queue.as_str()).collect()
}

/// How many each queue has.
fn counts<T>(batches: &[(&QueueName, Vec<T>)]) -> Vec<i32> {
    batches.iter().map(|(_, of_queue)| i32::try_from(of_queue.len()).unwrap_or(i32::MAX)).collect()
}
