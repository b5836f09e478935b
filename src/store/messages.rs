//! Messages, in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::domain::{Message, MsgId, NewMessage, QueueName, RawJson, Visibility};

use super::{
    Conn,
    error::{Error, Result},
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
}

/// Stores one message and returns its id.
pub async fn send(conn: &mut Conn, queue: &QueueName, new: &NewMessage) -> Result<i64> {
    let query = match new.visible {
        Visibility::After(delay) => {
            sqlx::query("/* send */ SELECT * FROM pgmq.send($1, $2, $3, $4::integer)")
                .bind(queue.as_str())
                .bind(Json(&*new.message))
                .bind(new.headers.as_deref().map(Json))
                .bind(delay.as_i32())
        }
        Visibility::At(time) => {
            sqlx::query("/* send_at */ SELECT * FROM pgmq.send($1, $2, $3, $4::timestamptz)")
                .bind(queue.as_str())
                .bind(Json(&*new.message))
                .bind(new.headers.as_deref().map(Json))
                .bind(time)
        }
    };
    let rows = conn.store(query).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    row.try_get(0).map_err(Error::unexpected)
}

/// Stores messages in one statement, all or none, and returns their ids in order.
pub async fn send_batch(
    conn: &mut Conn,
    queue: &QueueName,
    batch: &[&NewMessage],
) -> Result<Vec<i64>> {
    let messages: Vec<Json<&RawValue>> = batch.iter().map(|m| Json(&*m.message)).collect();
    let headers: Vec<Option<Json<&RawValue>>> =
        batch.iter().map(|m| m.headers.as_deref().map(Json)).collect();
    let (delays, times) = moments(batch.iter().map(|m| m.visible));
    let one_delay =
        delays.iter().all(|delay| *delay == delays[0]) && times.iter().all(Option::is_none);
    let query = if one_delay {
        let headers = headers.iter().any(Option::is_some).then_some(headers);
        sqlx::query("/* send_batch */ SELECT * FROM pgmq.send_batch($1, $2, $3, $4::integer)")
            .bind(queue.as_str())
            .bind(messages)
            .bind(headers)
            .bind(delays.first().copied())
    } else {
        sqlx::query(
            "/* send_batch_each */ SELECT * FROM pgmq_gateway.send_batch($1, $2, $3, $4, $5)",
        )
        .bind(queue.as_str())
        .bind(messages)
        .bind(headers)
        .bind(delays)
        .bind(times)
    };
    ids(&conn.store(query).await?)
}

