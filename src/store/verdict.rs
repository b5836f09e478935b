//! What the failure of a statement says about its connection, and whether to try again.

use std::{io::ErrorKind, time::Duration};

use sqlx::postgres::PgDatabaseError;
use tokio::time::sleep;

use super::{
    backoff::Backoff,
    error::{Access, Error},
    failure::{ends_session, is_inside},
    rejection,
};

/// Attempts at a statement that is undone because of others.
const ATTEMPTS: u32 = 5;

/// Sessions that one statement may find changed, one after the other; and those that have lost what was prepared in
/// them, as they may behind a pooler for good.
const MOST_ANEW: u32 = 100;
const MOST_STALE: u32 = 10;

/// How a statement failed.
pub(super) struct Failed {
    pub(super) cause: Cause,
    /// Rows that were taken before.
    pub(super) rows: usize,
    /// Whether it was complete but for its commit.
    pub(super) complete: bool,
}

/// Why a statement failed.
pub(super) enum Cause {
    /// The server, or the way there, said so.
    Error(sqlx::Error),
    /// No answer came in time.
    Unanswered,
    /// No answer came, and none will.
    Lost,
}

/// What an error says about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can serve another statement.
    Usable,
    /// The same, and the statement was undone because of what others did at the same time.
    Undone,
    /// It knows of something that is not so any more, such as a statement that was prepared.
    Stale,
    /// Something has changed the session for good, and nothing was done in it.
    Altered,
    /// The server takes no changes.
    WrongServer,
    /// The server has ended the session, and undone the statement unless that was complete.
    Ended,
    /// The way to the server broke before the end of the statement was on it.
    Unsent,
    /// The way to the server broke: what became of the statement is not known.
    Broken,
    /// An answer was not understood, and there may be more to come.
    Unclear,
}

/// How to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// On another connection.
    Elsewhere,
    /// The same, where those that there are may be no better.
    Anew,
    /// In a moment.
    Later,
}

/// The attempts that are left.
pub(super) struct Retries {
    elsewhere: bool,
    anew: u32,
    later: u32,
    backoff: Backoff,
}

impl Verdict {
    pub(super) fn of(error: &sqlx::Error) -> Self {
        let db = match error {
            sqlx::Error::Database(db) => db,
            sqlx::Error::Io(io) if io.kind() == ErrorKind::BrokenPipe => return Self::Unsent,
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                return Self::Broken;
            }
            _ => return Self::Unclear,
        };
        let (code, ends) = (db.code().unwrap_or_default(), ends_session(error));
        match &*code {
            // Shutdown, an end by hand, idleness, and time limits on transactions.
            "57P01" | "57P05" | "25P03" | "25P04" if ends => Self::Ended,
            // A server that crashes, or a pooler that lost its server, cannot know.
            _ if ends => Self::Broken,
            "PGW97" if !is_by_trigger(error) => Self::Altered,
            // A table was dropped, or altered, in that moment: there may be another one, or the answer is that there
            // is none.
            "XX000" | "42P01" | "42601" if !is_by_trigger(error) && !is_by_rule(error) => {
                Self::Undone
            }
            // A trigger may raise whatever it likes, and the connections that it makes may fail.
            _ if is_raised(error) => Self::Usable,
            _ if is_inside(error) && (code.starts_with("08") || code.starts_with("57P")) => {
                Self::Usable
            }
            _ if code.starts_with("08") || code.starts_with("57P") => Self::Broken,
            "25006" => Self::WrongServer,
            "26000" | "42P05" => Self::Stale,
            "0A000" if is_of_a_stale_plan(error) => Self::Stale,
            "40001" => Self::Undone,
            _ => Self::Usable,
        }
    }
}

/// PL/pgSQL code raised it, or it is what another server said to a connection of postgres_fdw's or dblink's.
fn is_raised(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.and_then(PgDatabaseError::routine).is_some_and(|routine| {
        routine == "exec_stmt_raise"
            || routine.starts_with("pgfdw_")
            || routine.starts_with("dblink_")
    })
}

/// Something raised it that a statement on a queue's table set off.
fn is_by_trigger(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(rejection::is_by_trigger)
}

/// A rule does something else than the statement says.
fn is_by_rule(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(rejection::is_by_rule)
}

/// The shape of what a prepared statement returns has changed.
fn is_of_a_stale_plan(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.routine() == Some("RevalidateCachedQuery"))
}

