//! Why an operation failed, in words that may be shown to its caller.

use std::sync::Arc;

use crate::{
    domain::QueueName,
    store::{self, Rejection},
};

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
    /// The request was done, and what was answered is lost.
    #[error(
        "the request with this Idempotency-Key was done, and the answer to it, which the database keeps, cannot \
         be read any more; nothing was done again"
    )]
    IdempotencyAnswerLost,
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
    /// Dead letters of other queues go to a queue that is to be dropped.
    #[error(
        "dead letters of other queues go to queue `{queue}`: set another `dead_letter_queue` for them first, or \
         pass `force=true` to have them go into the archives of those queues; nothing was dropped"
    )]
    QueueInUse {
        /// The queue.
        queue: String,
        /// Those queues. Not everyone who asks may know of them.
        used_by: Vec<String>,
    },
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
    /// A message is over the limit as PostgreSQL writes it.
    #[error("{what} has {bytes} bytes once numbers are written out in full; the limit is {limit}")]
    MessageExpands {
        /// Which message.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A publication is over the limit.
    #[error(
        "the queues that are bound to this routing key would get {what} together; the limit for one request is \
         {limit}"
    )]
    PublicationTooLarge {
        /// How much it is.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Valid JSON that PostgreSQL cannot store.
    #[error("{0}")]
    MessageRejected(String),
    /// A unique constraint of the queue's table, or its archive, has a message like this already.
    #[error("{0}")]
    MessageConflict(String),
    /// A policy does not allow it to be stored.
    #[error(
        "a row-level security policy of the database, or the lack of a right that a trigger needs, does not \
         allow the gateway's role to store this message in queue `{0}`; nothing was stored"
    )]
    SendForbidden(String),
    /// A message was kept as it was.
    #[error(
        "a policy, a trigger or a constraint of its table keeps message {msg_id} of queue `{queue}` as it \
         is; nothing was done to it"
    )]
    MessageKept {
        /// The queue.
        queue: String,
        /// The message.
        msg_id: i64,
    },
    /// Every message of a queue was kept.
    #[error(
        "policies, triggers or constraints of its table keep every message of queue `{0}` that is there; \
         none was deleted"
    )]
    QueueKept(String),
    /// A trigger failed for a reason that may pass.
    #[error(
        "something that a trigger of the table of queue `{0}` needs is not available; nothing was done; \
         try again in a moment"
    )]
    TriggerFailed(String),
    /// A table cannot be read because of what somebody put on it.
    #[error(
        "messages of queue `{queue}` cannot be read: a policy or a trigger of its table, or something else \
         that an administrator put there, fails (SQLSTATE {code})"
    )]
    ReadFails {
        /// The queue.
        queue: String,
        /// What the database said.
        code: Arc<str>,
    },
    /// Somebody else has locked what is to be changed.
    #[error(
        "another transaction in the database has locked {0}; nothing was done; try again in a moment"
    )]
    Locked(String),
    /// The ids of a queue's new messages are in use, and the gateway may not do anything about it.
    #[error(
        "the sequence that numbers the messages of {queue} lags behind its table, as after some \
         restores, and the gateway's database role may not advance it: an administrator has to set it to the \
         highest `msg_id`, or grant the role UPDATE on it; nothing was stored"
    )]
    SequenceBehind {
        /// The queue, in words.
        queue: String,
        /// What the store said.
        source: store::Error,
    },
    /// No numbers are left for new messages.
    #[error(
        "the sequence that numbers the messages of {queue}, or another one that storing there needs, has \
         reached its end: an administrator has to raise its maximum; nothing was stored"
    )]
    IdsExhausted {
        /// The queue, in words.
        queue: String,
        /// What the database said.
        source: store::Error,
    },
    /// A queue's archive is missing.
    #[error(
        "queue `{0}` is there and its archive is not: an administrator has to restore the table, or drop \
         the queue and make it anew"
    )]
    NoArchive(String),
    /// A message is in the queue but cannot be read.
    #[error(
        "message {0} cannot be read: its numbers, written out in full, are too large, or it has text that is \
         no UTF-8"
    )]
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
    /// What others are told, too, who asked the same.
    #[error(transparent)]
    Shared(Arc<Error>),
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
            store::Error::Locked => Self::Locked(format!("queue `{queue}`, or something in it")),
            store::Error::NoArchive => Self::NoArchive(queue.to_string()),
            store::Error::Rejected(Rejection::Trigger(code)) => {
                Self::ReadFails { queue: queue.to_string(), code }
            }
            store::Error::SequenceBehind => {
                Self::SequenceBehind { queue: format!("queue `{queue}`"), source: error }
            }
            store::Error::Exhausted(_) => {
                Self::IdsExhausted { queue: format!("queue `{queue}`"), source: error }
            }
            other => other.into(),
        }
    }

    /// Sorts what the store said of making, changing or dropping `queue`.
    pub(super) fn of_changing(queue: &QueueName) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::Needed => Self::QueueConflict(format!(
                "other things in the database, such as a view or a foreign key, depend on the tables of queue \
                 `{queue}`: an administrator has to drop them first; nothing was changed"
            )),
            // PGMQ itself, or a trigger on events or on its tables, refuses it.
            store::Error::Rejected(_) => {
                Self::Forbidden { queue: format!("queue `{queue}`"), source: error }
            }
            other => Self::on(queue)(other),
        }
    }

    /// Sorts what the store said of messages that were to be stored in `queue`.
    pub(super) fn of_sending(queue: &QueueName) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::Rejected(rejection) => Self::rejected(queue.as_str(), &rejection),
            store::Error::Locked => {
                Self::Locked(format!("queue `{queue}`, or something that this message needs"))
            }
            other => Self::on(queue)(other),
        }
    }

    /// A message that the table of `queue` did not take.
    pub(super) fn rejected(queue: &str, rejection: &Rejection) -> Self {
        let constraint = |name: &Option<Arc<str>>| {
            name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default()
        };
        match rejection {
            Rejection::Policy => Self::SendForbidden(queue.to_owned()),
            Rejection::Conflict(name) => Self::MessageConflict(format!(
                "the table of queue `{queue}` has such a message already: its unique constraint{} refuses \
                 another one; nothing was stored",
                constraint(name)
            )),
            Rejection::Constraint(name) => Self::MessageRejected(format!(
                "the constraint{} of the table of queue `{queue}` refuses the message; nothing was stored",
                constraint(name)
            )),
            Rejection::Trigger(_) => Self::MessageRejected(format!(
                "a trigger of the table of queue `{queue}` refuses the message; nothing was stored"
            )),
            Rejection::NotStored => Self::MessageRejected(format!(
                "a trigger of the table of queue `{queue}` dropped the message; nothing was stored"
            )),
            Rejection::Unstorable(_) => Self::MessageRejected(rejection.to_string()),
            Rejection::Failed(_) => Self::TriggerFailed(queue.to_owned()),
        }
    }

    /// A message that the archive has already.
    pub(super) fn archive_conflict(queue: &str, msg_id: i64) -> Self {
        Self::MessageConflict(format!(
            "the archive of queue `{queue}` has a message {msg_id} already, or a unique constraint of another \
             table that a trigger fills refuses it; nothing was done to this one"
        ))
    }
}

