//! What tells a gateway that there may be something for those who wait.

use std::time::Duration;

use sqlx::{Row, postgres::PgListener};
use tokio::time::timeout;

use crate::domain::QueueName;

use super::{
    Conn, ConnectOptions,
    error::{Access, Error, Result},
    messages::seconds,
};

/// The channel on which gateways talk to each other.
const CHANNEL: &str = "pgmq_gateway";
/// Time for a statement on a connection that listens.
const LIMIT: Duration = Duration::from_secs(2);
/// Time that a sweep waits for a lock.
const LOCK_LIMIT: Duration = Duration::from_millis(20);
/// Time for one statement of a sweep.
const SWEEP_LIMIT: Duration = Duration::from_secs(1);

/// What a sweep found of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Whether there is something to be had, or the queue is gone.
    pub ready: bool,
    /// When the next hidden message becomes visible.
    pub due_in: Option<Duration>,
    /// Whether PGMQ's own insert notifications are on.
    pub notifies: bool,
    /// What the whole statement took the server, where that is asked for.
    pub took: Duration,
}

/// What is committed by now: this text is another one after every commit that changed something.
pub async fn committed(conn: &mut Conn) -> Result<String> {
    let query = sqlx::query("/* committed */ SELECT pg_catalog.pg_current_snapshot()::text");
    let rows = conn.run_repeatable_soon(query, SWEEP_LIMIT).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    row.try_get(0).map_err(Error::unexpected)
}

/// Looks at several queues in one statement; says what it found in the same order. Where it is given less time than
/// usual, the statement ends by then, but no connection is given up for not having said so at once.
pub async fn sweep(
    conn: &mut Conn,
    queues: &[QueueName],
    limit: Option<Duration>,
) -> Result<Vec<Swept>> {
    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let query = sqlx::query(
        "/* sweep */ SELECT s.*, pg_catalog.date_part('epoch', \
             pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS took \
         FROM pgmq_gateway.sweep($1) s",
    )
    .bind(names);
    let rows = match limit {
        // It waits for no lock longer than ever: the function sees to that.
        Some(limit) => conn.look_patiently(query, limit).await?,
        None => conn.look_briefly(query, LOCK_LIMIT, SWEEP_LIMIT).await?,
    };
    let swept = rows.iter().map(|row| {
        let due_in: Option<f64> = row.try_get("due_in")?;
        Ok(Swept {
            ready: row.try_get("ready")?,
            due_in: due_in.map(seconds),
            notifies: row.try_get("notifies")?,
            took: seconds(row.try_get("took")?),
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
    let rows = conn.look_briefly(sqlx::query(&sql), LOCK_LIMIT, SWEEP_LIMIT).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    let due: Vec<Option<f64>> = row.try_get(0).map_err(Error::unexpected)?;
    let swept = due.into_iter().map(|due_in| Swept {
        ready: due_in.is_some_and(|due_in| due_in <= 0.0),
        due_in: due_in.map(seconds),
        notifies: false,
        took: Duration::ZERO,
    });
    Ok(swept.collect())
}

/// Says something to all gateways on this database.
pub async fn notify(conn: &mut Conn, payload: &str) -> Result<()> {
    let query = sqlx::query("/* notify */ SELECT pg_catalog.pg_notify($1, $2)");
    conn.run_repeatable(query.bind(CHANNEL).bind(payload)).await.map(drop)
}

/// What came in on a listening connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A gateway said something.
    Gateway(String),
    /// PGMQ says that something was inserted into the table of this name.
    Insert(String),
}

/// A connection that listens.
#[derive(Debug)]
pub struct NotificationListener(PgListener);

impl NotificationListener {
    /// Connects and listens to the other gateways.
    pub async fn open(options: &ConnectOptions) -> Result<Self> {
        let pool = options.single_connection_pool();
        let mut listener = PgListener::connect_with(&pool).await.map_err(lost)?;
        // Whoever listens is to know that it was lost, and how long to wait before trying again.
        listener.eager_reconnect(false);
        let mut listener = Self(listener);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    /// Listens to PGMQ's insert notifications of a queue's table as well.
    pub async fn listen_to(&mut self, table: &str) -> Result<()> {
        self.listen(&format!("pgmq.{table}.INSERT")).await
    }

    /// Says something to all gateways on this database: this one hears it, too, if its connection
    /// listens.
    pub async fn notify(&mut self, payload: &str) -> Result<()> {
        let query = sqlx::query("/* notify */ SELECT pg_catalog.pg_notify($1, $2)");
        let notify = query.bind(CHANNEL).bind(payload).execute(&mut self.0);
        timeout(LIMIT, notify).await.map_err(|_| Error::Timeout)?.map(drop).map_err(lost)
    }

    /// Waits for what comes next; fails when the connection is lost.
    pub async fn next(&mut self) -> Result<Notification> {
        let Some(notification) = self.0.try_recv().await.map_err(lost)? else {
            return Err(Error::Unavailable(None));
        };
        let table = notification.channel().strip_prefix("pgmq.");
        Ok(match table.and_then(|rest| rest.strip_suffix(".INSERT")) {
            Some(table) => Notification::Insert(table.to_owned()),
            None => Notification::Gateway(notification.payload().to_owned()),
        })
    }

    async fn listen(&mut self, channel: &str) -> Result<()> {
        let listen = timeout(LIMIT, self.0.listen(channel)).await;
        listen.map_err(|_| Error::Timeout)?.map_err(lost)
    }
}

fn lost(error: sqlx::Error) -> Error {
    Error::from_statement(error, Access::Repeatable)
}
