//! The lanes of all queues in use: made when first needed, dropped when idle.

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Duration, sleep, timeout},
};

use crate::{
    domain::QueueName,
    store::{Action, Conn, Error, Result},
};

use super::{
    Shared,
    held_up::HeldUpPlaces,
    lane::{Lane, Place},
    multi_queue::MultiQueues,
    notifier::Notifier,
    peers::Peers,
    receivers::Receivers,
    settling::Settling,
    statements::{End, Send, SetVisibility},
    table_lock::{Intent, TableLock},
    takes::{Looking, Popping},
};

/// Time between two looks for lanes that nobody uses.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);
/// What turns up in this time is tidied away at once.
const TIDY_PAUSE: Duration = Duration::from_millis(100);
/// Places for queues that are kept though there are no queues for them.
const MOST_SPARE: usize = 1_000;

/// The lanes of one queue.
pub(super) struct QueueLanes {
    pub(super) send: Arc<Lane<Send>>,
    pub(super) delete: Arc<Lane<End>>,
    pub(super) archive: Arc<Lane<End>>,
    pub(super) visibility: Arc<Lane<SetVisibility>>,
    pub(super) pop: Arc<Lane<Popping>>,
    pub(super) look: Arc<Lane<Looking>>,
    pub(super) settle: Arc<Lane<Settling>>,
    pub(super) receive: Arc<Receivers>,
    /// What is known of locks on its table.
    pub(super) table: Arc<TableLock>,
    /// Statements that the queue may have under way, of all kinds.
    statements: Arc<Semaphore>,
    /// Whether there is such a queue, going by the last statement of a lane.
    known: AtomicBool,
}

/// The lanes of all queues.
pub(super) struct Lanes {
    queues: Mutex<HashMap<QueueName, Arc<QueueLanes>>>,
    shared: Shared,
    multi_queues: MultiQueues,
    peers: Arc<OnceLock<Arc<Peers>>>,
    /// Notified when there are lanes in use of which it is not known whether there is such a queue.
    unknown_in_use: Notify,
}

/// The lanes of a queue, in use until this is dropped. If it is not known then that there is such a queue,
/// they go: names that strangers make up are to leave nothing behind.
#[derive(Debug)]
pub(super) struct Use {
    /// Taken when this is dropped.
    of_queue: Option<Arc<QueueLanes>>,
    queue: QueueName,
    lanes: Arc<Lanes>,
}

/// A permit for a statement on a queue.
#[derive(Debug)]
pub struct Admission {
    _statement: Option<OwnedSemaphorePermit>,
    _lanes: Use,
}

/// What is known of locks on the table of a queue.
#[derive(Debug)]
pub struct Table(pub(super) Use);

impl Lanes {
    pub(super) fn new(shared: Shared, peers: Arc<OnceLock<Arc<Peers>>>) -> Arc<Self> {
        let multi_queues = MultiQueues::new(&shared);
        let (queues, unknown_in_use) = (Mutex::default(), Notify::new());
        Arc::new(Self { queues, shared, multi_queues, peers, unknown_in_use })
    }

    /// The lanes of a queue, whether or not there is such a queue.
    pub(super) fn of(self: &Arc<Self>, queue: &QueueName) -> Use {
        let mut queues = self.lock();
        let of_queue = if let Some(of_queue) = queues.get(queue) {
            Arc::clone(of_queue)
        } else {
            let new = QueueLanes::new(queue, &self.shared, &self.multi_queues, &self.peers);
            queues.insert(queue.clone(), Arc::clone(&new));
            new
        };
        Use { of_queue: Some(of_queue), queue: queue.clone(), lanes: Arc::clone(self) }
    }

    /// The lanes of a queue, if it is in use.
    pub(super) fn in_use(&self, queue: &QueueName) -> Option<Arc<QueueLanes>> {
        self.lock().get(queue).map(Arc::clone)
    }

    /// The queues in which somebody waits, with their receivers.
    pub(super) fn waited_on(&self) -> Vec<(QueueName, Arc<Receivers>)> {
        let waited = |lanes: &QueueLanes| lanes.receive.has_long_poll();
        let queues = self.lock();
        let waited = queues.iter().filter(|(_, lanes)| waited(lanes));
        waited.map(|(queue, lanes)| (queue.clone(), Arc::clone(&lanes.receive))).collect()
    }

    /// Everyone who waits is looked for: what was said in between is not known.
    pub(super) fn notify_all(&self) {
        self.waited_on().iter().for_each(|(_, receivers)| receivers.notify());
    }

