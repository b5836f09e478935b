//! Archives and dead-letter queues, in SQL.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::domain::{ArchivedMessage, Filter, QueueName, Scope};

use super::{
    Conn, Rejection,
    decode::{Text, Timestamp, get, only_row},
    error::{Error, Result},
    messages::try_decode,
    size_limited_rows::{Page, SizeLimitedRows},
};

/// Which archived messages are meant: those that fit everything that is said.
#[derive(Clone, Debug, Default)]
pub struct Archived {
    /// Archived then or later.
    pub since: Option<DateTime<Utc>>,
    /// Archived before.
    pub until: Option<DateTime<Utc>>,
    /// A JSON object that a message must contain.
    pub filter: Option<Filter>,
    /// Their ids.
    pub msg_ids: Option<Vec<i64>>,
}

/// What a step of moving messages came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// How many messages were moved.
    pub count: i64,
    /// How many stayed that were to be moved.
    pub failed: i64,
    /// Why the last of these did; nothing if it was locked.
    pub rejection: Option<Rejection>,
    /// The queue to which that one was to go.
    pub destination: Option<String>,
    /// The id behind which to go on, if there may be more.
    pub last_id: Option<i64>,
    /// The last id that was there when it began.
    pub up_to: Option<i64>,
}

/// The messages of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Those behind this id,
    pub after: i64,
    /// up to this one; without one, what is there now,
    pub up_to: Option<i64>,
    /// and at most so many.
    pub limit: i32,
}

/// Archived messages behind `after`, in order of their ids: those that have at most `max_bytes`, and
/// at least one. Those that PostgreSQL cannot send fail the whole, unless they are left out by
/// `readable_only`.
pub async fn browse_archive(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    limit: i32,
    which: &Archived,
    max_bytes: u64,
    readable_only: bool,
) -> Result<Page<ArchivedMessage>> {
    let query = sqlx::query(
        "/* archive */ SELECT * FROM pgmq_gateway.browse_archive($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(queue.as_str())
    .bind(after)
    .bind(limit)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(readable_only);
    let mut fitted = SizeLimitedRows::new(max_bytes);
    let decode = |row: &PgRow| {
        let Timestamp(archived_at) = row.try_get("archived_at")?;
        Ok(ArchivedMessage { message: try_decode(row)?, archived_at })
    };
    let take = |row: PgRow| fitted.take(&row, decode);
    conn.on(queue).look_at_each(query, take).await?;
    Ok(fitted.into_page(limit))
}

/// How many archived messages are meant, counting no further than `limit`.
pub async fn count_archived(
    conn: &mut Conn,
    queue: &QueueName,
    limit: i64,
    which: &Archived,
) -> Result<i64> {
    let query = sqlx::query(
        "/* count_archived */ SELECT pgmq_gateway.count_archived($1, $2, $3, $4, $5, $6)",
    )
    .bind(queue.as_str())
    .bind(limit)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(which.msg_ids.as_deref());
    let rows = conn.on(queue).look(query).await?;
    only_row(&rows)?.try_get(0).map_err(Error::unexpected)
}

/// Moves the next archived messages into a queue, as new ones.
pub async fn replay(
    conn: &mut Conn,
    queue: &QueueName,
    to: &QueueName,
    step: Step,
    which: &Archived,
) -> Result<Moved> {
    let query = sqlx::query(
        "/* replay */ SELECT * FROM pgmq_gateway.replay($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(queue.as_str())
    .bind(to.as_str())
    .bind(step.after)
    .bind(step.limit)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(which.msg_ids.as_deref())
    .bind(step.up_to);
    moved_step(&conn.on(queue).change(query).await?)
}

/// Moves the next messages of a dead-letter queue back to where each came from, as far as that is
/// `within` what is allowed, or to one queue.
pub async fn redrive(
    conn: &mut Conn,
    queue: &QueueName,
    to: Option<&QueueName>,
    within: &Scope,
    step: Step,
) -> Result<Moved> {
    let query =
        sqlx::query("/* redrive */ SELECT * FROM pgmq_gateway.redrive($1, $2, $3, $4, $5, $6)")
            .bind(queue.as_str())
            .bind(to.map(QueueName::as_str))
            .bind(step.after)
            .bind(step.limit)
            .bind(within.to_regex())
            .bind(step.up_to);
    moved_step(&conn.on(queue).change(query).await?)
}

/// Moves those of these messages of a dead-letter queue back that nobody has in hand, as far as that is `within`
/// what is allowed.
pub async fn redrive_these(
    conn: &mut Conn,
    queue: &QueueName,
    ids: &[i64],
    within: &Scope,
) -> Result<Moved> {
    let query =
        sqlx::query("/* redrive_these */ SELECT * FROM pgmq_gateway.redrive_these($1, $2, $3)")
            .bind(queue.as_str())
            .bind(ids)
            .bind(within.to_regex());
    moved(&conn.on(queue).change(query).await?)
}

/// Why a message stayed, going by the SQLSTATE; nothing where it was locked.
fn why_stayed(code: &str, constraint: Option<&str>) -> Option<Rejection> {
    let outcome = match code {
        "55P03" | "40001" | "40P01" => return None,
        "2200H" => return Some(Rejection::Exhausted),
        "PGW33" => return Some(Rejection::NoRight),
        "42501" => "forbidden",
        "23505" => "conflict",
        "PGW23" => "not_stored",
        // Then it says of what.
        code if code.starts_with("42") && constraint.is_some_and(|what| !what.is_empty()) => {
            "differs"
        }
        code if matches!(code.get(..2), Some("08" | "53" | "57" | "58" | "HV")) => "failed",
        _ => "rejected",
    };
    Rejection::from_outcome(outcome, Some(code), constraint)
}

fn moved(rows: &[PgRow]) -> Result<Moved> {
    let row = only_row(rows)?;
    let (count, failed): (Option<i32>, Option<i32>) = (get(row, "moved")?, get(row, "failed")?);
    let (code, constraint): (Option<String>, Option<Text>) =
        (get(row, "failed_code")?, get(row, "failed_constraint")?);
    let rejection =
        code.as_deref().and_then(|code| why_stayed(code, constraint.as_ref().map(|name| &*name.0)));
    Ok(Moved {
        count: count.unwrap_or(0).into(),
        failed: failed.unwrap_or(0).into(),
        rejection,
        destination: get::<Option<Text>>(row, "failed_queue")?.map(|name| name.0),
        last_id: get(row, "last_id")?,
        up_to: None,
    })
}

/// The same of one of several steps.
fn moved_step(rows: &[PgRow]) -> Result<Moved> {
    Ok(Moved { up_to: get(only_row(rows)?, "up_to")?, ..moved(rows)? })
}
