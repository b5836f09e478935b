//! Waiting for what an installation or an upgrade has to change, and others have locked.
//!
//! Whoever waits to change a table has all those stand behind it who only read it: gateways that serve. So it is tried
//! for a moment, and again after a pause.

use std::time::Duration;

use sqlx::{PgConnection, error::DatabaseError, migrate::MigrateError};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{PrepareError, backoff::Backoff};

/// The key of the advisory lock under which gateways install, one at a time.
const INSTALL_LOCK: i64 = 0x7067_6d71_6777; // "pgmqgw"
/// The least time for another gateway to install, which is at work and not in the way.
const TURN_PATIENCE: Duration = Duration::from_secs(600);

/// Who holds the advisory lock $1 or, where that is null, a lock on a table of schema $2: what tells the transaction
/// from others, and what is said of it; that of the longest first.
const HOLDERS: &str = "/* lock_holders */ \
    SELECT CASE WHEN $1 IS NULL THEN l.virtualtransaction ELSE l.pid::text END, \
           coalesce('process ' || l.pid \
                    || CASE WHEN a.application_name <> '' THEN ' (' || a.application_name || ')' ELSE '' END, \
                    'a prepared transaction') \
    FROM pg_catalog.pg_locks l \
    LEFT JOIN pg_catalog.pg_class c ON l.locktype = 'relation' AND c.oid = l.relation \
    LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d \
                        WHERE d.datname = pg_catalog.current_database()) \
      AND CASE WHEN $1 IS NULL THEN n.nspname = $2 \
               ELSE l.locktype = 'advisory' AND l.objsubid = 1 \
                    AND (l.classid::bigint << 32) + l.objid::bigint = $1 END \
    ORDER BY a.xact_start, l.pid LIMIT 100";

/// What somebody has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locked {
    /// The right to install: another gateway does.
    Turn,
    /// Tables of PGMQ's.
    Pgmq,
    /// Tables of our own.
    OwnSchema,
}

/// The wait for all that is locked, together.
pub(super) struct LockWait<'a> {
    target: &'a str,
    started: Instant,
    patience: Duration,
    backoff: Backoff,
    /// The transactions that were there when it was tried last.
    before: Vec<String>,
    /// Of whom that was said.
    told: Option<String>,
}

impl<'a> LockWait<'a> {
    /// Less than functions of ours wait for a lock (50 ms), so that hardly one that stands behind this session fails.
    pub(super) const SHORTLY: &'static str = "SET lock_timeout = '40ms'";
    /// As it is in every session of ours.
    pub(super) const AS_EVER: &'static str = "SET lock_timeout = 0";

    pub(super) fn new(target: &'a str, patience: Duration) -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        let (before, told) = (Vec::new(), None);
        Self { target, started: Instant::now(), patience, backoff, before, told }
    }

    /// Waits for the turn to install, which the session has until its end.
    pub(super) async fn turn(&mut self, connection: &mut PgConnection) -> Result<(), PrepareError> {
        let patience = self.patience;
        self.patience = patience.max(TURN_PATIENCE);
        // A statement that waited for it would have a snapshot meanwhile, and come to its time.
        while !self.try_turn(connection).await.map_err(|error| self.failed(error))? {
            self.pause(connection, Locked::Turn).await?;
        }
        // What is locked otherwise is waited for from now on.
        (self.patience, self.started) = (patience, Instant::now());
        Ok(())
    }

    async fn try_turn(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let query = sqlx::query_scalar("SELECT pg_catalog.pg_try_advisory_lock($1)");
        query.bind(INSTALL_LOCK).fetch_one(connection).await
    }

    /// Waits before another attempt or, when the time is up, says who is in the way.
    pub(super) async fn pause(
        &mut self,
        connection: &mut PgConnection,
        what: Locked,
    ) -> Result<(), PrepareError> {
        let holders = holders(connection, what).await.map_err(|error| self.failed(error))?;
        // Others come and go.
        let lasting = holders.iter().find(|(transaction, _)| self.before.contains(transaction));
        let holder = lasting.or(holders.first()).map(|(_, holder)| holder.clone());
        let pause = self.backoff.pause();
        if self.started.elapsed() + pause > self.patience {
            return Err(PrepareError::Locked {
                what: what.as_str(),
                target: self.target.to_owned(),
                holder: holder.unwrap_or_else(|| "another transaction".to_owned()),
            });
        }
        // Each is told once, however often it is met.
        if lasting.is_some() && holder != self.told {
            let for_seconds = self.patience.saturating_sub(self.started.elapsed()).as_secs();
            let by = holder.as_deref();
            warn!(database = %self.target, what = what.as_str(), by, for_seconds, "locked, trying again");
            self.told = holder;
        }
        self.before = holders.into_iter().map(|(transaction, _)| transaction).collect();
        sleep(pause).await;
        Ok(())
    }

    fn failed(&self, source: sqlx::Error) -> PrepareError {
        PrepareError::Database { target: self.target.to_owned(), source }
    }
}

async fn holders(
    connection: &mut PgConnection,
    what: Locked,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let (key, schema) = match what {
        Locked::Turn => (Some(INSTALL_LOCK), None),
        Locked::Pgmq => (None, Some("pgmq")),
        Locked::OwnSchema => (None, Some("pgmq_gateway")),
    };
    sqlx::query_as(HOLDERS).bind(key).bind(schema).fetch_all(connection).await
}

impl Locked {
    fn as_str(self) -> &'static str {
        match self {
            Self::Turn | Self::OwnSchema => "schema pgmq_gateway",
            Self::Pgmq => "schema pgmq",
        }
    }
}

/// Whether something was not done because somebody else has locked what it is about.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    let code = said(error).and_then(DatabaseError::code);
    code.is_some_and(|code| code == "55P03")
}

/// What the server said, be it in a step of the tables.
pub(super) fn said(error: &sqlx::Error) -> Option<&dyn DatabaseError> {
    let source = match error {
        sqlx::Error::Migrate(migrate) => match &**migrate {
            MigrateError::Execute(inner) | MigrateError::ExecuteMigration(inner, _) => inner,
            _ => return None,
        },
        other => other,
    };
    source.as_database_error()
}