    /// Drops lanes that nobody uses: soon where it is not known that there is such a queue, else now and
    /// then. Works until it is dropped.
    pub(super) async fn tidy(&self) {
        loop {
            let _ = timeout(TIDY_INTERVAL, self.unknown_in_use.notified()).await;
            sleep(TIDY_PAUSE).await;
            let mut queues = self.lock();
            queues.retain(|_, lanes| !is_idle(lanes));
            if queues.capacity() > MOST_SPARE.max(queues.len() * 4) {
                queues.shrink_to_fit();
            }
            if !queues.values().all(|lanes| lanes.is_known()) {
                self.unknown_in_use.notify_one();
            }
        }
    }

    /// Drops the lanes of a queue of which it is not known that it is there, once nobody uses them.
    fn drop_unknown(&self, queue: &QueueName) {
        let mut queues = self.lock();
        match queues.get(queue) {
            Some(lanes) if lanes.is_known() => {}
            Some(lanes) if is_idle(lanes) => drop(queues.remove(queue)),
            Some(_) => self.unknown_in_use.notify_one(),
            None => {}
        }
    }

    /// Queues that have lanes.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// A permit for a statement on a queue beside its lanes.
    pub(super) async fn admit(self: &Arc<Self>, queue: &QueueName) -> Admission {
        let lanes = self.of(queue);
        // It is never closed.
        let statement = Arc::clone(&lanes.statements).acquire_owned().await.ok();
        Admission { _statement: statement, _lanes: lanes }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Arc<QueueLanes>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueLanes {
    fn new(
        queue: &QueueName,
        shared: &Shared,
        many: &MultiQueues,
        peers: &Arc<OnceLock<Arc<Peers>>>,
    ) -> Arc<Self> {
        let statements = Arc::new(Semaphore::new(shared.statements_per_queue));
        let table = TableLock::new(queue, shared);
        let held_up = HeldUpPlaces::new(shared.held_up_per_queue, &shared.held_up);
        let place =
            Place { queue, shared, statements: &statements, held_up: &held_up, table: &table };
        let receive = Receivers::new(place, peers, many.receive.clone());
        let notifier = Notifier::new(queue, &receive, peers);
        let end = |action| End::new(action, Arc::clone(&notifier));
        Arc::new(Self {
            send: Lane::new(Send::new(Arc::clone(&notifier)), place, many.send.clone()),
            delete: Lane::new(end(Action::Delete), place, many.delete.clone()),
            archive: Lane::new(end(Action::Archive), place, many.archive.clone()),
            pop: Lane::new(Popping::new(shared, &notifier), place, None),
            look: Lane::new(Looking::new(shared), place, None),
            settle: Lane::new(Settling::new(shared, &notifier, &receive), place, None),
            visibility: Lane::new(SetVisibility(notifier), place, None),
            receive,
            table,
            statements,
            known: AtomicBool::new(false),
        })
    }

    fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.send.is_idle()
            && self.delete.is_idle()
            && self.archive.is_idle()
            && self.visibility.is_idle()
            && self.pop.is_idle()
            && self.look.is_idle()
            && self.settle.is_idle()
            && self.receive.is_idle()
    }
}

/// Whether nobody uses them, nor is about to: who is holds them besides the map.
fn is_idle(lanes: &Arc<QueueLanes>) -> bool {
    Arc::strong_count(lanes) == 1 && lanes.is_idle()
}

impl Use {
    /// Notes what a statement on the queue came to.
    pub(super) fn note<T>(&self, outcome: &Result<T>) {
        let is_there = match outcome {
            Ok(_) => true,
            Err(Error::QueueNotFound) => false,
            Err(_) => return,
        };
        if self.known.load(Relaxed) != is_there {
            self.known.store(is_there, Relaxed);
        }
    }
}

impl Table {
    /// Whether it could be done, as far as that is known.
    pub fn allows(&self, intent: Intent) -> bool {
        self.0.table.allows(intent)
    }

    /// Waits until it can be done. Wait for it with a bound.
    pub async fn allowed(&self, intent: Intent) {
        self.0.table.allowed(intent).await;
    }

    /// Finds out whether the table is what a statement met locked.
    pub async fn look(&self, conn: &mut Conn) {
        self.0.table.look(conn).await;
    }
}

impl Deref for Use {
    type Target = QueueLanes;

    #[expect(clippy::expect_used, reason = "it is taken when this is dropped, and not before")]
    fn deref(&self) -> &QueueLanes {
        self.of_queue.as_ref().expect("in use")
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let is_known = self.of_queue.take().is_some_and(|lanes| lanes.is_known());
        if !is_known {
            self.lanes.drop_unknown(&self.queue);
        }
    }
}

impl fmt::Debug for QueueLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueLanes").finish_non_exhaustive()
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}
