//! What can go wrong in the database, told apart once.

use std::{io::ErrorKind, sync::Arc};

use sqlx::postgres::PgDatabaseError;

use super::{failure::Reason, pool::AcquireError};

/// The outcome of a statement.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a statement failed. A clone for everyone who was in the same batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such queue: its table is not there.
    #[error("the queue does not exist")]
    QueueNotFound,
    /// PostgreSQL refused the message's content.
    #[error("PostgreSQL cannot store the message: {0}")]
    Unstorable(&'static str),
    /// A message grew too large to be sent when its numbers were written out.
    #[error("a message is too large to be read")]
    Unreadable,
    /// The gateway's database role lacks a right.
    #[error("the database role lacks a right")]
    Forbidden(#[source] Arc<sqlx::Error>),
    /// Every connection was in use for as long as a request may wait.
    #[error("no database connection became free in time")]
    Overloaded,
    /// The statement took longer than allowed; what it did is rolled back, now or soon.
    #[error("the statement took too long")]
    Timeout,
    /// It waited for another one that waited for it: undone, and worth another try.
    #[error("the statement was undone because of a deadlock")]
    Deadlock(#[source] Arc<sqlx::Error>),
    /// As many clients wait as may.
    #[error("too many clients wait")]
    Crowded,
    /// The database is away, or starting, or read-only; nothing was done.
    #[error("the database is unavailable")]
    Unavailable(#[source] Option<Arc<sqlx::Error>>),
    /// The connection broke while something was being changed: it may or may not be done.
    #[error("the connection broke before the outcome was known")]
    OutcomeUnknown(#[source] Option<Arc<sqlx::Error>>),
    /// PGMQ in the database is too old for it; says which version is needed.
    #[error("{0}")]
    NotSupported(Arc<str>),
    /// A routing key is refused; says why.
    #[error("{0}")]
    RoutingKey(Arc<str>),
    /// An operation of a transaction was refused: nothing was done.
    #[error("operation {operation} was refused")]
    Refused {
        /// Its place in the transaction, from 0.
        operation: usize,
        /// Why.
        refusal: Refusal,
    },
    /// The database answered something that makes no sense.
    #[error("unexpected answer from the database")]
    Unexpected(#[source] Arc<sqlx::Error>),
}

/// Why an operation of a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such queue.
    QueueNotFound(String),
    /// There is no such message in the queue.
    MessageNotFound(String, i64),
    /// The message of this queue has been delivered to someone else since.
    Stale(String, i64),
    /// A message is over the limit of the queue.
    MessageTooLarge {
        /// The queue.
        queue: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// Whether a statement changes something that must not be repeated blindly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It only looks, or can be repeated without harm.
    Look,
    /// It changes messages that are there.
    Change,
    /// It stores new messages.
    Store,
}

impl Error {
    /// Sorts the failure of a statement that was sent to the database.
    pub(super) fn from_statement(error: sqlx::Error, access: Access) -> Self {
        let code = match &error {
            sqlx::Error::Database(db) => db.code().unwrap_or_default().into_owned(),
            // Only writing fails like this: the end of the statement was never on its way.
            sqlx::Error::Io(io) if io.kind() == ErrorKind::BrokenPipe => {
                return Self::Unavailable(Some(error.into()));
            }
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                return Self::lost(access, Some(error));
            }
            _ => return Self::unexpected(error),
        };
        if let Some(own) = Self::own(&code, &error) {
            return own;
        }
        match &*code {
            // The second where a table's name became a number, as it was dropped in that moment; the
            // last where it is the name of an index or a sequence.
            "42P01" | "42601" | "42809" => Self::QueueNotFound,
            "22P02" | "22P05" | "22021" => Self::Unstorable("its text is not valid in PostgreSQL"),
            "22003" => Self::Unstorable("a number in it is out of PostgreSQL's range"),
            "54001" => Self::Unstorable("it is nested too deeply"),
            "54000" if access == Access::Store => Self::Unstorable("it is too large"),
            "54000" => Self::Unreadable,
            "57014" => Self::Timeout,
            "42501" => Self::Forbidden(error.into()),
            // Shutdown, crash and start of the server; a standby; a lost schema; resources; locks.
            "40P01" | "40001" => Self::Deadlock(error.into()),
            "57P01" | "57P02" | "57P03" | "25006" | "3F000" | "42883" | "55P03" | "26000"
            | "0A000" => Self::Unavailable(Some(error.into())),
            code if code.starts_with("53") || code.starts_with("58") => {
                Self::Unavailable(Some(error.into()))
            }
            code if code.starts_with("08") => Self::lost(access, Some(error)),
            _ => Self::unexpected(error),
        }
    }

    /// Reads what functions of our own complain of.
    fn own(code: &str, error: &sqlx::Error) -> Option<Self> {
        let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
        let message = || error.message();
        let mut words = error.detail().unwrap_or_default().split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).unwrap_or(0);
        let refused = |operation: i64, refusal| Self::Refused {
            operation: usize::try_from(operation).unwrap_or(0),
            refusal,
        };
        Some(match code {
            "PGW01" => Self::NotSupported(message().into()),
            "PGW41" => Self::RoutingKey(message().into()),
            "PGW40" => refused(number(), Refusal::QueueNotFound(message().to_owned())),
            "PGW04" => {
                let (operation, id) = (number(), number());
                refused(operation, Refusal::MessageNotFound(message().to_owned(), id))
            }
            "PGW09" => {
                let (operation, id) = (number(), number());
                refused(operation, Refusal::Stale(message().to_owned(), id))
            }
            "PGW13" => {
                let (operation, bytes, limit) = (number(), number(), number());
                let (bytes, limit) = (bytes.unsigned_abs(), limit.unsigned_abs());
                let queue = message().to_owned();
                refused(operation, Refusal::MessageTooLarge { queue, bytes, limit })
            }
            _ => return None,
        })
    }

    /// An answer that makes no sense.
    pub(super) fn unexpected(error: sqlx::Error) -> Self {
        Self::Unexpected(error.into())
    }

    /// The answer to a statement did not come in time.
    pub(super) fn unanswered(access: Access) -> Self {
        match access {
            Access::Look => Self::Timeout,
            Access::Change | Access::Store => Self::OutcomeUnknown(None),
        }
    }

    /// The connection broke while a statement was under way.
    pub(super) fn lost(access: Access, source: Option<sqlx::Error>) -> Self {
        let source = source.map(Arc::new);
        match access {
            Access::Look => Self::Unavailable(source),
            Access::Change | Access::Store => Self::OutcomeUnknown(source),
        }
    }

    /// Sorts the failure to get a connection. `up` says whether the database answers.
    pub(super) fn from_acquire(error: AcquireError, up: bool) -> Self {
        let (failure, alone) = match error {
            AcquireError::Closed => return Self::Unavailable(None),
            AcquireError::Failed(failure) => (Some(failure), true),
            AcquireError::Busy(failure) => (failure, false),
        };
        match failure {
            None if up => Self::Overloaded,
            None => Self::Unavailable(None),
            Some(failure) => match failure.reason {
                Reason::Local => Self::Overloaded,
                // Those that there are were in use.
                Reason::Full | Reason::ReadOnly if !alone => Self::Overloaded,
                _ => Self::Unavailable(failure.error),
            },
        }
    }
}
