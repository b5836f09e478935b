//! A lane: requests for one kind of statement on one queue, stored together as they come together.
//!
//! There is no timer. A request that finds the lane idle goes at once; what arrives while statements
//! are under way is the next batch. What meets a lock goes on beside the lane: see [`retries`]. Where many queues
//! have work, a batch goes into a statement with those of others: see [`sharing`].

mod load;
mod locked;
mod plain;
mod retries;
mod run;
mod sharing;
mod slow;
mod split;
mod statement;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, oneshot},
    task::yield_now,
};

use tracing::{Instrument, debug_span};

use crate::{
    domain::{Call, QueueName},
    store::{Conn, Error, Result},
};

use super::{
    Shared,
    batch::{Gathering, Weight},
    held_up::HeldUpPlaces,
    lock_backoff::LockBackoff,
    separation::Separation,
    size::Size,
    table_lock::TableLock,
};

use locked::LockedRequests;

pub use load::LaneLoad;
pub(super) use sharing::Share;
pub(super) use slow::LONG;
pub(super) use statement::{BatchStatement, ShareOutcome};

/// A lane of one queue.
pub(super) struct Lane<W: BatchStatement> {
    work: W,
    queue: QueueName,
    shared: Shared,
    /// Statements of this queue, of all kinds.
    statements: Arc<Semaphore>,
    /// Places for those that take long.
    held_up: HeldUpPlaces,
    table: Arc<TableLock>,
    /// Statements for several queues, and the most that the lane brings to one.
    shared_statements: Option<Arc<dyn SharedStatements<W>>>,
    share: Size,
    state: Mutex<State<W>>,
    /// Something was locked just now.
    newly_locked: Notify,
}

/// Statements that serve the lanes of several queues.
pub(super) trait SharedStatements<W: BatchStatement>: Send + Sync {
    /// Whether it pays to go with others.
    fn is_busy(&self) -> bool;

    /// Whether a request may go with others.
    fn is_shareable(&self, input: &W::Input) -> bool;

    /// Has a lane served: [`Lane::take_share`] is called once.
    fn add(self: Arc<Self>, lane: Arc<Lane<W>>);

    /// A worker of a single lane has begun.
    fn own_began(&self);

    /// One has ended.
    fn own_ended(&self);
}

/// What a lane shares with the others of its queue.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) queue: &'a QueueName,
    pub(super) shared: &'a Shared,
    pub(super) statements: &'a Arc<Semaphore>,
    pub(super) held_up: &'a HeldUpPlaces,
    pub(super) table: &'a Arc<TableLock>,
}

struct State<W: BatchStatement> {
    gathering: Gathering<Request<W>>,
    workers: usize,
    /// How many of them have a statement under way that takes long, and a place for that.
    held_up: usize,
    /// For how long each request has a statement of its own.
    one_by_one: Separation,
    /// Whether the last batch was for several requests.
    crowded: bool,
    /// Bytes of the statements under way, without those that take long.
    under_way: usize,
    /// What meets a lock.
    locked: LockedRequests<Request<W>>,
    /// Whether somebody tries those again.
    retrying: bool,
    /// Whether the last statement met a lock that no request gets past.
    blocked: bool,
    sharing: Sharing,
}

/// How a lane goes with others.
struct Sharing {
    /// Whether it is ready for a shared statement, or in one.
    is_member: bool,
    separation: Separation,
}

struct Request<W: BatchStatement> {
    input: W::Input,
    weight: Weight,
    call: Arc<Call>,
    reply: oneshot::Sender<Result<W::Output>>,
    /// Set since it met a lock.
    backoff: Option<LockBackoff>,
}

impl<W: BatchStatement> Lane<W> {
    pub(super) fn new(
        work: W,
        place: Place<'_>,
        shared_statements: Option<Arc<dyn SharedStatements<W>>>,
    ) -> Arc<Self> {
        let Place { queue, shared, statements, held_up, table } = place;
        let settings = &shared.settings;
        let batch = Size { rows: settings.max_batch_rows, bytes: settings.max_batch_bytes };
        Arc::new(Self {
            work,
            queue: queue.clone(),
            shared: shared.clone(),
            statements: Arc::clone(statements),
            held_up: held_up.clone(),
            table: Arc::clone(table),
            share: shared.share_of_queue,
            shared_statements,
            state: Mutex::new(State {
                gathering: Gathering::new(batch, shared.pending_bounds()),
                workers: 0,
                held_up: 0,
                one_by_one: Separation::default(),
                crowded: false,
                under_way: 0,
                locked: LockedRequests::new(),
                retrying: false,
                blocked: false,
                sharing: Sharing { is_member: false, separation: Separation::default() },
            }),
            newly_locked: Notify::new(),
        })
    }

