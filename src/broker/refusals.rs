//! Why a transaction was refused.

use crate::store::{self, Refusal, TooLarge};

use super::{Error, Subject};

/// What a transaction was refused for, with the operation that is to blame.
pub(super) fn refused(error: store::Error) -> Error {
    let (operation, refusal) = match error {
        store::Error::Refused { operation, refusal } => (operation, refusal),
        // Nothing was done.
        store::Error::QueueNotFound => return store::Error::Unavailable(None).into(),
        store::Error::Locked => {
            return Error::Locked("one of these queues, or something in it".to_owned());
        }
        error => return error.into(),
    };
    let error = match refusal {
        Refusal::QueueNotFound(queue) => Error::QueueNotFound(queue),
        Refusal::MessageNotFound(queue, msg_id) => Error::MessageNotFound { queue, msg_id },
        Refusal::Stale(queue, msg_id) => Error::ReceiptStale { queue, msg_id },
        Refusal::Locked(queue, Some(msg_id)) => {
            Error::Locked(format!("message {msg_id} of queue `{queue}`"))
        }
        Refusal::Locked(queue, None) => {
            Error::Locked(format!("queue `{queue}`, or something that this message needs"))
        }
        Refusal::Kept(queue, msg_id) => Error::MessageKept { queue, msg_id },
        Refusal::Conflict(queue, msg_id) => Error::archive_conflict(&queue, msg_id),
        Refusal::Failed(queue, _) => Error::TriggerFailed(format!("queue `{queue}`")),
        Refusal::NoArchive(queue) => Error::NoArchive(queue),
        Refusal::TableDiffers(queue, what) => Error::TableDiffers { queue, what, source: None },
        Refusal::Rejected(queue, rejection) => Error::rejected(&queue, &rejection),
        Refusal::PublicationTooLarge { what: TooLarge::Deliveries(count), limit } => {
            Error::PublicationTooLarge { what: format!("{count} messages"), limit }
        }
        Refusal::PublicationTooLarge { what: TooLarge::Bytes(bytes), limit } => {
            Error::PublicationTooLarge { what: format!("{bytes} bytes"), limit }
        }
        Refusal::MessageTooLarge { queue, bytes, limit } => {
            Error::MessageTooLarge { what: Subject::MessageFor(queue), bytes, limit }
        }
    };
    error.in_operation(operation)
}
