//! Storing messages and looking at them, in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow, types::Json};
use tracing::warn;

use crate::domain::{Delay, Message, MsgId, NewMessage, QueueName, RawJson, Visibility};

use super::{
    Conn, Rejection,
    decode::{ColumnAt, Text, Timestamp, get, only_row},
    error::{Error, Result},
    idempotency::{SendOutcome, SendRequest, Sent, bind_keys, key_failed},
    reports::Reports,
    size_limited_rows::{Page, SizeLimitedRows},
};

/// Messages that were looked at by their ids.
#[derive(Debug)]
pub struct Looked {
    /// In order of their ids.
    pub messages: Vec<Message>,
    /// The ids of those that are there and did not fit, or that cannot be read.
    pub left_out: Vec<i64>,
}

/// Stores messages in one statement, all or none, and returns their ids in order. `in_turn` holds
/// back whoever else stores there until it is committed, so that ids grow from commit to commit.
pub async fn send(
    conn: &mut Conn,
    queue: &QueueName,
    batch: &[&NewMessage],
    in_turn: bool,
) -> Result<Vec<i64>> {
    let messages: Vec<Option<Json<&RawValue>>> =
        batch.iter().map(|m| m.stored().map(Json)).collect();
    let headers: Vec<Option<Json<&RawValue>>> =
        batch.iter().map(|m| m.headers.as_deref().map(Json)).collect();
    let headers = headers.iter().any(Option::is_some).then_some(headers);
    let (delays, times) = moments(batch.iter().map(|m| visibility(m)));
    let times = times.iter().any(Option::is_some).then_some(times);
    let query = sqlx::query("/* send */ SELECT * FROM pgmq_gateway.send($1, $2, $3, $4, $5, $6)")
        .bind(queue.as_str())
        .bind(messages)
        .bind(headers)
        .bind(delays)
        .bind(times)
        .bind(in_turn);
    let ids = ids(&conn.on(queue).store(query).await?)?;
    if ids.len() == batch.len() { Ok(ids) } else { Err(Error::Rejected(Rejection::NotStored)) }
}

/// Stores the messages of several requests in one statement: each as a whole, or it fails alone.
pub async fn send_each(
    conn: &mut Conn,
    queue: &QueueName,
    requests: &[SendRequest<'_>],
    in_turn: bool,
) -> Result<Vec<SendOutcome>> {
    let all = || requests.iter().flat_map(|request| request.messages);
    let (delays, times) = moments(all().map(visibility));
    let size = |one: &SendRequest<'_>| i32::try_from(one.messages.len()).unwrap_or(i32::MAX);
    let sizes: Vec<i32> = requests.iter().map(size).collect();
    let query = sqlx::query(
        "/* send_each */ SELECT ids, outcome, code, constraint_name \
         FROM pgmq_gateway.send_each($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(all().map(body).collect::<Vec<_>>())
    .bind(all().map(headers).collect::<Vec<_>>())
    .bind(delays)
    .bind(times)
    .bind(in_turn)
    .bind(sizes);
    let once: Vec<_> = requests.iter().map(|request| request.once).collect();
    let rows = conn.on(queue).store(bind_keys(query, &once)).await?;
    if rows.len() != requests.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter().zip(requests).map(|(row, one)| send_outcome(row, one.messages.len())).collect()
}

/// What is stored of a message, as text.
pub(super) fn body(new: &NewMessage) -> Option<&[u8]> {
    new.stored().map(|message| message.get().as_bytes())
}

pub(super) fn headers(new: &NewMessage) -> Option<&[u8]> {
    new.headers.as_deref().map(|headers| headers.get().as_bytes())
}

fn send_outcome(row: &PgRow, messages: usize) -> Result<SendOutcome> {
    let word: &str = get(row, "outcome")?;
    if let Some(sent) = Sent::from_row(word, row, messages)? {
        return Ok(Ok(sent));
    }
    let (code, constraint): (Option<&str>, Option<Text>) =
        (get(row, "code")?, get(row, "constraint_name")?);
    let constraint = constraint.as_ref().map(|name| &*name.0);
    Ok(match word {
        "locked" => Err(Error::Locked),
        "key_failed" => Err(key_failed(code)),
        "needs_headers" => Err(Error::NotSupported("headers need PGMQ 1.5.0 or later".into())),
        other => match Rejection::from_outcome(other, code, constraint) {
            Some(rejection) => Err(Error::Rejected(rejection)),
            None => return Err(Error::unexpected_word(other)),
        },
    })
}

static BEHIND: Reports = Reports::new();

/// Brings the sequence of a queue's ids up to what is in its tables; true if it lagged behind, so that a
/// send that met an id twice is worth another try. `violated` is the constraint that refused it, if one did.
pub async fn advance_sequence(
    conn: &mut Conn,
    queue: &QueueName,
    violated: Option<&str>,
) -> Result<bool> {
    let query = sqlx::query(
        "/* advance_sequence */ SELECT pgmq_gateway.advance_sequence($1, $2) AS outcome, \
                pgmq_gateway.sequence_remedy($1) AS remedy",
    );
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str()).bind(violated)).await?;
    let row = only_row(&rows)?;
    match get(row, "outcome")? {
        "none" => Ok(false),
        "advanced" | "partly" => Ok(true),
        "forbidden" => {
            let remedy: Option<Text> = get(row, "remedy")?;
            let remedy = remedy.map_or_else(String::new, |remedy| remedy.0);
            if BEHIND.is_new(queue.as_str()) {
                warn!(
                    %queue, %remedy,
                    "the sequence of the queue's ids lags behind its table, and this role may not advance it: \
                     nothing can be sent until an administrator has run the remedy"
                );
            }
            Err(Error::SequenceBehind)
        }
        "exhausted" => {
            Err(Error::Exhausted(sqlx::Error::Protocol("no ids are left".to_owned()).into()))
        }
        other => Err(Error::unexpected_word(other)),
    }
}

