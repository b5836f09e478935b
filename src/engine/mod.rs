//! The engine: who goes into which statement, who waits, who is served, and what is given back.

mod batch;
mod delivery;
mod expiring_set;
mod fair_queue;
mod floors;
mod given_back;
mod heavy;
mod held_up;
mod kept_reports;
mod lane;
mod lanes;
mod loads;
mod lock_backoff;
mod multi_queue;
mod notifier;
mod pauses;
mod peers;
mod pending;
mod poller;
mod quarantine;
mod receivers;
mod separation;
mod settling;
mod shared;
mod shares;
mod size;
mod slow_rows;
mod spans;
mod statements;
mod sweeper;
mod table_lock;
mod takes;
mod thorough;
mod timer;
mod transactions;
mod turns;
mod wait_queue;
mod waiters;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    domain::{
        Call, CallerId, Message, MsgId, NewMessage, PeerKey, QueueName, Settled, Target, Wait,
    },
    store::{
        Conn, ConnectOptions, Db, Error, Idempotency, Pop, Popped, Read, Result, Sent,
        VisibilityChange,
    },
};

use self::{
    lanes::Lanes,
    peers::Peers,
    poller::Poller,
    size::Size,
    statements::{Ended, NewMessages},
    takes::PopRequest,
};

pub use self::{
    delivery::{Delivery, Lease},
    heavy::HeavyQueues,
    lane::LaneLoad,
    lanes::{Admission, Table},
    lock_backoff::LockBackoff,
    pauses::Pauses,
    quarantine::UnreadableSearch,
    settling::{SettleOutcome, SettleRequest},
    shared::{Shared, SharedParts},
    shares::{Counted, DearRead, DearReads, FairSlots, KeyedSlots},
    table_lock::Intent,
    takes::Shareable,
    transactions::{SeparateSlot, Ticket, Transactions, Turn},
};

/// What a row weighs beyond its message.
const ROW_BYTES: usize = 64;
/// A request about one message that is there.
const ONE_ROW: Size = Size { rows: 1, bytes: ROW_BYTES };

/// The lanes of all queues, and what wakes those who wait. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    lanes: Arc<Lanes>,
    peers: Arc<OnceLock<Arc<Peers>>>,
    shared: Shared,
    /// Set where clients wait with `pgmq.read_with_poll`.
    poller: Option<Poller>,
}

impl Engine {
    /// An engine whose clients wait in line or, with a pool for that and so many places, with
    /// `pgmq.read_with_poll`.
    pub fn new(shared: Shared, read_with_poll: Option<(Db, usize)>) -> Self {
        let peers = Arc::new(OnceLock::new());
        let lanes = Lanes::new(shared.clone(), Arc::clone(&peers));
        let poller = read_with_poll.map(|(db, places)| Poller::new(&shared, db, places));
        Self { lanes, peers, shared, poller }
    }

    /// Wakes those who wait, until it is dropped. `listen` is a way to the database that takes
    /// LISTEN, and the key of those who speak there; without one, other gateways are not heard.
    pub async fn run(self, listen: Option<(ConnectOptions, PeerKey)>) {
        let Some((options, key)) = listen else {
            let sweeps = sweeper::run(self.shared.clone(), Arc::clone(&self.lanes), None);
            tokio::join!(sweeps, self.follow());
            return;
        };
        let peers = Arc::clone(self.peers.get_or_init(|| Peers::new(self.shared.db.clone(), key)));
        tokio::join!(
            sweeper::run(self.shared.clone(), Arc::clone(&self.lanes), Some(Arc::clone(&peers))),
            self.follow(),
            peers.speak(),
            peers.listen(&options, &self.lanes),
        );
    }

    /// Has the lanes follow what happens beside them, until it is dropped.
    async fn follow(&self) {
        tokio::join!(
            self.lanes.tidy(),
            self.shared.pauses.follow(|queue| self.pause_changed(queue)),
            self.shared.given_back.follow(|queue| self.tell(queue)),
        );
    }

    /// Answers those who do not wait where a pause begins, and looks for those who wait where one ends.
    fn pause_changed(&self, queue: &QueueName) {
        if let Some(lanes) = self.lanes.in_use(queue) {
            lanes.receive.pause_changed();
        }
    }

