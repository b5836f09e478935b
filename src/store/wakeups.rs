//! What tells a gateway that there may be something for those who wait.

use std::time::Duration;

use sqlx::{
    Row,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use crate::domain::QueueName;

use super::{
    Conn,
    decode::Text,
    error::{Access, Error, Result},
    messages::seconds,
};

/// The channel on which gateways talk to each other.
const CHANNEL: &str = "pgmq_gateway";

/// What a sweep found of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// The queue, as it was asked for.
    pub queue: String,
    /// Whether there is something to be had, or the queue is gone.
    pub ready: bool,
    /// When the next hidden message becomes visible.
    pub due_in: Option<Duration>,
    /// Whether PGMQ's own insert notifications are on.
    pub notifies: bool,
}

/// Looks at several queues in one statement.
pub async fn sweep(conn: &mut Conn, queues: &[QueueName]) -> Result<Vec<Swept>> {
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let query = sqlx::query("/* sweep */ SELECT * FROM pgmq_gateway.sweep($1)").bind(names);
    let rows = conn.look(query).await?;
    let swept = rows.iter().map(|row| {
        let due_in: Option<f64> = row.try_get("due_in")?;
        Ok(Swept {
            queue: row.try_get::<Text, _>("queue")?.0,
            ready: row.try_get("ready")?,
            due_in: due_in.map(seconds),
            notifies: row.try_get("notifies")?,
        })
    });
    swept.collect::<std::result::Result<_, _>>().map_err(Error::unexpected)
}

/// Looks at several queues as [`sweep`] does, in a tenth of the time, and without looking for
/// notifications: one statement that is planned once for as long as it is asked about the same queues.
/// Only for queues whose names need no folding; fails if one is gone.
pub async fn sweep_again(conn: &mut Conn, queues: &[QueueName]) -> Result<Vec<Swept>> {
    let due = |queue: &QueueName| {
        format!(
            "(SELECT pgmq_gateway.seconds_until(q.vt) \
              FROM pgmq.\"q_{queue}\" q ORDER BY q.vt LIMIT 1)"
        )
    };
    let each: Vec<String> = queues.iter().map(due).collect();
    let sql = format!("/* sweep_again */ SELECT ARRAY[{}]::float8[]", each.join(", "));
    let rows = conn.look(sqlx::query(&sql)).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    let due: Vec<Option<f64>> = row.try_get(0).map_err(Error::unexpected)?;
    let swept = queues.iter().zip(due).map(|(queue, due_in)| Swept {
        queue: queue.to_string(),
        ready: due_in.is_some_and(|due_in| due_in <= 0.0),
        due_in: due_in.map(seconds),
        notifies: false,
    });
    Ok(swept.collect())
}

/// Says something to all gateways on this database.
pub async fn say(conn: &mut Conn, payload: &str) -> Result<()> {
    let query = sqlx::query("/* notify */ SELECT pg_catalog.pg_notify($1, $2)");
    conn.look(query.bind(CHANNEL).bind(payload)).await.map(drop)
}

/// What came in on a listening connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A gateway said something.
    Gateway(String),
    /// PGMQ says that something was inserted into the table of this name.
    Insert(String),
    /// The connection was lost and is back: what was said in between is not known.
    Reconnected,
}

/// A connection that listens.
#[derive(Debug)]
pub struct Ears(PgListener);

impl Ears {
    /// Connects and listens to the other gateways.
    pub async fn open(options: &PgConnectOptions) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await.map_err(lost)?;
        listener.listen(CHANNEL).await.map_err(lost)?;
        Ok(Self(listener))
    }

    /// Listens to PGMQ's insert notifications of a queue's table as well.
    pub async fn listen_to(&mut self, table: &str) -> Result<()> {
        self.0.listen(&format!("pgmq.{table}.INSERT")).await.map_err(lost)
    }

    /// Waits for what comes next.
    pub async fn hear(&mut self) -> Result<Heard> {
        let Some(notification) = self.0.try_recv().await.map_err(lost)? else {
            return Ok(Heard::Reconnected);
        };
        let table = notification.channel().strip_prefix("pgmq.");
        Ok(match table.and_then(|rest| rest.strip_suffix(".INSERT")) {
            Some(table) => Heard::Insert(table.to_owned()),
            None => Heard::Gateway(notification.payload().to_owned()),
        })
    }
}

fn lost(error: sqlx::Error) -> Error {
    Error::from_statement(error, Access::Look)
}
