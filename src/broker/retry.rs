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

use crate::{
    domain::QueueName,
    engine::{Intent, LockBackoff, Table},
    store,
};

use super::{Broker, caller};

/// How often work is tried that others undo.
const MOST_ATTEMPTS: u32 = 3;

/// A kind of work: what is in the way of one is not in the way of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Reading and deleting at once.
    Pop,
    /// Looking at one message.
    Look,
    /// Looking at many messages, or counting them.
    Browse,
    /// Several things to messages that were delivered.
    Settle,
    /// The same, of messages that were met locked.
    SettleLocked,
    /// Looking at an archive.
    Archive,
    /// Moving messages from an archive into a queue.
    Replay,
    /// Moving messages from one queue to another.
    Move,
    /// Looking at a queue's settings.
    Show,
    /// Looking at what is written down of queues, or changing it.
    Catalogue,
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
    queues: Vec<QueueName>,
    /// What is known of their tables, since the first lock was met.
    tables: Vec<Table>,
    undone: u32,
    /// The time there is, since the first lock was met.
    backoff: Option<LockBackoff>,
    /// Set while it is no table as a whole that is locked.
    entered: Option<Entered>,
}

impl<'a> Retry<'a> {
    /// Of work of a kind on some queues.
    pub(super) fn new(broker: &'a Broker, kind: Kind, queues: Vec<QueueName>) -> Self {
        let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        let subject = Subject { kind, of: names.join("\n").into() };
        let tables = Vec::new();
        Self { broker, subject, queues, tables, undone: 0, backoff: None, entered: None }
    }

    /// The same for work of which it is not known on which queues it is.
    pub(super) fn unknown(broker: &'a Broker, kind: Kind, name: &str) -> Self {
        let subject = Subject { kind, of: name.into() };
        let (queues, tables) = (Vec::new(), Vec::new());
        Self { broker, subject, queues, tables, undone: 0, backoff: None, entered: None }
    }

    /// Waits for leave to try. Nobody tries while a table is known to be locked as a whole; while others of
    /// the same kind meet another lock, one goes at a time. Who has not had leave before the time is up need
    /// not try.
    pub(super) async fn turn(&mut self) -> store::Result<Turn> {
        if self.is_locked_out() {
            self.remember_tables();
            let until = self.backoff.get_or_insert_with(LockBackoff::new).until();
            tokio::select! {
                allowed = timeout_at(until, self.allowed()) => allowed.map_err(|_| store::Error::Locked)?,
                () = self.broker.closing.cancelled() => {}
                () = caller::gone() => return Err(store::Error::Locked),
            }
        }
        if self.entered.is_none() && self.broker.locked.is_locked(&self.subject) {
            self.entered = Some(self.broker.locked.enter(&self.subject));
        }
        let Some(entered) = &self.entered else { return Ok(Turn::default()) };
        let turn = async {
            // Neither is ever closed.
            let of_subject = Arc::clone(&entered.turn).acquire_owned().await.ok();
            let of_all = self.broker.engine.admit_retry().await;
            Turn { _of_subject: of_subject, _of_all: of_all }
        };
        let until = self.backoff.get_or_insert_with(LockBackoff::new).until();
        tokio::select! {
            turn = timeout_at(until, turn) => turn.map_err(|_| store::Error::Locked),
            () = caller::gone() => Err(store::Error::Locked),
        }
    }

    /// Whether a table is known to be locked against work of this kind.
    pub(super) fn is_locked_out(&self) -> bool {
        let Some(intent) = self.subject.kind.intent() else { return false };
        if self.tables.is_empty() {
            return self.queues.iter().any(|queue| !self.broker.engine.allows(queue, intent));
        }
        self.tables.iter().any(|table| !table.allows(intent))
    }

    async fn allowed(&self) {
        let Some(intent) = self.subject.kind.intent() else { return };
        for table in &self.tables {
            table.allowed(intent).await;
        }
    }

    fn remember_tables(&mut self) {
        if self.tables.is_empty() {
            self.tables.extend(self.queues.iter().map(|queue| self.broker.engine.table(queue)));
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
            error if error.is_locked() => self.wait_for_lock(error).await,
            _ => false,
        }
    }

    async fn wait_for_lock(&mut self, error: &store::Error) -> bool {
        let closing = &self.broker.closing;
        if closing.is_cancelled() {
            return false;
        }
        let pause = self.backoff.get_or_insert_with(LockBackoff::new).next_pause();
        let Some(pause) = pause else { return false };
        // Otherwise it is known to be one message.
        if matches!(error, store::Error::Locked) && !self.is_locked_out() {
            self.look_at_tables().await;
        }
        if self.is_locked_out() {
            self.entered = None;
            return true;
        }
        if self.entered.is_none() {
            self.entered = Some(self.broker.locked.enter(&self.subject));
        }
        tokio::select! {
            () = sleep(pause) => true,
            // Once more, and that is it.
            () = closing.cancelled() => true,
            () = caller::gone() => false,
        }
    }

    /// Finds out whether it is tables as a whole that are locked.
    async fn look_at_tables(&mut self) {
        if self.subject.kind.intent().is_none() {
            return;
        }
        self.remember_tables();
        let Ok(mut conn) = self.broker.db.acquire(&Arc::default()).await else { return };
        for table in &self.tables {
            table.look(&mut conn).await;
        }
    }
}

impl Kind {
    /// Whether it may take long: such work is done by few at a time, and on a queue by one.
    pub(super) fn is_dear(self) -> bool {
        matches!(self, Self::Browse | Self::Archive | Self::Replay)
    }

    /// Whether it may lock the table of its queue as a whole.
    pub(super) fn locks_table(self) -> bool {
        matches!(self, Self::Define | Self::Purge)
    }

    /// What it is about to do to the table of its queue, if that is what it works on.
    fn intent(self) -> Option<Intent> {
        match self {
            Self::Look | Self::Browse | Self::Show => Some(Intent::Look),
            Self::Pop
            | Self::Settle
            | Self::SettleLocked
            | Self::Replay
            | Self::Move
            | Self::Purge
            | Self::Transact => Some(Intent::Change),
            // What is in the way of these is in the way of nothing else.
            Self::Archive | Self::Define | Self::Catalogue => None,
        }
    }
}
