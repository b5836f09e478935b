//! The operations that a front end can ask for, with the gateway's policies applied.
//!
//! Knows no HTTP: each front end translates [`Error`] in one table of its own.

mod archive_search;
mod archives;
mod attributes_cache;
mod browsing;
mod caller;
mod catalogue;
mod coalesced;
mod collector;
mod cpu_pool;
mod deduplication;
mod detached;
mod error;
mod fair_queues;
mod fair_tries;
mod figures;
mod index_builds;
mod inspection;
mod janitor;
mod locked_subjects;
mod move_steps;
mod mover;
mod moves;
mod names;
mod overview;
mod policies;
mod purging;
mod queue_attributes;
mod queue_changes;
mod queues;
mod receiving;
mod refusals;
mod retry;
mod row_budget;
mod row_security;
mod sending;
mod sending_each;
mod settling;
mod these_steps;
mod topics;
mod transactions;
mod work;

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Limits, ReadMode, Settings, Strategy},
    domain::{Call, CallerId, PeerKey, QueueMetrics, QueueName, ReceiptKey},
    engine::{Admission, DearRead, Engine, KeyedSlots, Shared, SharedParts, Transactions},
    store::{self, Conn, ConnectOptions, Db, Health},
    telemetry::Metrics,
};

pub use crate::{
    engine::{Delivery, LaneLoad, Lease},
    store::{
        Action, Archived, AttributesBeside, AttributesChange, Binding, Browsed, CleanupHolder,
        HealthState, IdOwner, KeyState, ListedKey, ListedMessage, MAX_ATTRIBUTE_BYTES,
        MessageSearch, MessageSource, MoveTask, NamedQueue, Page, Position, QueueAttributes,
        TableHealth,
    },
};
pub use archive_search::Browse;
pub use browsing::BrowseMessages;
pub use collector::Collector;
pub use cpu_pool::CpuPool;
pub use deduplication::Sent;
pub use error::{Error, Part, Result, Subject};
pub(crate) use error::{changed_unseen, partly_changed};
pub use figures::MessageCounts;
pub use janitor::Janitor;
pub use mover::{FAILED_ORIGIN_UNKNOWN, FAILED_QUEUE_NOT_FOUND, Mover};
pub use moves::{MovedSome, Redrive, RedrivenThese, Replay};
pub use overview::QueueOverview;
pub use purging::Purged;
pub use queue_changes::QueueChange;
pub use queues::{Created, ListQueues, NewQueue, QueuePage};
pub use receiving::{Peek, Receive};
pub use sending::{IdempotencyKey, Replayable};
pub use sending_each::QueueRules;
pub use settling::{MAX_SETTLED, Settle, SettleTarget, SettledEntry};
pub use topics::{Bindings, MAX_BINDINGS, Topic};
pub use transactions::{MAX_OPERATIONS, OperationResult, RequestedOperation, TopicDelivery};

use attributes_cache::AttributesCache;
use coalesced::Coalesced;
use fair_tries::FairTries;
use index_builds::IndexBuilds;
use locked_subjects::LockedSubjects;
use policies::Policies;
use row_security::RowSecurityNotices;

/// Time between two looks at settings while clients wait.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(500);

/// The gateway's operations. A clone is the same broker, and costs next to nothing: every request
/// makes some.
#[derive(Clone, Debug)]
pub struct Broker(Arc<Inner>);

/// What a broker is made of.
#[derive(Debug)]
pub struct Inner {
    db: Db,
    health: Arc<Health>,
    engine: Engine,
    policies: Arc<Policies>,
    row_security: RowSecurityNotices,
    receipt_key: ReceiptKey,
    read_mode: ReadMode,
    idempotency_lifetime: Duration,
    /// Transactions: half of the connections are for others, as these may wait for each other.
    transactions: Transactions<OperationResult>,
    /// What work outside the lanes meets a lock.
    locked: Arc<LockedSubjects>,
    /// Leave for a statement outside the lanes, by caller.
    callers: KeyedSlots<CallerId>,
    /// Figures that somebody asks for.
    figures:
        Coalesced<(QueueName, Option<CallerId>), std::result::Result<QueueMetrics, Arc<Error>>>,
    /// Leave to make or drop an index.
    index_builds: IndexBuilds,
    /// What front ends keep of queues.
    attributes: AttributesCache,
    /// Which queues were to be made fair.
    fair_tries: FairTries,
    /// Told when dead letters are to be moved.
    move_tasks: Notify,
    /// Whether the names of all queues were collected once.
    queues_known: AtomicBool,
    /// Where much text is worked on.
    cpu_pool: CpuPool,
    limits: Limits,
    request_timeout: Duration,
    acquire_timeout: Duration,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// What a [`Broker`] stands on.
#[derive(Debug)]
pub struct BrokerParts {
    /// The shared pool.
    pub db: Db,
    /// The pool of those who wait with `pgmq.read_with_poll`.
    pub waiting: Db,
    /// The health check.
    pub health: Arc<Health>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// The key with which receipts are signed.
    pub receipt_key: ReceiptKey,
}

impl Broker {
    /// Puts the parts together.
    pub fn new(parts: BrokerParts, settings: &Settings) -> Self {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let connections = settings.database.max_connections as usize;
        let share = settings.limits.max_share_per_key_percent;
        let shared = Shared::new(SharedParts {
            db: parts.db.clone(),
            settings: settings.engine.clone(),
            connections,
            long_poll: settings.long_poll.clone(),
            share,
            max_answer_bytes: settings.limits.max_answer_bytes,
            tasks: tasks.clone(),
            closing: closing.clone(),
            metrics: Arc::clone(&parts.metrics),
        });
        let acquire_timeout = settings.database.acquire_timeout();
        let transactions = Transactions::new(&shared, connections / 2, acquire_timeout);
        let places = settings.long_poll.max_connections as usize;
        let engine = match settings.long_poll.strategy {
            Strategy::Shared => Engine::new(shared, None),
            Strategy::ReadWithPoll => Engine::new(shared, Some((parts.waiting, places))),
        };
        Self(Arc::new(Inner {
            policies: Policies::new(parts.db.clone(), Arc::clone(engine.pauses())),
            row_security: RowSecurityNotices::default(),
            receipt_key: parts.receipt_key,
            read_mode: settings.engine.read,
            idempotency_lifetime: settings.maintenance.idempotency_lifetime(),
            index_builds: IndexBuilds::default(),
            attributes: AttributesCache::default(),
            fair_tries: FairTries::default(),
            move_tasks: Notify::new(),
            queues_known: AtomicBool::new(false),
            cpu_pool: CpuPool::default(),
            locked: Arc::default(),
            transactions,
            callers: KeyedSlots::new(share.of(connections)),
            figures: Coalesced::new(tasks.clone()),
            db: parts.db,
            health: parts.health,
            engine,
            limits: settings.limits.clone(),
            request_timeout: settings.server.request_timeout(),
            acquire_timeout,
            metrics: parts.metrics,
            tasks,
            closing,
        }))
    }