impl Cause {
    /// Whether the server did something, if only to refuse.
    pub(super) fn is_progress(&self) -> bool {
        let Self::Error(sqlx::Error::Database(db)) = self else { return false };
        db.code().is_some_and(|code| !matches!(&*code, "57014" | "55P03"))
    }
}

impl Failed {
    /// Where something had changed the session for good: it is closed, and what the statement did is undone.
    pub(super) fn into_undone(self, access: Access) -> Error {
        match self.cause {
            Cause::Error(error) => Error::Deadlock(rejection::hushed(error).into()),
            _ => self.into_error(access),
        }
    }

    pub(super) fn into_error(self, access: Access) -> Error {
        match self.cause {
            Cause::Unanswered => Error::unanswered(access),
            Cause::Lost => Error::lost(access, None),
            Cause::Error(error) => match Verdict::of(&error) {
                // Nothing was done.
                Verdict::Ended if !self.complete => {
                    Error::Unavailable(Some(rejection::hushed(error).into()))
                }
                Verdict::Unsent | Verdict::Stale | Verdict::WrongServer => {
                    Error::Unavailable(Some(rejection::hushed(error).into()))
                }
                Verdict::Ended | Verdict::Broken => {
                    Error::lost(access, Some(rejection::hushed(error)))
                }
                Verdict::Altered => Error::Deadlock(error.into()),
                Verdict::Usable | Verdict::Undone | Verdict::Unclear => {
                    Error::from_statement(error, access)
                }
            },
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(40));
        Self { elsewhere: true, anew: MOST_ANEW, later: ATTEMPTS - 1, backoff }
    }
}

impl Retries {
    /// Whether there is to be another attempt where a session was closed that something had changed: all that there
    /// are may be so.
    pub(super) fn allow_anew(&mut self) -> bool {
        self.anew = self.anew.saturating_sub(1);
        self.anew > 0
    }

    /// Whether there is to be another attempt; comes back when it is time for it.
    pub(super) async fn allow(&mut self, retry: Option<Retry>) -> bool {
        match retry {
            Some(Retry::Elsewhere) => std::mem::take(&mut self.elsewhere),
            Some(Retry::Anew) => {
                self.anew = self.anew.saturating_sub(MOST_ANEW / MOST_STALE);
                self.anew > 0
            }
            Some(Retry::Later) if self.later > 0 => {
                self.later -= 1;
                sleep(self.backoff.pause()).await;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_others_have_undone_is_tried_again_a_few_times() {
        let mut retries = Retries::default();
        for _ in 1..ATTEMPTS {
            assert!(retries.allow(Some(Retry::Later)).await);
        }
        assert!(!retries.allow(Some(Retry::Later)).await);
        assert!(!retries.allow(None).await);
    }

    #[tokio::test(start_paused = true)]
    async fn another_connection_is_tried_once() {
        let mut retries = Retries::default();
        assert!(retries.allow(Some(Retry::Elsewhere)).await);
        assert!(!retries.allow(Some(Retry::Elsewhere)).await);
    }

    /// What is not known to be undone is not told to be.
    #[test]
    fn a_change_that_may_be_done_is_told_so() {
        let broken =
            |kind: io::ErrorKind| move || Cause::Error(sqlx::Error::Io(io::Error::from(kind)));
        let (reset, unsent) =
            (broken(io::ErrorKind::ConnectionReset), broken(io::ErrorKind::BrokenPipe));
        let told = |cause, access| Failed { cause, rows: 0, complete: false }.into_error(access);
        for access in [Access::Change, Access::Store] {
            assert!(matches!(told(reset(), access), Error::OutcomeUnknown(_)));
            assert!(matches!(told(Cause::Lost, access), Error::OutcomeUnknown(_)));
            assert!(matches!(told(Cause::Unanswered, access), Error::OutcomeUnknown(_)));
            assert!(matches!(told(unsent(), access), Error::Unavailable(_)));
        }
        assert!(matches!(told(reset(), Access::Lease), Error::OutcomeUnknown(_)));
        assert!(matches!(told(unsent(), Access::Lease), Error::Unavailable(_)));
        assert!(matches!(told(reset(), Access::Repeatable), Error::Unavailable(_)));
        assert!(matches!(told(Cause::Unanswered, Access::Repeatable), Error::Timeout));
    }
}