impl Error {
    /// A message that the place where dead letters go has already.
    pub(super) fn dead_letter_conflict(queue: &str, msg_id: i64) -> Self {
        Self::MessageConflict(format!(
            "where dead letters of queue `{queue}` go, a unique constraint refuses message {msg_id}, as there \
             is such a message already; nothing was done to this one"
        ))
    }

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
            store::Error::Parameter(reason) => {
                Self::Invalid(format!("PostgreSQL cannot read a parameter of the request: {reason}"))
            }
            store::Error::Locked => Self::Locked("what this is about".to_owned()),
            store::Error::NoReplicaIdentity => Self::NotSupported(
                "a publication in the database sends deletes and updates of tables that have no replica \
                 identity for that; nothing was done. Have an administrator run: \
                 ALTER TABLE pgmq.meta REPLICA IDENTITY FULL; \
                 ALTER TABLE pgmq.topic_bindings REPLICA IDENTITY FULL; and the same for the queue's own \
                 tables where they have no primary key"
                    .to_owned(),
            ),
            store::Error::Overloaded => {
                Self::Overloaded("every database connection was in use; try again in a moment")
            }
            store::Error::TooManyWaiters => Self::Overloaded(
                "as many clients wait as this gateway takes, of all or with this key, or receive in as many \
                 different ways; try again in a moment",
            ),
            store::Error::Unavailable(_) | store::Error::Timeout | store::Error::Deadlock(_) => {
                Self::DatabaseUnavailable(error)
            }
            store::Error::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            store::Error::NotSupported(what) => {
                Self::NotSupported(format!("{what}: upgrade PGMQ in this database to have this"))
            }
            store::Error::RoutingKey(reason) => Self::Invalid(format!("routing key: {reason}")),
            store::Error::Pattern(reason) => Self::Invalid(format!("`pattern`: {reason}")),
            store::Error::Refused { .. } => super::transactions::refused(error),
            store::Error::Rejected(rejection @ Rejection::Unstorable(_)) => {
                Self::MessageRejected(rejection.to_string())
            }
            store::Error::SequenceBehind => {
                Self::SequenceBehind { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::Exhausted(_) => {
                Self::IdsExhausted { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::Forbidden(_) | store::Error::Rejected(Rejection::Policy) => {
                Self::Forbidden { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::QueueNotFound
            | store::Error::NoArchive
            | store::Error::Rejected(_)
            | store::Error::Needed
            | store::Error::MissingRelation(_)
            | store::Error::Unreadable
            | store::Error::Unexpected(_) => Self::Internal(error.into()),
        }
    }
}
