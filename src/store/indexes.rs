//! The indexes by which queues are read in groups, made and dropped beside whoever is at work there.

use std::time::Duration;

use sqlx::{Connection as _, Executor, error::DatabaseError};
use tokio::time::timeout;

use crate::domain::QueueName;

use super::{
    Conn, Db,
    error::{Access, Error, Result},
};

/// Time to take leave of the server.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// An index on the group of a message, and on what its messages are in order of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupIndex {
    /// By id, for reading in order.
    Fifo,
    /// By when they become visible, for groups that take turns.
    Fair,
}

impl GroupIndex {
    const fn column(self) -> &'static str {
        match self {
            Self::Fifo => "msg_id",
            Self::Fair => "vt",
        }
    }
}

/// The statements by which a queue gets an index or, not `wanted`, loses it; none where it is so already.
pub async fn group_index_work(
    conn: &mut Conn,
    queue: &QueueName,
    index: GroupIndex,
    wanted: bool,
) -> Result<Vec<String>> {
    let query = sqlx::query(
        "/* group_index_work */ SELECT * FROM pgmq_gateway.group_index_work($1, $2, $3)",
    );
    let query = query.bind(queue.as_str()).bind(index.column()).bind(wanted);
    let rows = conn.on(queue).run_repeatable(query).await?;
    let statements = rows.iter().map(|row| sqlx::Row::try_get(row, 0));
    statements.collect::<std::result::Result<_, _>>().map_err(Error::unexpected)
}

/// Writes down whether a queue has the index for reading in order.
pub async fn note_fifo(conn: &mut Conn, queue: &QueueName) -> Result<()> {
    let query = sqlx::query("/* note_fifo */ SELECT pgmq_gateway.note_fifo($1)");
    conn.on(queue).run_repeatable(query.bind(queue.as_str())).await.map(drop)
}

impl Db {
    /// Runs statements on a session of its own, one by one and outside of transactions. They may take as long
    /// as they need: what they wait for is the end of transactions that were there before them.
    pub async fn run_at_leisure(&self, statements: &[String]) -> Result<()> {
        let opened = self.options().open_writable().await;
        let mut conn = opened.map_err(|error| Error::Unavailable(Some(error.into())))?.conn;
        let mut outcome = Ok(());
        for statement in
            ["SET statement_timeout = 0"].into_iter().chain(statements.iter().map(|s| &**s))
        {
            outcome = conn.execute(statement).await.map(drop);
            if outcome.is_err() {
                break;
            }
        }
        let _ = timeout(CLOSE_LIMIT, conn.close()).await;
        outcome.map_err(|error| {
            // Somebody else has made it, or dropped it, since it was looked for.
            let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
            if matches!(&*code, "42P07" | "23505") {
                return Error::Deadlock(error.into());
            }
            match Error::from_statement(error, Access::Change) {
                Error::MissingRelation(source) => Error::Deadlock(source),
                error => error,
            }
        })
    }
}
