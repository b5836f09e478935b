//! The line of clients that want messages of one queue: one read serves all who could share it.

mod guards;
mod locks;
mod looks;
mod pace;
mod sharing;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    domain::{Call, FifoMode, Filter, QueueName, Wait},
    store::{self, DeadLetters, Read, Result},
};

use super::{
    Delivery, Shared,
    held_up::HeldUpPlaces,
    lane::Place,
    multi_queue::{MultiQueue, MultiQueues},
    peers::Peers,
    separation::Separation,
    table_lock::TableLock,
    timer::Timer,
    wait_queue::{Look, Ticket, WaitQueue},
};

use guards::{QueueSlot, WaiterCount};
use pace::Pace;

pub(super) use sharing::ReadyLook;

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

struct State {
    lines: HashMap<Arc<Key>, WaitQueue<Client>>,
    /// Larger than every ticket of the lines that are gone.
    first_ticket: Ticket,
    timer: Timer,
    /// Whether the last read was for several clients.
    crowded: bool,
    /// Bytes of a message, from the last reads.
    message_bytes: usize,
    /// Until when it is left alone that something can be delivered: the last read found nothing but
    /// what the table keeps, which the next one would try in vain again.
    kept_until: Option<Instant>,
    /// Looks that meet a lock.
    blocked_looks: usize,
    /// Until when looks have statements of their own.
    separation: Separation,
    /// What the lines that choose among the messages cost.
    pace: Pace,
}

impl State {
    fn remove_idle(&mut self, key: &Arc<Key>) {
        if let Some(line) = self.lines.get(key).filter(|line| line.is_idle()) {
            self.first_ticket = self.first_ticket.max(line.next_ticket());
            self.lines.remove(key);
            self.pace.forget(key);
        }
    }
}

/// Clients whose keys are equal can be served by the same read.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    vt: i32,
    filter: Option<Filter>,
    fifo: Option<FifoMode>,
    dead_letters: Option<DeadLetters>,
}

impl Key {
    /// Whether a client must not be given the messages of a read that others are given messages of:
    /// of a group, the next message is for whoever has those before it.
    fn is_exclusive(&self) -> bool {
        matches!(self.fifo, Some(FifoMode::Grouped | FifoMode::RoundRobin))
    }
}

/// Who stands in line.
struct Client {
    reply: oneshot::Sender<Result<Delivery>>,
    call: Arc<Call>,
}

/// Who wants one message takes the first of a group, whatever the mode: then others can have those of further
/// groups out of the same read.
fn as_shared(mode: FifoMode, wants: usize) -> FifoMode {
    match mode {
        FifoMode::Grouped | FifoMode::RoundRobin if wants == 1 => FifoMode::Head,
        mode => mode,
    }
}

/// Nobody answers where a gateway ends.
fn unanswered() -> Result<Delivery> {
    Err(store::Error::Unavailable(None))
}

impl Receivers {
    pub(super) fn new(
        place: Place<'_>,
        peers: &Arc<OnceLock<Arc<Peers>>>,
        many: &MultiQueues,
    ) -> Arc<Self> {
        let Place { queue, shared, statements, held_up, table } = place;
        let state = State {
            lines: HashMap::new(),
            first_ticket: 0,
            timer: Timer::default(),
            crowded: false,
            message_bytes: 256,
            kept_until: None,
            blocked_looks: 0,
            separation: Separation::default(),
            pace: Pace::default(),
        };
        Arc::new(Self {
            queue: queue.clone(),
            shared: shared.clone(),
            statements: Arc::clone(statements),
            held_up: held_up.clone(),
            table: Arc::clone(table),
            peers: Arc::clone(peers),
            shared_reads: many.receive.clone(),
            state: Mutex::new(state),
        })
    }

