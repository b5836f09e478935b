//! What a transaction takes in a statement that it shares, and what it is about.

use std::collections::BTreeSet;

use crate::{
    domain::NewMessage,
    engine::{ROW_BYTES, size::Size},
    store::{Idempotency, Operation},
};

/// Operations of a transaction that shares a statement.
const MOST_OPERATIONS: usize = 24;
/// Bytes of a transaction that shares a statement.
const MOST_OWN_BYTES: usize = 128 << 10;
/// Queues that a routing key is taken to lead to.
const USUAL_QUEUES: usize = 4;

/// What a transaction takes in a statement; nothing if that is too much for one that is shared.
pub(super) fn size_of(operations: &[Operation], once: Option<&Idempotency>) -> Option<Size> {
    let none = Size { rows: 0, bytes: 0 };
    let own = operations.iter().map(own_size).fold(none, Size::plus);
    let key = once.map_or(0, |once| ROW_BYTES + once.scope.len() + once.key.len());
    let fits = own.fits(Size { rows: MOST_OPERATIONS, bytes: MOST_OWN_BYTES });
    fits.then(|| operations.iter().map(size).fold(Size { rows: 0, bytes: key }, Size::plus))
}

/// What an operation brings.
fn own_size(operation: &Operation) -> Size {
    match operation {
        Operation::Send(_, messages) | Operation::Publish(_, messages, ..) => {
            let bytes: u64 = messages.iter().map(NewMessage::bytes).sum();
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            Size { rows: messages.len(), bytes: bytes.saturating_add(messages.len() * ROW_BYTES) }
        }
        Operation::Settle(..) => Size { rows: 1, bytes: ROW_BYTES },
    }
}

/// The same as it counts in a statement: how many queues a routing key leads to is not known.
fn size(operation: &Operation) -> Size {
    let own = own_size(operation);
    match operation {
        Operation::Publish(..) => {
            Size { rows: own.rows * USUAL_QUEUES, bytes: own.bytes * USUAL_QUEUES }
        }
        Operation::Send(..) | Operation::Settle(..) => own,
    }
}

/// What subjects that are routing keys begin with: no queue has such a name.
const TOPIC: &str = "topic ";

/// Whether a subject is a routing key.
pub(super) fn is_topic(subject: &str) -> bool {
    subject.starts_with(TOPIC)
}

/// What it is about that operations take long, or meet a lock.
pub(super) fn subjects(operations: &[Operation]) -> impl Iterator<Item = String> {
    operations.iter().map(|operation| match operation {
        Operation::Send(queue, _) | Operation::Settle(queue, ..) => queue.to_string(),
        Operation::Publish(routing_key, ..) => format!("{TOPIC}{routing_key}"),
    })
}

/// What a transaction is about, all of it.
pub(super) fn kind(operations: &[Operation]) -> String {
    let all: BTreeSet<String> = subjects(operations).collect();
    all.into_iter().collect::<Vec<_>>().join(", ")
}
