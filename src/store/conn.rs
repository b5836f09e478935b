//! Connections, and the kinds of statements that they run.

mod altered;
mod explained;
mod limited_looks;
mod run;

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgRow;

use crate::domain::{Call, QueueName};

use super::{
    db::{Db, Limit},
    error::{Access, Result},
    known_tables::KnownTables,
    pool::Lease,
    session::Process,
    statement::{Kept, Statement, Taken},
};

/// Time for a connection that is tried.
const PING_LIMIT: Duration = Duration::from_secs(1);

/// A connection on loan from a [`Db`], and whose account its statements go on.
///
/// One that broke, or was given up on in the middle of a statement, is not given back: the answer
/// that is still to come belongs to nobody. Its next statement gets another.
pub struct Conn {
    lease: Option<Lease>,
    db: Db,
    call: Arc<Call>,
    /// A statement is under way, or was when its future was dropped.
    busy: bool,
    in_transaction: bool,
    /// For the gateway's own account.
    own: bool,
    /// The queue that the next statement is about.
    subject: Option<QueueName>,
    /// After which time the next statement is cancelled.
    cancel_after: Option<Duration>,
}

impl Conn {
    fn new(lease: Lease, db: Db, call: Arc<Call>, own: bool) -> Self {
        let (busy, in_transaction) = (false, false);
        let (subject, cancel_after) = (None, None);
        Self { lease: Some(lease), db, call, busy, in_transaction, own, subject, cancel_after }
    }

    /// Its lease, for whoever keeps the connection; nothing where it is not in a state for others.
    pub(super) fn into_lease(mut self) -> Option<Lease> {
        let is_idle = self.is_reusable() && !self.in_transaction;
        if is_idle { self.lease.take() } else { None }
    }

    /// Connections that the pool can have.
    pub(super) fn capacity(&self) -> u32 {
        self.db.capacity()
    }

    /// What was found out about tables of queues by statements for several.
    pub(super) fn known_tables(&self) -> &Arc<KnownTables> {
        self.db.known_tables()
    }

    /// Whether the connection is as good as before the last statement, however that ended.
    pub fn is_reusable(&self) -> bool {
        self.lease.is_some() && !self.busy && !self.db.is_closed()
    }

    /// The server's process that runs its statements, unless it is another one each time.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.lease.as_ref().and_then(|lease| lease.session().process.clone())
    }

    /// Says which queue the next statement is about: if it fails because something is missing, it is
    /// looked whether that is the queue.
    pub(super) fn on(&mut self, queue: &QueueName) -> &mut Self {
        self.subject = Some(queue.clone());
        self
    }

    /// Whether the server still answers.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.run_repeatable_soon(sqlx::query("/* ping */ SELECT 1"), PING_LIMIT).await.map(drop)
    }

    /// Whether PGMQ's own functions take and return everything; older ones are stood in for.
    pub(super) fn is_modern(&self) -> bool {
        self.db.features().modern
    }

    /// Runs a statement that only looks, or can be repeated without harm: it is, where the connection is lost.
    pub(super) async fn run_repeatable(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Repeatable, self.db.limit()).await
    }

    /// The same for a statement that takes no time at all: without an answer by then, no connection
    /// that there is is worth another try.
    pub(super) async fn run_repeatable_soon(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        self.run(query, Access::Repeatable, Limit { time: limit, brief: true }).await
    }

    /// As [`Conn::run_repeatable`], for rows that are dealt with one by one, as they come in: all of them may
    /// be too much to hold.
    pub(super) async fn run_repeatable_each(
        &mut self,
        query: Statement<'_>,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Repeatable, self.db.limit(), &mut take).await
    }

    /// The same for one that leases what it returns. It may wait inside the database for up to `wait`.
    pub(super) async fn lease_each(
        &mut self,
        query: Statement<'_>,
        wait: Duration,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        let limit = Limit { time: self.db.limit().time + wait, ..self.db.limit() };
        self.run_each(query, Access::Lease, limit, &mut take).await
    }

    /// Runs a statement that gives back what was leased.
    pub(super) async fn give_back(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Lease, self.db.limit()).await
    }

    /// As [`Conn::change`], for rows that are dealt with one by one.
    pub(super) async fn change_each(
        &mut self,
        query: Statement<'_>,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Change, self.db.limit(), &mut take).await
    }

    /// Runs a statement that changes messages that are there.
    pub(super) async fn change(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Change, self.db.limit()).await
    }

    /// Runs a statement that stores new messages.
    pub(super) async fn store(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Store, self.db.limit()).await
    }

    /// The same for one that serves many, and is to keep none of them waiting for another: it is cancelled once
    /// `limit` is over, where it can be, and what it came to is waited for.
    pub(super) async fn store_within(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        self.cancel_after = Some(limit);
        self.store(query).await
    }

    async fn run(
        &mut self,
        query: Statement<'_>,
        access: Access,
        limit: Limit,
    ) -> Result<Vec<PgRow>> {
        let mut rows = Kept::default();
        self.run_each(query, access, limit, &mut rows).await?;
        Ok(rows.0)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Db {
    /// Takes a connection, waiting for as long as the pool allows.
    pub async fn acquire(&self, call: &Arc<Call>) -> Result<Conn> {
        Ok(Conn::new(self.checkout().await?, self.clone(), Arc::clone(call), false))
    }

    /// The same for the gateway's own account.
    pub(super) async fn acquire_own(&self) -> Result<Conn> {
        Ok(Conn::new(self.checkout().await?, self.clone(), Arc::default(), true))
    }

    /// Goes on with a connection that was kept, for the gateway's own account.
    pub(super) fn resume_own(&self, lease: Lease) -> Conn {
        Conn::new(lease, self.clone(), Arc::default(), true)
    }
}
