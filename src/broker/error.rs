//! Why an operation failed, in words that may be shown to its caller.

use crate::{domain::QueueName, store};

/// The outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. `Display` is for the caller; sources are for the log alone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such queue.
    #[error("there is no queue `{0}`; PUT /queues/{0} creates it")]
    QueueNotFound(String),
    /// There is no such message.
    #[error(
        "queue `{queue}` has no message {msg_id}: it was never there, or is deleted or archived"
    )]
    MessageNotFound {
        /// The queue.
        queue: String,
        /// The message.
        msg_id: i64,
    },
    /// A message has been delivered to someone else since.
    #[error(
        "message {msg_id} of queue `{queue}` has been delivered again since, or is another message \
         of a new queue: this receipt does not stand for it any more"
    )]
    ReceiptStale {
        /// The queue.
        queue: String,
        /// The message.
        msg_id: i64,
    },
    /// The same key was used for another request.
    #[error("this Idempotency-Key was used for another request; a new request needs a new key")]
    IdempotencyConflict,
    /// A queue is not bound to a pattern.
    #[error("queue `{queue}` is not bound to `{pattern}`")]
    BindingNotFound {
        /// The queue.
        queue: String,
        /// The pattern.
        pattern: String,
    },
    /// An operation of a transaction failed, so that nothing was done.
    #[error("`operations[{operation}]`: {source}; nothing was done")]
    InOperation {
        /// Its place, from 0.
        operation: usize,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A queue is there, but is another than the caller wants.
    #[error("{0}")]
    QueueConflict(String),
    /// A message is over the limit.
    #[error("{what} has {bytes} bytes; the limit is {limit}")]
    MessageTooLarge {
        /// Which message.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Valid JSON that PostgreSQL cannot store.
    #[error("{0}")]
    MessageRejected(String),
    /// A message is in the queue but cannot be read.
    #[error("message {0} cannot be read: its numbers, written out in full, are too large")]
    MessageUnreadable(i64),
    /// The gateway's database role lacks a right.
    #[error(
        "the gateway's database role may not do this to {queue}: an administrator has to grant it \
         the right, or make it the owner of the queue's tables"
    )]
    Forbidden {
        /// The queue, in words.
        queue: String,
        /// What the database said.
        source: store::Error,
    },
    /// The database lacks something.
    #[error("{0}")]
    NotSupported(String),
    /// Too much at once.
    #[error("{0}")]
    Overloaded(&'static str),
    /// The database does not answer.
    #[error("the database is unavailable; try again in a moment")]
    DatabaseUnavailable(#[source] store::Error),
    /// It may or may not be done.
    #[error(
        "the connection to the database broke before the outcome was known: it may or may not be \
         done"
    )]
    OutcomeUnknown(#[source] store::Error),
    /// A defect.
    #[error("an unexpected error; the log of the gateway tells more")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Sorts what the store said of work on `queue`.
    pub(super) fn on(queue: &QueueName) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::QueueNotFound => Self::QueueNotFound(queue.to_string()),
            store::Error::Forbidden(_) => {
                Self::Forbidden { queue: format!("queue `{queue}`"), source: error }
            }
            other => other.into(),
        }
    }
}

impl Error {
    /// The failure of one operation of several.
    pub(super) fn in_operation(self, operation: usize) -> Self {
        Self::InOperation { operation, source: Box::new(self) }
    }

    /// The failure alone, where there was one operation only.
    pub(super) fn without_operation(self) -> Self {
        match self {
            Self::InOperation { source, .. } => *source,
            other => other,
        }
    }
}

impl From<store::Error> for Error {
    /// Sorts what the store said where no queue is known.
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unstorable(reason) => {
                Self::MessageRejected(format!("PostgreSQL cannot store the message: {reason}"))
            }
            store::Error::Overloaded => {
                Self::Overloaded("every database connection was in use; try again in a moment")
            }
            store::Error::Crowded => Self::Overloaded(
                "as many clients wait as this gateway takes; try again in a moment",
            ),
            store::Error::Unavailable(_) | store::Error::Timeout | store::Error::Deadlock(_) => {
                Self::DatabaseUnavailable(error)
            }
            store::Error::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            store::Error::NotSupported(what) => {
                Self::NotSupported(format!("{what}: upgrade PGMQ in this database to have this"))
            }
            store::Error::RoutingKey(reason) => Self::Invalid(format!("routing key: {reason}")),
            store::Error::Refused { .. } => super::transactions::refused(error),
            store::Error::Forbidden(_) => {
                Self::Forbidden { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::QueueNotFound
            | store::Error::Unreadable
            | store::Error::Unexpected(_) => Self::Internal(error.into()),
        }
    }
}
