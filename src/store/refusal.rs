//! Why the database refuses a part of what was asked of it at once.

use std::sync::Arc;

use super::rejection::Rejection;

/// Why an operation of a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such queue.
    QueueNotFound(String),
    /// There is no such message in the queue.
    MessageNotFound(String, i64),
    /// The message of this queue has been delivered to someone else since.
    Stale(String, i64),
    /// Somebody else has locked the message of this queue or, where none is said, what a new one needs there.
    Locked(String, Option<i64>),
    /// A policy, a trigger or a constraint of the queue's table kept the message as it was.
    Kept(String, i64),
    /// A unique constraint, that of the archive's ids say, kept the message as it was.
    Conflict(String, i64),
    /// A trigger failed for a reason that may pass, and the message is as it was.
    Failed(String, i64),
    /// The queue has no archive.
    NoArchive(String),
    /// The table of the queue, or of its archive, is not as PGMQ makes it: the column, and of what.
    TableDiffers(String, Arc<str>),
    /// The queue's table, or its archive, refused the row.
    Rejected(String, Rejection),
    /// A publication is over the limit.
    PublicationTooLarge {
        /// By what.
        what: TooLarge,
        /// The limit.
        limit: u64,
    },
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

/// Why a publication was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    /// It has so many messages, each counted as often as it would be stored.
    Deliveries(u64),
    /// It has so many bytes, counted in the same way.
    Bytes(u64),
}
