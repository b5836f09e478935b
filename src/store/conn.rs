//! Connections, and the one place where a statement is run.

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use sqlx::{
    PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::time::timeout;

use crate::domain::{CallStats, QueueName};

use super::{
    Features, Health,
    errand::Kept,
    error::{Access, Error, Result, leaves_connection_usable},
};

/// What the server's own statement timeout is given before we stop listening to it.
const GRACE: Duration = Duration::from_secs(2);

/// A statement with its parameters.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Whether a row was what it should be.
pub(super) type Taken = std::result::Result<(), sqlx::Error>;

/// A pool with the bounds on everything that is asked of it.
#[derive(Clone, Debug)]
pub struct Db {
    pool: PgPool,
    health: Arc<Health>,
    statement_timeout: Duration,
    features: Features,
    kept: Kept,
}

/// A connection on loan from a [`Db`], and whose account its statements go on.
///
/// One that broke, or was given up on in the middle of a statement, is closed and not given back:
/// the answer that is still to come belongs to nobody. Its next statement gets another.
pub struct Conn {
    inner: PoolConnection<Postgres>,
    db: Db,
    stats: Arc<CallStats>,
    reusable: bool,
    /// The queue that the next statement is about.
    subject: Option<QueueName>,
}

impl Db {
    /// Wraps a pool.
    pub fn new(
        pool: PgPool,
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
        let inner = self.checkout().await?;
        Ok(Conn {
            inner,
            db: self.clone(),
            stats: Arc::clone(stats),
            reusable: true,
            subject: None,
        })
    }

    pub(super) fn with_kept(&self, kept: Kept) -> Self {
        Self { kept, ..self.clone() }
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    async fn checkout(&self) -> Result<PoolConnection<Postgres>> {
        let checkout = self.pool.acquire().await;
        checkout.map_err(|error| Error::from_acquire(error, self.health.last_seen_up()))
    }

    /// Connections that are open, and those of them that are idle.
    pub fn size(&self) -> (u32, u32) {
        (self.pool.size(), u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX))
    }

    /// Whether every connection is in use that there may be.
    pub fn is_exhausted(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// Waits for the connections that are out, then closes them all.
    pub async fn close(&self) {
        self.keep_none();
        self.pool.close().await;
    }
}

impl Conn {
    pub(super) fn max_connections(&self) -> u32 {
        self.db.pool.options().get_max_connections()
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.reusable && !self.db.pool.is_closed()
    }

    /// Says which queue the next statement is about: if it fails because something is missing, it is looked
    /// whether that is the queue.
    pub(super) fn on(&mut self, queue: &QueueName) -> &mut Self {
        self.subject = Some(queue.clone());
        self
    }

    /// Whether the server still answers.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.look(sqlx::query("/* ping */ SELECT 1")).await.map(drop)
    }

    /// Whether PGMQ's own functions take and return everything; older ones are stood in for.
    pub(super) fn is_modern(&self) -> bool {
        self.db.features.modern
    }

    /// Runs a statement that only looks, or can be repeated without harm.
    pub(super) async fn look(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Look, self.db.statement_timeout).await
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
        let subject = self.subject.take();
        let own_limit = format!("SET LOCAL statement_timeout = {}", limit.as_millis());
        self.look(sqlx::query("BEGIN")).await?;
        self.look(sqlx::query(&own_limit)).await?;
        self.subject = subject;
        let outcome = self.run(query, Access::Look, limit).await;
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if self.reusable {
            self.look(sqlx::query(end)).await?;
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

    /// Every statement of a request passes here: counted, bounded, its errors sorted.
    async fn run_each(
        &mut self,
        query: Statement<'_>,
        access: Access,
        limit: Duration,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        let subject = self.subject.take();
        self.stats.add_round_trip();
        if !self.reusable {
            self.inner.close_on_drop();
            self.inner = self.db.checkout().await?;
        }
        self.reusable = false;
        let all = async {
            let mut rows = query.fetch(&mut *self.inner);
            while let Some(row) = rows.try_next().await? {
                take(row)?;
            }
            Ok(())
        };
        let Ok(outcome) = timeout(limit + GRACE, all).await else {
            return Err(Error::unanswered(access));
        };
        self.reusable = outcome.as_ref().err().is_none_or(leaves_connection_usable);
        match outcome.map_err(|error| Error::from_statement(error, access)) {
            Err(Error::MissingRelation(source)) => Err(self.missing(subject, source, limit).await),
            outcome => outcome,
        }
    }

    /// What to make of a statement that failed because something is missing: the queue that it was about
    /// may have been dropped in that moment. Whatever else is missing is no fault of the caller's.
    async fn missing(
        &mut self,
        subject: Option<QueueName>,
        source: Arc<sqlx::Error>,
        limit: Duration,
    ) -> Error {
        let Some(queue) = subject else { return Error::Unexpected(source) };
        let query = sqlx::query_scalar::<_, bool>(
            "/* queue_is_there */ SELECT pgmq_gateway.find_queue_table($1) IS NOT NULL",
        );
        self.stats.add_round_trip();
        let found = timeout(limit, query.bind(queue.as_str()).fetch_one(&mut *self.inner)).await;
        match found {
            Ok(Ok(false)) => Error::QueueNotFound,
            // Dropped and made anew, by now.
            Ok(Ok(true)) => Error::Deadlock(source),
            _ => Error::Unexpected(source),
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if !self.reusable {
            self.inner.close_on_drop();
        }
    }
}
