//! A lane: requests for one kind of statement on one queue, stored together as they come together.
//!
//! There is no timer. A request that finds the lane idle goes at once; what arrives while statements
//! are under way is the next batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::{Semaphore, SemaphorePermit, oneshot},
    task::yield_now,
};

use crate::{
    domain::{CallStats, QueueName},
    store::{Conn, Error, Result},
};

use super::{
    Shared,
    batch::{Full, Gathering, Size},
};

/// A kind of statement that serves several requests.
pub(super) trait Work: Send + Sync + 'static {
    /// What a request brings.
    type Input: Send + Sync + 'static;
    /// What it is answered.
    type Output: Send + 'static;

    /// Runs one statement for all and returns an answer for each, in order.
    fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Vec<Self::Output>>> + Send;
}

/// A lane of one queue.
pub(super) struct Lane<W: Work> {
    work: W,
    queue: QueueName,
    shared: Shared,
    /// Statements of this queue, of all kinds.
    statements: Arc<Semaphore>,
    state: Mutex<State<W>>,
}

struct State<W: Work> {
    gathering: Gathering<Request<W>>,
    workers: usize,
    /// Whether the last batch was for several requests.
    crowded: bool,
    /// Bytes of the statements under way.
    under_way: usize,
}

struct Request<W: Work> {
    input: W::Input,
    stats: Arc<CallStats>,
    reply: oneshot::Sender<Result<W::Output>>,
}

impl<W: Work> Lane<W> {
    pub(super) fn new(
        work: W,
        queue: &QueueName,
        shared: &Shared,
        statements: &Arc<Semaphore>,
    ) -> Arc<Self> {
        let settings = &shared.settings;
        let batch = Size { rows: settings.max_batch_rows, bytes: settings.max_batch_bytes };
        let capacity = Size { rows: settings.max_pending_rows, bytes: settings.max_pending_bytes };
        Arc::new(Self {
            work,
            queue: queue.clone(),
            shared: shared.clone(),
            statements: Arc::clone(statements),
            state: Mutex::new(State {
                gathering: Gathering::new(batch, capacity),
                workers: 0,
                crowded: false,
                under_way: 0,
            }),
        })
    }

    /// Puts a request in the lane and waits for its answer. Whoever stops waiting before its
    /// statement began is passed over; later than that, the statement is not stopped.
    pub(super) async fn submit(
        self: &Arc<Self>,
        input: W::Input,
        size: Size,
        stats: &Arc<CallStats>,
    ) -> Result<W::Output> {
        let (reply, outcome) = oneshot::channel();
        let request = Request { input, stats: Arc::clone(stats), reply };
        {
            let mut state = self.lock();
            state.gathering.push(request, size).map_err(|Full| {
                self.shared.metrics.refused("max_pending");
                Error::Overloaded
            })?;
            let settings = &self.shared.settings;
            let most = settings.statements_per_lane;
            let worth_it = state.workers == 0 || state.gathering.is_worth_another();
            // Large statements of a queue go one after the other: they would take every processor.
            if state.workers < most && worth_it && state.under_way < settings.max_batch_bytes {
                state.workers += 1;
                let worker = Worker(Arc::clone(self));
                self.shared.tasks.spawn(async move { worker.0.work_off().await });
            }
        }
        // Without an answer the worker panicked with the statement under way.
        outcome.await.unwrap_or(Err(Error::OutcomeUnknown(None)))
    }

    /// Whether nothing is in the lane.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.workers == 0 && state.gathering.is_empty()
    }

    /// Runs batches until nobody is in line. A connection is kept for as long as there is work.
    async fn work_off(&self) {
        let mut conn = None;
        if self.lock().crowded {
            // Requests that came in together with the first one are on their way here.
            yield_now().await;
        }
        while !self.lock().gathering.is_empty() {
            // What arrives while this waits joins the batch.
            let _statement = leave(&self.statements, &mut conn).await;
            let (mut batch, _under_way) = self.take();
            batch.retain(|request| !request.reply.is_closed());
            if !batch.is_empty() {
                self.run(&mut conn, batch).await;
            }
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
        }
    }

    /// The next batch, which is under way until the second is dropped.
    fn take(&self) -> (Vec<Request<W>>, UnderWay<'_, W>) {
        let mut state = self.lock();
        let held = state.gathering.bytes();
        let batch = state.gathering.take();
        state.crowded = batch.len() > 1;
        let bytes = held - state.gathering.bytes();
        state.under_way += bytes;
        (batch, UnderWay { lane: self, bytes })
    }

    /// Runs a batch; one that is refused because of what is in it is taken apart, so that only the
    /// offender fails.
    async fn run(&self, conn: &mut Option<Conn>, batch: Vec<Request<W>>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let outcome = match self.try_run(conn, &part).await {
                // Undone for certain, and the other one is through.
                Err(Error::Deadlock(_)) => self.try_run(conn, &part).await,
                outcome => outcome,
            };
            match outcome {
                Ok(outputs) => {
                    for (request, output) in part.into_iter().zip(outputs) {
                        // Who has gone has gone: it is done all the same.
                        drop(request.reply.send(Ok(output)));
                    }
                }
                Err(Error::Unstorable(_) | Error::Unreadable | Error::NotSupported(_))
                    if part.len() > 1 =>
                {
                    let rest = part.split_off(part.len() / 2);
                    parts.push(rest);
                    parts.push(part);
                }
                Err(error) => {
                    for request in part {
                        drop(request.reply.send(Err(error.clone())));
                    }
                }
            }
        }
    }

    async fn try_run(
        &self,
        conn: &mut Option<Conn>,
        part: &[Request<W>],
    ) -> Result<Vec<W::Output>> {
        let conn = match conn {
            Some(conn) => conn,
            // The statement goes on every request's account, so on nobody's in particular.
            None => conn.insert(self.shared.db.acquire(&Arc::default()).await?),
        };
        for request in part {
            request.stats.add_round_trip();
        }
        let inputs: Vec<&W::Input> = part.iter().map(|request| &request.input).collect();
        self.work.run(conn, &self.queue, &inputs).await
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for leave to run a statement on a queue. Whoever has to wait keeps no connection meanwhile:
/// those that have leave may wait for one.
pub(super) async fn leave<'a>(
    statements: &'a Semaphore,
    conn: &mut Option<Conn>,
) -> Option<SemaphorePermit<'a>> {
    if let Ok(leave) = statements.try_acquire() {
        return Some(leave);
    }
    *conn = None;
    // It is never closed.
    statements.acquire().await.ok()
}

/// Bytes that are counted until their statement has ended, however it did.
struct UnderWay<'a, W: Work> {
    lane: &'a Lane<W>,
    bytes: usize,
}

impl<W: Work> Drop for UnderWay<'_, W> {
    fn drop(&mut self) {
        self.lane.lock().under_way -= self.bytes;
    }
}

/// A worker that is counted until it ends, however it ends.
struct Worker<W: Work>(Arc<Lane<W>>);

impl<W: Work> Drop for Worker<W> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers -= 1;
        // Somebody may have come between the last look at the line and now.
        if !state.gathering.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            state.workers += 1;
            let worker = Worker(Arc::clone(&self.0));
            self.0.shared.tasks.spawn(async move { worker.0.work_off().await });
        }
    }
}
