//! Looking for many wait queues one after the other, and the permit for each look.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, SemaphorePermit},
    time::{Instant, sleep},
};

use crate::{
    domain::CallerId,
    engine::{lane::acquire_slot, shares::DearRead},
    store::{Conn, Error, Result},
};

use super::{
    Receivers,
    guards::Turn,
    key::Key,
    pace::{Distinct, Group},
    state::State,
};

/// A permit for one look.
pub(super) struct LookPermit<'a> {
    _of_caller: Option<OwnedSemaphorePermit>,
    _dear: Option<DearRead>,
    _statement: Option<SemaphorePermit<'a>>,
}

impl Receivers {
    /// Counts a wait queue in which somebody is going to wait, unless there are as many as may be.
    pub(super) fn count_distinct(
        &self,
        state: &State,
        caller: Option<CallerId>,
    ) -> Result<Distinct> {
        let most = self.shared.max_distinct_per_queue;
        if state.pace.distinct.len() >= most {
            self.shared.metrics.refused("max_distinct_per_queue");
            return Err(Error::TooManyWaiters);
        }
        let Some(id) = caller else { return Ok(Distinct::new(caller, None)) };
        let own = state.pace.distinct.values().filter(|distinct| distinct.caller == caller).count();
        let counted = self.shared.distinct.enter(id, self.shared.max_distinct_per_key);
        if own >= self.shared.share.of(most) || counted.is_none() {
            self.shared.metrics.refused("key_max_distinct");
            return Err(Error::TooManyWaiters);
        }
        Ok(Distinct::new(caller, counted))
    }

    /// There is something that can be delivered to somebody. Those that take whatever there is are looked for.
    /// Those that choose have seen it, and are told of what this gateway stores, and of when something becomes
    /// visible: they look again now and then, for what SQL clients store.
    pub(in crate::engine) fn swept(self: &Arc<Self>) {
        let is_for_all = {
            let mut state = self.lock();
            if state.kept_until.is_some_and(|until| until > Instant::now()) {
                return;
            }
            let choosy = state.wait_queues.keys().filter(|key| key.is_choosy()).count();
            state.pace.is_time_to_look_again(choosy)
        };
        if is_for_all {
            return self.notify();
        }
        let (at_once, in_turn) = {
            let mut state = self.lock();
            let plain = state.wait_queues.iter_mut().filter(|(key, _)| !key.is_choosy());
            plain.for_each(|(_, wait_queue)| wait_queue.notify());
            state.at_once_and_in_turn()
        };
        for key in &at_once {
            self.look(key);
        }
        if in_turn {
            self.look_in_turn();
        }
    }

    /// Looks for wait queues one after the other until none is due, and for no more than half of the time.
    pub(super) fn look_in_turn(self: &Arc<Self>) {
        for group in self.begin_turns() {
            let turns = Turns { receivers: Arc::clone(self), group };
            self.shared.tasks.spawn(async move {
                while let Some(due) = turns.next() {
                    let began = Instant::now();
                    turns.receivers.look_for_each(&due).await;
                    sleep(began.elapsed()).await;
                }
                // Who is first in a wait queue may have left it to another caller.
                turns.receivers.look_in_turn();
            });
        }
    }

    /// The groups in which a wait queue is due, and which nobody looks for.
    fn begin_turns(&self) -> Vec<Group> {
        if self.is_paused() {
            return Vec::new();
        }
        let mut state = self.lock();
        let due: HashSet<Group> =
            state.due(self.shared.settings.statements_per_lane).map(|(group, _)| group).collect();
        due.into_iter().filter(|group| state.pace.in_turn.insert(*group)).collect()
    }

    /// One after the other; none waits for one that takes long.
    async fn look_for_each(self: &Arc<Self>, keys: &[Arc<Key>]) {
        for key in keys {
            let Some(look) = self.begin_look(key) else { continue };
            let (turn, passed) = Turn::new();
            let (receivers, key) = (Arc::clone(self), Arc::clone(key));
            self.shared.tasks.spawn(async move {
                receivers.run_looks(&key, look, Some(turn)).await;
                // It may be due again, and all the others have had their turn meanwhile.
                receivers.look_in_turn();
            });
            // Nothing is sent: it is dropped.
            drop(passed.await);
        }
    }

    /// Waits for a permit to look for a wait queue. Whoever has to wait keeps no connection meanwhile.
    pub(super) async fn look_permit<'a>(
        &'a self,
        key: &Key,
        conn: &mut Option<Conn>,
    ) -> LookPermit<'a> {
        let (mut of_caller, mut dear) = (None, None);
        if key.is_choosy() {
            let caller = self.lock().caller_of(key);
            of_caller = match caller.map(|caller| (caller, self.shared.choosy.try_acquire(&caller)))
            {
                Some((caller, None)) => {
                    *conn = None;
                    self.shared.choosy.acquire(&caller).await
                }
                Some((_, free)) => free,
                None => None,
            };
        }
        loop {
            if dear.is_none() && key.filter.is_some() && self.lock().pace.is_dear() {
                *conn = None;
                let caller = self.lock().caller_of(key);
                dear = Some(self.shared.dear.acquire(caller, Some(&self.queue)).await);
            }
            let statement = acquire_slot(&self.statements, conn).await;
            // It may have turned out to be dear while this waited with many others.
            if dear.is_some() || key.filter.is_none() || !self.lock().pace.is_dear() {
                return LookPermit { _of_caller: of_caller, _dear: dear, _statement: statement };
            }
        }
    }

    /// Takes note of how long a read took.
    pub(super) fn note_cost(&self, key: &Key, took: Duration) {
        if !key.is_choosy() {
            return;
        }
        self.lock().pace.note_cost(key, took);
    }
}

/// Looking in turn, until this is dropped.
struct Turns {
    receivers: Arc<Receivers>,
    group: Group,
}

impl Turns {
    /// The wait queues that are due. Nothing if none is: then whoever makes one due begins anew.
    fn next(&self) -> Option<Vec<Arc<Key>>> {
        let Receivers { shared, .. } = &*self.receivers;
        // While nothing is delivered, nobody is looked for.
        let is_paused = self.receivers.is_paused();
        let mut state = self.receivers.lock();
        let due = state.due(shared.settings.statements_per_lane);
        let due = due.filter(|(group, _)| *group == self.group && !is_paused);
        let due: Vec<Arc<Key>> = due.map(|(_, key)| Arc::clone(key)).collect();
        if due.is_empty() {
            state.pace.in_turn.remove(&self.group);
        }
        Some(due).filter(|due| !due.is_empty())
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // One that ended by itself has said so, and another may have begun.
        if std::thread::panicking() {
            self.receivers.lock().pace.in_turn.remove(&self.group);
        }
    }
}
