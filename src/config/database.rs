mod address;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Secret, check_range};

/// `[database]`: the PostgreSQL that holds the queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// `postgres://user:password@host:port/database`; without it the gateway runs a private
    /// PostgreSQL.
    pub url: Option<Secret>,
    /// The same database without a pooler in between, for installing and migrating.
    pub direct_url: Option<Secret>,
    /// Whether `url` leads through a pooler in transaction mode, such as PgBouncer.
    pub transaction_pooler: bool,
    /// Whether the gateway may install PGMQ where it is missing, and upgrade what it installed.
    pub install_pgmq: bool,
    /// Connections in the shared pool.
    pub max_connections: u32,
    /// Seconds to keep trying to reach the database at the start, and to change what others have locked there.
    pub connect_timeout_seconds: u64,
    /// Milliseconds a request waits for a connection.
    pub acquire_timeout_ms: u64,
    /// Milliseconds for one statement.
    pub statement_timeout_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            direct_url: None,
            transaction_pooler: false,
            install_pgmq: true,
            max_connections: 8,
            connect_timeout_seconds: 30,
            acquire_timeout_ms: 5_000,
            statement_timeout_ms: 15_000,
        }
    }
}

impl Database {
    /// Time to keep trying to reach the database at the start, and to change what others have locked there.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds)
    }

    /// Time a request waits for a connection.
    pub fn acquire_timeout(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms)
    }

    /// Time for one statement.
    pub fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms)
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_url("database.url", self.url.as_ref())?;
        check_url("database.direct_url", self.direct_url.as_ref())?;
        check_range("database.max_connections", self.max_connections, 1, 1_000)?;
        check_range("database.connect_timeout_seconds", self.connect_timeout_seconds, 0, 3_600)?;
        check_range("database.acquire_timeout_ms", self.acquire_timeout_ms, 10, 600_000)?;
        check_range("database.statement_timeout_ms", self.statement_timeout_ms, 100, 3_600_000)
    }
}

/// Refuses a URL that is none, or that says what would be ignored, without repeating it: it may hold
/// a password.
fn check_url(key: &'static str, url: Option<&Secret>) -> Result<(), Invalid> {
    let checked = url.map_or(Ok(()), |url| address::check(url.expose()));
    checked.map_err(|allowed| Invalid { key, allowed })
}
