//! The one place where a statement is run.

use futures_util::TryStreamExt;
use sqlx::{Either, Execute, Executor, PgConnection, postgres::PgArguments};
use tokio::time::Instant;

use super::{
    super::{
        db::Limit,
        error::{Access, Error, Result},
        pool::Lease,
        progress::Running,
        rejection::Rejection,
        statement::{Rows, Statement},
        verdict::{Cause, Failed, Retries, Retry, Verdict},
    },
    Conn,
    altered::{Found, READ_ONLY},
};

impl Conn {
    /// Every statement of a request passes here: counted, bounded, its errors sorted. One that is
    /// certain to have done nothing, for no reason of its own, is tried again.
    pub(super) async fn run_each(
        &mut self,
        mut query: Statement<'_>,
        access: Access,
        limit: Limit,
        rows: &mut impl Rows,
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
            let Err(failed) = self.attempt(sql, arguments, limit, rows).await else {
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
            let may_repeat = again && (failed.rows == 0 || rows.start_over());
            let Some(copy) = copy.filter(|_| may_repeat) else {
                let error = match found {
                    Found::Writable => {
                        return Err(Error::Rejected(Rejection::Trigger(READ_ONLY.into())));
                    }
                    // It was undone: whoever has its rows can have it run again.
                    Found::Altered if again => failed.into_undone(access),
                    _ => failed.into_error(access),
                };
                return Err(self.explain(subject, error, limit).await);
            };
            arguments = copy;
        }
    }

    /// Sees to a connection that can serve a statement.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let current = |lease: &Lease| self.in_transaction || !lease.is_outdated();
        if self.busy || !self.lease.as_ref().is_some_and(current) {
            // First the one, then the other: there may be no more.
            self.let_go();
            self.lease = Some(self.db.checkout().await?);
        }
        Ok(())
    }

    pub(super) async fn attempt(
        &mut self,
        sql: &str,
        arguments: PgArguments,
        limit: Limit,
        taker: &mut impl Rows,
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
                        taker.take(row)?;
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
    pub(super) fn sort(&mut self, failed: &Failed, access: Access, brief: bool) -> Option<Retry> {
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
            // Nobody has said that the statement or its session is at an end.
            Verdict::Broken if error.as_database_error().is_none() => self.leave(Lease::lose_all),
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
            Verdict::Ended | Verdict::Broken if access == Access::Repeatable => {
                Some(Retry::Elsewhere)
            }
            _ => None,
        }
    }

    /// Parts with the connection.
    pub(super) fn leave(&mut self, end: impl FnOnce(Lease)) {
        self.in_transaction = false;
        if let Some(lease) = self.lease.take() {
            end(lease);
        }
    }

    /// Gives the connection back, if it is in a state for others.
    pub(super) fn let_go(&mut self) {
        match (std::mem::take(&mut self.busy), self.in_transaction) {
            (true, _) => self.leave(Lease::give_up),
            (false, true) => self.leave(Lease::close),
            (false, false) => self.leave(drop),
        }
    }
}
