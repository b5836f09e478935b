//! What each caller has in hand, so that none has it all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::domain::CallerId;

/// Entries that are kept before those are looked for that nobody uses.
const ROOM: usize = 64;

/// What one caller has in hand.
#[derive(Debug, Default)]
pub(crate) struct CallerUsage {
    /// Requests whose body has not come yet.
    pub(super) arriving: AtomicUsize,
    /// Requests that are served.
    pub(super) served: AtomicUsize,
    /// Bytes of bodies and answers.
    pub(super) bytes: AtomicUsize,
    /// Places that are taken for long.
    pub(super) places: AtomicUsize,
}

/// Those who have something in hand.
#[derive(Debug, Default)]
pub(super) struct CallerUsages(Mutex<HashMap<CallerId, Weak<CallerUsage>>>);

impl CallerUsages {
    /// What a caller has in hand, all of its requests together.
    pub(super) fn usage(&self, caller: CallerId) -> Arc<CallerUsage> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = callers.get(&caller).and_then(Weak::upgrade) {
            return usage;
        }
        if callers.len() >= ROOM && callers.len() == callers.capacity() {
            callers.retain(|_, usage| usage.strong_count() > 0);
        }
        let usage = Arc::new(CallerUsage::default());
        callers.insert(caller, Arc::downgrade(&usage));
        usage
    }
}

/// Adds to a count unless that makes it more than may be.
pub(super) fn add(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let before = count.fetch_add(more, Relaxed);
    let fits = before.saturating_add(more) <= most;
    if !fits {
        count.fetch_sub(more, Relaxed);
    }
    fits
}

/// The same, but what there is nothing beside is taken, however much it is.
pub(super) fn add_alone(count: &AtomicUsize, more: usize, most: usize) -> bool {
    add(count, more, most) || count.compare_exchange(0, more, Relaxed, Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_known_for_as_long_as_it_has_something_in_hand() {
        let callers = CallerUsages::default();
        let first = callers.usage(CallerId([0; 32]));
        assert!(add(&first.bytes, 7, 10));
        assert!(!add(&callers.usage(CallerId([0; 32])).bytes, 4, 10));
        assert!(add(&callers.usage(CallerId([0; 32])).bytes, 3, 10));
        for n in 1..10_000_u16 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_be_bytes());
            assert!(add(&callers.usage(CallerId(id)).served, 1, 1));
        }
        assert!(callers.0.lock().expect("whole").len() < 1_000);
        assert_eq!(callers.usage(CallerId([0; 32])).bytes.load(Relaxed), 10);
        drop(first);
        assert_eq!(callers.usage(CallerId([0; 32])).bytes.load(Relaxed), 0);
    }
}
