//! Forgetting what is past its time, in SQL. Each call is a small step.

use std::time::Duration;

use sqlx::postgres::PgRow;

use crate::domain::QueueName;

use super::{
    Conn, Kept,
    decode::{get, only_row, text},
    error::Result,
};

/// How long a queue keeps what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRetention {
    /// The queue's name.
    pub queue: String,
    /// Seconds after which a message is deleted.
    pub messages: Option<i64>,
    /// Seconds after which an archived message is deleted.
    pub archive: Option<i64>,
}

/// What a step of writing down which queues there are came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterStep {
    /// The names of the queues that came here by a restore.
    pub restored: Vec<String>,
    /// Where to go on, if there may be more.
    pub after: Option<String>,
    /// The SQLSTATE with which something was kept as it is; the rest is done.
    pub kept_code: Option<String>,
}

/// Writes down which queues there are, some at a time, so that a dump carries it, and puts right what a restore or a
/// crash of the server left behind.
pub async fn register_queues(conn: &mut Conn, after: &str) -> Result<RegisterStep> {
    let query = sqlx::query("/* register_queues */ SELECT * FROM pgmq_gateway.register_queues($1)");
    let rows = conn.run_repeatable(query.bind(after)).await?;
    let row = only_row(&rows)?;
    let more: bool = get(row, "more")?;
    let after = more.then(|| text(row, "last_queue")).transpose()?;
    Ok(RegisterStep { restored: get(row, "restored")?, after, kept_code: get(row, "kept_code")? })
}

/// The queues for whose tables row-level security policies are in force.
pub async fn queues_with_row_security(conn: &mut Conn) -> Result<Vec<String>> {
    let query = sqlx::query(
        "/* queues_with_row_security */ \
         SELECT q.queue FROM pgmq_gateway.queues_with_row_security() AS q (queue)",
    );
    conn.run_repeatable(query).await?.iter().map(|row| text(row, "queue")).collect()
}

/// The queues that have a retention.
pub async fn queues_with_retention(conn: &mut Conn) -> Result<Vec<QueueRetention>> {
    let query = sqlx::query(
        "/* queues_with_retention */ SELECT * FROM pgmq_gateway.queues_with_retention()",
    );
    let retention = |row: &PgRow| {
        Ok(QueueRetention {
            queue: text(row, "queue")?,
            messages: get(row, "message_retention")?,
            archive: get(row, "archive_retention")?,
        })
    };
    conn.run_repeatable(query).await?.iter().map(retention).collect()
}

/// What a step of deleting came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiryStep {
    /// How many were to be deleted.
    pub chosen: i32,
    /// Whether there may be more to delete.
    pub more: bool,
    /// What the table did not let go.
    pub kept: Option<Kept>,
}

/// Deletes some of a queue's messages that are past their retention: of `max_rows` that are looked at, `max_deleted`.
pub async fn delete_expired_messages(
    conn: &mut Conn,
    queue: &QueueName,
    retention_seconds: i64,
    max_rows: i32,
    max_deleted: i32,
) -> Result<ExpiryStep> {
    let query = sqlx::query(
        "/* delete_expired_messages */ \
         SELECT chosen, more, kept, kept_code \
         FROM pgmq_gateway.delete_expired_messages($1, $2, $3, $4)",
    );
    let query = query.bind(queue.as_str()).bind(retention_seconds).bind(max_rows).bind(max_deleted);
    expiry_step(&conn.on(queue).run_repeatable(query).await?)
}

/// The same for its archive, leaving out the first `skipped` that would be next.
pub async fn delete_expired_archive(
    conn: &mut Conn,
    queue: &QueueName,
    retention_seconds: i64,
    max_deleted: i32,
    skipped: i64,
) -> Result<ExpiryStep> {
    let query = sqlx::query(
        "/* delete_expired_archive */ \
         SELECT chosen, more, kept, kept_code \
         FROM pgmq_gateway.delete_expired_archive($1, $2, $3, $4)",
    );
    let query = query.bind(queue.as_str()).bind(retention_seconds).bind(max_deleted).bind(skipped);
    expiry_step(&conn.on(queue).run_repeatable(query).await?)
}

fn expiry_step(rows: &[PgRow]) -> Result<ExpiryStep> {
    let row = only_row(rows)?;
    let kept = get::<Option<i64>>(row, "kept")?.filter(|count| *count > 0);
    let kept = match kept {
        Some(count) => Some(Kept {
            count: i32::try_from(count).unwrap_or(i32::MAX),
            code: get(row, "kept_code")?,
        }),
        None => None,
    };
    Ok(ExpiryStep { chosen: get(row, "chosen")?, more: get(row, "more")?, kept })
}

/// Deletes some idempotency keys that are past their lifetime; true if there may be more.
pub async fn delete_expired_keys(
    conn: &mut Conn,
    lifetime: Duration,
    max_rows: i32,
) -> Result<bool> {
    let seconds = i32::try_from(lifetime.as_secs()).unwrap_or(i32::MAX);
    let query = sqlx::query(
        "/* delete_expired_keys */ SELECT pgmq_gateway.delete_expired_keys($1, $2) AS more",
    );
    get(only_row(&conn.run_repeatable(query.bind(seconds).bind(max_rows)).await?)?, "more")
}
