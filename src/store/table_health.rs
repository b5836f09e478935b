//! How the table of a queue is, and who keeps it from being cleaned up, in SQL.

use chrono::{DateTime, Utc};

use crate::domain::QueueName;

use super::{
    Conn,
    decode::{Text, get, only_row, text, time_option},
    error::Result,
};

/// How many of those who hold back a clean-up are told.
const MAX_HOLDERS: i32 = 20;

/// What PostgreSQL's statistics tell of a queue's table.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableHealth {
    /// Rows that are there, about.
    pub live_rows: Option<i64>,
    /// Rows that are to be cleaned up, about.
    pub dead_rows: Option<i64>,
    /// Bytes of the table with its indexes.
    pub total_bytes: Option<i64>,
    /// Bytes of the archive with its indexes.
    pub archive_bytes: Option<i64>,
    /// When it was last cleaned up.
    pub last_vacuum: Option<DateTime<Utc>>,
    /// When its statistics were last made.
    pub last_analyze: Option<DateTime<Utc>>,
    /// How often it was cleaned up.
    pub vacuums: Option<i64>,
}

/// Somebody who may still have to see rows that are dead for all others.
#[derive(Clone, Debug)]
pub struct CleanupHolder {
    /// What it is: a session, say.
    pub kind: String,
    /// What it is called.
    pub name: String,
    /// What it does.
    pub state: Option<String>,
    /// How many transactions began since.
    pub transactions: i64,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
}

/// What is known of a queue's table.
pub async fn table_health(conn: &mut Conn, queue: &QueueName) -> Result<TableHealth> {
    let query = sqlx::query("/* table_health */ SELECT * FROM pgmq_gateway.table_health($1)");
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str())).await?;
    let row = only_row(&rows)?;
    Ok(TableHealth {
        live_rows: get(row, "live_rows")?,
        dead_rows: get(row, "dead_rows")?,
        total_bytes: get(row, "total_bytes")?,
        archive_bytes: get(row, "archive_bytes")?,
        last_vacuum: time_option(row, "last_vacuum")?,
        last_analyze: time_option(row, "last_analyze")?,
        vacuums: get(row, "vacuums")?,
    })
}

/// Who holds back a clean-up, as far as the gateway's role may see it; the oldest first.
pub async fn cleanup_holders(conn: &mut Conn) -> Result<Vec<CleanupHolder>> {
    let query = sqlx::query("/* cleanup_holders */ SELECT * FROM pgmq_gateway.cleanup_holders($1)");
    let rows = conn.run_repeatable(query.bind(MAX_HOLDERS)).await?;
    let holder = |row| {
        Ok(CleanupHolder {
            kind: text(row, "kind")?,
            name: get::<Option<Text>>(row, "name")?.map(|name| name.0).unwrap_or_default(),
            state: get::<Option<Text>>(row, "state")?.map(|state| state.0),
            transactions: get::<Option<i64>>(row, "transactions")?.unwrap_or(0),
            since: time_option(row, "since")?,
        })
    };
    rows.iter().map(holder).collect()
}