    /// Wakes those who wait, until it is dropped. `listen` is a way to the database that takes
    /// LISTEN, if there is one, and the key of the gateways that speak there.
    pub async fn wake_waiters(&self, listen: Option<(ConnectOptions, PeerKey)>) {
        tokio::join!(self.engine.clone().run(listen), self.watch_settings());
    }

    /// While clients wait, settings are looked at as if they asked: a pause that begins or ends elsewhere is
    /// about them.
    async fn watch_settings(&self) {
        loop {
            tokio::time::sleep(SETTINGS_INTERVAL).await;
            if self.engine.waiters() > 0 {
                // Who asks next learns what is wrong.
                let _ = self.policies.ensure_fresh().await;
            }
        }
    }

    /// Where a front end, too, works on much text.
    pub fn cpu_pool(&self) -> &CpuPool {
        &self.cpu_pool
    }

    /// Asks the database whether it can serve.
    pub async fn check_health(&self) -> HealthState {
        self.health.check().await
    }

    /// Answers everyone who waits, and from now on lets nobody wait.
    pub fn stop_waiting(&self) {
        self.closing.cancel();
    }

    /// Waits until the work in hand is done, then closes every connection.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tokio::join!(self.db.close(), self.engine.close());
    }

    /// Runs work that its client does not cancel by leaving. `changes` says whether the outcome
    /// stays unknown if the time runs out. It begins at once: whoever waits for it has no room for it.
    fn run<T, F>(&self, changes: bool, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (work, present) = caller::accompanied(work);
        let task = self.tasks.spawn(work);
        async move {
            let _present = present;
            match timeout(self.request_timeout, task).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => Err(Error::Internal(panic.into())),
                Err(_) if changes => Err(store::Error::OutcomeUnknown(None).into()),
                Err(_) => Err(self.not_in_time().await),
            }
        }
    }

    /// What to say where the time of a request was over before it was done, and nothing is left of it. Maybe no
    /// statement was ever sent for it.
    async fn not_in_time(&self) -> Error {
        match self.db.not_in_time().await {
            store::Error::Overloaded => Error::Overloaded(
                "this was not done within `server.request_timeout_seconds`, as what stands in line before it, or the \
                 database, takes long; nothing was done; try again in a moment",
            ),
            error => error.into(),
        }
    }

    /// A connection for work that is about no queue in particular.
    async fn connect(&self, call: &Arc<Call>) -> store::Result<QueueConn> {
        let permits = self.permits(None, call).await?;
        Ok(QueueConn { conn: self.db.acquire(call).await?, _permits: permits })
    }

    /// Leave for one statement outside the lanes: neither a caller nor a queue takes all connections.
    async fn permits(&self, queue: Option<&QueueName>, call: &Call) -> store::Result<Permits> {
        let permits = async {
            let of_caller = match call.caller() {
                Some(caller) => self.callers.acquire(&caller).await,
                None => None,
            };
            let of_queue = match queue {
                Some(queue) => Some(self.engine.admit(queue).await),
                None => None,
            };
            (of_caller, of_queue)
        };
        self.in_time(permits).await
    }

    /// Leave for a read that may take long: there are few at a time, one of a queue, so that they take
    /// neither the connections nor the processors.
    async fn dear(&self, queue: Option<&QueueName>, call: &Call) -> store::Result<DearRead> {
        self.in_time(self.engine.admit_dear(call.caller(), queue)).await
    }

    /// Bounds the wait for leave to do something.
    async fn in_time<T>(&self, leave: impl Future<Output = T>) -> store::Result<T> {
        match timeout(self.acquire_timeout, leave).await {
            Ok(leave) => Ok(leave),
            Err(_) => Err(self.db.not_in_time().await),
        }
    }

    /// Bounds a change that goes through a lane. What is over the time may still be done.
    async fn within_time<T>(
        &self,
        change: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let outcome = timeout(self.request_timeout, change).await;
        outcome.unwrap_or(Err(store::Error::OutcomeUnknown(None)))
    }
}

/// What counts among a caller's statements, and among those of a queue.
type Permits = (Option<OwnedSemaphorePermit>, Option<Admission>);

/// A connection that counts among those of its queue, and of its caller.
struct QueueConn {
    conn: Conn,
    _permits: Permits,
}

impl Deref for QueueConn {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for QueueConn {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Deref for Broker {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
