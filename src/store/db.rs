//! A pool with the bounds on everything that is asked of it.

use std::{sync::Arc, time::Duration};

use tokio::{
    join, pin, select,
    time::{Instant, timeout, timeout_at},
};

use crate::domain::QueueName;

use super::{
    Features, Health, HealthState,
    error::{Error, Result},
    kept_lease::KeptLease,
    known_tables::KnownTables,
    pool::{AcquireError, Lease, Pool},
    progress::Progress,
    session::{ConnectOptions, Process, Session},
    statement::Taken,
    verdict::Cause,
};

/// What the server's own statement timeout is given before we stop listening to it.
const GRACE: Duration = Duration::from_secs(2);
/// Time without an answer after which it is asked whether the server is still the one.
const DOUBT: Duration = Duration::from_secs(2);

/// A pool with the bounds on everything that is asked of it.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    health: Arc<Health>,
    statement_timeout: Duration,
    features: Features,
    kept: KeptLease,
    known_tables: Arc<KnownTables>,
}

/// For how long an answer is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// What the server is told, if it is told.
    pub(super) time: Duration,
    /// It should take no time at all.
    pub(super) brief: bool,
}

impl Db {
    /// Wraps a pool.
    pub fn new(
        pool: Pool,
        health: Arc<Health>,
        statement_timeout: Duration,
        features: Features,
    ) -> Self {
        let (kept, known_tables) = (KeptLease::default(), Arc::default());
        Self { pool, health, statement_timeout, features, kept, known_tables }
    }

    /// What the PGMQ in the database can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// What to say where something did not come in time that others have who work in the database.
    pub async fn not_in_time(&self) -> Error {
        Error::from_acquire(AcquireError::Busy(None), self.is_up().await)
    }

    async fn is_up(&self) -> bool {
        self.pool.progress().doubt();
        self.health.check().await != HealthState::Down
    }

    pub(super) fn options(&self) -> &ConnectOptions {
        self.pool.control().options()
    }

    pub(super) fn limit(&self) -> Limit {
        Limit { time: self.statement_timeout, brief: false }
    }

    pub(super) fn progress(&self) -> &Progress {
        self.pool.progress()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// The table of a queue was changed in a way that statements under way may not have seen.
    pub fn forget_table(&self, queue: &QueueName) {
        self.known_tables.forget(queue);
    }

    pub(super) fn known_tables(&self) -> &Arc<KnownTables> {
        &self.known_tables
    }

    pub(super) fn with_kept(&self, kept: KeptLease) -> Self {
        Self { kept, ..self.clone() }
    }

    pub(super) fn kept(&self) -> &KeptLease {
        &self.kept
    }

    pub(super) async fn checkout(&self) -> Result<Lease> {
        let acquire = self.pool.acquire();
        pin!(acquire);
        let mut acquired = timeout(self.pool.acquire_timeout() / 2, &mut acquire).await;
        if acquired.is_err() {
            // What is found out meanwhile tells what is to be said in the end.
            let health = Arc::clone(&self.health);
            tokio::spawn(async move { health.check().await });
            acquired = Ok(acquire.await);
        }
        match acquired {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(AcquireError::Busy(None))) | Err(_) => Err(Box::pin(self.not_in_time()).await),
            Ok(Err(error)) if error.is_read_only() => {
                let found = Box::pin(self.health.check()).await;
                let is_away = matches!(found, HealthState::ReadOnly | HealthState::Down);
                Err(Error::from_acquire(error, !is_away))
            }
            Ok(Err(error)) => Err(Error::from_acquire(error, true)),
        }
    }

    /// Waits until the database has not even one connection for the pool: those beside it are to be
    /// given up then.
    pub async fn starved(&self) {
        self.pool.starved().await;
    }

    /// Connections that are open, and those of them that are idle.
    pub fn size(&self) -> (u32, u32) {
        self.pool.size()
    }

    /// Connections that can be had.
    pub fn capacity(&self) -> u32 {
        self.pool.capacity()
    }

    /// Whether every connection is in use that can be had.
    pub fn is_exhausted(&self) -> bool {
        self.pool.is_exhausted()
    }

    /// Gives up the connection that is kept, if one is.
    pub fn keep_none(&self) {
        drop(self.kept().take());
    }

    /// Waits for the connections that are out, then closes them all.
    pub async fn close(&self) {
        self.keep_none();
        self.pool.close().await;
    }

    /// Waits for the outcome of a statement, unless its time is up, or the other end is gone: it may
    /// never answer, and not hang up either.
    pub(super) async fn wait_for(
        &self,
        statement: impl Future<Output = Taken>,
        session: &Session,
        limit: Limit,
    ) -> std::result::Result<(), Cause> {
        pin!(statement);
        let mut idle_before = false;
        let deadline = Instant::now() + limit.time + if limit.brief { limit.time } else { GRACE };
        loop {
            let doubt = Instant::now() + DOUBT;
            if let Ok(outcome) = timeout_at(doubt.min(deadline), &mut statement).await {
                return outcome.map_err(Cause::Error);
            }
            self.pool.progress().doubt();
            if doubt >= deadline {
                return Err(Cause::Unanswered);
            }
            select! {
                biased;
                outcome = &mut statement => return outcome.map_err(Cause::Error),
                lost = Box::pin(self.is_lost(session, &mut idle_before)) => if lost { return Err(Cause::Lost) },
            }
        }
    }

    /// Waits for the outcome of a statement, and has it cancelled once its time is up.
    pub(super) async fn cancel_after(
        &self,
        limit: Option<Duration>,
        statement: impl Future<Output = Taken>,
        session: &Session,
    ) -> Taken {
        pin!(statement);
        let Some(limit) = limit else { return statement.await };
        if let Ok(outcome) = timeout(limit, &mut statement).await {
            return outcome;
        }
        // Until both have come back: what the session does next is not to be cancelled.
        join!(statement, Box::pin(self.pool.control().cancel(session))).0
    }

    /// Whether what a process runs is done but for its commit, which waits until it is durable.
    pub async fn is_committing(&self, process: &Process) -> bool {
        self.pool.control().is_committing(process).await
    }

    /// Whether an answer will never come: the session is not one of the server's that the database is
    /// now, or nothing is done there any more, now and `idle_before`.
    async fn is_lost(&self, session: &Session, idle_before: &mut bool) -> bool {
        if !self.pool.has_moved_from(session) {
            self.health.check().await;
        }
        let idle = self.pool.control().is_idle(session).await.unwrap_or(false);
        let still = std::mem::replace(idle_before, idle) && idle;
        still || self.pool.has_moved_from(session)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::failure::Failure, *};

    #[test]
    fn what_is_said_where_only_a_server_that_takes_no_changes_is_to_be_had() {
        let busy = || AcquireError::Busy(Some(Failure::read_only()));
        assert!(busy().is_read_only() && !AcquireError::Busy(None).is_read_only());
        let answer = |up| Error::from_acquire(busy(), up);
        assert!(matches!(answer(true), Error::Overloaded), "others take changes");
        assert!(matches!(answer(false), Error::Unavailable(None)));
    }
}
