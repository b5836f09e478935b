//! Who stands in line at a queue.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    domain::{Call, CallerId},
    engine::{
        Delivery,
        separation::Separation,
        timer::Timer,
        wait_queue::{Ticket, WaitQueue},
    },
    store::Result,
};

use super::{
    key::Key,
    pace::{Group, Pace},
};

/// Wait queues that are looked for at the same time when there is news. Of more, one after the other is.
const FEW: usize = 4;

/// Who stands in line at a queue, and what is known of reads there.
pub(super) struct State {
    /// A request looks its own up five times. Each process hashes with a seed of its own, so that clients cannot choose
    /// keys that collide.
    pub(super) wait_queues: HashMap<Arc<Key>, WaitQueue<Client>, RandomState>,
    /// Larger than every ticket of the wait queues that are gone.
    pub(super) first_ticket: Ticket,
    pub(super) timer: Timer,
    /// Whether the last read was for several clients.
    pub(super) crowded: bool,
    /// Bytes of a message, from the last reads.
    pub(super) message_bytes: usize,
    /// Until when it is left alone that something can be delivered: the last read found nothing but
    /// what the table keeps, which the next one would try in vain again.
    pub(super) kept_until: Option<Instant>,
    /// Looks that meet a lock.
    pub(super) blocked_looks: usize,
    /// Until when looks have statements of their own.
    pub(super) separation: Separation,
    /// What the wait queues that choose among the messages cost.
    pub(super) pace: Pace,
}

/// Who stands in line.
pub(super) struct Client {
    pub(super) reply: oneshot::Sender<Result<Delivery>>,
    pub(super) call: Arc<Call>,
}

impl State {
    /// Nobody is there yet.
    pub(super) fn new() -> Self {
        Self {
            wait_queues: HashMap::default(),
            first_ticket: 0,
            timer: Timer::default(),
            crowded: false,
            message_bytes: 256,
            kept_until: None,
            blocked_looks: 0,
            separation: Separation::default(),
            pace: Pace::default(),
        }
    }

    pub(super) fn remove_idle(&mut self, key: &Arc<Key>) {
        if let Some(wait_queue) =
            self.wait_queues.get(key).filter(|wait_queue| wait_queue.is_idle())
        {
            self.first_ticket = self.first_ticket.max(wait_queue.next_ticket());
            self.wait_queues.remove(key);
            self.pace.forget(key);
        }
    }

    /// The wait queues that are to be looked for at once, and whether there are others.
    pub(super) fn at_once_and_in_turn(&self) -> (Vec<Arc<Key>>, bool) {
        let all = self.wait_queues.len();
        let at_once: Vec<Arc<Key>> = if all <= FEW {
            self.wait_queues.keys().cloned().collect()
        } else {
            self.wait_queues.keys().filter(|key| !key.is_choosy()).take(FEW).cloned().collect()
        };
        let in_turn = at_once.len() < all;
        (at_once, in_turn)
    }

    /// The wait queues that have not been looked for since there was news, and the group of each.
    pub(super) fn due(&self, max_looks: usize) -> impl Iterator<Item = (Group, &Arc<Key>)> {
        let due =
            self.wait_queues.iter().filter(move |(_, wait_queue)| wait_queue.is_due(max_looks));
        due.map(|(key, _)| (self.group_of(key), key))
    }

    fn group_of(&self, key: &Key) -> Group {
        let is_choosy = key.is_choosy();
        let caller = if is_choosy { self.caller_of(key) } else { None };
        Group { is_choosy, caller }
    }

    pub(super) fn caller_of(&self, key: &Key) -> Option<CallerId> {
        self.wait_queues.get(key).and_then(WaitQueue::first)?.call.caller()
    }
}
