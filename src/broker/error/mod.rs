//! Why an operation failed, in words that may be shown to its caller and speak of no front end.

mod part;
mod sort;

use std::sync::Arc;

use crate::store;

pub use part::{Part, Subject};

/// The outcome of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. `Display` is for the caller; sources are for the log alone. How the parts of a request
/// are called, and what request would be right, each front end knows for itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error("{}", part::said(part.as_ref(), reason))]
    Invalid {
        /// The part of it that is wrong, if it is one.
        part: Option<Part>,
        /// What would be right; behind a colon where it is no predicate of the part.
        reason: String,
    },
    /// A filter does not go with reading in groups.
    #[error(
        "a filter and reading in groups exclude each other: what a filter leaves out would block its group"
    )]
    FilterInGroups,
    /// There is no such queue.
    #[error("there is no queue `{0}`")]
    QueueNotFound(String),
    /// The queue is there, and cannot be seen.
    #[error(
        "queue `{0}` has a table, and row-level security policies on pgmq.meta hide from the gateway's database role \
         what PGMQ knows of it; nothing was done. An administrator has to let it see that"
    )]
    QueueHidden(Arc<str>),
    /// The queue that dead letters are to go to is not there.
    #[error("there is no queue `{0}` for dead letters to go to")]
    NoDeadLetterQueue(String),
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
    #[error("this idempotency key was used for another request; a new request needs a new key")]
    IdempotencyConflict,
    /// The request was done, and what was answered is lost.
    #[error(
        "the request with this idempotency key was done, and the answer to it, which the database keeps, cannot \
         be read any more; nothing was done again"
    )]
    IdempotencyAnswerLost,
    /// An idempotency key, or a deduplication id, could not be written down.
    #[error(
        "{what} cannot be written down, as {why}; nothing was done. An administrator of the database has to see to it"
    )]
    KeyRefused {
        /// Which one.
        what: String,
        /// What is in the way.
        why: String,
    },
    /// A queue is not bound to a pattern.
    #[error("queue `{queue}` is not bound to `{pattern}`")]
    BindingNotFound {
        /// The queue.
        queue: String,
        /// The pattern.
        pattern: String,
    },
    /// A message of several is wrong.
    #[error("message {index}: {source}")]
    InMessage {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// An operation of a transaction failed, so that nothing was done.
    #[error("operation {operation}: {source}; nothing was done")]
    InOperation {
        /// Its place, from 0.
        operation: usize,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A queue is there, but is another than the caller wants.
    #[error("{0}")]
    QueueConflict(String),
    /// A queue is there with other settings, which can be changed.
    #[error("queue `{queue}` exists {how}")]
    QueueDiffers {
        /// The queue.
        queue: String,
        /// How it differs, behind "exists".
        how: &'static str,
    },
    /// Dead letters of other queues go to a queue that is to be dropped.
    #[error(
        "dead letters of other queues go to queue `{queue}`: they need another one first; nothing was dropped"
    )]
    QueueInUse {
        /// The queue.
        queue: String,
        /// Those queues. Not everyone who asks may know of them.
        used_by: Vec<String>,
    },
    /// Other things in the database depend on the tables of a queue that is to be changed or dropped.
    #[error(
        "other things in the database, such as a view or a foreign key, depend on the tables of queue `{0}`: an \
         administrator has to drop them first; nothing was changed"
    )]
    TablesNeeded(String),
    /// A message is over the limit.
    #[error("{what} has {bytes} bytes; the limit is {limit}")]
    MessageTooLarge {
        /// Which message, or what else.
        what: Subject,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A message is over the limit as PostgreSQL writes it.
    #[error("{what} has {bytes} bytes once numbers are written out in full; the limit is {limit}")]
    MessageExpands {
        /// Which message, or what else.
        what: Subject,
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
    /// Valid JSON that PostgreSQL cannot store, or that the queue's table refuses.
    #[error("{}", part::said(part.as_ref(), reason))]
    MessageRejected {
        /// The part of it that is wrong, if it is one.
        part: Option<Part>,
        /// Why, as for [`Error::Invalid`].
        reason: String,
    },
    /// A unique constraint of the queue's table, or its archive, has a message like this already.
    #[error("{0}")]
    MessageConflict(String),
    /// A policy does not allow it to be stored.
    #[error(
        "a row-level security policy of the database, or the lack of a right that a trigger needs, does not \
         allow the gateway's role to store this message in {0}, or the policy fails; nothing was stored"
    )]
    SendForbidden(String),
    /// A message was kept as it was.
    #[error(
        "a policy, a trigger, a rule or a constraint of its table keeps message {msg_id} of queue `{queue}` as it \
         is; nothing was done to it"
    )]
    MessageKept {
        /// The queue.
        queue: String,
        /// The message.
        msg_id: i64,
    },
    /// A message was kept where it is, which was to go to another queue.
    #[error(
        "a policy, a trigger, a rule or a constraint of {0} keeps a message that was to be moved, or the gateway's \
         role may delete none there; what was kept stays where it is"
    )]
    SourceKept(String),
    /// Every message of a queue was kept.
    #[error(
        "policies, triggers, rules or constraints of its table keep every message of queue `{0}` that is there; \
         none was deleted"
    )]
    QueueKept(String),
    /// PGMQ itself refused to make, change or drop a queue, or a trigger on events or on PGMQ's tables did.
    #[error(
        "this cannot be done to queue `{queue}`: {why}; nothing was changed. An administrator of the database has \
         to see to it"
    )]
    ChangeRefused {
        /// The queue.
        queue: String,
        /// Why, as the store says it.
        why: store::Rejection,
    },
    /// A queue is changed in several steps, of which some are done.
    #[error("{}", partly_changed(queue, done, source, &source.to_string()))]
    PartlyChanged {
        /// The queue.
        queue: String,
        /// What is done, in sentences.
        done: String,
        /// Why the rest is not.
        source: Box<Error>,
    },
    /// A queue is changed as it was to be, and cannot be shown.
    #[error("{}", changed_unseen(queue, done, &source.to_string()))]
    ChangedUnseen {
        /// The queue.
        queue: String,
        /// What is done, in sentences.
        done: String,
        /// Why it cannot be shown.
        source: Box<Error>,
    },
    /// A trigger failed for a reason that may pass.
    #[error(
        "something that a trigger of the table of {0} needs is not available; nothing was done; \
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
    /// A queue's table has been altered.
    #[error(
        "the tables of queue `{queue}` are not as PGMQ makes them: {what} is missing, or has another type; an \
         administrator has to put that right; nothing was done"
    )]
    TableDiffers {
        /// The queue.
        queue: String,
        /// The column, and of what.
        what: Arc<str>,
        /// What the store said.
        source: Option<store::Error>,
    },
    /// A message is in the queue but cannot be read.
    #[error(
        "message {0} cannot be read: its numbers, written out in full, are too large, it has text that is no \
         UTF-8, or lacks what every message has, such as the time when it was stored"
    )]
    MessageUnreadable(i64),
    /// The gateway's database role lacks a right, or something kept it from being done.
    #[error("{}", forbidden(queue, source))]
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
    /// A statement took longer than it may.
    #[error(
        "the database did not finish this within `database.statement_timeout_ms`, or somebody cancelled it there; \
         nothing was done"
    )]
    TookTooLong(#[source] store::Error),
    /// What others did at the same time undid it, however often it was tried.
    #[error(
        "this met what others did at the same time, and the database undid it each time; nothing was done; try \
         again in a moment"
    )]
    Undone(#[source] store::Error),
    /// It may or may not be done.
    #[error(
        "the connection to the database broke, or the time of the request was over, before the outcome was known: \
         it may or may not be done"
    )]
    OutcomeUnknown(#[source] store::Error),
    /// What others are told, too, who asked the same.
    #[error(transparent)]
    Shared(Arc<Error>),
    /// A defect.
    #[error("an unexpected error; the log of the gateway tells more")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is said of what a right that is missing, or something on a table, keeps from being done.
fn forbidden(queue: &str, source: &store::Error) -> String {
    match source {
        store::Error::NotDone(what) => format!(
            "the database did not do this to {queue} as it was told to: a trigger, a rule or a policy on {what} is in \
             the way, to which an administrator has to see; nothing was done"
        ),
        _ => format!(
            "the gateway's database role may not do this to {queue}: an administrator has to grant it the right, or \
             make it the owner of the queue's tables"
        ),
    }
}

/// What is said of a change of which some steps are done, and of why the rest is not.
pub(crate) fn partly_changed(queue: &str, done: &str, source: &Error, reason: &str) -> String {
    let rest = match source {
        Error::OutcomeUnknown(_) => "whether the rest is done is not known",
        _ => "the rest is not done",
    };
    format!("queue `{queue}`: {done}, and {rest}: {}", of_one_step(reason))
}

/// What is said of a change that is done, of a queue that could not be looked at since.
pub(crate) fn changed_unseen(queue: &str, done: &str, reason: &str) -> String {
    let reason = of_one_step(reason);
    format!("queue `{queue}`: {done}, as was asked; it could not be looked at since: {reason}")
}

/// What stopped a change says of itself alone that it did nothing.
pub(super) fn of_one_step(reason: &str) -> String {
    ["; nothing was done to it", "; nothing was done", "; nothing was changed"]
        .iter()
        .fold(reason.to_owned(), |reason, said| reason.replace(said, ""))
}
