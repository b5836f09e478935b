//! The line of clients that want messages of one queue: one read serves all who could share it.

mod guards;
mod pace;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    config::ReadMode,
    domain::{CallStats, FifoMode, Filter, Message, QueueName, Wait},
    store::{self, Conn, DeadLetters, Found, Read, Result},
    telemetry::DoneTo,
};

use super::{
    Delivery, Shared,
    alarm::Alarm,
    line::{Line, Look, Served, Ticket},
    lock_backoff::LockBackoff,
    thorough::read_thoroughly,
};

use guards::{Place, Unfinished, Waits};
use pace::Pace;

/// The most messages of one read, however many want some.
const MAX_ROWS: usize = 200;
/// What the messages of one read are to weigh, going by those of the reads before; it is cut short
/// where they weigh more, unless one answer may.
const READ_BYTES: usize = 8 << 20;
/// The shortest time in which it makes sense to look again for a message that is about to become
/// visible: one that is due already is in somebody's hands.
const SHORTEST_TIMER: Duration = Duration::from_millis(2);

/// The receivers of one queue.
pub(super) struct ReceiveLane {
    queue: QueueName,
    shared: Shared,
    statements: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    lines: HashMap<Arc<Key>, Line<Client>>,
    /// Larger than every ticket of the lines that are gone.
    first_ticket: Ticket,
    alarm: Alarm,
    /// Whether the last read was for several clients.
    crowded: bool,
    /// Bytes of a message, from the last reads.
    message_bytes: usize,
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
    stats: Arc<CallStats>,
}

/// Nobody answers where a gateway ends.
fn unanswered() -> Result<Delivery> {
    Err(store::Error::Unavailable(None))
}

impl ReceiveLane {
    pub(super) fn new(
        queue: &QueueName,
        shared: &Shared,
        statements: &Arc<Semaphore>,
    ) -> Arc<Self> {
        let state = State {
            lines: HashMap::new(),
            first_ticket: 0,
            alarm: Alarm::default(),
            crowded: false,
            message_bytes: 256,
            pace: Pace::default(),
        };
        Arc::new(Self {
            queue: queue.clone(),
            shared: shared.clone(),
            statements: Arc::clone(statements),
            state: Mutex::new(state),
        })
    }