/// What the message says, or at once.
pub(super) fn visibility(new: &NewMessage) -> Visibility {
    new.visible.unwrap_or(Visibility::After(Delay::saturating(0)))
}

/// Messages behind `after` in order of their ids, leasing nothing: those that have at most
/// `max_bytes`, and at least one. Those that PostgreSQL cannot send fail the whole, unless they are left
/// out by `readable_only`.
pub async fn peek(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    limit: i32,
    max_bytes: u64,
    readable_only: bool,
) -> Result<Page<Message>> {
    let query = sqlx::query("/* peek */ SELECT * FROM pgmq_gateway.peek($1, $2, $3, $4)")
        .bind(queue.as_str())
        .bind(after)
        .bind(limit)
        .bind(readable_only);
    let mut fitted = SizeLimitedRows::new(max_bytes);
    let take = |row: PgRow| fitted.take(&row, try_decode);
    conn.on(queue).run_repeatable_each(query, take).await?;
    Ok(fitted.into_page(limit))
}

/// One message by its id, leasing nothing.
pub async fn message(conn: &mut Conn, queue: &QueueName, id: MsgId) -> Result<Option<Message>> {
    let found = look(conn, queue, &[id.get()], u64::MAX).await?;
    if found.left_out.contains(&id.get()) {
        return Err(Error::Unreadable);
    }
    Ok(found.messages.into_iter().next())
}

/// Those of the messages with these ids that are there, in order of their ids, leasing nothing: those that have
/// at most `max_bytes`, and at least one. One that PostgreSQL cannot send fails the whole.
pub async fn look(
    conn: &mut Conn,
    queue: &QueueName,
    ids: &[i64],
    max_bytes: u64,
) -> Result<Looked> {
    let query = sqlx::query("/* look */ SELECT * FROM pgmq_gateway.look($1, $2)");
    let mut fitted = SizeLimitedRows::new(max_bytes);
    let take = |row: PgRow| fitted.take(&row, try_decode);
    let query = query.bind(queue.as_str()).bind(ids);
    conn.on(queue).run_repeatable_each(query, take).await?;
    let mut left_out = fitted.unreadable;
    left_out.extend(fitted.left.iter().map(|left| left.msg_id));
    Ok(Looked { messages: fitted.kept, left_out })
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

/// The same of one that may not be said.
pub(super) fn moment(visible: Option<Visibility>) -> (Option<i32>, Option<DateTime<Utc>>) {
    match visible {
        Some(Visibility::After(delay)) => (Some(delay.as_i32()), None),
        Some(Visibility::At(time)) => (None, Some(time)),
        None => (None, None),
    }
}

/// Seconds that PostgreSQL computed; what is due already is due now.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

pub(super) fn decode(row: &PgRow) -> Result<Message> {
    try_decode(row).map_err(Error::unexpected)
}

/// The id in a row that may have a message: its first column, or behind the place of its queue.
pub(super) const MSG_ID: ColumnAt = ColumnAt(0, "msg_id");

pub(super) fn try_decode(row: &PgRow) -> std::result::Result<Message, sqlx::Error> {
    let time = |column: ColumnAt| row.try_get::<Timestamp, _>(column).map(|time| time.0);
    // An SQL client can store SQL's NULL; over HTTP it is JSON's.
    let message: Option<Json<RawJson>> = row.try_get(ColumnAt(5, "message"))?;
    let headers: Option<Json<RawJson>> = row.try_get(ColumnAt(6, "headers"))?;
    let last_read_at: Option<Timestamp> = row.try_get(ColumnAt(3, "last_read_at"))?;
    Ok(Message {
        msg_id: row.try_get(MSG_ID)?,
        read_ct: row.try_get(ColumnAt(1, "read_ct"))?,
        enqueued_at: time(ColumnAt(2, "enqueued_at"))?,
        last_read_at: last_read_at.map(|time| time.0),
        vt: time(ColumnAt(4, "vt"))?,
        message: message.map_or_else(|| RawValue::NULL.to_owned(), |json| json.0),
        headers: headers.map(|json| json.0),
        queue_id: row.try_get(ColumnAt(7, "queue_id"))?,
        receipt: None,
    })
}
