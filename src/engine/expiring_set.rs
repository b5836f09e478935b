//! Names that are kept for a time: of what takes long, is locked, or is known to be fast.

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

/// Subjects, each kept until a moment.
#[derive(Debug, Default)]
pub(super) struct ExpiringSet {
    /// Whether there may be any: nearly always there are none.
    any: AtomicBool,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<String, Instant>,
    /// Before then none of them is over: they are gone through no sooner.
    first_end: Option<Instant>,
}

impl Entries {
    /// Drops those that are over, if there are any.
    fn sweep(&mut self, now: Instant) {
        if self.first_end.is_some_and(|end| end <= now) {
            self.until.retain(|_, until| *until > now);
            self.first_end = self.until.values().min().copied();
        }
    }
}

impl ExpiringSet {
    /// Keeps these for so long, or for as long as they are kept already.
    pub(super) fn insert(&self, subjects: impl Iterator<Item = String>, time: Duration) {
        let (mut entries, now) = (self.lock(), Instant::now());
        entries.sweep(now);
        let end = now + time;
        for subject in subjects {
            if entries.until.len() < MOST || entries.until.contains_key(&subject) {
                let entry = entries.until.entry(subject).or_insert(now);
                *entry = end.max(*entry);
                entries.first_end = Some(entries.first_end.map_or(end, |first| first.min(end)));
            }
        }
        self.any.store(!entries.until.is_empty(), Relaxed);
    }

    /// Drops these.
    pub(super) fn remove(&self, subjects: impl Iterator<Item = String>) {
        if self.any.load(Relaxed) {
            let mut entries = self.lock();
            for subject in subjects {
                entries.until.remove(&subject);
            }
            self.any.store(!entries.until.is_empty(), Relaxed);
        }
    }

    /// Whether one of these is kept.
    pub(super) fn contains_any(&self, mut subjects: impl Iterator<Item = String>) -> bool {
        if !self.any.load(Relaxed) {
            return false;
        }
        let (mut entries, now) = (self.lock(), Instant::now());
        // What is over is not asked for again.
        entries.sweep(now);
        self.any.store(!entries.until.is_empty(), Relaxed);
        subjects.any(|subject| entries.until.get(&subject).is_some_and(|until| *until > now))
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
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
    async fn each_is_kept_for_its_time() {
        let set = ExpiringSet::default();
        assert!(!set.contains_any(names(&["a", "b"])));
        set.insert(names(&["a", "c"]), WHILE);
        assert!(set.contains_any(names(&["b", "a"])) && !set.contains_any(names(&["b"])));
        set.remove(names(&["c"]));
        assert!(!set.contains_any(names(&["c"])));
        set.insert(names(&["a"]), WHILE / 10);
        advance(WHILE / 2).await;
        assert!(set.contains_any(names(&["a"])), "the longer time holds");
        advance(WHILE).await;
        assert!(!set.contains_any(names(&["a"])));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_strangers_make_up_leave_nothing_behind() {
        let set = ExpiringSet::default();
        set.insert((0..MOST * 2).map(|n| n.to_string()), WHILE);
        assert_eq!(set.lock().until.len(), MOST);
        advance(WHILE * 2).await;
        set.insert(names(&["new"]), WHILE);
        assert_eq!(set.lock().until.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_kept_are_gone_through_once_one_is_over() {
        let set = ExpiringSet::default();
        set.insert((0..MOST).map(|n| n.to_string()), WHILE);
        set.insert(names(&["0"]), WHILE * 3);
        advance(WHILE / 2).await;
        assert!(!set.contains_any(names(&["other"])));
        let first_end = set.lock().first_end.expect("some are kept");
        assert!(first_end > Instant::now(), "nothing is over, so that nothing was gone through");
        advance(WHILE).await;
        assert!(!set.contains_any(names(&["1"])) && set.contains_any(names(&["0"])));
        assert_eq!(set.lock().until.len(), 1);
        advance(WHILE * 2).await;
        assert!(!set.contains_any(names(&["0"])) && !set.any.load(Relaxed));
    }
}