    /// What can be delivered now, or within `wait`.
    pub(super) async fn receive(
        self: &Arc<Self>,
        read: Read,
        wait: Wait,
        stats: &Arc<CallStats>,
    ) -> Result<Delivery> {
        let closing = &self.shared.closing;
        let patient = wait.get() > 0 && !closing.is_cancelled();
        let started = Instant::now();
        let deadline = started + Duration::from_secs(wait.get().unsigned_abs());
        let (reply, mut outcome) = oneshot::channel();
        let client = Client { reply, stats: Arc::clone(stats) };
        let wants = usize::try_from(read.qty).unwrap_or(1);
        let _waits = patient.then(|| Waits::new(&self.shared.waiters));
        let key = Key {
            vt: read.vt,
            filter: read.filter,
            fifo: read.fifo,
            dead_letters: read.dead_letters,
        };
        let place = self.join(key, wants, patient, client)?;
        self.look(&place.key);
        if !patient {
            return outcome.await.unwrap_or_else(|_| unanswered());
        }
        let time_is_up = tokio::select! {
            biased;
            answer = &mut outcome => Err(answer),
            () = sleep_until(deadline) => Ok(place.give_up()),
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
        stats.add_waited(started.elapsed());
        answer.unwrap_or_else(|_| unanswered())
    }

    /// There may be something: everyone who waits is looked for.
    pub(super) fn news(self: &Arc<Self>) {
        let (at_once, in_turn) = {
            let mut state = self.lock();
            state.lines.values_mut().for_each(Line::news);
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
        if !state.lines.values().any(Line::has_patient) {
            return;
        }
        let lane = Arc::downgrade(self);
        state.alarm.set(at, move || {
            if let Some(lane) = lane.upgrade() {
                lane.lock().alarm.has_rung();
                lane.news();
            }
        });
    }

    /// Clients that stand in line.
    pub(super) fn len(&self) -> usize {
        self.lock().lines.values().map(Line::len).sum()
    }

    /// Whether somebody waits for what is not there yet.
    pub(super) fn has_patient(&self) -> bool {
        self.lock().lines.values().any(Line::has_patient)
    }

    /// Whether nobody is there.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().lines.is_empty()
    }

    fn join(&self, key: Key, wants: usize, patient: bool, client: Client) -> Result<Place<'_>> {
        let mut state = self.lock();
        let distinct = if patient && !state.pace.knows(&key) {
            Some(self.count_distinct(&state, client.stats.caller())?)
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
        let line = line.or_insert_with(|| Line::new(first, exclusive));
        let ticket = line.join(wants, patient, client);
        Ok(Place { lane: self, key, ticket })
    }

    /// Begins a look for a line if one is due.
    fn look(self: &Arc<Self>, key: &Arc<Key>) {
        if let Some(look) = self.begin_look(key) {
            let (lane, key) = (Arc::clone(self), Arc::clone(key));
            self.shared.tasks.spawn(async move { lane.run_looks(&key, look, true).await });
        }
    }

    fn begin_look(&self, key: &Arc<Key>) -> Option<Look> {
        let mut state = self.lock();
        let rows = self.rows_of_a_read(&state);
        let line = state.lines.get_mut(key)?;
        line.begin_look(self.shared.settings.statements_per_lane, rows)
    }

    fn rows_of_a_read(&self, state: &State) -> usize {
        let most = self.shared.settings.max_batch_rows.min(MAX_ROWS);
        (READ_BYTES / state.message_bytes.max(1)).clamp(1, most)
    }

    /// Whoever came since a look was begun joins it.
    fn widen(&self, key: &Arc<Key>, look: &mut Look) {
        let mut state = self.lock();
        let rows = self.rows_of_a_read(&state);
        if let Some(line) = state.lines.get_mut(key) {
            line.widen(look, rows);
            state.crowded = line.len() > 1;
        }
    }

    /// Looks and, with `again`, looks again for as long as that is due. A connection is kept meanwhile.
    async fn run_looks(self: &Arc<Self>, key: &Arc<Key>, first: Look, again: bool) {
        let mut conn = None;
        let mut next = Some(first);
        while let Some(look) = next {
            let mut unfinished = Unfinished { lane: self, key, look: Some(look) };
            if conn.is_none() && self.lock().crowded {
                // Requests that came in together with the first one are on their way here.
                yield_now().await;
            }
            let outcome = match self.look_once(&mut conn, key, &mut unfinished, false).await {
                Err(store::Error::Locked) => {
                    conn = None;
                    self.look_when_unlocked(key, &mut unfinished).await
                }
                outcome => outcome,
            };
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
            let mut look = unfinished.finish();
            match outcome {
                Ok(found) => {
                    look.cut_short = found.more;
                    self.shared.metrics.messages(
                        self.queue.as_str(),
                        DoneTo::DeadLettered,
                        found.dead,
                    );
                    self.deal(key, &look, found.messages);
                    if let Some(due_in) = found.due_in {
                        self.set_timer(due_in);
                    }
                }
                Err(error) => self.fail(key, &look, &error),
            }
            next = if again { self.begin_look(key) } else { None };
        }
        self.lock().remove_idle(key);
    }

    /// One statement for a look, and for all who came until then.
    async fn look_once(
        &self,
        conn: &mut Option<Conn>,
        key: &Arc<Key>,
        unfinished: &mut Unfinished<'_>,
        one_by_one: bool,
    ) -> Result<Found> {
        let _leave = self.leave_to_look(key, conn).await;
        self.widen(key, unfinished.look_mut());
        self.read(conn, key, unfinished.look(), one_by_one).await
    }

    /// Looks again while somebody has locked the table: for a while for those that do not wait, for as long
    /// as they do for those that wait. Nothing is held in between.
    async fn look_when_unlocked(
        &self,
        key: &Arc<Key>,
        unfinished: &mut Unfinished<'_>,
    ) -> Result<Found> {
        let mut backoff = LockBackoff::new();
        loop {
            let Some(pause) = backoff.next_pause() else {
                // Whoever does not wait has waited enough.
                self.dismiss_impatient(key, unfinished.look());
                if !self.has_waiters(key) {
                    return Err(store::Error::Locked);
                }
                backoff = LockBackoff::new();
                continue;
            };
            sleep(pause).await;
            // It is never closed.
            let _retry = self.shared.retries.acquire().await;
            match self.look_once(&mut None, key, unfinished, true).await {
                Err(store::Error::Locked) => {}
                outcome => return outcome,
            }
        }
    }

    fn dismiss_impatient(&self, key: &Arc<Key>, look: &Look) {
        let dismissed = match self.lock().lines.get_mut(key) {
            Some(line) => line.dismiss_impatient(look),
            None => Vec::new(),
        };
        for client in dismissed {
            drop(client.reply.send(Err(store::Error::Locked)));
        }
    }

    fn has_waiters(&self, key: &Arc<Key>) -> bool {
        self.lock().lines.get(key).is_some_and(|line| line.len() > 0)
    }

    async fn read(
        &self,
        conn: &mut Option<Conn>,
        key: &Key,
        look: &Look,
        one_by_one: bool,
    ) -> Result<Found> {
        let conn = match conn {
            Some(conn) => conn,
            None => conn.insert(self.shared.db.acquire(&Arc::default()).await?),
        };
        let read = Read {
            queue: self.queue.clone(),
            vt: key.vt,
            qty: i32::try_from(look.wants).unwrap_or(i32::MAX),
            filter: key.filter.clone(),
            fifo: key.fifo,
            dead_letters: key.dead_letters.clone(),
            max_bytes: self.shared.max_answer_bytes.max(READ_BYTES as u64),
            as_pgmq: self.shared.settings.read == ReadMode::Pgmq,
        };
        let began = Instant::now();
        let found = read_thoroughly(conn, &read, look.patient, one_by_one, &self.shared).await?;
        self.note_cost(key, began.elapsed());
        Ok(found)
    }

    /// Hands out what was found. What nobody takes goes back.
    fn deal(&self, key: &Arc<Key>, look: &Look, messages: Vec<Message>) {
        let (served, rest) = {
            let mut state = self.lock();
            if let Some(last) = messages.last() {
                let bytes = last.message.get().len() + 64;
                // What was far from it is not asked for once more.
                let weight = if look.cut_short { 0 } else { 7 };
                state.message_bytes = (state.message_bytes * weight + bytes) / (weight + 1);
            }
            match state.lines.get_mut(key) {
                Some(line) => line.end_look(look, messages),
                None => (Vec::new(), messages),
            }
        };
        for served in served {
            self.hand_over(key, served);
        }
        drop(self.delivery(rest));
    }

    fn hand_over(&self, key: &Arc<Key>, mut served: Served<Client, Message>) {
        loop {
            let Served { reply: client, messages } = served;
            client.stats.add_round_trip();
            let Err(Ok(mut returned)) = client.reply.send(Ok(self.delivery(messages))) else {
                return;
            };
            // It left in this very moment: who is next?
            let messages = std::mem::take(&mut returned.messages);
            if messages.is_empty() {
                return;
            }
            let mut state = self.lock();
            let next = state.lines.get_mut(key).map(|line| line.pass_on(messages));
            match next {
                Some(Ok(next)) => {
                    returned.lease.taken();
                    served = next;
                }
                // Dropped, it is given back.
                Some(Err(_)) | None => return,
            }
        }
    }

    fn fail(&self, key: &Arc<Key>, look: &Look, error: &store::Error) {
        let failed = match self.lock().lines.get_mut(key) {
            Some(line) => line.fail_look(look),
            None => Vec::new(),
        };
        for client in failed {
            client.stats.add_round_trip();
            drop(client.reply.send(Err(error.clone())));
        }
    }

    fn delivery(&self, messages: Vec<Message>) -> Delivery {
        Delivery::new(&self.queue, messages, &self.shared.db, &self.shared.tasks)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
