//! Statements that take long, maybe because of one row. Others go beside them, and each keeps its connection until it
//! has ended: so there are few places for them, in all and for each queue.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places of a queue, and of all queues. A clone is the same.
#[derive(Clone, Debug)]
pub(super) struct HeldUpPlaces {
    of_queue: Arc<Semaphore>,
    of_all: Arc<Semaphore>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldUpPlace {
    _of_queue: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldUpBounds {
    pub(super) of_queue: usize,
    pub(super) of_all: usize,
}

impl HeldUpBounds {
    /// So many that a queue has as many statements left as a lane may have, and all queues together half of the
    /// connections; a queue leaves some of those to others.
    pub(super) fn new(
        connections: usize,
        statements_per_queue: usize,
        statements_per_lane: usize,
    ) -> Self {
        let of_all = (connections / 2).max(1);
        let left = statements_per_queue.saturating_sub(statements_per_lane);
        Self { of_queue: left.min(of_all - 1).max(1), of_all }
    }
}

impl HeldUpPlaces {
    pub(super) fn new(of_queue: usize, of_all: &Arc<Semaphore>) -> Self {
        Self { of_queue: Arc::new(Semaphore::new(of_queue)), of_all: Arc::clone(of_all) }
    }

    /// Waits for a place.
    pub(super) async fn enter(&self) -> HeldUpPlace {
        // Neither is ever closed.
        let of_queue = Arc::clone(&self.of_queue).acquire_owned().await.ok();
        let of_all = Arc::clone(&self.of_all).acquire_owned().await.ok();
        HeldUpPlace { _of_queue: of_queue, _of_all: of_all }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_queue_leaves_places_to_others_and_connections_to_all() {
        let bounds = |connections| {
            let HeldUpBounds { of_queue, of_all } =
                HeldUpBounds::new(connections, (connections * 3 / 4).max(1), 2);
            (of_queue, of_all)
        };
        assert_eq!([1, 2, 4, 8, 20].map(bounds), [(1, 1), (1, 1), (1, 2), (3, 4), (9, 10)]);
        assert_eq!(HeldUpBounds::new(8, 6, 100), HeldUpBounds { of_queue: 1, of_all: 4 });
    }

    #[tokio::test]
    async fn one_queue_does_not_have_all_places() {
        let of_all = Arc::new(Semaphore::new(3));
        let [q, r] = [2, 2].map(|of_queue| HeldUpPlaces::new(of_queue, &of_all));
        let first = q.enter().await;
        let _second = q.enter().await;
        assert!(q.enter().now_or_never().is_none());
        let _third = r.enter().now_or_never().expect("it is left to others");
        assert!(r.enter().now_or_never().is_none());
        drop(first);
        assert!(r.enter().now_or_never().is_some());
    }
}
