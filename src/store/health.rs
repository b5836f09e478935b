//! Whether the database answers, asked on a connection of its own so that the question never
//! stands in line behind the pool.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{sync::Mutex, time::timeout};

use super::schema;

/// Time for one look.
const LIMIT: Duration = Duration::from_secs(2);

/// What the last look at the database found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// It answers, PGMQ is there and our schema is current.
    Ready,
    /// It answers, but PGMQ or our schema is missing or old.
    SchemaMissing,
    /// It answers, but is a standby that takes no changes.
    ReadOnly,
    /// It does not answer.
    Down,
}

/// The health check's connection.
#[derive(Debug)]
pub struct Health {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
    up: AtomicBool,
}

impl Health {
    /// A check that will connect when it is first asked.
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: Mutex::new(None), up: AtomicBool::new(true) }
    }

    /// Asks the database now; answers within some seconds, whatever happens.
    pub async fn check(&self) -> HealthState {
        let state = match timeout(LIMIT, self.look()).await {
            Ok(Ok(state)) => state,
            Ok(Err(sqlx::Error::Database(error))) if schema::is_missing(&*error) => {
                HealthState::SchemaMissing
            }
            Ok(Err(_)) | Err(_) => HealthState::Down,
        };
        self.up.store(state != HealthState::Down, Relaxed);
        state
    }

    /// Whether the database answered when it was last asked.
    pub fn last_seen_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Closes the connection.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            let _ = timeout(LIMIT, connection.close()).await;
        }
    }

    async fn look(&self) -> Result<HealthState, sqlx::Error> {
        let mut kept = self.connection.lock().await;
        // Taken out while in use: a look that fails or is cut short leaves none behind.
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let row = sqlx::query(schema::HEALTH)
            .bind(schema::latest_version())
            .fetch_one(&mut connection)
            .await?;
        *kept = Some(connection);
        let (current, standby): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        Ok(match (current, standby) {
            (_, true) => HealthState::ReadOnly,
            (false, _) => HealthState::SchemaMissing,
            (true, false) => HealthState::Ready,
        })
    }
}
