//! What is undone when it is dropped, however that comes about.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::oneshot;
use tracing::Span;

use crate::store;

use super::{
    super::wait_queue::{Look, Ticket},
    Receivers,
    key::Key,
};

/// Counts a client that waits, until it is dropped.
pub(super) struct WaiterCount<'a>(&'a AtomicUsize);

impl<'a> WaiterCount<'a> {
    pub(super) fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Relaxed);
        Self(waiters)
    }
}

impl Drop for WaiterCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A place in a wait queue, which is left when this is dropped.
pub(super) struct QueueSlot<'a> {
    pub(super) receivers: &'a Receivers,
    pub(super) key: Arc<Key>,
    pub(super) ticket: Ticket,
}

impl QueueSlot<'_> {
    /// As [`WaitQueue::give_up`].
    pub(super) fn give_up(&self) -> bool {
        let mut state = self.receivers.lock();
        state
            .wait_queues
            .get_mut(&self.key)
            .is_none_or(|wait_queue| wait_queue.give_up(self.ticket))
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let mut state = self.receivers.lock();
        if let Some(wait_queue) = state.wait_queues.get_mut(&self.key) {
            wait_queue.remove(self.ticket);
        }
        state.remove_idle(&self.key);
    }
}

/// A look that is under way: one that panics ends as one that failed.
pub(super) struct InFlightRead<'a> {
    pub(super) receivers: &'a Receivers,
    pub(super) key: &'a Arc<Key>,
    pub(super) look: Option<Look>,
    /// Where wait queues are looked for in turn.
    pub(super) turn: Option<Turn>,
    /// That of its last statement.
    pub(super) span: Span,
}

/// The turn of a wait queue, which passes to the next one when this is dropped at the latest.
pub(super) struct Turn(Option<oneshot::Sender<()>>);

impl Turn {
    /// One, and what resolves when it has passed.
    pub(super) fn new() -> (Self, oneshot::Receiver<()>) {
        let (turn, passed) = oneshot::channel();
        (Self(Some(turn)), passed)
    }

    pub(super) fn pass(&mut self) {
        self.0 = None;
    }
}

impl<'a> InFlightRead<'a> {
    pub(super) fn new(receivers: &'a Receivers, key: &'a Arc<Key>, look: Look) -> InFlightRead<'a> {
        InFlightRead { receivers, key, look: Some(look), turn: None, span: Span::none() }
    }

    #[expect(clippy::expect_used, reason = "it is taken at the end")]
    pub(super) fn look_mut(&mut self) -> &mut Look {
        self.look.as_mut().expect("not finished")
    }

    #[expect(clippy::expect_used, reason = "it is taken at the end")]
    pub(super) fn finish(mut self) -> Look {
        self.look.take().expect("not finished")
    }
}

impl Drop for InFlightRead<'_> {
    fn drop(&mut self) {
        if let Some(look) = self.look.take() {
            self.receivers.fail(self.key, &look, &store::Error::Unavailable(None));
        }
    }
}
