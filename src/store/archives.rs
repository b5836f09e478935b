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
    /// Why the first can go nowhere that can't, if there is one. It is none of those that were to be moved.
    pub unreturnable: Option<Unreturnable>,
    /// The id behind which to go on, if there may be more.
    pub last_id: Option<i64>,
    /// The last id that was there when it began.
    pub up_to: Option<i64>,
}

/// Why a dead letter can go nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreturnable {
    /// It does not say where it came from.
    Unknown,
    /// It may not go where it came from, whether that is there or not.
    Forbidden,
    /// The queue that it came from is not there.
    Gone,
}

/// The messages of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Those behind this id,
    pub after: i64,
    /// up to this one; without one, what is there now,
    pub up_to: Option<i64>,
    /// at most so many,
    pub limit: i32,
    /// and among so many rows, if that is bounded.
    pub rows: Option<i32>,
}

/// A part of a page of an archive.
#[derive(Debug)]
pub struct ArchiveStep {
    /// What was found.
    pub page: Page<ArchivedMessage>,
    /// Whether it ended for no other reason than that it had looked at so many rows, the last of which is that of
    /// [`Page::last_id`].
    pub is_cut: bool,
}

/// A part of a count.
#[derive(Clone, Copy, Debug)]
pub struct ArchivedCount {
    /// How many there were.
    pub count: i64,
    /// The id behind which to go on, if there may be more.
    pub last_id: Option<i64>,
}

impl Archived {
    /// Whether what does not fit is looked at, too, on the way to what does.
    pub fn is_search(&self) -> bool {
        let chooses = self.since.is_some() || self.until.is_some() || self.filter.is_some();
        chooses && self.msg_ids.is_none()
    }
}

/// Archived messages of a step, in order of their ids: those that have at most `max_bytes`, and
/// at least one. Those that PostgreSQL cannot send fail the whole, unless they are left out by
/// `readable_only`.
pub async fn browse_archive(
    conn: &mut Conn,
    queue: &QueueName,
    step: Step,
    which: &Archived,
    max_bytes: u64,
    readable_only: bool,
) -> Result<ArchiveStep> {
    let query = sqlx::query(
        "/* archive */ SELECT * FROM pgmq_gateway.browse_archive($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(queue.as_str())
    .bind(step.after)
    .bind(step.limit)
    .bind(step.rows)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(which.msg_ids.as_deref())
    .bind(readable_only);
    let mut fitted = SizeLimitedRows::new(max_bytes);
    let mut mark: Option<i64> = None;
    let decode = |row: &PgRow| {
        let Timestamp(archived_at) = row.try_get("archived_at")?;
        Ok(ArchivedMessage { message: try_decode(row)?, archived_at })
    };
    let take = |row: PgRow| {
        if row.try_get("is_mark")? {
            mark = Some(row.try_get("msg_id")?);
            return Ok(());
        }
        fitted.take(&row, decode)
    };
    conn.on(queue).run_repeatable_each(query, take).await?;
    let mut page = fitted.into_page(step.limit);
    let is_cut = mark.is_some() && !page.more;
    if is_cut {
        (page.more, page.last_id) = (true, mark);
    }
    Ok(ArchiveStep { page, is_cut })
}

/// How many archived messages of a step are meant, counting no further than `limit`.
pub async fn count_archived(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    limit: i64,
    rows: Option<i32>,
    which: &Archived,
) -> Result<ArchivedCount> {
    let query = sqlx::query(
        "/* count_archived */ SELECT * FROM \
         pgmq_gateway.count_archived($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(queue.as_str())
    .bind(after)
    .bind(limit)
    .bind(rows)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(which.msg_ids.as_deref());
    let rows = conn.on(queue).run_repeatable(query).await?;
    let row = only_row(&rows)?;
    Ok(ArchivedCount { count: get(row, "counted")?, last_id: get(row, "last_id")? })
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
        "/* replay */ SELECT * FROM pgmq_gateway.replay($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(queue.as_str())
    .bind(to.as_str())
    .bind(step.after)
    .bind(step.limit)
    .bind(step.rows)
    .bind(which.since)
    .bind(which.until)
    .bind(which.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(which.msg_ids.as_deref())
    .bind(step.up_to);
    moved_step(&conn.on(queue).change(query).await?)
}

/// Moves the next messages of a dead-letter queue back to where each came from, as far as that is
/// `within` what is allowed, or to one queue. For a `task` they are counted in the same commit, and none is moved once
/// that has ended.
pub async fn redrive(
    conn: &mut Conn,
    queue: &QueueName,
    to: Option<&QueueName>,
    within: &Scope,
    step: Step,
    task: Option<&str>,
) -> Result<Moved> {
    let query = match task {
        None => "/* redrive */ SELECT * FROM pgmq_gateway.redrive($1, $2, $3, $4, $5, $6, $7)",
        Some(_) => {
            "/* redrive_for_task */ SELECT * FROM pgmq_gateway.redrive_for_task($8, $1, $2, $3, $4, $5, $6, $7)"
        }
    };
    let mut query = sqlx::query(query)
        .bind(queue.as_str())
        .bind(to.map(QueueName::as_str))
        .bind(step.after)
        .bind(step.limit)
        .bind(step.rows)
        .bind(within.to_regex())
        .bind(step.up_to);
    if let Some(task) = task {
        query = query.bind(task);
    }
    let rows = conn.on(queue).change(query).await?;
    let unreturnable = match get(only_row(&rows)?, "unreturnable")? {
        None => None,
        Some("unknown") => Some(Unreturnable::Unknown),
        Some("forbidden") => Some(Unreturnable::Forbidden),
        Some("gone") => Some(Unreturnable::Gone),
        Some(other) => return Err(Error::unexpected_word(other)),
    };
    Ok(Moved { unreturnable, ..moved_step(&rows)? })
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
        "PGW26" => return Some(Rejection::KeptBySource),
        "PGW43" => "differs",
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
        unreturnable: None,
        last_id: get(row, "last_id")?,
        up_to: None,
    })
}

/// The same of one of several steps.
fn moved_step(rows: &[PgRow]) -> Result<Moved> {
    Ok(Moved { up_to: get(only_row(rows)?, "up_to")?, ..moved(rows)? })
}
