//! What all lanes of a gateway stand on.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config,
    domain::{CallerId, QueueName, Share},
    store::Db,
    telemetry::Metrics,
};

use super::{
    floors::Floors,
    given_back::GivenBack,
    heavy::HeavyQueues,
    held_up::HeldUpBounds,
    kept_reports::KeptReports,
    pauses::Pauses,
    pending::Bounds,
    shares::{DearReads, KeyedCounts, KeyedSlots},
    size::Size,
    slow_rows::SlowRows,
    turns::Turns,
};

/// The most queues that one statement serves: each is a subtransaction, and PostgreSQL keeps 64 of a transaction
/// where others find them fast.
const MOST_QUEUES_PER_STATEMENT: usize = 48;

/// What all lanes share. A clone is the same.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The pool.
    pub db: Db,
    /// Bounds.
    pub settings: config::Engine,
    /// Statements that one queue has under way at the same time, of all kinds together: fewer than
    /// the pool has connections, so that no queue takes all of them.
    pub statements_per_queue: usize,
    /// Statements of one queue that take long and leave room for others, of all kinds together.
    pub(super) held_up_per_queue: usize,
    /// Places for those of all queues.
    pub(super) held_up: Arc<Semaphore>,
    /// Statements for several queues that are under way at the same time, of one kind.
    pub(super) multi_queue_statements: usize,
    /// The most queues of such a statement. One where nothing is shared.
    pub(super) queues_per_statement: usize,
    /// The most that a queue brings to such a statement.
    pub(super) share_of_queue: Size,
    /// Permits for work outside the lanes that is tried again because something was locked, of whatever queue:
    /// few at a time, as it waits in the database, so that what is locked takes no connections from what is
    /// not.
    pub retries: Arc<Semaphore>,
    /// Clients that can wait at the same time.
    pub max_waiters: usize,
    /// Those of them that can wait for messages of the same queue.
    pub max_waiters_per_queue: usize,
    /// Clients that wait.
    pub waiters: Arc<AtomicUsize>,
    /// Bytes in an answer that carries messages.
    pub max_answer_bytes: u64,
    /// Time between two sweeps.
    pub poll_interval: Duration,
    /// Where work is run that outlives its client.
    pub tasks: TaskTracker,
    /// Cancelled when the gateway stops: those who wait are answered at once.
    pub closing: CancellationToken,
    /// Permits for reads that may take long.
    pub(super) dear: Arc<DearReads>,
    /// A permit for a read that serves few clients, or one, by caller.
    pub(super) choosy: Arc<KeyedSlots<CallerId>>,
    /// What one caller may have of what all share.
    pub(super) share: Share,
    /// Receives with which clients of one queue can wait that differ from each other.
    pub(super) max_distinct_per_queue: usize,
    /// Those of all queues with which one caller's clients can wait.
    pub(super) max_distinct_per_key: usize,
    /// How many of those there are.
    pub(super) distinct: KeyedCounts<CallerId>,
    /// Clients that wait at one queue, by caller.
    pub(super) waiters_of: KeyedCounts<(QueueName, CallerId)>,
    /// The queues of which one message at a time is read.
    pub(super) heavy: Arc<HeavyQueues>,
    /// Messages that reads pass over for a while.
    pub(super) slow_rows: Arc<SlowRows>,
    /// What was said of messages that their table keeps.
    pub(super) kept: Arc<KeptReports>,
    /// The queues of which nothing is delivered for the time being.
    pub(super) pauses: Arc<Pauses>,
    /// The queues in which there is something again that was on its way to somebody.
    pub(super) given_back: Arc<GivenBack>,
    /// Whose turn it is where groups take turns.
    pub(super) turns: Arc<Turns>,
    /// Where reads begin.
    pub(super) floors: Arc<Floors>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// What an engine is given by whoever makes it.
#[derive(Clone, Debug)]
pub struct SharedParts {
    /// The pool.
    pub db: Db,
    /// Bounds.
    pub settings: config::Engine,
    /// Connections of the pool.
    pub connections: usize,
    /// How clients wait.
    pub long_poll: config::LongPoll,
    /// What one caller may have of what all share.
    pub share: Share,
    /// Bytes in an answer that carries messages.
    pub max_answer_bytes: u64,
    /// Where work is run that outlives its client.
    pub tasks: TaskTracker,
    /// Cancelled when the gateway stops: those who wait are answered at once.
    pub closing: CancellationToken,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

impl Shared {
    /// The bounds on a line.
    pub(super) fn pending_bounds(&self) -> Bounds {
        let Self { settings, share, .. } = self;
        let all = Size { rows: settings.max_pending_rows, bytes: settings.max_pending_bytes };
        Bounds::new(all, *share)
    }

    /// Divides what there is among the lanes.
    pub fn new(parts: SharedParts) -> Self {
        let SharedParts { db, settings, connections, long_poll, max_answer_bytes, .. } = parts;
        let queues_per_statement = settings.max_batch_rows.clamp(1, MOST_QUEUES_PER_STATEMENT);
        let share_of_queue = Size {
            rows: settings.max_batch_rows / queues_per_statement,
            bytes: settings.max_batch_bytes / queues_per_statement,
        };
        let statements_per_queue = (connections * 3 / 4).max(1);
        let held_up =
            HeldUpBounds::new(connections, statements_per_queue, settings.statements_per_lane);
        Self {
            floors: Arc::new(Floors::new(&db, &parts.metrics)),
            db,
            settings,
            multi_queue_statements: (connections / 4).max(1),
            queues_per_statement,
            share_of_queue,
            statements_per_queue,
            held_up_per_queue: held_up.of_queue,
            held_up: Arc::new(Semaphore::new(held_up.of_all)),
            retries: Arc::new(Semaphore::new((connections / 4).max(1))),
            max_waiters: long_poll.max_waiters,
            max_waiters_per_queue: long_poll.max_waiters_per_queue,
            waiters: Arc::default(),
            max_answer_bytes,
            poll_interval: long_poll.poll_interval(),
            tasks: parts.tasks,
            closing: parts.closing,
            dear: Arc::new(DearReads::new(connections / 4, parts.share.of(connections / 4))),
            choosy: Arc::new(KeyedSlots::new(parts.share.of(connections))),
            share: parts.share,
            max_distinct_per_queue: long_poll.max_distinct_per_queue,
            max_distinct_per_key: long_poll.max_distinct_per_key,
            distinct: KeyedCounts::default(),
            waiters_of: KeyedCounts::default(),
            heavy: Arc::default(),
            slow_rows: Arc::default(),
            kept: Arc::default(),
            pauses: Arc::default(),
            given_back: Arc::default(),
            turns: Arc::default(),
            metrics: parts.metrics,
        }
    }
}
