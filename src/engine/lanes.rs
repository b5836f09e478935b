//! The lanes of all queues in use: made when first needed, dropped when idle.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Semaphore;

use crate::{
    domain::QueueName,
    store::{Action, Error, Result},
};

use super::{
    Shared,
    lane::Lane,
    news::News,
    peers::Peers,
    receive_lane::ReceiveLane,
    works::{End, Send, SetVisibility},
};

/// The lanes of one queue.
pub(super) struct QueueLanes {
    pub(super) send: Arc<Lane<Send>>,
    pub(super) delete: Arc<Lane<End>>,
    pub(super) archive: Arc<Lane<End>>,
    pub(super) visibility: Arc<Lane<SetVisibility>>,
    pub(super) receive: Arc<ReceiveLane>,
    /// Statements that the queue may have under way, of all kinds.
    pub(super) statements: Arc<Semaphore>,
}

/// The lanes of all queues.
pub(super) struct Lanes {
    queues: Mutex<HashMap<QueueName, Arc<QueueLanes>>>,
    shared: Shared,
    peers: Arc<OnceLock<Arc<Peers>>>,
    met_unknown: AtomicBool,
}

impl Lanes {
    pub(super) fn new(shared: Shared, peers: Arc<OnceLock<Arc<Peers>>>) -> Arc<Self> {
        let met_unknown = AtomicBool::new(false);
        Arc::new(Self { queues: Mutex::default(), shared, peers, met_unknown })
    }

    /// The lanes of a queue, whether or not there is such a queue.
    pub(super) fn of(&self, queue: &QueueName) -> Arc<QueueLanes> {
        let mut queues = self.lock();
        if let Some(lanes) = queues.get(queue) {
            return Arc::clone(lanes);
        }
        let lanes = Arc::new(QueueLanes::new(queue, &self.shared, &self.peers));
        queues.insert(queue.clone(), Arc::clone(&lanes));
        lanes
    }

    /// The lanes of a queue, if it is in use.
    pub(super) fn in_use(&self, queue: &QueueName) -> Option<Arc<QueueLanes>> {
        self.lock().get(queue).map(Arc::clone)
    }

    /// The queues in which somebody waits, with their lines.
    pub(super) fn waited_on(&self) -> Vec<(QueueName, Arc<ReceiveLane>)> {
        let waited = |lanes: &QueueLanes| lanes.receive.has_patient();
        let queues = self.lock();
        let waited = queues.iter().filter(|(_, lanes)| waited(lanes));
        waited.map(|(queue, lanes)| (queue.clone(), Arc::clone(&lanes.receive))).collect()
    }

    /// Everyone who waits is looked for: what was said in between is not known.
    pub(super) fn news_for_all(&self) {
        self.waited_on().iter().for_each(|(_, line)| line.news());
    }

    /// Notes that a queue turned out not to be there: strangers' made-up names are soon tidied away.
    pub(super) fn note_unknown<T>(&self, outcome: &Result<T>) {
        if matches!(outcome, Err(Error::QueueNotFound)) {
            self.met_unknown.store(true, Relaxed);
        }
    }

    /// Whether there are lanes of queues that are not there, as far as that was noted since the last call.
    pub(super) fn take_met_unknown(&self) -> bool {
        self.met_unknown.swap(false, Relaxed)
    }

    /// Drops the lanes that nobody uses.
    pub(super) fn drop_idle(&self) {
        // One that somebody holds besides the map may be about to be used.
        self.lock().retain(|_, lanes| Arc::strong_count(lanes) > 1 || !lanes.is_idle());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Arc<QueueLanes>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueLanes {
    fn new(queue: &QueueName, shared: &Shared, peers: &Arc<OnceLock<Arc<Peers>>>) -> Self {
        let statements = Arc::new(Semaphore::new(shared.statements_per_queue));
        let receive = ReceiveLane::new(queue, shared, &statements);
        let news = News::new(queue, &receive, peers);
        let end = |action| End { action, news: Arc::clone(&news) };
        Self {
            send: Lane::new(Send(Arc::clone(&news)), queue, shared, &statements),
            delete: Lane::new(end(Action::Delete), queue, shared, &statements),
            archive: Lane::new(end(Action::Archive), queue, shared, &statements),
            visibility: Lane::new(SetVisibility(news), queue, shared, &statements),
            receive,
            statements,
        }
    }

    fn is_idle(&self) -> bool {
        self.send.is_idle()
            && self.delete.is_idle()
            && self.archive.is_idle()
            && self.visibility.is_idle()
            && self.receive.is_idle()
    }
}
