//! Says which queues have row-level security, as what its policies hide looks as if it were not there.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use tracing::warn;

/// Queues that are remembered; of more than these it is not said.
const MOST: usize = 1_000;

/// The queues of which it was said.
#[derive(Debug, Default)]
pub(super) struct RowSecurityNotices(Mutex<HashSet<String>>);

impl RowSecurityNotices {
    /// Takes note of a queue for whose table policies are in force; says so the first time.
    pub(super) fn note(&self, queue: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST || !told.insert(queue.to_owned()) {
            return;
        }
        warn!(
            queue,
            "row-level security is in force for the gateway's role: what policies hide is as good as not \
             there, and what they don't allow is answered with `forbidden`"
        );
    }
}
