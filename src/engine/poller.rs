//! Receiving with a `pgmq.read_with_poll` for each client that waits.
//!
//! The work runs in a task of its own and the client only waits for its outcome: a client that
//! leaves cancels no statement half-way, and what was read for it is given back.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use crate::{
    domain::{Call, Message, QueueName, Wait},
    store::{self, Conn, Db, Error, Read, Result},
    telemetry::MessageEvent,
};

use super::{
    Delivery, FairSlots, LockBackoff, Shared, UnreadableSearch,
    shares::{Counted, KeyedCounts},
    thorough::{BESIDE_KEPT, read_thoroughly},
    waiters::Waiters,
};

/// Seconds that one statement waits inside the database. Short, so that a client that left frees
/// its place soon and no snapshot is held for long; `pgmq.read_with_poll` takes whole seconds.
const SLICE_SECONDS: u32 = 1;
/// What is left of a wait when it is too short for another slice.
const SHORTEST_SLICE: Duration = Duration::from_millis(900);

/// Reads queues on behalf of clients.
#[derive(Clone, Debug)]
pub(super) struct Poller {
    shared: Shared,
    waiting: Db,
    places: Arc<FairSlots>,
    waiters: Waiters,
    /// Queues that somebody wants to change or drop.
    changes: KeyedCounts<QueueName>,
}

impl Poller {
    /// `waiting` is the pool of those who wait, so many at the same time.
    pub(super) fn new(shared: &Shared, waiting: Db, places: usize) -> Self {
        let places = Arc::new(FairSlots::new(places, shared.share.of(places)));
        Self {
            shared: shared.clone(),
            waiting,
            places,
            waiters: Waiters::default(),
            changes: KeyedCounts::default(),
        }
    }

    /// What can be delivered now, or within `wait`.
    pub(super) async fn receive(
        &self,
        read: Read,
        wait: Wait,
        call: &Arc<Call>,
    ) -> Result<Delivery> {
        let (client, outcome) = oneshot::channel();
        let poller = self.clone();
        let call = Arc::clone(call);
        if wait.get() == 0 || self.shared.closing.is_cancelled() {
            self.shared.tasks.spawn(async move { poller.look(&read, &call, client).await });
            return outcome.await.unwrap_or(Err(Error::Unavailable(None)));
        }

        let started = Instant::now();
        let deadline = started + Duration::from_secs(wait.get().unsigned_abs());
        let _waiting = self.waiters.enter(&read.queue);
        self.shared.tasks.spawn({
            let call = Arc::clone(&call);
            async move { poller.wait(&read, deadline, &call, client).await }
        });
        let answer = tokio::select! {
            biased;
            answer = outcome => answer.unwrap_or(Err(Error::Unavailable(None))),
            () = self.shared.closing.cancelled() => Ok(Delivery::empty()),
        };
        call.add_waited(started.elapsed());
        answer
    }

    /// Keeps those who wait from holding a queue's table for long, until this is dropped: `read_with_poll` has
    /// it locked while it waits.
    pub(super) fn make_way(&self, queue: &QueueName) -> Option<Counted<QueueName>> {
        self.changes.enter(queue.clone(), usize::MAX)
    }

    /// Clients that wait for a message of `queue`.
    pub(super) fn waiters_on(&self, queue: &QueueName) -> usize {
        self.waiters.on(queue)
    }

    /// Clients that wait for a message of any queue.
    pub(super) fn waiters(&self) -> usize {
        self.waiters.total()
    }

    /// Open and idle connections of the pool of those who wait.
    pub(super) fn pool_size(&self) -> (u32, u32) {
        self.waiting.size()
    }

    /// Closes the pool of those who wait.
    pub(super) async fn close(&self) {
        self.waiting.close().await;
    }

    async fn look(&self, read: &Read, call: &Arc<Call>, client: Client) {
        let answer = self.read_once(read, call, &client).await;
        self.hand_over(read, answer, client);
    }

    async fn read_once(
        &self,
        read: &Read,
        call: &Arc<Call>,
        client: &Client,
    ) -> Result<Vec<Message>> {
        let mut backoff = LockBackoff::new();
        loop {
            // Each has a connection of its own, and one that chooses may take long.
            let caller = call.caller();
            let of_caller = match caller {
                Some(caller) => self.shared.choosy.acquire(&caller).await,
                None => None,
            };
            let dear = match read.filter {
                Some(_) => Some(self.shared.dear.acquire(caller, Some(&read.queue)).await),
                None => None,
            };
            if self.shared.pauses.is_paused(&read.queue) {
                return Ok(Vec::new());
            }
            let mut conn = self.shared.db.acquire(call).await?;
            if client.is_closed() {
                return Ok(Vec::new());
            }
            let outcome = self.read_now(&mut conn, read).await;
            let Err(Error::Locked) = outcome else { return outcome };
            // Who waits for a lock is in nobody's way.
            drop((conn, of_caller, dear));
            let pause = backoff.next_pause().filter(|_| !self.shared.closing.is_cancelled());
            let Some(pause) = pause else { return outcome };
            sleep(pause).await;
        }
    }

