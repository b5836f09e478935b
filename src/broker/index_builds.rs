//! Leave to make or drop an index of a queue.

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{domain::QueueName, engine::KeyedSlots};

/// Queues whose indexes are worked on at the same time: an index waits for transactions that have written to its table.
const MOST_BUILDS: usize = 3;

/// Whose turn it is to work on indexes: one at a time for a queue, and few in all, as each has a session of its own.
#[derive(Debug)]
pub(super) struct IndexBuilds {
    queues: KeyedSlots<QueueName>,
    all: Semaphore,
}

/// Such a turn, until it is dropped.
pub(super) struct IndexTurn<'a> {
    _of_queue: Option<OwnedSemaphorePermit>,
    _of_all: Option<SemaphorePermit<'a>>,
}

impl Default for IndexBuilds {
    fn default() -> Self {
        Self { queues: KeyedSlots::new(1), all: Semaphore::new(MOST_BUILDS) }
    }
}

impl IndexBuilds {
    /// Waits for it.
    pub(super) async fn turn(&self, queue: &QueueName) -> IndexTurn<'_> {
        // In this order: who waits for its queue takes nobody's place.
        let of_queue = self.queues.acquire(queue).await;
        IndexTurn { _of_queue: of_queue, _of_all: self.all.acquire().await.ok() }
    }
}
