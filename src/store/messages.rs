//! Storing messages and looking at them, in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{
    Row,
    postgres::{PgRow, types::Oid},
    types::Json,
};

use crate::domain::{Delay, Message, MsgId, NewMessage, QueueName, RawJson, Visibility};

use super::{
    Conn,
    error::{Error, Result},
    fitted::{Fitted, Page},
};

/// Stores messages in one statement, all or none, and returns their ids in order. `in_turn` holds
/// back whoever else stores there until it is committed, so that ids grow from commit to commit.
pub async fn send(
    conn: &mut Conn,
    queue: &QueueName,
    batch: &[&NewMessage],
    in_turn: bool,
) -> Result<Vec<i64>> {
    match *batch {
        [one] if conn.is_modern() && !in_turn => send_one(conn, queue, one).await,
        _ => send_batch(conn, queue, batch, in_turn).await,
    }
}

async fn send_one(conn: &mut Conn, queue: &QueueName, new: &NewMessage) -> Result<Vec<i64>> {
    let query = match visibility(new) {
        Visibility::After(delay) => sqlx::query(
            "/* send */ SELECT * \
                 FROM pgmq.send(pgmq_gateway.queue_named($1), $2, $3, $4::integer)",
        )
        .bind(queue.as_str())
        .bind(Json(&*new.message))
        .bind(new.headers.as_deref().map(Json))
        .bind(delay.as_i32()),
        Visibility::At(time) => sqlx::query(
            "/* send_at */ SELECT * \
                 FROM pgmq.send(pgmq_gateway.queue_named($1), $2, $3, $4::timestamptz)",
        )
        .bind(queue.as_str())
        .bind(Json(&*new.message))
        .bind(new.headers.as_deref().map(Json))
        .bind(time),
    };
    ids(&conn.store(query).await?)
}

async fn send_batch(
    conn: &mut Conn,
    queue: &QueueName,
    batch: &[&NewMessage],
    in_turn: bool,
) -> Result<Vec<i64>> {
    let messages: Vec<Json<&RawValue>> = batch.iter().map(|m| Json(&*m.message)).collect();
    let headers: Vec<Option<Json<&RawValue>>> =
        batch.iter().map(|m| m.headers.as_deref().map(Json)).collect();
    let (delays, times) = moments(batch.iter().map(|m| visibility(m)));
    let one_delay =
        delays.iter().all(|delay| *delay == delays[0]) && times.iter().all(Option::is_none);
    let query = if one_delay && !in_turn && conn.is_modern() {
        let headers = headers.iter().any(Option::is_some).then_some(headers);
        sqlx::query(
            "/* send_batch */ SELECT * \
                 FROM pgmq.send_batch(pgmq_gateway.queue_named($1), $2, $3, $4::integer)",
        )
        .bind(queue.as_str())
        .bind(messages)
        .bind(headers)
        .bind(delays.first().copied())
    } else {
        sqlx::query(
            "/* send_batch_each */ SELECT * FROM pgmq_gateway.send_batch($1, $2, $3, $4, $5, $6)",
        )
        .bind(queue.as_str())
        .bind(messages)
        .bind(headers)
        .bind(delays)
        .bind(times)
        .bind(in_turn)
    };
    ids(&conn.store(query).await?)
}

/// What the message says, or at once.
fn visibility(new: &NewMessage) -> Visibility {
    new.visible.unwrap_or(Visibility::After(Delay::saturating(0)))
}

/// Messages behind `after` in order of their ids, leasing nothing: those that have at most
/// `max_bytes`, and at least one.
pub async fn peek(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    limit: i32,
    max_bytes: u64,
) -> Result<Page<Message>> {
    let query = sqlx::query("/* peek */ SELECT * FROM pgmq_gateway.peek($1, $2, $3)")
        .bind(queue.as_str())
        .bind(after)
        .bind(limit);
    let mut fitted = Fitted::new(max_bytes);
    let take = |row: PgRow| fitted.take(&row, try_decode);
    conn.look_at_each(query, Duration::ZERO, take).await?;
    Ok(fitted.into_page(limit))
}

/// One message by its id, leasing nothing.
pub async fn message(conn: &mut Conn, queue: &QueueName, id: MsgId) -> Result<Option<Message>> {
    let found = peek(conn, queue, id.get() - 1, 1, 0).await?;
    Ok(found.messages.into_iter().find(|message| message.msg_id == id.get()))
}

pub(super) fn ids(rows: &[PgRow]) -> Result<Vec<i64>> {
    rows.iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()
        .map_err(Error::unexpected)
}

/// Moments as two arrays: seconds from now, and times that win where they are set.
pub(super) fn moments(
    visible: impl Iterator<Item = Visibility>,
) -> (Vec<i32>, Vec<Option<DateTime<Utc>>>) {
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

pub(super) fn decode(row: &PgRow) -> Result<Message> {
    try_decode(row).map_err(Error::unexpected)
}

pub(super) fn try_decode(row: &PgRow) -> std::result::Result<Message, sqlx::Error> {
    // An SQL client can store SQL's NULL; over HTTP it is JSON's.
    let message: Option<Json<RawJson>> = row.try_get("message")?;
    let headers: Option<Json<RawJson>> = row.try_get("headers")?;
    let relation: Oid = row.try_get("relation")?;
    Ok(Message {
        msg_id: row.try_get("msg_id")?,
        read_ct: row.try_get("read_ct")?,
        enqueued_at: row.try_get("enqueued_at")?,
        last_read_at: row.try_get("last_read_at")?,
        vt: row.try_get("vt")?,
        message: message.map_or_else(|| RawValue::NULL.to_owned(), |json| json.0),
        headers: headers.map(|json| json.0),
        relation: relation.0,
        receipt: None,
    })
}
