//! Which queues were to be made fair a moment ago.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::QueueName;

/// Time between two tries for the same queue.
const PAUSE: Duration = Duration::from_secs(60);
/// Queues that are remembered.
const MOST: usize = 10_000;

/// When it was tried last, by queue.
#[derive(Debug, Default)]
pub(super) struct FairTries(Mutex<HashMap<QueueName, Instant>>);

impl FairTries {
    /// Whether it is time to try, which counts as done then.
    pub(super) fn begin(&self, queue: &QueueName) -> bool {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.get(queue).is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        if tries.len() >= MOST {
            tries.retain(|_, at| at.elapsed() < PAUSE);
        }
        let has_room = tries.len() < MOST;
        if has_room {
            tries.insert(queue.clone(), Instant::now());
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_queue_is_tried_now_and_then() {
        let [one, other] = ["one", "other"].map(|name| QueueName::parse(name).expect("valid"));
        let tries = FairTries::default();
        assert!(tries.begin(&one));
        advance(PAUSE / 2).await;
        assert!(!tries.begin(&one) && tries.begin(&other));
        advance(PAUSE / 2).await;
        assert!(tries.begin(&one) && !tries.begin(&other));
    }
}
