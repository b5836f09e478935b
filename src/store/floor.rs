//! Where reads of a queue may begin, as a look at it tells (migrations/functions/floor.sql).

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};

use crate::domain::QueueName;

use super::{
    Conn,
    error::{Error, Result},
    messages::seconds,
};

/// Time for a look at a queue from its beginning: as many dead entries as there are may stand there.
const FULL_LIMIT: Duration = Duration::from_secs(60);

/// What a look at the visible messages of a queue showed. Times are microseconds since 1970 by the database's
/// clock, and transactions are the numbers of theirs that never come again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleLook {
    /// The lowest `vt` of those that nobody has locked, 0 if it is before 1970.
    pub lowest: Option<i64>,
    /// The `vt` of those that were passed over, and the transaction that has each.
    pub locked: Vec<(i64, i64)>,
    /// A moment before the look.
    pub looked_at: i64,
    /// A transaction that began after that moment and before the look.
    pub xid: i64,
    /// What the look does not show is of a transaction that is not below this one, or of one of those.
    pub xmax: i64,
    /// Transactions below `xmax` that were under way.
    pub running: Vec<i64>,
    /// How long the database took to find the lowest one.
    pub walk: Duration,
}

/// Looks for the lowest visible message from `since` on; nothing for a queue that has no index for that. From
/// the beginning it may take up to 60 s.
pub async fn lowest_visible(
    conn: &mut Conn,
    queue: &QueueName,
    since: Option<DateTime<Utc>>,
) -> Result<Option<VisibleLook>> {
    let sql = "/* lowest_visible */ SELECT * FROM pgmq_gateway.lowest_visible($1, $2)";
    let query = sqlx::query(sql).bind(queue.as_str()).bind(since);
    let rows = if since.is_some() {
        conn.on(queue).run_repeatable(query).await?
    } else {
        conn.on(queue).look_patiently(query, FULL_LIMIT).await?
    };
    rows.first().map(decode).transpose().map_err(Error::unexpected)
}

fn decode(row: &PgRow) -> std::result::Result<VisibleLook, sqlx::Error> {
    let locked: Vec<i64> = row.try_get("locked")?;
    let locked_by: Vec<i64> = row.try_get("locked_by")?;
    Ok(VisibleLook {
        lowest: row.try_get("lowest")?,
        locked: locked.into_iter().zip(locked_by).collect(),
        looked_at: row.try_get("looked_at")?,
        xid: row.try_get("xid")?,
        xmax: row.try_get("xmax")?,
        running: row.try_get("running")?,
        walk: seconds(row.try_get("walk_seconds")?),
    })
}

/// Time until the next hidden message becomes visible, if there is one, and how long it took to find that out.
pub async fn next_due(conn: &mut Conn, queue: &QueueName) -> Result<(Option<Duration>, Duration)> {
    let query = sqlx::query("/* next_due */ SELECT * FROM pgmq_gateway.next_due($1)");
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str())).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    let times = || Ok((row.try_get::<Option<f64>, _>("due_in")?, row.try_get("walk_seconds")?));
    let (due_in, walk) = times().map_err(Error::unexpected)?;
    Ok((due_in.map(seconds), seconds(walk)))
}
