//! Whether the database answers, asked on a connection of its own so that the question never
//! stands in line behind the pool, and once for everybody so that it is in no line of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{sync::Mutex, time::timeout};

use super::{schema, shared::Shared};

/// Time for one look.
const LIMIT: Duration = Duration::from_secs(2);
/// Time for which what was found is taken to be so.
const FRESH: Duration = Duration::from_millis(250);

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

/// The health check.
#[derive(Debug)]
pub struct Health {
    probe: Arc<Probe>,
    found: Shared<HealthState>,
}

/// Its connection.
#[derive(Debug)]
struct Probe {
    options: PgConnectOptions,
    connection: Mutex<Option<PgConnection>>,
    up: AtomicBool,
}

impl Health {
    /// A check that will connect when it is first asked.
    pub fn new(options: PgConnectOptions) -> Self {
        let probe = Probe { options, connection: Mutex::new(None), up: AtomicBool::new(true) };
        Self { probe: Arc::new(probe), found: Shared::new(FRESH) }
    }

    /// Asks the database, unless somebody else does or just did; answers within some seconds,
    /// whatever happens.
    pub async fn check(&self) -> HealthState {
        let look = || {
            let probe = Arc::clone(&self.probe);
            async move { probe.check().await }
        };
        self.found.get(look).await.unwrap_or(HealthState::Down)
    }

    /// Whether the database answered when it was last asked.
    pub fn last_seen_up(&self) -> bool {
        self.probe.up.load(Relaxed)
    }

    /// Closes the connection.
    pub async fn close(&self) {
        if let Some(connection) = self.probe.connection.lock().await.take() {
            let _ = timeout(LIMIT, connection.close()).await;
        }
    }
}

impl Probe {
    async fn check(&self) -> HealthState {
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

    async fn look(&self) -> Result<HealthState, sqlx::Error> {
        let mut kept = self.connection.lock().await;
        // Taken out while in use: a look that fails or is cut short leaves none behind.
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let row = sqlx::query(schema::HEALTH)
            .bind(schema::latest_version())
            .bind(schema::revision())
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
