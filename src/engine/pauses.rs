//! The queues of which nothing is delivered for the time being.

use std::collections::HashSet;

use tokio::sync::watch;

use crate::domain::QueueName;

/// The queues that are paused. Those who wait there go on waiting.
#[derive(Debug)]
pub struct Pauses(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    paused: HashSet<QueueName>,
    /// Where a pause began or ended that was not followed yet: one that did both may have turned somebody away.
    changed: HashSet<QueueName>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

impl Pauses {
    /// Whether a queue is paused.
    pub fn is_paused(&self, queue: &QueueName) -> bool {
        self.0.borrow().paused.contains(queue)
    }

    /// Pauses a queue, or ends that.
    pub fn set(&self, queue: &QueueName, paused: bool) {
        self.0.send_if_modified(|state| {
            let queues = &mut state.paused;
            let is_other = if paused { queues.insert(queue.clone()) } else { queues.remove(queue) };
            if is_other {
                state.changed.insert(queue.clone());
            }
            is_other
        });
    }

    /// What is paused, as a whole.
    pub fn replace(&self, paused: HashSet<QueueName>) {
        self.0.send_if_modified(|state| {
            let is_other = state.paused != paused;
            state.changed.extend(state.paused.symmetric_difference(&paused).cloned());
            state.paused = paused;
            is_other
        });
    }

    /// Has it told of each queue where a pause begins or ends, until it is dropped.
    pub(super) async fn follow(&self, tell: impl Fn(&QueueName)) {
        let mut changes = self.0.subscribe();
        loop {
            self.take_changed().iter().for_each(&tell);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn take_changed(&self) -> HashSet<QueueName> {
        let mut changed = HashSet::new();
        self.0.send_if_modified(|state| {
            changed = std::mem::take(&mut state.changed);
            false
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_has_ended_already_is_followed() {
        let [q, other] = ["q", "other"].map(|name| QueueName::parse(name).expect("valid"));
        let pauses = Pauses::default();
        pauses.set(&q, true);
        pauses.set(&q, false);
        assert_eq!(pauses.take_changed(), HashSet::from([q.clone()]));
        pauses.replace(HashSet::from([q.clone(), other.clone()]));
        pauses.replace(HashSet::from([other.clone()]));
        assert_eq!(pauses.take_changed(), HashSet::from([q.clone(), other.clone()]));
        pauses.set(&q, false);
        pauses.replace(HashSet::from([other]));
        assert!(pauses.take_changed().is_empty());
    }
}