    /// What can be delivered now, or within `wait`.
    pub(super) async fn receive(
        self: &Arc<Self>,
        read: Read,
        wait: Wait,
        call: &Arc<Call>,
    ) -> Result<Delivery> {
        let closing = &self.shared.closing;
        let patient = wait.get() > 0 && !closing.is_cancelled();
        let started = Instant::now();
        let deadline = started + Duration::from_secs(wait.get().unsigned_abs());
        let (reply, mut outcome) = oneshot::channel();
        let client = Client { reply, call: Arc::clone(call) };
        let wants = usize::try_from(read.qty).unwrap_or(1);
        let _waits = patient.then(|| WaiterCount::new(&self.shared.waiters));
        let key = Key {
            vt: read.vt,
            filter: read.filter,
            fifo: read.fifo.map(|mode| as_shared(mode, wants)),
            dead_letters: read.dead_letters,
        };
        let place = self.join(key, wants, patient, client)?;
        self.look(&place.key);
        if !patient && self.is_paused() {
            drop(place);
            outcome.close();
            return outcome.try_recv().unwrap_or_else(|_| Ok(Delivery::empty()));
        }
        if !patient {
            return outcome.await.unwrap_or_else(|_| unanswered());
        }
        let time_is_up = tokio::select! {
            biased;
            answer = &mut outcome => Err(answer),
            () = sleep_until(deadline) => Ok(self.is_paused() || place.give_up()),
            () = closing.cancelled() => Ok(true),
        };
        let answer = match time_is_up {
            Err(answer) => answer,
            Ok(false) => outcome.await,
            Ok(true) => {
                // With nothing, or with what was handed over in the same moment.
                drop(place);
                outcome.close();
                outcome.try_recv().or_else(|_| Ok(Ok(Delivery::empty())))
            }
        };
        call.add_waited(started.elapsed());
        answer.unwrap_or_else(|_| unanswered())
    }

    /// Whether nothing is delivered for the time being.
    fn is_paused(&self) -> bool {
        self.shared.pauses.is_paused(&self.queue)
    }

    /// A pause has begun, and those go who do not wait for its end; or it has ended, and there is news.
    pub(super) fn pause_changed(self: &Arc<Self>) {
        if !self.is_paused() {
            return self.news();
        }
        let dismissed: Vec<Client> = {
            let mut state = self.lock();
            let lines = state.lines.values_mut();
            lines.flat_map(|line| line.dismiss_impatient(line.next_ticket())).collect()
        };
        for client in dismissed {
            drop(client.reply.send(Ok(Delivery::empty())));
        }
    }

    /// There may be something: everyone who waits is looked for.
    pub(super) fn news(self: &Arc<Self>) {
        let (at_once, in_turn) = {
            let mut state = self.lock();
            state.lines.values_mut().for_each(WaitQueue::news);
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
        if !state.lines.values().any(WaitQueue::has_patient) {
            return;
        }
        let lane = Arc::downgrade(self);
        state.timer.set(at, move || {
            if let Some(lane) = lane.upgrade() {
                lane.lock().timer.has_rung();
                lane.news();
            }
        });
    }

    /// Clients that stand in line.
    pub(super) fn len(&self) -> usize {
        self.lock().lines.values().map(WaitQueue::len).sum()
    }

    /// Whether somebody waits for what is not there yet.
    pub(super) fn has_patient(&self) -> bool {
        self.lock().lines.values().any(WaitQueue::has_patient)
    }

    /// The most messages of one read.
    pub(super) fn most_rows(&self) -> i32 {
        i32::try_from(self.rows_of_a_read(&self.lock())).unwrap_or(i32::MAX)
    }

    /// Whether nobody is there.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().lines.is_empty()
    }

    fn join(&self, key: Key, wants: usize, patient: bool, client: Client) -> Result<QueueSlot<'_>> {
        let mut state = self.lock();
        let distinct = if patient && !state.pace.knows(&key) {
            Some(self.count_distinct(&state, client.call.caller())?)
        } else {
            None
        };
        let key = match state.lines.get_key_value(&key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(key),
        };
        if let Some(distinct) = distinct {
            state.pace.remember(&key, distinct);
        }
        let first = state.first_ticket;
        let exclusive = key.is_exclusive();
        let line = state.lines.entry(Arc::clone(&key));
        let line = line.or_insert_with(|| WaitQueue::new(first, exclusive));
        let ticket = line.join(wants, patient, client);
        Ok(QueueSlot { lane: self, key, ticket })
    }

    /// Begins a look for a line if one is due.
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
        let line = state.lines.get_mut(key)?;
        line.begin_look(self.shared.settings.statements_per_lane, rows)
    }

    fn rows_of_a_read(&self, state: &State) -> usize {
        let most = self.shared.settings.max_batch_rows.min(MAX_ROWS);
        (READ_BYTES / state.message_bytes.max(1)).clamp(1, most)
    }

    /// As [`WaitQueue::is_worth_sending`].
    fn is_worth_sending(&self, key: &Arc<Key>) -> bool {
        self.lock().lines.get(key).is_some_and(WaitQueue::is_worth_sending)
    }

    /// Whoever came since a look was begun joins it.
    fn extend(&self, key: &Arc<Key>, look: &mut Look) {
        let mut state = self.lock();
        let rows = self.rows_of_a_read(&state);
        if let Some(line) = state.lines.get_mut(key) {
            line.extend(look, rows);
            state.crowded = line.len() > 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
