//! Connections, and the one place where a statement is run.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use sqlx::{
    Either, Execute, Executor, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::{
    pin, select,
    time::{Instant, timeout, timeout_at},
};

use crate::domain::CallStats;

use super::{
    Features, Health, HealthState,
    errand::Kept,
    error::{Access, Error, Result},
    pool::{AcquireError, Lease, Pool},
    progress::Running,
    session::Session,
    verdict::{Cause, Failed, Retries, Retry, Verdict},
};

/// Time for a connection that is tried.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// The limit of statements that take no time at all.
const BRIEF: Duration = Duration::from_secs(1);
/// What the server's own statement timeout is given before we stop listening to it.
const GRACE: Duration = Duration::from_secs(2);
/// Time without an answer after which it is asked whether the server is still the one.
const DOUBT: Duration = Duration::from_secs(2);

/// A statement with its parameters.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Whether a row was what it should be.
pub(super) type Taken = std::result::Result<(), sqlx::Error>;

/// A pool with the bounds on everything that is asked of it.
#[derive(Clone, Debug)]
pub struct Db {
    pool: Pool,
    health: Arc<Health>,
    statement_timeout: Duration,
    features: Features,
    kept: Kept,
}

/// A connection on loan from a [`Db`], and whose account its statements go on.
///
/// One that broke, or was given up on in the middle of a statement, is not given back: the answer
/// that is still to come belongs to nobody. Its next statement gets another.
pub struct Conn {
    lease: Option<Lease>,
    db: Db,
    stats: Arc<CallStats>,
    /// A statement is under way, or was when its future was dropped.
    busy: bool,
    in_transaction: bool,
    /// For the gateway's own account.
    own: bool,
}

impl Db {
    /// Wraps a pool.
    pub fn new(
        pool: Pool,
        health: Arc<Health>,
        statement_timeout: Duration,
        features: Features,
    ) -> Self {
        Self { pool, health, statement_timeout, features, kept: Kept::default() }
    }

    /// What the PGMQ in the database can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Takes a connection, waiting for as long as the pool allows.
    pub async fn acquire(&self, stats: &Arc<CallStats>) -> Result<Conn> {
        let lease = Some(self.checkout().await?);
        let (db, stats) = (self.clone(), Arc::clone(stats));
        Ok(Conn { lease, db, stats, busy: false, in_transaction: false, own: false })
    }

    /// The same for the gateway's own account.
    pub(super) async fn acquire_own(&self) -> Result<Conn> {
        let mut conn = self.acquire(&Arc::default()).await?;
        conn.own = true;
        Ok(conn)
    }

    /// What to say where something did not come in time that others have who work in the database.
    pub async fn not_in_time(&self) -> Error {
        Error::from_acquire(AcquireError::Busy(None), self.is_up().await)
    }

    async fn is_up(&self) -> bool {
        self.pool.progress().doubt();
        self.health.check().await != HealthState::Down
    }

    pub(super) fn with_kept(&self, kept: Kept) -> Self {
        Self { kept, ..self.clone() }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    async fn checkout(&self) -> Result<Lease> {
        let acquired = {
            let acquire = self.pool.acquire();
            pin!(acquire);
            if let Ok(acquired) = timeout(self.pool.acquire_timeout() / 2, &mut acquire).await {
                acquired
            } else {
                // What is found out meanwhile tells what is to be said in the end.
                let health = Arc::clone(&self.health);
                tokio::spawn(async move { health.check().await });
                acquire.await
            }
        };
        let up = match &acquired {
            Err(AcquireError::Busy(None)) => self.is_up().await,
            _ => true,
        };
        acquired.map_err(|error| Error::from_acquire(error, up))
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
    pub(super) fn capacity(&self) -> u32 {
        self.pool.capacity()
    }

    /// Whether every connection is in use that can be had.
    pub fn is_exhausted(&self) -> bool {
        self.pool.is_exhausted()
    }

    /// Waits for the connections that are out, then closes them all.
    pub async fn close(&self) {
        self.keep_none();
        self.pool.close().await;
    }

    /// Waits for the outcome of a statement, unless its time is up, or the other end is gone: it may
    /// never answer, and not hang up either.
    async fn wait_for(
        &self,
        statement: impl Future<Output = Taken>,
        session: &Session,
        limit: Duration,
    ) -> std::result::Result<(), Cause> {
        pin!(statement);
        let mut idle_before = false;
        let deadline = Instant::now() + limit + GRACE.min(limit);
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
                lost = self.is_lost(session, &mut idle_before) => if lost { return Err(Cause::Lost) },
            }
        }
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

impl Conn {
    /// Connections that the pool can have.
    pub(super) fn capacity(&self) -> u32 {
        self.db.pool.capacity()
    }

    /// Whether the connection is as good as before the last statement, however that ended.
    pub fn is_reusable(&self) -> bool {
        self.lease.is_some() && !self.busy && !self.db.pool.is_closed()
    }

    /// Whether the server still answers.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.look_within(sqlx::query("/* ping */ SELECT 1"), PING_LIMIT).await.map(drop)
    }

    /// Whether PGMQ's own functions take and return everything; older ones are stood in for.
    pub(super) fn is_modern(&self) -> bool {
        self.db.features.modern
    }

    /// Runs a statement that only looks, or can be repeated without harm.
    pub(super) async fn look(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Look, self.db.statement_timeout).await
    }

