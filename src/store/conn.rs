//! Connections, and the one place where a statement is run.

mod altered;
mod explained;
mod limited_looks;

use std::{sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use sqlx::{
    Either, Execute, Executor, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use tokio::time::Instant;

use crate::domain::{Call, QueueName};

use super::{
    db::{Db, Limit},
    error::{Access, Error, Result},
    known_tables::KnownTables,
    pool::Lease,
    progress::Running,
    rejection::Rejection,
    verdict::{Cause, Failed, Retries, Retry, Verdict},
};

/// Time for a connection that is tried.
const PING_LIMIT: Duration = Duration::from_secs(1);

use altered::{Found, READ_ONLY};

/// A statement with its parameters.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Whether a row was what it should be.
pub(super) type Taken = std::result::Result<(), sqlx::Error>;

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
    pub(super) fn new(lease: Lease, db: Db, call: Arc<Call>, own: bool) -> Self {
        let (busy, in_transaction) = (false, false);
        let (subject, cancel_after) = (None, None);
        Self { lease: Some(lease), db, call, busy, in_transaction, own, subject, cancel_after }
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

    /// Says which queue the next statement is about: if it fails because something is missing, it is
    /// looked whether that is the queue.
    pub(super) fn on(&mut self, queue: &QueueName) -> &mut Self {
        self.subject = Some(queue.clone());
        self
    }

    /// Whether the server still answers.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.look_soon(sqlx::query("/* ping */ SELECT 1"), PING_LIMIT).await.map(drop)
    }

    /// Whether PGMQ's own functions take and return everything; older ones are stood in for.
    pub(super) fn is_modern(&self) -> bool {
        self.db.features().modern
    }

    /// Runs a statement that only looks, or can be repeated without harm.
    pub(super) async fn look(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Look, self.db.limit()).await
    }

    /// The same for a statement that takes no time at all: without an answer by then, no connection
    /// that there is is worth another try.
    pub(super) async fn look_soon(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        self.run(query, Access::Look, Limit { time: limit, brief: true }).await
    }

    /// As [`Conn::look`], for rows that are dealt with one by one, as they come in: all of them may
    /// be too much to hold.
    pub(super) async fn look_at_each(
        &mut self,
        query: Statement<'_>,
        take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Look, self.db.limit(), take).await
    }

    /// The same for one that leases what it returns. It may wait inside the database for up to `wait`.
    pub(super) async fn lease_each(
        &mut self,
        query: Statement<'_>,
        wait: Duration,
        take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        let limit = Limit { time: self.db.limit().time + wait, ..self.db.limit() };
        self.run_each(query, Access::Lease, limit, take).await
    }

    /// Runs a statement that gives back what was leased.
    pub(super) async fn give_back(&mut self, query: Statement<'_>) -> Result<Vec<PgRow>> {
        self.run(query, Access::Lease, self.db.limit()).await
    }

    /// As [`Conn::change`], for rows that are dealt with one by one.
    pub(super) async fn change_each(
        &mut self,
        query: Statement<'_>,
        take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        self.run_each(query, Access::Change, self.db.limit(), take).await
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
        limit: Limit,
        mut take: impl FnMut(PgRow) -> Taken + Send,
    ) -> Result<()> {
        let subject = self.subject.take();
        let cancel_after = self.cancel_after.take();
        self.call.add_round_trip();
        let sql = query.sql();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        let mut arguments = arguments.map_err(Error::unexpected)?.unwrap_or_default();
        let mut retries = Retries::default();
        loop {
            self.ready().await?;
            let copy = (!self.in_transaction).then(|| arguments.clone());
            self.cancel_after = cancel_after;
            let began = Instant::now();
            let Err(failed) = self.attempt(sql, arguments, limit, &mut take).await else {
                return Ok(());
            };
            let found = self.close_if_altered(&failed).await;
            let again = match found {
                Found::Altered => retries.allow_anew(),
                Found::Writable => {
                    self.busy = false;
                    false
                }
                // Where its time was not up, something else has cut it short.
                Found::Unanswered => {
                    began.elapsed() < limit.time / 2 && retries.allow(Some(Retry::Elsewhere)).await
                }
                Found::Unknown => {
                    let retry = self.sort(&failed, access, limit.brief);
                    retries.allow(retry).await
                }
            };
            let Some(copy) = copy.filter(|_| again && failed.rows == 0) else {
                if found == Found::Writable {
                    return Err(Error::Rejected(Rejection::Trigger(READ_ONLY.into())));
                }
                let error = failed.into_error(access);
                return Err(self.explain(subject, error, limit).await);
            };
            arguments = copy;
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
        limit: Limit,
        take: &mut (impl FnMut(PgRow) -> Taken + Send),
    ) -> std::result::Result<(), Failed> {
        let (mut rows, mut complete) = (0, false);
        let Some(lease) = self.lease.as_mut() else {
            return Err(Failed { cause: Cause::Unanswered, rows, complete });
        };
        self.busy = true;
        let progress = self.db.progress();
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
        let statement = self.db.cancel_after(self.cancel_after.take(), statement, &session);
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
            Verdict::Stale | Verdict::Altered => self.leave(Lease::close),
            Verdict::WrongServer | Verdict::Ended | Verdict::Broken | Verdict::Unsent => {
                self.leave(Lease::discard_all);
            }
            Verdict::Unclear => self.leave(Lease::give_up),
        }
        match verdict {
            Verdict::Undone => Some(Retry::Later),
            Verdict::Stale => Some(Retry::Anew),
            Verdict::WrongServer | Verdict::Unsent => Some(Retry::Elsewhere),
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
