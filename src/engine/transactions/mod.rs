//! Transactions that come together share a statement and a commit, whatever their queues.
//!
//! There is no timer for those who come together: one that finds nothing under way goes at once, on its own, and
//! what arrives meanwhile is the next batch. One that fails, or meets a lock, is done separately by whoever asked for
//! it. What takes long holds back nobody for longer than [`LIMIT`], and is kept separate from then on.

mod sends;
mod size;
mod slots;
mod speed;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::yield_now,
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    domain::{Call, CallerId},
    store::{self, Error, Idempotency, Operation, SharedOutcome, SharedRequest, Transacted},
};

use super::{Shared, expiring_set::ExpiringSet, fair_queue::FairQueue, size::Size, spans};

use size::{size_of, subjects};
use slots::Slots;

pub use slots::SeparateSlot;

/// Time that a statement for several may take before it is undone.
const LIMIT: Duration = Duration::from_millis(500);
/// Time after which those in line don't wait for a statement under way.
const OVERDUE: Duration = Duration::from_millis(50);
/// Rows that are worth a statement beside those under way.
const WORTH_ANOTHER: usize = 96;
/// Rows of a statement, an operation being one at least.
const MOST_ROWS: usize = 256;
/// Bytes of a statement.
const MOST_BYTES: usize = 1 << 20;
/// Time for which what takes long is kept separate.
const SEPARATE_TIME: Duration = Duration::from_secs(10);
/// Time for which what is locked is kept separate.
const LOCKED_TIME: Duration = Duration::from_secs(1);

/// The lane of all transactions; `T` is what an operation comes to. A clone is the same lane.
#[derive(Debug)]
pub struct Transactions<T: Send + DeserializeOwned + 'static>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T: Send + DeserializeOwned + 'static> {
    shared: Shared,
    /// Permits for statements that may wait for each other.
    slots: Slots,
    acquire_timeout: Duration,
    separate: ExpiringSet,
    /// Kinds of transactions that were slow.
    slow: ExpiringSet,
    /// Routing keys that were fast.
    fast: ExpiringSet,
    /// What the statement for those who only send does not do for the time being.
    excluded_from_sends: ExpiringSet,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T: Send + DeserializeOwned + 'static> {
    queue: FairQueue<CallerId, Request<T>>,
    /// When each statement under way began, by its number.
    under_way: Vec<(u64, Instant)>,
    next_number: u64,
    /// Whether the last statement was for several.
    crowded: bool,
    /// Whether somebody is about to take a batch.
    starting: bool,
}

#[derive(Debug)]
struct Request<T: Send + DeserializeOwned + 'static> {
    operations: Arc<[Operation]>,
    once: Option<Idempotency>,
    call: Arc<Call>,
    reply: oneshot::Sender<Turn<T>>,
}

/// What a transaction came to in the lane.
#[derive(Debug)]
pub enum Turn<T: Send + DeserializeOwned + 'static> {
    /// It went through, together with others.
    Settled(Transacted<T>),
    /// Nothing was done: it has to be done separately. Those who come meanwhile wait until the ticket is dropped, or
    /// for a moment.
    Alone(Option<Ticket<T>>),
    /// It failed with all the others.
    Failed(Error),
}

/// A statement under way, until it is dropped.
#[derive(Debug)]
pub struct Ticket<T: Send + DeserializeOwned + 'static> {
    lane: Transactions<T>,
    number: u64,
    starting: bool,
}

