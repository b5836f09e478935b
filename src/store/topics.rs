//! Topics: which queues a routing key leads to, in SQL.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;

use crate::domain::{QueueName, Scope};

use super::{
    Conn,
    decode::{Text, get, only_row, text, time, time_option},
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
    /// The queue has as many as it may.
    Full,
}

/// The bindings of all queues that are `within` what is allowed, or of one of them; of more than `limit`, any so
/// many.
pub async fn bindings(
    conn: &mut Conn,
    queue: Option<&QueueName>,
    within: &Scope,
    limit: usize,
) -> Result<Vec<Binding>> {
    let query = sqlx::query("/* bindings */ SELECT * FROM pgmq_gateway.bindings($1, $2, $3)")
        .bind(queue.map(QueueName::as_str))
        .bind(within.to_regex())
        .bind(i32::try_from(limit).unwrap_or(i32::MAX));
    conn.run_repeatable(query).await?.iter().map(binding).collect()
}

fn binding(row: &PgRow) -> Result<Binding> {
    let (pattern, queue) = (text(row, "pattern")?, text(row, "queue")?);
    Ok(Binding { pattern, queue, bound_at: time(row, "bound_at")? })
}

/// Binds a queue to a pattern, if it has fewer than `max_bindings`. The binding is there if it is bound now.
pub async fn bind(
    conn: &mut Conn,
    queue: &QueueName,
    pattern: &str,
    max_bindings: usize,
) -> Result<(BindOutcome, Option<Binding>)> {
    let query = sqlx::query("/* bind */ SELECT outcome, since FROM pgmq_gateway.bind($1, $2, $3)")
        .bind(queue.as_str())
        .bind(pattern)
        .bind(i32::try_from(max_bindings).unwrap_or(i32::MAX));
    let rows = conn.change(query).await?;
    let outcome = match word(&rows)? {
        "bound" => BindOutcome::Done,
        "full" => BindOutcome::Full,
        "exists" => BindOutcome::AsBefore,
        "no_queue" => BindOutcome::NoQueue,
        other => return Err(Error::unexpected_word(other)),
    };
    let binding = time_option(only_row(&rows)?, "since")?.map(|bound_at| Binding {
        pattern: pattern.to_owned(),
        queue: queue.to_string(),
        bound_at,
    });
    Ok((outcome, binding))
}

/// Ends a binding.
pub async fn unbind(conn: &mut Conn, queue: &QueueName, pattern: &str) -> Result<BindOutcome> {
    let query = sqlx::query("/* unbind */ SELECT pgmq_gateway.unbind($1, $2) AS outcome");
    let rows = conn.change(query.bind(queue.as_str()).bind(pattern)).await?;
    Ok(match word(&rows)? {
        "unbound" => BindOutcome::Done,
        "no_queue" => BindOutcome::NoQueue,
        "no_binding" => BindOutcome::AsBefore,
        other => return Err(Error::unexpected_word(other)),
    })
}

/// The queues that a routing key leads to, of those `within` what is allowed.
pub async fn route(conn: &mut Conn, routing_key: &str, within: &Scope) -> Result<Vec<String>> {
    let query = sqlx::query("/* route */ SELECT queue FROM pgmq_gateway.shown_route($1, $2)");
    let rows = conn.run_repeatable(query.bind(routing_key).bind(within.to_regex())).await?;
    rows.iter().map(|row| get::<Text>(row, "queue").map(|queue| queue.0)).collect()
}

fn word(rows: &[PgRow]) -> Result<&str> {
    get(only_row(rows)?, "outcome")
}
