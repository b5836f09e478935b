//! Topics: which queues a routing key leads to, in SQL.

use chrono::{DateTime, Utc};
use sqlx::Row;

use crate::domain::QueueName;

use super::{
    Conn,
    error::{Error, Result},
};

/// A queue that is bound to a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pattern that a routing key must match.
    pub pattern: String,
    /// The queue.
    pub queue: String,
    /// When it was bound.
    pub bound_at: DateTime<Utc>,
}

/// What became of the wish for a binding, or for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// It is so now.
    Done,
    /// It was so before.
    AsBefore,
    /// There is no such queue.
    NoQueue,
    /// The pattern is refused, and why.
    Refused(String),
}

/// The bindings of all queues, or of one.
pub async fn bindings(conn: &mut Conn, queue: Option<&QueueName>) -> Result<Vec<Binding>> {
    let query = sqlx::query("/* bindings */ SELECT * FROM pgmq_gateway.bindings($1)");
    let rows = conn.look(query.bind(queue.map(QueueName::as_str))).await?;
    let bindings = rows.iter().map(|row| {
        Ok(Binding {
            pattern: row.try_get("pattern")?,
            queue: row.try_get("queue")?,
            bound_at: row.try_get("bound_at")?,
        })
    });
    bindings.collect::<std::result::Result<_, _>>().map_err(Error::unexpected)
}

/// Binds a queue to a pattern.
pub async fn bind(conn: &mut Conn, queue: &QueueName, pattern: &str) -> Result<BindOutcome> {
    let query = sqlx::query("/* bind */ SELECT pgmq_gateway.bind($1, $2)");
    let rows = conn.look(query.bind(queue.as_str()).bind(pattern)).await?;
    Ok(match word(&rows)? {
        "bound" => BindOutcome::Done,
        "exists" => BindOutcome::AsBefore,
        "no_queue" => BindOutcome::NoQueue,
        reason => BindOutcome::Refused(reason.to_owned()),
    })
}

/// Ends a binding.
pub async fn unbind(conn: &mut Conn, queue: &QueueName, pattern: &str) -> Result<BindOutcome> {
    let query = sqlx::query("/* unbind */ SELECT pgmq_gateway.unbind($1, $2)");
    let rows = conn.change(query.bind(queue.as_str()).bind(pattern)).await?;
    Ok(match word(&rows)? {
        "unbound" => BindOutcome::Done,
        "no_queue" => BindOutcome::NoQueue,
        _ => BindOutcome::AsBefore,
    })
}

/// The queues that a routing key leads to.
pub async fn route(conn: &mut Conn, routing_key: &str) -> Result<Vec<String>> {
    let query = sqlx::query("/* route */ SELECT queue FROM pgmq_gateway.route($1)");
    let rows = conn.look(query.bind(routing_key)).await?;
    let queues = rows.iter().map(|row| row.try_get(0));
    queues.collect::<std::result::Result<_, _>>().map_err(Error::unexpected)
}

fn word(rows: &[sqlx::postgres::PgRow]) -> Result<&str> {
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    row.try_get(0).map_err(Error::unexpected)
}