    /// Stores messages, all or none and, with `once`, once however often that is asked for. `in_turn` makes
    /// ids grow from commit to commit. What meets a lock is tried for a while or, if that is said, until then.
    pub async fn send(
        &self,
        queue: &QueueName,
        messages: Vec<NewMessage>,
        in_turn: bool,
        once: Option<Idempotency>,
        locked_until: Option<Instant>,
        call: &Arc<Call>,
    ) -> Result<Sent> {
        let weigh = |new: &NewMessage| {
            ROW_BYTES + new.message.get().len() + new.headers.as_ref().map_or(0, |h| h.get().len())
        };
        let of_key = once.as_ref().map_or(0, |once| ROW_BYTES + once.scope.len() + once.key.len());
        let bytes = of_key + messages.iter().map(weigh).sum::<usize>();
        let size = Size { rows: messages.len(), bytes };
        let input = NewMessages { messages, in_turn, once, locked_until };
        let lanes = self.lanes.of(queue);
        let sent = lanes.send.submit(input, size, call).await;
        lanes.note(&sent);
        sent?
    }

    /// Deletes a message. `unblocks` says that others may be delivered then.
    pub async fn delete(
        &self,
        queue: &QueueName,
        target: Target,
        unblocks: bool,
        call: &Arc<Call>,
    ) -> Result<Settled> {
        let input = Ended { target, unblocks };
        let lanes = self.lanes.of(queue);
        let settled = lanes.delete.submit(input, ONE_ROW, call).await;
        lanes.note(&settled);
        settled
    }

    /// Moves a message into the archive. `unblocks` says that others may be delivered then.
    pub async fn archive(
        &self,
        queue: &QueueName,
        target: Target,
        unblocks: bool,
        call: &Arc<Call>,
    ) -> Result<Settled> {
        let input = Ended { target, unblocks };
        let lanes = self.lanes.of(queue);
        let settled = lanes.archive.submit(input, ONE_ROW, call).await;
        lanes.note(&settled);
        settled
    }

    /// Sets the moment from which a message may be delivered again.
    pub async fn set_visibility(
        &self,
        queue: &QueueName,
        change: VisibilityChange,
        call: &Arc<Call>,
    ) -> Result<(Settled, Option<Message>)> {
        let lanes = self.lanes.of(queue);
        let settled = lanes.visibility.submit(change, ONE_ROW, call).await;
        lanes.note(&settled);
        settled
    }

    /// Settles together with others who do, and reads what is next where that is asked for and can be done in the
    /// same commit.
    pub async fn settle(
        &self,
        queue: &QueueName,
        mut request: SettleRequest,
        call: &Arc<Call>,
    ) -> Result<Shareable<SettleOutcome>> {
        if self.poller.is_some() {
            // There, others may wait who came first.
            request.read = None;
        }
        let (lanes, size) = (self.lanes.of(queue), request.size(ROW_BYTES));
        let settled = lanes.settle.submit(request, size, call).await;
        lanes.note(&settled);
        settled
    }

    /// Something was committed in a queue outside the lanes: those who wait are looked for.
    pub fn tell(&self, queue: &QueueName) {
        if let Some(lanes) = self.lanes.in_use(queue) {
            lanes.receive.notify();
        }
        if let Some(peers) = self.peers.get() {
            peers.notify(queue);
        }
    }

    /// What can be delivered now, or within `wait`.
    pub async fn receive(&self, read: Read, wait: Wait, call: &Arc<Call>) -> Result<Delivery> {
        if let Some(poller) = &self.poller {
            return poller.receive(read, wait, call).await;
        }
        if wait.get() > 0 {
            if self.shared.waiters.load(Relaxed) >= self.shared.max_waiters {
                self.shared.metrics.refused("max_waiters");
                return Err(Error::TooManyWaiters);
            }
            if self.waiters_on(&read.queue) >= self.shared.max_waiters_per_queue {
                self.shared.metrics.refused("max_waiters_per_queue");
                return Err(Error::TooManyWaiters);
            }
        }
        let _counted = match call.caller().filter(|_| wait.get() > 0) {
            Some(caller) => Some(self.count_waiter(&read.queue, caller)?),
            None => None,
        };
        let lanes = self.lanes.of(&read.queue);
        let delivery = lanes.receive.receive(read, wait, call).await;
        lanes.note(&delivery);
        delivery
    }

    /// Counts a client that is going to wait among those of its caller at a queue.
    fn count_waiter(
        &self,
        queue: &QueueName,
        caller: CallerId,
    ) -> Result<Counted<(QueueName, CallerId)>> {
        let most = self.shared.share.of(self.shared.max_waiters_per_queue);
        self.shared.waiters_of.enter((queue.clone(), caller), most).ok_or_else(|| {
            self.shared.metrics.refused("key_max_waiters");
            Error::TooManyWaiters
        })
    }

