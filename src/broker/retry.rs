//! When work outside the lanes is worth another try that failed because of what others did at the same
//! time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout_at},
};

use crate::{engine::LockBackoff, store};

use super::{Broker, caller};

/// How often work is tried that others undo.
const MOST_ATTEMPTS: u32 = 3;

/// A kind of work: what is in the way of one is not in the way of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Reading and deleting at once.
    Pop,
    /// Looking at messages, and counting them.
    Look,
    /// Several things to messages that were delivered.
    Settle,
    /// The same, of messages that were met locked.
    SettleLocked,
    /// Looking at an archive.
    Archive,
    /// Moving messages from one table to another.
    Move,
    /// Looking at a queue's settings.
    Show,
    /// Making, changing and dropping a queue.
    Define,
    /// Emptying a queue.
    Purge,
    /// Several things at once, in several queues.
    Transact,
}

/// Work of a kind on a queue, or on several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    kind: Kind,
    of: Box<str>,
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
    fn is_locked(&self, subject: &Subject) -> bool {
        let gates = self.lock();
        !gates.is_empty() && gates.contains_key(subject)
    }

    fn enter(self: &Arc<Self>, subject: &Subject) -> Entered {
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
struct Entered {
    subjects: Arc<LockedSubjects>,
    subject: Subject,
    turn: Arc<Semaphore>,
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

/// Leave for one try.
#[derive(Debug, Default)]
pub(super) struct Turn {
    _of_subject: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

/// The tries of one piece of work.
#[derive(Debug)]
pub(super) struct Retry<'a> {
    broker: &'a Broker,
    subject: Subject,
    undone: u32,
    locked: Option<(LockBackoff, Entered)>,
}

impl<'a> Retry<'a> {
    /// Of work of a kind on a queue, or on whatever the name stands for.
    pub(super) fn new(broker: &'a Broker, kind: Kind, of: impl Into<Box<str>>) -> Self {
        Self { broker, subject: Subject { kind, of: of.into() }, undone: 0, locked: None }
    }

    /// Waits for leave to try. While others of the same kind meet a lock, one goes at a time; who has not
    /// had leave before the time is up need not try.
    pub(super) async fn turn(&mut self) -> store::Result<Turn> {
        if self.locked.is_none() {
            if !self.broker.locked.is_locked(&self.subject) {
                return Ok(Turn::default());
            }
            self.meet_lock();
        }
        let Some((backoff, entered)) = &self.locked else { return Ok(Turn::default()) };
        let turn = async {
            // Neither is ever closed.
            let of_subject = Arc::clone(&entered.turn).acquire_owned().await.ok();
            let of_all = self.broker.engine.admit_retry().await;
            Turn { _of_subject: of_subject, _of_all: of_all }
        };
        tokio::select! {
            turn = timeout_at(backoff.until(), turn) => turn.map_err(|_| store::Error::Locked),
            () = caller::gone() => Err(store::Error::Locked),
        }
    }

    /// Whether another try is worth it, once this returns: of what was undone because of a deadlock or
    /// the like at once and a few times, of what is locked after a pause and for a while, unless nobody
    /// waits for it any more.
    pub(super) async fn is_worth_it(&mut self, error: &store::Error) -> bool {
        match error {
            store::Error::Deadlock(_) => {
                self.undone += 1;
                self.undone < MOST_ATTEMPTS
            }
            error if error.is_locked() => self.wait_for_lock().await,
            _ => false,
        }
    }

    async fn wait_for_lock(&mut self) -> bool {
        let closing = &self.broker.closing;
        if closing.is_cancelled() {
            return false;
        }
        let Some(pause) = self.meet_lock().next_pause() else { return false };
        tokio::select! {
            () = sleep(pause) => true,
            // Once more, and that is it.
            () = closing.cancelled() => true,
            () = caller::gone() => false,
        }
    }

    fn meet_lock(&mut self) -> &mut LockBackoff {
        let (broker, subject) = (self.broker, &self.subject);
        let enter = || (LockBackoff::new(), broker.locked.enter(subject));
        &mut self.locked.get_or_insert_with(enter).0
    }
}
