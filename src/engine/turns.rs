//! Whose turn it is in queues whose groups take turns.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::domain::QueueName;

/// Queues that are remembered. Where there are more, turns begin anew.
const MOST: usize = 10_000;

/// The group that was served last, for each queue. What is forgotten costs nobody more than a turn.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<QueueName, Vec<u8>>>);

impl Turns {
    /// The group behind which it goes on.
    pub(super) fn after(&self, queue: &QueueName) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned()
    }

    /// That a group was served.
    pub(super) fn note(&self, queue: &QueueName, group: Vec<u8>) {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MOST && !turns.contains_key(queue) {
            turns.clear();
        }
        turns.insert(queue.clone(), group);
    }
}