    /// Pops what can be delivered now, together with others who do. `unblocks` says that others may be delivered
    /// then.
    pub async fn pop(
        &self,
        what: Pop,
        unblocks: bool,
        call: &Arc<Call>,
    ) -> Result<Shareable<Vec<Message>>> {
        if self.shared.heavy.is_heavy(&what.queue) {
            return Ok(Shareable::Alone);
        }
        let lanes = self.lanes.of(&what.queue);
        let rows = usize::try_from(what.qty).unwrap_or(1);
        let size = Size { rows, bytes: rows * ROW_BYTES };
        let request = PopRequest { pop: what, unblocks, call: Arc::clone(call) };
        let popped = lanes.pop.submit(request, size, call).await;
        lanes.note(&popped);
        popped
    }

    /// One message, without leasing it, looked at together with others.
    pub async fn look(
        &self,
        queue: &QueueName,
        id: MsgId,
        call: &Arc<Call>,
    ) -> Result<Shareable<Option<Arc<Message>>>> {
        if self.shared.heavy.is_heavy(queue) {
            return Ok(Shareable::Alone);
        }
        let lanes = self.lanes.of(queue);
        let looked = lanes.look.submit(id, ONE_ROW, call).await;
        lanes.note(&looked);
        looked
    }

    /// Pops alone. One that its table does not let go is left.
    pub async fn pop_alone(&self, conn: &mut Conn, what: &Pop) -> Result<Popped> {
        thorough::pop_thoroughly(conn, what, &self.shared).await
    }

    /// A permit for a read outside the lanes that may take long. Wait for it with a bound.
    pub async fn admit_dear(
        &self,
        caller: Option<CallerId>,
        queue: Option<&QueueName>,
    ) -> DearRead {
        self.shared.dear.acquire(caller, queue).await
    }

    /// Keeps those who wait from holding a queue's table for long, until this is dropped.
    pub fn make_way(&self, queue: &QueueName) -> Option<Counted<QueueName>> {
        self.poller.as_ref()?.make_way(queue)
    }

    /// The queues of which one message at a time is read.
    pub fn heavy_queues(&self) -> &HeavyQueues {
        &self.shared.heavy
    }

    /// A permit for one statement on a queue outside the lanes: no queue takes all connections. Wait for
    /// it with a bound.
    pub async fn admit(&self, queue: &QueueName) -> Admission {
        self.lanes.admit(queue).await
    }

    /// A permit for one more try at what is locked, of whatever queue. Wait for it with a bound.
    pub async fn admit_retry(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.shared.retries).acquire_owned().await.ok()
    }

    /// What is known of locks on the table of a queue, and what becomes known until this is dropped.
    pub fn table(&self, queue: &QueueName) -> Table {
        Table(self.lanes.of(queue))
    }

    /// Whether something could be done to the table of a queue, as far as that is known.
    pub fn allows(&self, queue: &QueueName, intent: Intent) -> bool {
        self.lanes.in_use(queue).is_none_or(|lanes| lanes.table.allows(intent))
    }

    /// The queues of which nothing is delivered for the time being.
    pub fn pauses(&self) -> &Arc<Pauses> {
        &self.shared.pauses
    }

    /// Queues of which something is kept in memory, as they are in use.
    pub fn queues_in_use(&self) -> usize {
        self.lanes.len()
    }

    /// Clients that wait for a message of `queue`.
    pub fn waiters_on(&self, queue: &QueueName) -> usize {
        match &self.poller {
            Some(poller) => poller.waiters_on(queue),
            None => self.lanes.in_use(queue).map_or(0, |lanes| lanes.receive.len()),
        }
    }

    /// Clients that wait for a message of any queue.
    pub fn waiters(&self) -> usize {
        match &self.poller {
            Some(poller) => poller.waiters(),
            None => self.shared.waiters.load(Relaxed),
        }
    }

    /// Open and idle connections of the pool of those who wait with `pgmq.read_with_poll`.
    pub fn waiting_pool_size(&self) -> Option<(u32, u32)> {
        self.poller.as_ref().map(Poller::pool_size)
    }

    /// Gives up what is kept for later, and closes the pool of those who wait. Nothing may be under way any more.
    pub async fn close(&self) {
        self.shared.floors.keep_none();
        if let Some(poller) = &self.poller {
            poller.close().await;
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("shared", &self.shared).finish_non_exhaustive()
    }
}
