//! The queues of which nothing is delivered for the time being.

use std::collections::HashSet;

use tokio::sync::watch;

use crate::domain::QueueName;

use super::lanes::Lanes;

/// The queues that are paused. Those who wait there go on waiting.
#[derive(Debug)]
pub struct Pauses(watch::Sender<HashSet<QueueName>>);

impl Default for Pauses {
    fn default() -> Self {
        Self(watch::Sender::new(HashSet::new()))
    }
}

impl Pauses {
    /// Whether a queue is paused.
    pub fn is_paused(&self, queue: &QueueName) -> bool {
        self.0.borrow().contains(queue)
    }

    /// Pauses a queue, or ends that.
    pub fn set(&self, queue: &QueueName, paused: bool) {
        self.0.send_if_modified(|queues| {
            if paused { queues.insert(queue.clone()) } else { queues.remove(queue) }
        });
    }

    /// What is paused, as a whole.
    pub fn replace(&self, paused: HashSet<QueueName>) {
        self.0.send_if_modified(|queues| {
            let is_other = *queues != paused;
            *queues = paused;
            is_other
        });
    }

    /// Answers those who do not wait where a pause begins, and looks for those who wait where one ends. Works
    /// until it is dropped.
    pub(super) async fn follow(&self, lanes: &Lanes) {
        let (mut changes, mut known) = (self.0.subscribe(), HashSet::new());
        loop {
            let now = changes.borrow_and_update().clone();
            for lane in known.symmetric_difference(&now).filter_map(|queue| lanes.in_use(queue)) {
                lane.receive.pause_changed();
            }
            known = now;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