impl<T: Send + DeserializeOwned + 'static> Transactions<T> {
    /// A lane whose statements take one of so many slots each, and wait for it and for a connection for so long at
    /// most.
    pub fn new(shared: &Shared, slots: usize, acquire_timeout: Duration) -> Self {
        let settings = &shared.settings;
        let batch = Size {
            rows: settings.max_batch_rows.min(MOST_ROWS),
            bytes: settings.max_batch_bytes.min(MOST_BYTES),
        };
        Self(Arc::new(Inner {
            shared: shared.clone(),
            slots: Slots::new(slots, shared.share),
            acquire_timeout,
            separate: ExpiringSet::default(),
            slow: ExpiringSet::default(),
            fast: ExpiringSet::default(),
            excluded_from_sends: ExpiringSet::default(),
            state: Mutex::new(State {
                queue: FairQueue::new(batch, shared.pending_bounds()),
                under_way: Vec::new(),
                next_number: 0,
                crowded: false,
                starting: false,
            }),
        }))
    }

    /// Does a transaction together with those that come at the same time, unless it is to be done separately.
    /// Whoever stops waiting before its statement began is passed over; later than that, the statement is not
    /// stopped.
    pub async fn submit(
        &self,
        operations: &Arc<[Operation]>,
        once: Option<&Idempotency>,
        call: &Arc<Call>,
    ) -> Turn<T> {
        let shares = self.0.shared.settings.max_batch_rows > 1;
        let size = size_of(operations, once).filter(|_| shares && !self.is_separate(operations));
        let Some(size) = size else { return Turn::Alone(None) };
        let (reply, mut outcome) = oneshot::channel();
        {
            let mut state = self.lock();
            let is_first = state.queue.len() == 0 && !state.crowded && state.fresh() == 0;
            // Where it would wait for a slot of its own, it goes with the statement that has one.
            if is_first && !self.would_wait(operations, call.caller()) {
                return Turn::Alone(Some(self.ticket(&mut state)));
            }
            let request = Request {
                operations: Arc::clone(operations),
                once: once.cloned(),
                call: Arc::clone(call),
                reply,
            };
            if let Err(full) = state.queue.push(call.caller(), request, size) {
                self.0.shared.metrics.refused(full.limit());
                return Turn::Failed(Error::TooManyPending);
            }
        }
        loop {
            self.ensure_worker();
            // A statement under way that takes longer is not waited for.
            if let Ok(turn) = timeout(OVERDUE, &mut outcome).await {
                // Without an answer the worker panicked with the statement under way.
                return turn.unwrap_or(Turn::Failed(Error::OutcomeUnknown(None)));
            }
        }
    }

    fn is_separate(&self, operations: &[Operation]) -> bool {
        self.0.separate.contains_any(subjects(operations))
    }

    /// Has somebody work on what stands in line, or one more if that is worth it.
    fn ensure_worker(&self) {
        let ticket = {
            let mut state = self.lock();
            let fresh = state.fresh();
            let held = state.queue.held();
            let is_worth_another = held.rows >= WORTH_ANOTHER || held.bytes >= MOST_BYTES / 2;
            let most = self.0.shared.settings.statements_per_lane;
            let is_due = fresh == 0 || fresh < most && is_worth_another;
            if state.queue.len() == 0 || state.starting || !is_due {
                return;
            }
            state.starting = true;
            let mut ticket = self.ticket(&mut state);
            ticket.starting = true;
            ticket
        };
        let lane = self.clone();
        self.0.shared.tasks.spawn(async move {
            // Those who wait learn of a panic as their end of the channel is dropped.
            let _ = AssertUnwindSafe(lane.work(ticket)).catch_unwind().await;
        });
    }

    fn ticket(&self, state: &mut State<T>) -> Ticket<T> {
        let number = state.next_number;
        state.next_number += 1;
        state.under_way.push((number, Instant::now()));
        Ticket { lane: self.clone(), number, starting: false }
    }

    async fn work(&self, mut ticket: Ticket<T>) {
        if self.lock().crowded {
            // Requests that came in together with the first one are on their way here.
            yield_now().await;
        }
        // What arrives while this waits joins the batch.
        let slot = timeout(self.0.acquire_timeout, self.0.slots.acquire_shared()).await;
        let mut batch = self.take(&mut ticket);
        batch.retain(|request| !request.reply.is_closed());
        let Ok(slot) = slot else {
            let error = self.0.shared.db.not_in_time().await;
            return answer_all(batch, || Turn::Failed(error.clone()));
        };
        let would_wait =
            |request: &Request<T>| self.would_wait(&request.operations, request.call.caller());
        let least = if batch.iter().all(would_wait) { 1 } else { 2 };
        if batch.len() >= least {
            return self.run(batch, least).await;
        }
        drop(slot);
        if let Some(request) = batch.pop() {
            drop(request.reply.send(Turn::Alone(Some(ticket))));
        }
    }

    /// The next batch, whose statement begins now.
    fn take(&self, ticket: &mut Ticket<T>) -> Vec<Request<T>> {
        let mut state = self.lock();
        ticket.starting = false;
        state.starting = false;
        let batch = state.queue.take();
        state.crowded = batch.len() > 1;
        let own = state.under_way.iter_mut().find(|(number, _)| *number == ticket.number);
        if let Some((_, began)) = own {
            *began = Instant::now();
        }
        batch
    }

    /// Does a batch in one statement, unless fewer than `least` are left to do.
    async fn run(&self, batch: Vec<Request<T>>, least: usize) {
        let mut conn = match self.0.shared.db.acquire(&Arc::default()).await {
            Ok(conn) => conn,
            Err(error) => return answer_all(batch, || Turn::Failed(error.clone())),
        };
        let mut batch = self.send_together(&mut conn, batch).await;
        if batch.len() < least {
            drop(conn);
            let alone = batch.pop();
            return drop(alone.map(|request| request.reply.send(Turn::Alone(None))));
        }
        for request in &batch {
            request.call.add_round_trip();
        }
        let requests: Vec<SharedRequest<'_>> = batch.iter().map(Request::shared).collect();
        let began = Instant::now();
        let span = spans::statement("transact", None, batch.iter().map(|request| &*request.call));
        let outcome = store::transact_each(&mut conn, &requests, LIMIT).instrument(span).await;
        drop(conn);
        if began.elapsed() > LIMIT {
            // One of them is to blame: each shows that it is not before it shares again.
            for request in &batch {
                self.keep_separate(request, SEPARATE_TIME);
            }
        }
        match outcome {
            Ok(outcomes) => {
                for (request, outcome) in batch.into_iter().zip(outcomes) {
                    if matches!(outcome, SharedOutcome::Locked) {
                        self.keep_separate(&request, LOCKED_TIME);
                    }
                    // Who has gone has gone: it is done all the same.
                    drop(request.reply.send(outcome.into()));
                }
            }
            Err(error) if is_undone(&error) => answer_all(batch, || Turn::Alone(None)),
            Err(error) => answer_all(batch, || Turn::Failed(error.clone())),
        }
    }

    fn keep_separate(&self, request: &Request<T>, time: Duration) {
        self.0.separate.insert(subjects(&request.operations), time);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + DeserializeOwned + 'static> State<T> {
    /// Statements under way that are worth waiting for.
    fn fresh(&self) -> usize {
        self.under_way.iter().filter(|(_, began)| began.elapsed() < OVERDUE).count()
    }
}