    /// Puts a request in the lane and waits for its answer. Whoever stops waiting before its
    /// statement began is passed over; later than that, the statement is not stopped.
    pub(super) async fn submit(
        self: &Arc<Self>,
        input: W::Input,
        size: Size,
        call: &Arc<Call>,
    ) -> Result<W::Output> {
        let (reply, outcome) = oneshot::channel();
        let weight = Weight { size, caller: call.caller() };
        let request = Request { input, weight, call: Arc::clone(call), reply, backoff: None };
        {
            let mut state = self.lock();
            state.gathering.push(request, weight).map_err(|full| {
                self.shared.metrics.refused(full.limit());
                Error::TooManyPending
            })?;
            self.ensure_worker(state);
        }
        let span = debug_span!("operation", name = W::NAME, queue = self.queue.as_str());
        // Without an answer the worker panicked with the statement under way.
        outcome.instrument(span).await.unwrap_or(Err(Error::OutcomeUnknown(None)))
    }

    /// Has somebody work on what stands in line, or one more if that is worth it.
    fn ensure_worker(self: &Arc<Self>, mut state: MutexGuard<'_, State<W>>) {
        let settings = &self.shared.settings;
        let (served_by, active) = (state.served_by(), state.active());
        // Those that take long take the places of others, but for one.
        let places = settings.statements_per_lane.saturating_sub(state.held_up).max(1);
        let worth_it = active == 0 || state.is_worth_another();
        let goes = state.held_up == 0 || state.goes_beside();
        // Large statements of a queue go one after the other: they would take every processor.
        let has_room = state.under_way < settings.max_batch_bytes;
        let is_needed = !state.gathering.is_empty() && worth_it && goes && has_room;
        if !is_needed || active >= places {
            return;
        }
        if served_by == 0 && self.join(&mut state) {
            return;
        }
        state.workers += 1;
        drop(state);
        self.spawn_worker(Vec::new());
    }

    /// Has a batch worked on that cannot go with others, in place of its share of their statement.
    fn run_separately(self: &Arc<Self>, batch: Vec<Request<W>>) {
        self.lock().workers += 1;
        self.spawn_worker(batch);
    }

    /// A worker is counted until it ends, though it panics. It begins with this batch, if there is one.
    fn spawn_worker(self: &Arc<Self>, first: Vec<Request<W>>) {
        let lane = Arc::clone(self);
        if let Some(statements) = &self.shared_statements {
            statements.own_began();
        }
        self.shared.tasks.spawn(async move {
            let _ = AssertUnwindSafe(lane.work_off(first)).catch_unwind().await;
            if let Some(statements) = &lane.shared_statements {
                statements.own_ended();
            }
            let mut state = lane.lock();
            state.workers -= 1;
            // Somebody may have come between the last look at the line and now.
            lane.ensure_worker(state);
        });
    }

    /// Whether nothing is in the lane.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.workers == 0
            && state.gathering.is_empty()
            && !state.retrying
            && !state.sharing.is_member
    }

    /// Runs batches until nobody is in line. A connection is kept for as long as there is work.
    async fn work_off(self: &Arc<Self>, first: Vec<Request<W>>) {
        let mut conn = None;
        if !first.is_empty() {
            let _statement = acquire_slot(&self.statements, &mut conn).await;
            self.run(&mut conn, first, None).await;
        } else if self.lock().crowded {
            // Requests that came in together with the first one are on their way here.
            yield_now().await;
        }
        while !self.lock().gathering.is_empty() {
            // What arrives while this waits joins the batch.
            let _statement = acquire_slot(&self.statements, &mut conn).await;
            let (mut batch, under_way) = self.take();
            batch.retain(|request| !request.reply.is_closed());
            if !batch.is_empty() {
                self.run(&mut conn, batch, Some(under_way)).await;
            }
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
            if self.lock().active() > self.shared.settings.statements_per_lane {
                // Others went beside it while it was held up.
                break;
            }
        }
    }

    /// Answers requests with what became of them; returns those that are worth another try, as something
    /// was locked.
    fn answer(batch: Vec<Request<W>>, outcome: Result<Vec<W::Output>>) -> Vec<Request<W>> {
        let outputs = match outcome {
            Ok(outputs) => outputs,
            Err(Error::Locked) => return batch,
            Err(error) => {
                for request in batch {
                    drop(request.reply.send(Err(error.clone())));
                }
                return Vec::new();
            }
        };
        let mut locked = Vec::new();
        for (request, output) in batch.into_iter().zip(outputs) {
            if W::is_locked(&output) {
                locked.push(request);
            } else {
                // Who has gone has gone: it is done all the same.
                drop(request.reply.send(Ok(output)));
            }
        }
        locked
    }

    /// Whether no request would get through, going by the last that tried.
    fn is_blocked(&self) -> bool {
        !self.table.allows(W::INTENT) || self.lock().blocked
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a slot to run a statement on a queue. Whoever has to wait keeps no connection meanwhile:
/// those that have a slot may wait for one.
pub(super) async fn acquire_slot<'a>(
    statements: &'a Semaphore,
    conn: &mut Option<Conn>,
) -> Option<SemaphorePermit<'a>> {
    if let Ok(slot) = statements.try_acquire() {
        return Some(slot);
    }
    *conn = None;
    // It is never closed.
    statements.acquire().await.ok()
}
