//! Statements that serve several queues, in SQL.

use crate::domain::{NewMessage, QueueName};

use super::{
    Conn,
    decode::get,
    error::{Error, Result},
    messages::{headers, moments, visibility},
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
    let count = |(_, messages): &(&QueueName, Vec<&NewMessage>)| {
        i32::try_from(messages.len()).unwrap_or(i32::MAX)
    };
    let query = sqlx::query(
        "/* send_to_queues */ SELECT outcome, ids \
         FROM pgmq_gateway.send_to_queues($1, $2, $3, $4, $5, $6) ORDER BY place",
    )
    .bind(batches.iter().map(|(queue, _)| queue.as_str()).collect::<Vec<_>>())
    .bind(batches.iter().map(count).collect::<Vec<_>>())
    .bind(all().map(|new| new.message.get().as_bytes()).collect::<Vec<_>>())
    .bind(all().map(headers).collect::<Vec<_>>())
    .bind(delays)
    .bind(times);
    let rows = conn.store(query).await?;
    if rows.len() != batches.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
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
