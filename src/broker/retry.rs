//! When work is worth another try that failed because of what others did at the same time.

use tokio::time::sleep;

use crate::{engine::LockBackoff, store};

/// How often work is tried that others undo.
const MOST_ATTEMPTS: u32 = 3;

/// The tries of one piece of work.
#[derive(Debug, Default)]
pub(super) struct Retry {
    undone: u32,
    locked: Option<LockBackoff>,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Whether another try is worth it, once this returns: of what was undone because of a deadlock or
    /// the like at once and a few times, of what is locked after a pause and for a while.
    pub(super) async fn is_worth_it(&mut self, error: &store::Error) -> bool {
        match error {
            store::Error::Deadlock(_) => {
                self.undone += 1;
                self.undone < MOST_ATTEMPTS
            }
            store::Error::Locked => {
                let backoff = self.locked.get_or_insert_with(LockBackoff::new);
                let Some(pause) = backoff.next_pause() else { return false };
                sleep(pause).await;
                true
            }
            _ => false,
        }
    }
}
