//! Queues whose messages take long to be read, so that few are asked for at a time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::QueueName;

/// Time for which one row at a time is read of a queue of which more took too long.
const CAUTION: Duration = Duration::from_secs(60);
/// Queues that are remembered.
const MOST: usize = 1_000;

/// The queues of which a read of several messages took too long a short while ago: SQL clients can store what is
/// small, and enormous once PostgreSQL has written it out.
#[derive(Debug, Default)]
pub struct HeavyQueues(Mutex<HashMap<QueueName, Instant>>);

impl HeavyQueues {
    /// A read of several messages took too long.
    pub fn note(&self, queue: &QueueName) {
        let mut noted = self.lock();
        if noted.len() >= MOST {
            noted.retain(|_, at| at.elapsed() < CAUTION);
        }
        if noted.len() < MOST {
            noted.insert(queue.clone(), Instant::now());
        }
    }

    /// How many messages to ask for where so many are wanted.
    pub fn rows(&self, queue: &QueueName, wanted: i32) -> i32 {
        let mut noted = self.lock();
        match noted.get(queue) {
            Some(at) if at.elapsed() < CAUTION => wanted.min(1),
            Some(_) => {
                noted.remove(queue);
                wanted
            }
            None => wanted,
        }
    }

    /// Whether messages are to be read one at a time.
    pub(super) fn is_heavy(&self, queue: &QueueName) -> bool {
        self.rows(queue, 2) == 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Instant>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_row_at_a_time_is_read_for_a_while() {
        let [heavy, other] = ["heavy", "other"].map(|name| QueueName::parse(name).expect("valid"));
        let queues = HeavyQueues::default();
        assert_eq!(queues.rows(&heavy, 100), 100);
        queues.note(&heavy);
        assert_eq!((queues.rows(&heavy, 100), queues.rows(&other, 100)), (1, 100));
        advance(CAUTION / 2).await;
        queues.note(&heavy);
        advance(CAUTION * 3 / 4).await;
        assert_eq!(queues.rows(&heavy, 7), 1);
        advance(CAUTION / 2).await;
        assert_eq!(queues.rows(&heavy, 7), 7);
        assert!(queues.lock().is_empty());
    }
}
