//! When work outside the lanes is worth another try that failed because of what others did at the same
//! time.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout_at},
};
use tracing::{Instrument, debug_span};

use crate::{
    domain::{Call, QueueName},
    engine::{LockBackoff, Table},
    store,
};

use super::{
    Broker, QueueConn, Result, caller,
    locked_subjects::{Entered, Subject},
    policies::Policy,
    work::Kind,
};

/// How often work is tried that others undo.
const MOST_ATTEMPTS: u32 = 3;

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

impl Broker {
    /// Does work on a queue outside the lanes: again if others undid it, and for a while where something is
    /// locked. No connection is held in between.
    pub(super) async fn on_queue<T, F>(
        &self,
        kind: Kind,
        queue: &QueueName,
        policy: &Policy,
        call: &Arc<Call>,
        work: impl Fn(QueueConn) -> F,
    ) -> Result<store::Result<T>>
    where
        F: Future<Output = store::Result<T>>,
    {
        let span = debug_span!("operation", name = ?kind, queue = queue.as_str());
        let _way = if kind.locks_table() { self.engine.make_way(queue) } else { None };
        let mut retry = Retry::new(self, kind, vec![queue.clone()]);
        loop {
            let turn = match retry.turn().await {
                Ok(turn) => turn,
                Err(error) => return Ok(Err(error)),
            };
            // For one try at a time: who waits for a lock is in nobody's way.
            let _dear =
                if kind.is_dear() { Some(self.dear(Some(queue), call).await?) } else { None };
            let conn = self.open(queue, policy, call).await?;
            let outcome = if retry.is_locked_out() {
                // That became known while this waited for a connection.
                drop(conn);
                Err(store::Error::Locked)
            } else {
                work(conn).instrument(span.clone()).await
            };
            drop(turn);
            match &outcome {
                Err(error) if retry.is_worth_it(error).await => {}
                _ => return Ok(outcome),
            }
        }
    }
}
