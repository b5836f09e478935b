//! What keeps many wait queues of one queue, or dear ones, from taking it all: those that choose among its messages
//! find something rarely, and each needs reads of its own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{domain::CallerId, engine::shares::Counted};

use super::key::Key;

/// The time of a read with a filter from which on such reads of the queue are dear, and for how long they are.
const DEAR: Duration = Duration::from_millis(50);
const DEAR_FOR: Duration = Duration::from_secs(10);
/// Wait queues that found nothing look again without news, as there is something that they did not choose, when so
/// many times of what that takes have passed; and after this time at the latest.
const LOOK_AGAIN_SHARE: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is known of the wait queues.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Those in which somebody waits, and whose they are.
    pub(super) distinct: HashMap<Arc<Key>, Distinct>,
    /// Whose wait queues are being looked for one after the other.
    pub(super) in_turn: HashSet<Group>,
    /// Time of a read for a wait queue that chooses, from the last ones.
    choosy_read: Duration,
    dear_until: Option<Instant>,
    looked_again: Option<Instant>,
}

/// Wait queues that are looked for one after the other: those of one caller that choose, or those that take whatever
/// there is. No group waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    pub(super) is_choosy: bool,
    pub(super) caller: Option<CallerId>,
}

/// A wait queue that counts among those of whoever came first.
#[derive(Debug)]
pub(super) struct Distinct {
    pub(super) caller: Option<CallerId>,
    _counted: Option<Counted<CallerId>>,
}

impl Distinct {
    pub(super) fn new(caller: Option<CallerId>, counted: Option<Counted<CallerId>>) -> Self {
        Self { caller, _counted: counted }
    }
}

impl Pace {
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.distinct.contains_key(key)
    }

    pub(super) fn remember(&mut self, key: &Arc<Key>, distinct: Distinct) {
        self.distinct.insert(Arc::clone(key), distinct);
    }

    pub(super) fn forget(&mut self, key: &Arc<Key>) {
        self.distinct.remove(key);
    }

    pub(super) fn is_dear(&self) -> bool {
        self.dear_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether so many wait queues that found nothing are to look again although there is no news.
    pub(super) fn is_time_to_look_again(&mut self, wait_queues: usize) -> bool {
        let wait_queues = u32::try_from(wait_queues).unwrap_or(u32::MAX);
        let pause = self.choosy_read.saturating_mul(wait_queues).saturating_mul(LOOK_AGAIN_SHARE);
        let is_time = self.looked_again.is_none_or(|at| at.elapsed() >= pause.min(LOOK_AGAIN));
        if is_time {
            self.looked_again = Some(Instant::now());
        }
        is_time
    }

    /// Takes note of how long a read for a wait queue that chooses took.
    pub(super) fn note_cost(&mut self, key: &Key, took: Duration) {
        self.choosy_read = (self.choosy_read * 7 + took) / 8;
        if key.filter.is_some() && took >= DEAR {
            self.dear_until = Some(Instant::now() + DEAR_FOR);
        }
    }
}