    /// The same, within a time of its own.
    pub(super) async fn look_within(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        self.run(query, Access::Look, limit).await
    }

    /// As [`Conn::look`], for rows that are dealt with one by one, as they come in: all of them may
    /// be too much to hold. The statement may wait inside the database for up to `wait`.
    pub(super) async fn look_at_each(
        &mut self,
        query: Statement<'_>,
        wait: Duration,
        take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Look, self.db.statement_timeout + wait, take).await
    }

    /// As [`Conn::change`], for rows that are dealt with one by one.
    pub(super) async fn change_each(
        &mut self,
        query: Statement<'_>,
        take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Change, self.db.statement_timeout, take).await
    }

    /// Runs a statement that changes messages that are there.
    pub(super) async fn change(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Change, self.db.statement_timeout).await
    }

    /// Runs a statement that stores new messages.
    pub(super) async fn store(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Store, self.db.statement_timeout).await
    }

    /// Runs a statement that only looks and may take up to `limit`, whatever the server is told
    /// otherwise.
    pub(super) async fn look_patiently(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let own_limit = format!("SET LOCAL statement_timeout = {}", limit.as_millis());
        self.look_with(&own_limit, query, limit).await
    }

    /// Runs a statement that only looks, waits for no lock longer than `lock_limit`, and takes no
    /// longer than `limit`.
    pub(super) async fn look_briefly(
        &mut self,
        query: Statement<'_>,
        lock_limit: Duration,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let own_limit = format!("SET LOCAL lock_timeout = {}", lock_limit.as_millis());
        self.look_with(&own_limit, query, limit).await
    }

    async fn look_with(
        &mut self,
        setting: &str,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let short = limit.min(self.db.statement_timeout);
        self.look_within(sqlx::query("BEGIN"), short).await?;
        self.look_within(sqlx::query(setting), short).await?;
        let outcome = self.look_within(query, limit).await;
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if self.is_reusable() {
            self.look_within(sqlx::query(end), short).await?;
        }
        outcome
    }

    async fn run(
        &mut self,
        query: Statement<'_>,
        access: Access,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let mut rows = Vec::new();
        let keep = |row| {
            rows.push(row);
            Ok(())
        };
        self.run_each(query, access, limit, keep).await?;
        Ok(rows)
    }

    /// Every statement of a request passes here: counted, bounded, its errors sorted. One that is
    /// certain to have done nothing, for no reason of its own, is tried again.
    async fn run_each(
        &mut self,
        mut query: Statement<'_>,
        access: Access,
        limit: Duration,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.stats.add_round_trip();
        let sql = query.sql();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        let mut arguments = arguments.map_err(Error::unexpected)?.unwrap_or_default();
        let mut retries = Retries::default();
        loop {
            self.ready().await?;
            let copy = (!self.in_transaction).then(|| arguments.clone());
            let Err(failed) = self.attempt(sql, arguments, limit, &mut take).await else {
                return Ok(());
            };
            let retry = self.sort(&failed, access, limit <= BRIEF);
            match copy {
                Some(copy) if failed.rows == 0 && retries.allow(retry).await => arguments = copy,
                _ => return Err(failed.into_error(access)),
            }
        }
    }

    /// Sees to a connection that can serve a statement.
    async fn ready(&mut self) -> Result<()> {
        let current = |lease: &Lease| self.in_transaction || !lease.is_outdated();
        if self.busy || !self.lease.as_ref().is_some_and(current) {
            // First the one, then the other: there may be no more.
            self.let_go();
            self.lease = Some(self.db.checkout().await?);
        }
        Ok(())
    }

    async fn attempt(
        &mut self,
        sql: &str,
        arguments: PgArguments,
        limit: Duration,
        take: &mut (impl FnMut(PgRow) -> Taken + Send),
    ) -> std::result::Result<(), Failed> {
        let (mut rows, mut complete) = (0, false);
        let Some(lease) = self.lease.as_mut() else {
            return Err(Failed { cause: Cause::Unanswered, rows, complete });
        };
        self.busy = true;
        let progress = self.db.pool.progress();
        let running = if self.own { Running::uncounted() } else { progress.begin() };
        let session = lease.session().clone();
        let statement = async {
            let conn: &mut PgConnection = lease;
            let mut results = conn.fetch_many(sqlx::query_with(sql, arguments));
            while let Some(result) = results.try_next().await? {
                match result {
                    Either::Left(_) => complete = true,
                    Either::Right(row) => {
                        rows += 1;
                        take(row)?;
                    }
                }
            }
            Ok(())
        };
        let outcome = self.db.wait_for(statement, &session, limit).await;
        if outcome.as_ref().err().is_none_or(Cause::is_progress) {
            running.done();
        }
        match (&outcome, sql) {
            (Ok(()), "BEGIN") => self.in_transaction = true,
            (_, "COMMIT" | "ROLLBACK") => self.in_transaction = false,
            _ => {}
        }
        match outcome {
            Ok(()) => {
                self.busy = false;
                Ok(())
            }
            Err(cause) => Err(Failed { cause, rows, complete }),
        }
    }

    /// Decides what becomes of the connection, and whether the statement is worth another attempt.
    fn sort(&mut self, failed: &Failed, access: Access, brief: bool) -> Option<Retry> {
        let error = match &failed.cause {
            Cause::Error(error) => error,
            // What takes no time at all was not answered: no other connection will do better.
            Cause::Unanswered if brief => {
                self.busy = false;
                self.leave(Lease::give_up_all);
                return None;
            }
            Cause::Unanswered | Cause::Lost => {
                self.let_go();
                return None;
            }
        };
        let read_only = self.lease.as_ref().is_some_and(|lease| lease.session().read_only);
        let verdict = Verdict::of(error);
        self.busy = false;
        match verdict {
            Verdict::Usable | Verdict::Undone => {}
            // That much was known.
            Verdict::WrongServer if read_only => return None,
            Verdict::Stale => self.leave(Lease::close),
            Verdict::WrongServer | Verdict::Ended | Verdict::Broken | Verdict::Unsent => {
                self.leave(Lease::discard_all);
            }
            Verdict::Unclear => self.leave(Lease::give_up),
        }
        match verdict {
            Verdict::Undone => Some(Retry::Later),
            Verdict::Stale | Verdict::WrongServer | Verdict::Unsent => Some(Retry::Elsewhere),
            Verdict::Ended if !failed.complete => Some(Retry::Elsewhere),
            Verdict::Ended | Verdict::Broken if access == Access::Look => Some(Retry::Elsewhere),
            _ => None,
        }
    }

    fn leave(&mut self, end: impl FnOnce(Lease)) {
        self.in_transaction = false;
        if let Some(lease) = self.lease.take() {
            end(lease);
        }
    }

    /// Gives the connection back, if it is in a state for others.
    fn let_go(&mut self) {
        match (std::mem::take(&mut self.busy), self.in_transaction) {
            (true, _) => self.leave(Lease::give_up),
            (false, true) => self.leave(Lease::close),
            (false, false) => self.leave(drop),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.let_go();
    }
}