impl<T: Send + DeserializeOwned + 'static> Request<T> {
    fn shared(&self) -> SharedRequest<'_> {
        SharedRequest { operations: &self.operations, once: self.once.as_ref() }
    }
}

impl<T: Send + DeserializeOwned + 'static> Clone for Transactions<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> From<SharedOutcome<T>> for Turn<T>
where
    T: Send + DeserializeOwned + 'static,
{
    fn from(outcome: SharedOutcome<T>) -> Self {
        match outcome {
            SharedOutcome::Settled(transacted) => Self::Settled(transacted),
            SharedOutcome::Alone | SharedOutcome::Locked => Self::Alone(None),
        }
    }
}

impl<T: Send + DeserializeOwned + 'static> Drop for Ticket<T> {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            state.under_way.retain(|(number, _)| *number != self.number);
            if self.starting {
                state.starting = false;
            }
        }
        // What came meanwhile is the next batch.
        if Handle::try_current().is_ok() {
            self.lane.ensure_worker();
        }
    }
}

fn answer_all<T>(batch: Vec<Request<T>>, turn: impl Fn() -> Turn<T>)
where
    T: Send + DeserializeOwned + 'static,
{
    for request in batch {
        drop(request.reply.send(turn()));
    }
}

/// Whether it is certain that nothing was done by a statement that failed.
fn is_undone(error: &Error) -> bool {
    match error {
        Error::OutcomeUnknown(_) => false,
        Error::Unexpected(source) => source.as_database_error().is_some(),
        _ => true,
    }
}
