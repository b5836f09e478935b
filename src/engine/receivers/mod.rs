//! The clients that want messages of one queue: one read serves all who could share it.

mod guards;
mod in_turn;
mod key;
mod locks;
mod looks;
mod pace;
mod receive;
mod sharing;
mod state;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use crate::domain::QueueName;

use super::{
    Delivery, Shared,
    held_up::HeldUpPlaces,
    lane::Place,
    multi_queue::MultiQueue,
    peers::Peers,
    table_lock::TableLock,
    wait_queue::{Look, WaitQueue},
};

use key::Key;
use state::{Client, State};

/// The most messages of one read, however many want some.
const MAX_ROWS: usize = 200;
/// What the messages of one read are to weigh, going by those of the reads before; it is cut short
/// where they weigh more, unless one answer may.
const READ_BYTES: usize = 8 << 20;
/// The shortest time in which it makes sense to look again for a message that is about to become
/// visible: one that is due already is in somebody's hands.
const SHORTEST_TIMER: Duration = Duration::from_millis(2);

/// The receivers of one queue.
pub(super) struct Receivers {
    queue: QueueName,
    shared: Shared,
    statements: Arc<Semaphore>,
    /// Places for looks that take long.
    held_up: HeldUpPlaces,
    table: Arc<TableLock>,
    /// Who is told that clients wait here.
    peers: Arc<OnceLock<Arc<Peers>>>,
    /// Reads of several queues.
    shared_reads: Option<Arc<MultiQueue<ReadyLook>>>,
    state: Mutex<State>,
}

/// A look that is ready for a shared statement, or in one. However that ends, those that are looked for are told.
pub(super) struct ReadyLook {
    receivers: Arc<Receivers>,
    key: Arc<Key>,
    /// Taken when it has ended.
    look: Option<Look>,
}

impl Receivers {
    pub(super) fn new(
        place: Place<'_>,
        peers: &Arc<OnceLock<Arc<Peers>>>,
        shared_reads: Option<Arc<MultiQueue<ReadyLook>>>,
    ) -> Arc<Self> {
        let Place { queue, shared, statements, held_up, table } = place;
        Arc::new(Self {
            queue: queue.clone(),
            shared: shared.clone(),
            statements: Arc::clone(statements),
            held_up: held_up.clone(),
            table: Arc::clone(table),
            peers: Arc::clone(peers),
            shared_reads,
            state: Mutex::new(State::new()),
        })
    }

    /// Whether nothing is delivered for the time being.
    fn is_paused(&self) -> bool {
        self.shared.pauses.is_paused(&self.queue)
    }

    /// A pause has begun, and those go who do not wait for its end; or it has ended, and there is news.
    pub(super) fn pause_changed(self: &Arc<Self>) {
        if !self.is_paused() {
            return self.notify();
        }
        let dismissed: Vec<Client> = {
            let mut state = self.lock();
            let wait_queues = state.wait_queues.values_mut();
            wait_queues
                .flat_map(|wait_queue| wait_queue.dismiss_short_polls(wait_queue.next_ticket()))
                .collect()
        };
        for client in dismissed {
            drop(client.reply.send(Ok(Delivery::empty())));
        }
    }

    /// There may be something: everyone who waits is looked for.
    pub(super) fn notify(self: &Arc<Self>) {
        let (at_once, in_turn) = {
            let mut state = self.lock();
            state.wait_queues.values_mut().for_each(WaitQueue::notify);
            state.at_once_and_in_turn()
        };
        for key in &at_once {
            self.look(key);
        }
        if in_turn {
            self.look_in_turn();
        }
    }

    /// The next message becomes visible after `due_in`.
    pub(super) fn set_timer(self: &Arc<Self>, due_in: Duration) {
        let Some(at) = Instant::now().checked_add(due_in.max(SHORTEST_TIMER)) else { return };
        let mut state = self.lock();
        if !state.wait_queues.values().any(WaitQueue::has_long_poll) {
            return;
        }
        let receivers = Arc::downgrade(self);
        state.timer.set(at, move || {
            if let Some(receivers) = receivers.upgrade() {
                receivers.lock().timer.has_rung();
                receivers.notify();
            }
        });
    }

    /// Clients that stand in line.
    pub(super) fn len(&self) -> usize {
        self.lock().wait_queues.values().map(WaitQueue::len).sum()
    }

    /// Whether somebody waits for what is not there yet.
    pub(super) fn has_long_poll(&self) -> bool {
        self.lock().wait_queues.values().any(WaitQueue::has_long_poll)
    }

    /// The most messages of one read.
    pub(super) fn most_rows(&self) -> i32 {
        i32::try_from(self.rows_of_a_read(&self.lock())).unwrap_or(i32::MAX)
    }

    /// Whether nobody is there.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().wait_queues.is_empty()
    }

    /// Begins a look for a wait queue if one is due.
    fn look(self: &Arc<Self>, key: &Arc<Key>) {
        if let Some(look) = self.begin_look(key) {
            self.run_look(key, look);
        }
    }

    fn begin_look(&self, key: &Arc<Key>) -> Option<Look> {
        if self.is_paused() {
            return None;
        }
        let mut state = self.lock();
        let rows = self.rows_of_a_read(&state);
        let wait_queue = state.wait_queues.get_mut(key)?;
        wait_queue.begin_look(self.shared.settings.statements_per_lane, rows)
    }

    fn rows_of_a_read(&self, state: &State) -> usize {
        let most = self.shared.settings.max_batch_rows.min(MAX_ROWS);
        (READ_BYTES / state.message_bytes.max(1)).clamp(1, most)
    }

    /// As [`WaitQueue::is_worth_sending`].
    fn is_worth_sending(&self, key: &Arc<Key>) -> bool {
        self.lock().wait_queues.get(key).is_some_and(WaitQueue::is_worth_sending)
    }

    /// Whoever came since a look was begun joins it.
    fn extend(&self, key: &Arc<Key>, look: &mut Look) {
        let mut state = self.lock();
        let rows = self.rows_of_a_read(&state);
        if let Some(wait_queue) = state.wait_queues.get_mut(key) {
            wait_queue.extend(look, rows);
            state.crowded = wait_queue.len() > 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
