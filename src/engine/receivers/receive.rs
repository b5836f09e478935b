//! A client that wants messages: it joins a wait queue, and leaves it with what it is given.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::{
    domain::{Call, FifoMode, Wait},
    engine::{Delivery, wait_queue::WaitQueue},
    store::{self, Read, Result},
};

use super::{
    Receivers,
    guards::{QueueSlot, WaiterCount},
    key::Key,
    state::Client,
};

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
    /// What can be delivered now, or within `wait`.
    pub(in crate::engine) async fn receive(
        self: &Arc<Self>,
        read: Read,
        wait: Wait,
        call: &Arc<Call>,
    ) -> Result<Delivery> {
        let closing = &self.shared.closing;
        let long_poll = wait.get() > 0 && !closing.is_cancelled();
        let started = Instant::now();
        let deadline = started + Duration::from_secs(wait.get().unsigned_abs());
        let (reply, mut outcome) = oneshot::channel();
        let client = Client { reply, call: Arc::clone(call) };
        let wants = usize::try_from(read.qty).unwrap_or(1);
        let _waits = long_poll.then(|| WaiterCount::new(&self.shared.waiters));
        let key = Key {
            vt: read.vt,
            filter: read.filter,
            fifo: read.fifo.map(|mode| as_shared(mode, wants)),
            dead_letters: read.dead_letters,
        };
        let place = self.join(key, wants, long_poll, client)?;
        self.look(&place.key);
        if !long_poll && self.is_paused() {
            drop(place);
            outcome.close();
            return outcome.try_recv().unwrap_or_else(|_| Ok(Delivery::empty()));
        }
        if !long_poll {
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

    fn join(
        &self,
        key: Key,
        wants: usize,
        long_poll: bool,
        client: Client,
    ) -> Result<QueueSlot<'_>> {
        let mut state = self.lock();
        let distinct = if long_poll && !state.pace.knows(&key) {
            Some(self.count_distinct(&state, client.call.caller())?)
        } else {
            None
        };
        let key = match state.wait_queues.get_key_value(&key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(key),
        };
        if let Some(distinct) = distinct {
            state.pace.remember(&key, distinct);
        }
        let first = state.first_ticket;
        let exclusive = key.is_exclusive();
        let wait_queue = state.wait_queues.entry(Arc::clone(&key));
        let wait_queue = wait_queue.or_insert_with(|| WaitQueue::new(first, exclusive));
        let ticket = wait_queue.join(wants, long_poll, client);
        Ok(QueueSlot { receivers: self, key, ticket })
    }
}
