//! Tasks that move dead letters back, in SQL.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;

use crate::domain::QueueName;

use super::{
    Conn,
    decode::{Text, get, only_row, text, time},
    error::Result,
};

/// A task that moves the messages of a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveTask {
    /// What names it.
    pub id: String,
    /// The queue whose messages it moves.
    pub source: String,
    /// Where they go; where each came from if there is none.
    pub destination: Option<String>,
    /// The most messages in a second.
    pub max_per_second: Option<i32>,
    /// `RUNNING`, `COMPLETED`, `CANCELLED` or `FAILED`.
    pub status: String,
    /// How many it has moved.
    pub moved: i64,
    /// How many there were when it began.
    pub to_move: i64,
    /// Why it failed.
    pub failure: Option<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
}

/// The columns of a task that are read: `claimed_until` is for the database alone.
macro_rules! columns {
    () => {
        "id, source, destination, max_per_second, status, moved, to_move, failure, started_at"
    };
}

/// Begins a task; false if one is at the same queue already.
pub async fn start_move_task(
    conn: &mut Conn,
    id: &str,
    source: &str,
    destination: Option<&str>,
    max_per_second: Option<i32>,
    to_move: i64,
) -> Result<bool> {
    let query = sqlx::query(
        "/* start_move_task */ SELECT pgmq_gateway.start_move_task($1, $2, $3, $4, $5) AS started",
    );
    let query = query.bind(id).bind(source).bind(destination).bind(max_per_second).bind(to_move);
    get(only_row(&conn.change(query).await?)?, "started")
}

/// Takes a task that nobody is at, for so many seconds.
pub async fn claim_move_task(conn: &mut Conn, seconds: i32) -> Result<Option<MoveTask>> {
    let query = sqlx::query(concat!(
        "/* claim_move_task */ SELECT ",
        columns!(),
        " FROM pgmq_gateway.claim_move_task($1)"
    ));
    conn.run_repeatable(query.bind(seconds)).await?.first().map(decode).transpose()
}

/// Whether messages are left behind the end of a task that could be delivered when it began.
pub async fn has_letters_left(
    conn: &mut Conn,
    queue: &QueueName,
    began: DateTime<Utc>,
) -> Result<bool> {
    let query = sqlx::query(
        "/* has_letters_left */ SELECT pgmq_gateway.has_letters_left($1, $2) AS is_left",
    );
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str()).bind(began)).await?;
    get(only_row(&rows)?, "is_left")
}

/// Notes what became of a task, and leaves it for `pause` seconds.
pub async fn advance_move_task(
    conn: &mut Conn,
    id: &str,
    status: &str,
    failure: Option<&str>,
    pause: f64,
) -> Result<()> {
    let query = sqlx::query(
        "/* advance_move_task */ SELECT pgmq_gateway.advance_move_task($1, $2, $3, $4)",
    );
    let query = query.bind(id).bind(status).bind(failure).bind(pause);
    conn.change(query).await.map(drop)
}

/// Ends a task; how many messages it has moved, or nothing if it does not run.
pub async fn cancel_move_task(conn: &mut Conn, id: &str) -> Result<Option<i64>> {
    let query =
        sqlx::query("/* cancel_move_task */ SELECT pgmq_gateway.cancel_move_task($1) AS moved");
    get(only_row(&conn.change(query.bind(id)).await?)?, "moved")
}

/// The last tasks of a queue, the newest first.
pub async fn list_move_tasks(conn: &mut Conn, source: &str, limit: i32) -> Result<Vec<MoveTask>> {
    let query = sqlx::query(concat!(
        "/* list_move_tasks */ SELECT ",
        columns!(),
        " FROM pgmq_gateway.list_move_tasks($1, $2)"
    ));
    conn.run_repeatable(query.bind(source).bind(limit)).await?.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> Result<MoveTask> {
    Ok(MoveTask {
        id: text(row, "id")?,
        source: text(row, "source")?,
        destination: get::<Option<Text>>(row, "destination")?.map(|queue| queue.0),
        max_per_second: get(row, "max_per_second")?,
        status: text(row, "status")?,
        moved: get(row, "moved")?,
        to_move: get(row, "to_move")?,
        failure: get::<Option<Text>>(row, "failure")?.map(|reason| reason.0),
        started_at: time(row, "started_at")?,
    })
}
