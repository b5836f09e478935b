//! What takes long, or is locked, and is kept apart from what shares statements.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Subjects that are remembered. Who is not may delay others once more.
const MOST: usize = 1_000;

/// Subjects that are kept apart, each until a moment.
#[derive(Debug, Default)]
pub(super) struct Apart {
    /// Whether there may be any: nearly always there are none.
    any: AtomicBool,
    until: Mutex<HashMap<String, Instant>>,
}

impl Apart {
    /// Keeps these apart for so long.
    pub(super) fn note(&self, subjects: impl Iterator<Item = String>, time: Duration) {
        let mut until = self.lock();
        let now = Instant::now();
        until.retain(|_, until| *until > now);
        for subject in subjects {
            if until.len() < MOST || until.contains_key(&subject) {
                let entry = until.entry(subject).or_insert(now);
                *entry = (now + time).max(*entry);
            }
        }
        self.any.store(!until.is_empty(), Relaxed);
    }

    /// Ends that.
    pub(super) fn forget(&self, subjects: impl Iterator<Item = String>) {
        if self.any.load(Relaxed) {
            let mut until = self.lock();
            for subject in subjects {
                until.remove(&subject);
            }
            self.any.store(!until.is_empty(), Relaxed);
        }
    }

    /// Whether one of these is kept apart.
    pub(super) fn has_any(&self, mut subjects: impl Iterator<Item = String>) -> bool {
        if !self.any.load(Relaxed) {
            return false;
        }
        let (mut until, now) = (self.lock(), Instant::now());
        let is_apart =
            subjects.any(|subject| until.get(&subject).is_some_and(|until| *until > now));
        if !is_apart {
            // What is over is not asked for again.
            until.retain(|_, until| *until > now);
            self.any.store(!until.is_empty(), Relaxed);
        }
        is_apart
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const WHILE: Duration = Duration::from_secs(10);

    fn names(names: &[&str]) -> std::vec::IntoIter<String> {
        names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter()
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_kept_apart_for_its_time() {
        let apart = Apart::default();
        assert!(!apart.has_any(names(&["a", "b"])));
        apart.note(names(&["a", "c"]), WHILE);
        assert!(apart.has_any(names(&["b", "a"])) && !apart.has_any(names(&["b"])));
        apart.forget(names(&["c"]));
        assert!(!apart.has_any(names(&["c"])));
        apart.note(names(&["a"]), WHILE / 10);
        advance(WHILE / 2).await;
        assert!(apart.has_any(names(&["a"])), "the longer time holds");
        advance(WHILE).await;
        assert!(!apart.has_any(names(&["a"])));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_strangers_make_up_leave_nothing_behind() {
        let apart = Apart::default();
        apart.note((0..MOST * 2).map(|n| n.to_string()), WHILE);
        assert_eq!(apart.lock().len(), MOST);
        advance(WHILE * 2).await;
        apart.note(names(&["new"]), WHILE);
        assert_eq!(apart.lock().len(), 1);
    }
}
