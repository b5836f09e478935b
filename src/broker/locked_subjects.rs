//! What work outside the lanes meets a lock, so that one piece of it at a time is tried again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use super::work::Kind;

/// Work of a kind on a queue, or on several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) of: Box<str>,
}

/// The subjects of which some work meets a lock. One piece of work at a time is tried of each, and few of
/// all, so that what is locked takes no connections from what is not.
#[derive(Debug, Default)]
pub(super) struct LockedSubjects(Mutex<HashMap<Subject, Gate>>);

#[derive(Debug)]
struct Gate {
    turn: Arc<Semaphore>,
    waiting: usize,
}

impl LockedSubjects {
    /// Whether some work of it has met a lock, and waits.
    pub(super) fn is_locked(&self, subject: &Subject) -> bool {
        let gates = self.lock();
        !gates.is_empty() && gates.contains_key(subject)
    }

    /// Has others of it know that a lock was met.
    pub(super) fn enter(self: &Arc<Self>, subject: &Subject) -> Entered {
        let mut gates = self.lock();
        let gate = gates
            .entry(subject.clone())
            .or_insert_with(|| Gate { turn: Arc::new(Semaphore::new(1)), waiting: 0 });
        gate.waiting += 1;
        Entered {
            subjects: Arc::clone(self),
            subject: subject.clone(),
            turn: Arc::clone(&gate.turn),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Gate>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits until something is not locked any more, until this is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    subjects: Arc<LockedSubjects>,
    subject: Subject,
    pub(super) turn: Arc<Semaphore>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut gates = self.subjects.lock();
        if let Some(gate) = gates.get_mut(&self.subject) {
            gate.waiting -= 1;
            if gate.waiting == 0 {
                gates.remove(&self.subject);
            }
        }
    }
}
