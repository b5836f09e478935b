//! What is undone when it is dropped, however that comes about.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::store;

use super::{
    super::line::{Look, Ticket},
    Key, ReceiveLane,
};

/// Counts a client that waits, until it is dropped.
pub(super) struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    pub(super) fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Relaxed);
        Self(waiters)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A place in a line, which is left when this is dropped.
pub(super) struct Place<'a> {
    pub(super) lane: &'a ReceiveLane,
    pub(super) key: Arc<Key>,
    pub(super) ticket: Ticket,
}

impl Place<'_> {
    /// As [`Line::give_up`].
    pub(super) fn give_up(&self) -> bool {
        let mut state = self.lane.lock();
        state.lines.get_mut(&self.key).is_none_or(|line| line.give_up(self.ticket))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        if let Some(line) = state.lines.get_mut(&self.key) {
            line.leave(self.ticket);
        }
        state.remove_idle(&self.key);
    }
}

/// A look that is under way: one that panics ends as one that failed.
pub(super) struct Unfinished<'a> {
    pub(super) lane: &'a ReceiveLane,
    pub(super) key: &'a Arc<Key>,
    pub(super) look: Option<Look>,
}

impl Unfinished<'_> {
    #[expect(clippy::expect_used, reason = "it is taken at the end")]
    pub(super) fn look(&self) -> &Look {
        self.look.as_ref().expect("not finished")
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

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(look) = self.look.take() {
            self.lane.fail(self.key, &look, &store::Error::Unavailable(None));
        }
    }
}