    async fn wait(&self, read: &Read, deadline: Instant, call: &Arc<Call>, client: Client) {
        let answer = match self.places.try_acquire(call.caller()) {
            Some(place) => {
                let answer = self.poll(read, deadline, call, &client).await;
                // Free before the client can come back for it.
                drop(place);
                answer
            }
            // Every place is taken, or every one of the caller's: one look, and no hang.
            None => match self.read_once(read, call, &client).await {
                Ok(messages) if messages.is_empty() => Err(Error::TooManyWaiters),
                answer => answer,
            },
        };
        self.hand_over(read, answer, client);
    }

    async fn poll(
        &self,
        read: &Read,
        deadline: Instant,
        call: &Arc<Call>,
        client: &Client,
    ) -> Result<Vec<Message>> {
        let mut conn = self.waiting.acquire(call).await?;
        let mut search =
            UnreadableSearch::new(&read.queue, read.filter.as_ref(), &self.shared.metrics);
        while !client.is_closed() && !self.shared.closing.is_cancelled() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if self.shared.pauses.is_paused(&read.queue) {
                if remaining.is_zero() {
                    break;
                }
                sleep(self.shared.poll_interval.min(remaining)).await;
                continue;
            }
            let outcome = self.look_for_a_slice(&mut conn, read, remaining).await;
            if matches!(outcome, Err(Error::OutcomeUnknown(_))) {
                // The connection broke: no row is to blame for that.
                return outcome;
            }
            if search.cleared(&mut conn, outcome.as_ref().err()).await? {
                continue;
            }
            if matches!(outcome, Err(Error::Locked)) && Instant::now() < deadline {
                sleep(self.shared.poll_interval.min(remaining)).await;
                continue;
            }
            let messages = outcome?;
            if !messages.is_empty() && self.shared.pauses.is_paused(&read.queue) {
                // It was under way when the pause began: dropped, they are given back.
                drop(self.delivery(read, messages));
                continue;
            }
            if !messages.is_empty() || Instant::now() >= deadline {
                return Ok(messages);
            }
        }
        Ok(Vec::new())
    }

    async fn look_for_a_slice(
        &self,
        conn: &mut Conn,
        read: &Read,
        remaining: Duration,
    ) -> Result<Vec<Message>> {
        let by_pgmq = read.is_plain() && self.shared.db.features().modern;
        let is_heavy = self.shared.heavy.rows(&read.queue, read.qty) < read.qty;
        let is_changing = self.changes.of(&read.queue) > 0;
        if remaining < SHORTEST_SLICE || !by_pgmq || is_heavy || is_changing {
            sleep(self.shared.poll_interval.min(remaining)).await;
            return self.read_now(conn, read).await;
        }
        match store::read_with_poll(conn, read, SLICE_SECONDS, self.shared.poll_interval).await {
            // PGMQ's own function does not do it row by row.
            Err(Error::Rejected(_) | Error::Forbidden(_)) => {
                let messages = self.read_now(conn, read).await?;
                if messages.is_empty() {
                    sleep(BESIDE_KEPT.min(remaining)).await;
                }
                Ok(messages)
            }
            Err(Error::Timeout) if read.qty > 1 => {
                if read.filter.is_none() {
                    self.shared.heavy.note(&read.queue);
                }
                self.read_now(conn, &Read { qty: 1, ..read.clone() }).await
            }
            outcome => outcome,
        }
    }

    async fn read_now(&self, conn: &mut Conn, read: &Read) -> Result<Vec<Message>> {
        let found = read_thoroughly(conn, read, false, false, &self.shared).await?;
        let event = MessageEvent::DeadLettered;
        self.shared.metrics.messages(read.queue.as_str(), event, found.dead);
        Ok(found.messages)
    }

    fn delivery(&self, read: &Read, messages: Vec<Message>) -> Delivery {
        Delivery::new(&read.queue, messages, &self.shared)
    }

    /// Gives the outcome to the client; if it has gone, the messages go back.
    fn hand_over(&self, read: &Read, answer: Result<Vec<Message>>, client: Client) {
        let delivery = answer.map(|messages| self.delivery(read, messages));
        // What cannot be handed over is dropped, and thereby given back.
        drop(client.send(delivery));
    }
}

/// The client's end, as the task sees it.
type Client = oneshot::Sender<Result<Delivery>>;
