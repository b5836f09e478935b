//! What the lanes of a queue tell each other of locks: where one meets a locked table, the others need not
//! wait to find out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Whether a lane of a queue gets no statement through, as the table is locked. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct LockHint(Arc<AtomicUsize>);

/// That is so until this is dropped.
#[derive(Debug)]
pub(super) struct Raised(LockHint);

impl LockHint {
    pub(super) fn raise(&self) -> Raised {
        self.0.fetch_add(1, Relaxed);
        Raised(self.clone())
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}
