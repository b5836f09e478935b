//! Looking for messages on behalf of a wait queue, and dealing out what was found.

use std::{
    iter,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    select,
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tracing::{Instrument, Span};

use crate::{
    config::ReadMode,
    domain::Message,
    engine::{
        Delivery,
        floors::keep,
        lane::LONG,
        spans,
        table_lock::Intent,
        thorough::{BESIDE_KEPT, read_thoroughly},
        wait_queue::{Look, Served},
    },
    store::{self, Conn, Found, Process, Read, Result},
    telemetry::MessageEvent,
};

use super::{
    READ_BYTES, Receivers,
    guards::{InFlightRead, Turn},
    key::Key,
    state::Client,
};

/// What a look is sent for.
#[derive(Clone, Copy)]
struct Wanted {
    messages: usize,
    /// Whether somebody would wait for what is not there yet.
    long_poll: bool,
}

impl Wanted {
    fn of(look: &Look) -> Self {
        Self { messages: look.wants, long_poll: look.long_poll }
    }
}

impl Receivers {
    /// Looks, and looks again for as long as that is due. A connection is kept meanwhile. Where wait queues are
    /// looked for in turn, it looks once.
    pub(super) async fn run_looks(
        self: &Arc<Self>,
        key: &Arc<Key>,
        first: Look,
        mut turn: Option<Turn>,
    ) {
        let again = turn.is_none();
        let mut conn = None;
        let mut next = Some(first);
        while let Some(look) = next {
            let mut in_flight = InFlightRead::new(self, key, look);
            in_flight.turn = turn.take();
            if conn.is_none() && self.lock().crowded {
                // Requests that came in together with the first one are on their way here.
                yield_now().await;
            }
            let outcome = if self.is_blocked() {
                Err(store::Error::Locked)
            } else {
                let _permit = self.look_permit(key, &mut conn).await;
                self.look_once(&mut conn, key, &mut in_flight, false).await
            };
            let outcome = match outcome {
                Err(store::Error::Locked) => {
                    conn = None;
                    self.look_when_unlocked(key, &mut in_flight).await
                }
                outcome => outcome,
            };
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
            let span = std::mem::replace(&mut in_flight.span, Span::none());
            self.end_look(key, in_flight.finish(), outcome, &span);
            next = if again { self.begin_look(key) } else { None };
        }
        self.lock().remove_idle(key);
    }

    /// Deals out what a look found, or tells why it found nothing. The span is that of its statement.
    pub(super) fn end_look(
        self: &Arc<Self>,
        key: &Arc<Key>,
        mut look: Look,
        outcome: Result<Found>,
        span: &Span,
    ) {
        match outcome {
            Ok(found) => {
                look.cut_short = found.more;
                let kept = found.kept.is_some() && found.messages.is_empty();
                self.lock().kept_until = kept.then(|| Instant::now() + BESIDE_KEPT);
                let queue = self.queue.as_str();
                self.shared.metrics.messages(queue, MessageEvent::DeadLettered, found.dead);
                self.deal(key, &look, found.messages, span);
                if let Some(due_in) = found.due_in {
                    self.set_timer(due_in);
                }
            }
            Err(error) => self.fail(key, &look, &error),
        }
    }

    /// One statement for a look, and for all who came until then; row by row, it waits for no lock.
    pub(super) async fn look_once(
        self: &Arc<Self>,
        conn: &mut Option<Conn>,
        key: &Arc<Key>,
        in_flight: &mut InFlightRead<'_>,
        one_by_one: bool,
    ) -> Result<Found> {
        if self.is_paused() || !self.is_worth_sending(key) {
            return Ok(Found::default());
        }
        let conn = match conn {
            Some(conn) => conn,
            None => conn.insert(self.shared.db.acquire(&Arc::default()).await?),
        };
        if !self.table.allows(Intent::Change) {
            // That became known while this waited for a connection.
            return Err(store::Error::Locked);
        }
        self.extend(key, in_flight.look_mut());
        // Whom it serves is known once it is dealt out.
        let span = spans::statement("receive", Some(&self.queue), iter::empty());
        in_flight.span = span.clone();
        let wanted = Wanted::of(in_flight.look_mut());
        let process = conn.process();
        let outcome = {
            let read = self.read(conn, key, wanted, one_by_one);
            let mut read = pin!(read.instrument(span));
            match timeout(LONG, &mut read).await {
                Ok(outcome) => outcome,
                Err(_) => self.end_slowly(read, process, key, in_flight).await,
            }
        };
        if matches!(outcome, Err(store::Error::Locked)) {
            self.table.look(conn).await;
        }
        outcome
    }

    /// Waits for a read that takes long. As soon as there is a place for it, others look meanwhile; not while it is its
    /// commit that takes so long, as theirs would, too, and what they lease for the same clients had to be given back.
    async fn end_slowly(
        self: &Arc<Self>,
        mut read: Pin<&mut impl Future<Output = Result<Found>>>,
        process: Option<Arc<Process>>,
        key: &Arc<Key>,
        in_flight: &mut InFlightRead<'_>,
    ) -> Result<Found> {
        let is_row = async {
            while let Some(process) = &process
                && Box::pin(self.shared.db.is_committing(process)).await
            {
                sleep(LONG).await;
            }
            self.held_up.enter().await
        };
        let _place = select! {
            biased;
            outcome = &mut read => return outcome,
            place = is_row => place,
        };
        self.hold_up(key, in_flight);
        read.await
    }

    /// Has others look meanwhile, who are not kept waiting by the row that it may be.
    fn hold_up(self: &Arc<Self>, key: &Arc<Key>, in_flight: &mut InFlightRead<'_>) {
        let dismissed = match self.lock().wait_queues.get_mut(key) {
            Some(wait_queue) => wait_queue.hold_up(in_flight.look_mut()),
            None => Vec::new(),
        };
        for client in dismissed {
            client.call.add_round_trip();
            drop(client.reply.send(Ok(Delivery::empty())));
        }
        match &mut in_flight.turn {
            Some(turn) => {
                turn.pass();
                self.look_in_turn();
            }
            None => self.look(key),
        }
    }

    async fn read(
        self: &Arc<Self>,
        conn: &mut Conn,
        key: &Key,
        wanted: Wanted,
        one_by_one: bool,
    ) -> Result<Found> {
        let read = Read {
            queue: self.queue.clone(),
            vt: key.vt,
            qty: i32::try_from(wanted.messages).unwrap_or(i32::MAX),
            filter: key.filter.clone(),
            fifo: key.fifo,
            dead_letters: key.dead_letters.clone(),
            after_group: None,
            max_bytes: self.shared.max_answer_bytes.max(READ_BYTES as u64),
            as_pgmq: self.shared.settings.read == ReadMode::Pgmq,
            since: None,
        };
        let began = Instant::now();
        let found =
            read_thoroughly(conn, &read, wanted.long_poll, one_by_one, &self.shared).await?;
        let took = began.elapsed();
        self.note_cost(key, took);
        self.note_read(took);
        Ok(found)
    }

    /// Hands out what was found. What nobody takes goes back.
    fn deal(&self, key: &Arc<Key>, look: &Look, messages: Vec<Message>, span: &Span) {
        let (served, rest, is_waited_on) = {
            let mut state = self.lock();
            if let Some(last) = messages.last() {
                let bytes = last.content_bytes() + 64;
                // What was far from it is not asked for once more.
                let weight = if look.cut_short { 0 } else { 7 };
                state.message_bytes = (state.message_bytes * weight + bytes) / (weight + 1);
            }
            match state.wait_queues.get_mut(key) {
                Some(wait_queue) => {
                    let (served, rest) = wait_queue.end_look(look, messages);
                    (served, rest, wait_queue.has_long_poll())
                }
                None => (Vec::new(), messages, false),
            }
        };
        if is_waited_on && let Some(peers) = self.peers.get() {
            // Now it is known that there is such a queue.
            peers.register_interest(&self.queue);
        }
        for served in served {
            self.hand_over(key, served, span);
        }
        drop(self.delivery(rest));
    }

    fn hand_over(&self, key: &Arc<Key>, mut served: Served<Client, Message>, span: &Span) {
        loop {
            let Served { reply: client, messages } = served;
            client.call.add_round_trip();
            spans::serves(span, &client.call);
            let Err(Ok(mut returned)) = client.reply.send(Ok(self.delivery(messages))) else {
                return;
            };
            // It left in this very moment: who is next?
            let messages = std::mem::take(&mut returned.messages);
            if messages.is_empty() {
                return;
            }
            let mut state = self.lock();
            let next =
                state.wait_queues.get_mut(key).map(|wait_queue| wait_queue.pass_on(messages));
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

    /// Takes note of how long a read took. If that may be because of dead rows, somebody looks after it.
    pub(in crate::engine) fn note_read(self: &Arc<Self>, took: Duration) {
        if self.shared.settings.read == ReadMode::Pgmq
            || !self.shared.floors.note_read(&self.queue, took)
        {
            return;
        }
        let receivers = Arc::downgrade(self);
        self.shared.tasks.spawn(keep(self.queue.clone(), receivers, self.shared.clone()));
    }

    pub(super) fn fail(&self, key: &Arc<Key>, look: &Look, error: &store::Error) {
        let failed = match self.lock().wait_queues.get_mut(key) {
            Some(wait_queue) => wait_queue.fail_look(look),
            None => Vec::new(),
        };
        for client in failed {
            client.call.add_round_trip();
            drop(client.reply.send(Err(error.clone())));
        }
    }

    fn delivery(&self, messages: Vec<Message>) -> Delivery {
        Delivery::new(&self.queue, messages, &self.shared)
    }
}
