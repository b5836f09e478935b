//! What can go wrong in the database, told apart once.

use std::{io::ErrorKind, sync::Arc};

use serde::Deserialize;
use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::{
    failure::{Reason, is_inside},
    pool::AcquireError,
    refusal::{Refusal, TooLarge},
    rejection::{self, OwnTable, Rejection},
};

/// The outcome of a statement.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a statement failed. A clone for everyone who was in the same batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such queue: its table is not there.
    #[error("the queue does not exist")]
    QueueNotFound,
    /// The queue named here is there, and policies hide what PGMQ knows of it.
    #[error("policies on pgmq.meta hide the queue")]
    QueueHidden(Arc<str>),
    /// The queue is there; its archive is not.
    #[error("the queue has no archive")]
    NoArchive,
    /// A row was refused, alone: by what is in it or by what guards its table. Nothing was done.
    #[error("{0}")]
    Rejected(Rejection),
    /// Somebody else has locked what the statement is about, a row or the whole table; nothing was done.
    #[error("something else has it locked")]
    Locked,
    /// A table or a column was not there that the statement names, whosever that is.
    #[error("something is missing that the statement names")]
    MissingRelation(#[source] Arc<sqlx::Error>),
    /// The table of a queue, or of its archive, is not as PGMQ makes it; nothing was done.
    #[error("{what} is missing, or is not of the type that PGMQ gives it")]
    TableDiffers {
        /// The column, and of what.
        what: Arc<str>,
        /// What the statement met.
        #[source]
        source: Box<Error>,
    },
    /// Other things in the database stand on it: a view, or a foreign key.
    #[error("other things depend on it")]
    Needed,
    /// The sequence of a queue's ids lags behind its table, and the role may not advance it.
    #[error("the sequence of the queue's ids lags behind its table")]
    SequenceBehind,
    /// An idempotency key could not be written down, as something on the table of keys refuses it: the SQLSTATE, or
    /// nothing where it was dropped without a word.
    #[error("an idempotency key was refused")]
    KeyRefused(Option<Arc<str>>),
    /// A sequence that storing needs has reached its end.
    #[error("a sequence has reached its end")]
    Exhausted(#[source] Arc<sqlx::Error>),
    /// A publication needs to know which row is deleted or updated, and a table of PGMQ's does not say.
    #[error("a publication refuses it")]
    NoReplicaIdentity {
        /// Whether it is a table with messages of the queue.
        of_queue: bool,
    },
    /// A message grew too large to be sent when its numbers were written out.
    #[error("a message is too large to be read")]
    Unreadable,
    /// The gateway's database role lacks a right.
    #[error("the database role lacks a right")]
    Forbidden(#[source] Arc<sqlx::Error>),
    /// It was not done as the statement says: a trigger, a rule or a policy is in the way; says on what. Everything
    /// was undone.
    #[error("a trigger, a rule or a policy on {0} is in the way")]
    NotDone(Arc<str>),
    /// Every connection was in use for as long as a request may wait.
    #[error("no database connection became free in time")]
    Overloaded,
    /// The statement took longer than allowed; what it did is rolled back, now or soon.
    #[error("the statement took too long")]
    Timeout,
    /// The same of a read, most of whose time went by at one message.
    #[error("the statement took too long at message {msg_id}")]
    TimeoutAt {
        /// The message.
        msg_id: i64,
        /// The identity of its queue.
        queue_id: i64,
    },
    /// It waited for another one that waited for it, or was overtaken: undone, and worth another try.
    #[error("the statement was undone because of what others did at the same time")]
    Deadlock(#[source] Arc<sqlx::Error>),
    /// As much stands in line as may.
    #[error("too much stands in line")]
    TooManyPending,
    /// As many clients wait as may.
    #[error("too many clients wait")]
    TooManyWaiters,
    /// The database is away, or starting, or read-only; nothing was done.
    #[error("the database is unavailable")]
    Unavailable(#[source] Option<Arc<sqlx::Error>>),
    /// The connection broke while something was being changed: it may or may not be done.
    #[error("the connection broke before the outcome was known")]
    OutcomeUnknown(#[source] Option<Arc<sqlx::Error>>),
    /// A parameter of the statement is nothing that PostgreSQL can read; says why.
    #[error("PostgreSQL cannot read a parameter: {0}")]
    Parameter(&'static str),
    /// PGMQ in the database is too old for it; says which version is needed.
    #[error("{0}")]
    NotSupported(Arc<str>),
    /// A routing key is refused; says why.
    #[error("{0}")]
    RoutingKey(Arc<str>),
    /// A binding's pattern is refused; says why.
    #[error("{0}")]
    Pattern(Arc<str>),
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

/// An error to keep, without what may be in a row.
fn hushed(error: sqlx::Error) -> Arc<sqlx::Error> {
    rejection::hushed(error).into()
}

/// What functions of our own say in the detail of an error.
#[derive(Default, Deserialize)]
struct Detail {
    /// The place of an operation in a transaction, from 0.
    operation: Option<usize>,
    msg_id: Option<i64>,
    queue_id: Option<i64>,
    bytes: Option<u64>,
    deliveries: Option<u64>,
    limit: Option<u64>,
    outcome: Option<String>,
    code: Option<String>,
    constraint: Option<String>,
    differs: Option<String>,
}

impl Detail {
    fn of(error: &PgDatabaseError) -> Self {
        error.detail().and_then(|detail| serde_json::from_str(detail).ok()).unwrap_or_default()
    }
}

/// Whether a statement changes something that must not be repeated blindly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It only looks, or can be repeated without harm.
    Repeatable,
    /// It leases messages, or gives them back: what may be done is not done once more. One that takes too long is
    /// undone, as one that looks.
    Lease,
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
        let Some(database) =
            error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        else {
            return Self::unexpected(error);
        };
        match OwnTable::of(database) {
            Some((OwnTable::Keys, code)) => return Self::KeyRefused(code),
            Some((OwnTable::Ids, code)) => return Self::Rejected(Rejection::IdRefused(code)),
            None => {}
        }
        if let Some(own) = Self::own(&code, database) {
            return own;
        }
        if code == "2200H" && !rejection::is_by_trigger(database) {
            return Self::Exhausted(error.into());
        }
        // A standby has nothing of what is not logged.
        if code == "0A000" && database.routine() == Some("get_relation_info") {
            return Self::Unavailable(Some(error.into()));
        }
        // A policy's, most likely: the message is not to blame.
        if access == Access::Store && rejection::is_by_broken_expression(database) {
            return Self::Rejected(Rejection::Policy);
        }
        if let Some(rejection) = Rejection::from_database(&code, database) {
            return Self::Rejected(rejection);
        }
        if let Some(why) =
            rejection::unstorable(&code).filter(|_| rejection::is_in_parameter(database))
        {
            return match access {
                Access::Store => Self::Rejected(Rejection::Unstorable(why)),
                Access::Repeatable | Access::Lease | Access::Change => Self::Parameter(why),
            };
        }
        match &*code {
            // A table's name became a number, as it was dropped in that moment; the last of them where the
            // catalogues were left behind.
            "42P01" | "42601" | "42809" | "42703" | "XX000" => Self::MissingRelation(hushed(error)),
            // The server's queue of notifications is full, as a session that listens does not come to read them: that
            // passes, and a commit that has some is undone until then.
            "54000" if database.routine() == Some("PreCommit_Notify") => {
                Self::Unavailable(Some(hushed(error)))
            }
            // What is to be sent grew too large, or cannot be written in UTF-8.
            "54000" | "22021" | "22P05" => Self::Unreadable,
            "57014" => Self::timeout(database),
            "42501" => Self::Forbidden(hushed(error)),
            "55P03" | "55006" => Self::Locked,
            "2BP01" => Self::Needed,
            "55000" if database.routine() == Some("CheckCmdReplicaIdentity") => {
                Self::NoReplicaIdentity { of_queue: rejection::is_by_table(database) }
            }
            // Shutdown, crash and start of the server; a standby; a lost schema; resources; locks.
            code if code.starts_with("40") => Self::Deadlock(hushed(error)),
            "57P01" | "57P02" | "57P03" | "25006" | "3F000" | "42883" | "26000" | "0A000" => {
                Self::Unavailable(Some(hushed(error)))
            }
            code if code.starts_with("53") || code.starts_with("58") => {
                Self::Unavailable(Some(hushed(error)))
            }
            code if code.starts_with("08") && is_inside(&error) => {
                Self::Unavailable(Some(hushed(error)))
            }
            code if code.starts_with("08") => Self::lost(access, Some(rejection::hushed(error))),
            _ => Self::Unexpected(hushed(error)),
        }
    }

    /// Reads what functions of our own complain of.
    fn own(code: &str, error: &PgDatabaseError) -> Option<Self> {
        let kind = code.strip_prefix("PGW").filter(|_| !rejection::is_by_trigger(error))?;
        let message = || error.message().to_owned();
        let detail = Detail::of(error);
        let refused = |refusal| Self::Refused { operation: detail.operation.unwrap_or(0), refusal };
        let msg_id = detail.msg_id.unwrap_or(0);
        Some(match kind {
            "01" => Self::NotSupported(message().into()),
            "33" => Self::Forbidden(Arc::new(sqlx::Error::Protocol(message()))),
            "35" => Self::NotDone(message().into()),
            "34" => Self::QueueHidden(message().into()),
            "40" if detail.operation.is_none() => Self::QueueNotFound,
            "41" => Self::RoutingKey(message().into()),
            "42" => Self::Pattern(message().into()),
            "43" if detail.operation.is_none() => {
                let source = Box::new(Self::Unexpected(Arc::new(sqlx::Error::Protocol(message()))));
                Self::TableDiffers { what: detail.differs.unwrap_or_default().into(), source }
            }
            "43" => {
                let what = detail.differs.unwrap_or_default().into();
                refused(Refusal::TableDiffers(message(), what))
            }
            "44" if detail.operation.is_none() => Self::NoArchive,
            "44" => refused(Refusal::NoArchive(message())),
            "54" => Self::Unreadable,
            // A trigger has changed what the transaction may do.
            "96" => Self::Rejected(Rejection::Trigger(code.into())),
            "55" => refused(Refusal::Locked(message(), detail.msg_id)),
            "40" => refused(Refusal::QueueNotFound(message())),
            "04" => refused(Refusal::MessageNotFound(message(), msg_id)),
            "09" => refused(Refusal::Stale(message(), msg_id)),
            "13" => {
                let (bytes, limit) = (detail.bytes.unwrap_or(0), detail.limit.unwrap_or(0));
                refused(Refusal::MessageTooLarge { queue: message(), bytes, limit })
            }
            "14" => {
                let bytes = || TooLarge::Bytes(detail.bytes.unwrap_or(0));
                let what = detail.deliveries.map_or_else(bytes, TooLarge::Deliveries);
                let limit = detail.limit.unwrap_or(0);
                refused(Refusal::PublicationTooLarge { what, limit })
            }
            "22" if detail.msg_id.is_some() => refused(match detail.outcome.as_deref() {
                Some("conflict") => Refusal::Conflict(message(), msg_id),
                Some("failed") => Refusal::Failed(message(), msg_id),
                Some("no_right") => Refusal::Rejected(message(), Rejection::NoRight),
                _ => Refusal::Kept(message(), msg_id),
            }),
            "22" => {
                let (code, constraint) = (detail.code.as_deref(), detail.constraint.as_deref());
                let outcome = detail.outcome.as_deref().unwrap_or("rejected");
                let rejection = Rejection::from_outcome(outcome, code, constraint);
                refused(Refusal::Rejected(message(), rejection.unwrap_or(Rejection::NotStored)))
            }
            _ => return None,
        })
    }

    fn timeout(error: &PgDatabaseError) -> Self {
        match Detail::of(error) {
            Detail { msg_id: Some(msg_id), queue_id: Some(queue_id), .. } => {
                Self::TimeoutAt { msg_id, queue_id }
            }
            _ => Self::Timeout,
        }
    }

    /// Whether a table that is not as it should be may be to blame.
    pub(super) fn may_be_of_table(&self) -> bool {
        const CODES: [&str; 6] = ["42703", "42804", "42883", "42846", "42725", "428C9"];
        let source = match self {
            Self::MissingRelation(_) => return true,
            Self::Rejected(Rejection::Trigger(code)) => return CODES.contains(&&**code),
            Self::Unexpected(source) | Self::Unavailable(Some(source)) => source,
            _ => return false,
        };
        let code = source.as_database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| CODES.contains(&&*code))
    }

    /// Whether nothing was done because somebody else has locked what it is about.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked | Self::Refused { refusal: Refusal::Locked(..), .. })
    }

    /// Whether it is about some of the rows that were worked on, or may be: the others may fare better in
    /// a second try that does them one by one. Everything was undone.
    pub fn is_about_rows(&self) -> bool {
        match self {
            // Of a table that differs, others may not need what is missing.
            Self::Rejected(_)
            | Self::KeyRefused(_)
            | Self::Locked
            | Self::Unreadable
            | Self::NotSupported(_)
            | Self::TableDiffers { .. } => true,
            // Whether it is a right on the table that is missing, or on something that a trigger or a
            // policy needs, the second try tells.
            Self::Forbidden(source) | Self::Deadlock(source) => {
                source.as_database_error().is_some()
            }
            _ => false,
        }
    }

    /// Whether a statement for several requests was undone by what may be one of them, such as a trigger that
    /// cancels it or ends the session.
    pub fn may_be_one_requests(&self) -> bool {
        match self {
            Self::Timeout => true,
            Self::Unexpected(source) => source.as_database_error().is_some(),
            Self::Unavailable(Some(source)) => source
                .as_database_error()
                .and_then(DatabaseError::code)
                .is_some_and(|c| c == "57P01"),
            _ => false,
        }
    }

    /// A function of ours said a word that it does not know: nothing is to be taken for done.
    pub(super) fn unexpected_word(word: &str) -> Self {
        Self::unexpected(sqlx::Error::Protocol(format!("unknown outcome `{word}`")))
    }

    /// An answer that makes no sense.
    pub(super) fn unexpected(error: sqlx::Error) -> Self {
        Self::Unexpected(error.into())
    }

    /// The answer to a statement did not come in time.
    pub(super) fn unanswered(access: Access) -> Self {
        match access {
            Access::Repeatable | Access::Lease => Self::Timeout,
            Access::Change | Access::Store => Self::OutcomeUnknown(None),
        }
    }

    /// The connection broke while a statement was under way.
    pub(super) fn lost(access: Access, source: Option<sqlx::Error>) -> Self {
        let source = source.map(Arc::new);
        match access {
            Access::Repeatable => Self::Unavailable(source),
            Access::Lease | Access::Change | Access::Store => Self::OutcomeUnknown(source),
        }
    }

    /// Sorts the failure to get a connection. `up` says whether the database answers, and takes
    /// changes where it is about that.
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
                Reason::Full if !alone => Self::Overloaded,
                Reason::ReadOnly if !alone && up => Self::Overloaded,
                _ => Self::Unavailable(failure.error),
            },
        }
    }
}
