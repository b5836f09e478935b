//! Who is waiting, by queue.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::domain::QueueName;

/// Counts the clients that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiters(Arc<Mutex<HashMap<QueueName, usize>>>);

/// One client that waits, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    waiters: Waiters,
    queue: QueueName,
}

impl Waiters {
    pub(super) fn enter(&self, queue: &QueueName) -> Waiting {
        self.change(queue, |count| count + 1);
        Waiting { waiters: self.clone(), queue: queue.clone() }
    }

    pub(super) fn on(&self, queue: &QueueName) -> usize {
        self.lock().get(queue).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> usize {
        self.lock().values().sum()
    }

    fn change(&self, queue: &QueueName, change: impl FnOnce(usize) -> usize) {
        let mut counts = self.lock();
        match change(counts.get(queue).copied().unwrap_or(0)) {
            0 => counts.remove(queue),
            count => counts.insert(queue.clone(), count),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<QueueName, usize>> {
        // The map is whole between any two statements: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.change(&self.queue, |count| count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_is_no_longer_counted() {
        let (a, b) = ("a", "b");
        let [a, b] = [a, b].map(|name| QueueName::parse(name).expect("valid"));
        let waiters = Waiters::default();
        let first = waiters.enter(&a);
        let second = waiters.enter(&a);
        let third = waiters.enter(&b);
        assert_eq!((waiters.on(&a), waiters.on(&b), waiters.total()), (2, 1, 3));
        drop((first, third));
        assert_eq!((waiters.on(&a), waiters.on(&b), waiters.total()), (1, 0, 1));
        drop(second);
        assert!(waiters.lock().is_empty());
    }
}