/// Reads what can be delivered now, and hides it for `vt` seconds.
pub async fn read(conn: &mut Conn, read: &Read) -> Result<Vec<Message>> {
    let query = sqlx::query(
        "/* read */ SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers \
         FROM pgmq.read($1, $2, $3, coalesce($4, '{}'))",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(read.filter.as_deref().map(Json));
    messages(&conn.look(query).await?)
}

/// As [`read`], at a cost that does not grow with the messages in flight, the longest visible first.
/// With `want_due`, and fewer messages than asked for, tells when the next hidden one is visible.
pub async fn read_indexed(
    conn: &mut Conn,
    read: &Read,
    want_due: bool,
) -> Result<(Vec<Message>, Option<Duration>)> {
    let query = sqlx::query(
        "/* read_indexed */ \
         SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, due_in \
         FROM pgmq_gateway.read($1, $2, $3, $4, $5)",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(read.filter.as_deref().map(Json))
    .bind(want_due);
    let rows = conn.look(query).await?;
    // Without an id, the last row only tells of the next.
    let due = match rows.last() {
        Some(row) => row.try_get::<Option<f64>, _>("due_in").map_err(Error::unexpected)?,
        None => None,
    };
    let found = if due.is_some() { &rows[..rows.len() - 1] } else { &rows[..] };
    Ok((messages(found)?, due.map(seconds)))
}

/// As [`read`], looking every `poll_interval` for whole `seconds` until there is something.
pub async fn read_with_poll(
    conn: &mut Conn,
    read: &Read,
    seconds: u32,
    poll_interval: Duration,
) -> Result<Vec<Message>> {
    let query = sqlx::query(
        "/* read_with_poll */ \
         SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers \
         FROM pgmq.read_with_poll($1, $2, $3, $4, $5, coalesce($6, '{}'))",
    )
    .bind(read.queue.as_str())
    .bind(read.vt)
    .bind(read.qty)
    .bind(i32::try_from(seconds).unwrap_or(i32::MAX))
    .bind(i32::try_from(poll_interval.as_millis()).unwrap_or(i32::MAX))
    .bind(read.filter.as_deref().map(Json));
    let wait = Duration::from_secs(seconds.into());
    messages(&conn.look_waiting(query, wait).await?)
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
pub async fn pop(conn: &mut Conn, queue: &QueueName, qty: i32) -> Result<Vec<Message>> {
    let query = sqlx::query(
        "/* pop */ SELECT msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers \
         FROM pgmq.pop($1, $2)",
    )
    .bind(queue.as_str())
    .bind(qty);
    messages(&conn.change(query).await?)
}

/// Messages behind `after` in order of their ids, leasing nothing.
pub async fn peek(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    limit: i32,
) -> Result<Vec<Message>> {
    let query = sqlx::query("/* peek */ SELECT * FROM pgmq_gateway.peek($1, $2, $3)")
        .bind(queue.as_str())
        .bind(after)
        .bind(limit);
    messages(&conn.look(query).await?)
}

/// One message by its id, leasing nothing.
pub async fn message(conn: &mut Conn, queue: &QueueName, id: MsgId) -> Result<Option<Message>> {
    let found = peek(conn, queue, id.get() - 1, 1).await?;
    Ok(found.into_iter().find(|message| message.msg_id == id.get()))
}

/// Deletes messages and returns the ids of those that were there.
pub async fn delete(conn: &mut Conn, queue: &QueueName, messages: &[i64]) -> Result<Vec<i64>> {
    let query = sqlx::query("/* delete */ SELECT * FROM pgmq.delete($1, $2::bigint[])");
    ids(&conn.change(query.bind(queue.as_str()).bind(messages)).await?)
}

/// Moves messages into the archive and returns the ids of those that were there.
pub async fn archive(conn: &mut Conn, queue: &QueueName, messages: &[i64]) -> Result<Vec<i64>> {
    let query = sqlx::query("/* archive */ SELECT * FROM pgmq.archive($1, $2::bigint[])");
    ids(&conn.change(query.bind(queue.as_str()).bind(messages)).await?)
}

/// Sets the moments from which messages may be delivered again, each its own, and returns those
/// that were there. No id may stand there twice.
pub async fn set_visibility(
    conn: &mut Conn,
    queue: &QueueName,
    wishes: &[(MsgId, Visibility)],
) -> Result<Vec<Message>> {
    let msg_ids: Vec<i64> = wishes.iter().map(|(id, _)| id.get()).collect();
    let (delays, times) = moments(wishes.iter().map(|(_, visible)| *visible));
    let query = sqlx::query("/* set_vt */ SELECT * FROM pgmq_gateway.set_vt($1, $2, $3, $4)")
        .bind(queue.as_str())
        .bind(msg_ids)
        .bind(delays)
        .bind(times);
    messages(&conn.change(query).await?)
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

fn ids(rows: &[PgRow]) -> Result<Vec<i64>> {
    rows.iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()
        .map_err(Error::unexpected)
}

/// Moments as two arrays: seconds from now, and times that win where they are set.
fn moments(visible: impl Iterator<Item = Visibility>) -> (Vec<i32>, Vec<Option<DateTime<Utc>>>) {
    let both = visible.map(|visible| match visible {
        Visibility::After(delay) => (delay.as_i32(), None),
        Visibility::At(time) => (0, Some(time)),
    });
    both.unzip()
}

/// Seconds that PostgreSQL computed; what is due already is due now.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// PGMQ returns what it read in no particular order; clients get it in the order it was sent.
fn messages(rows: &[PgRow]) -> Result<Vec<Message>> {
    let decoded: std::result::Result<Vec<Message>, sqlx::Error> = rows.iter().map(decode).collect();
    let mut messages = decoded.map_err(Error::unexpected)?;
    messages.sort_unstable_by_key(|message| message.msg_id);
    Ok(messages)
}

fn decode(row: &PgRow) -> std::result::Result<Message, sqlx::Error> {
    // An SQL client can store SQL's NULL; over HTTP it is JSON's.
    let message: Option<Json<RawJson>> = row.try_get("message")?;
    let headers: Option<Json<RawJson>> = row.try_get("headers")?;
    Ok(Message {
        msg_id: row.try_get("msg_id")?,
        read_ct: row.try_get("read_ct")?,
        enqueued_at: row.try_get("enqueued_at")?,
        last_read_at: row.try_get("last_read_at")?,
        vt: row.try_get("vt")?,
        message: message.map_or_else(|| RawValue::NULL.to_owned(), |json| json.0),
        headers: headers.map(|json| json.0),
    })
}
