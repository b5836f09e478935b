//! Messages at which reads ran out of time, as a trigger takes long for them. Reads pass them over for a while, so
//! that they do not come first each time.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{domain::QueueName, store::PassedOver};

/// Time for which one is passed over.
const PAUSE: Duration = Duration::from_secs(60);
/// Time between two of a queue that are tried again: each may take all the time that a statement has.
const BETWEEN_TRIES: Duration = Duration::from_secs(30);
/// Messages of a queue that are remembered, and queues. Reads do not go past many more that they have to leave.
const MOST_ROWS: usize = 500;
const MOST_QUEUES: usize = 1_000;

/// The messages to pass over, by queue.
#[derive(Debug, Default)]
pub(super) struct SlowRows(Mutex<HashMap<QueueName, OfQueue>>);

#[derive(Debug)]
struct OfQueue {
    /// Another queue of the same name has messages of its own.
    queue_id: i64,
    /// The latest last.
    rows: VecDeque<(Instant, i64)>,
    tried: Option<Instant>,
}

impl SlowRows {
    /// A read ran out of time at a message of the queue with this identity.
    pub(super) fn note(&self, queue: &QueueName, queue_id: i64, msg_id: i64) {
        warn!(%queue, msg_id, "to deliver this message takes too long: it is passed over for a while");
        let mut queues = self.lock();
        if queues.len() >= MOST_QUEUES && !queues.contains_key(queue) {
            queues.retain(|_, of_queue| !of_queue.is_over());
            if queues.len() >= MOST_QUEUES {
                return;
            }
        }
        let new = || OfQueue { queue_id, rows: VecDeque::new(), tried: None };
        let of_queue = queues.entry(queue.clone()).or_insert_with(new);
        if of_queue.queue_id != queue_id {
            *of_queue = new();
        }
        of_queue.rows.retain(|(_, id)| *id != msg_id);
        if of_queue.rows.len() >= MOST_ROWS {
            of_queue.rows.pop_front();
        }
        of_queue.rows.push_back((Instant::now(), msg_id));
    }

    /// What the next read is to pass over. Now and then, one of those whose time is over is not among them, and is
    /// tried again.
    pub(super) fn of(&self, queue: &QueueName) -> PassedOver {
        let mut queues = self.lock();
        let Some(of_queue) = queues.get_mut(queue) else { return PassedOver::default() };
        of_queue.let_one_be_tried();
        let ids: Vec<i64> = of_queue.rows.iter().map(|(_, id)| *id).collect();
        let queue_id = Some(of_queue.queue_id);
        if ids.is_empty() {
            queues.remove(queue);
        }
        PassedOver { queue_id, ids }
    }

    /// Whether there are some in a queue.
    pub(super) fn has_any(&self, queue: &QueueName) -> bool {
        self.lock().contains_key(queue)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, OfQueue>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfQueue {
    fn let_one_be_tried(&mut self) {
        let is_due = self.rows.front().is_some_and(|(at, _)| at.elapsed() >= PAUSE);
        if is_due && self.tried.is_none_or(|at| at.elapsed() >= BETWEEN_TRIES) {
            self.rows.pop_front();
            self.tried = Some(Instant::now());
        }
    }

    /// Whether the time of all of them is over.
    fn is_over(&self) -> bool {
        self.rows.back().is_none_or(|(at, _)| at.elapsed() >= PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn slow_rows_are_passed_over_for_a_while_and_tried_again_one_after_the_other() {
        let (slow, q) = (SlowRows::default(), queue("q"));
        assert_eq!(slow.of(&q), PassedOver::default());
        for id in [1, 2, 1] {
            slow.note(&q, 7, id);
        }
        assert_eq!(slow.of(&q), PassedOver { queue_id: Some(7), ids: vec![2, 1] });
        assert!(slow.of(&queue("other")).ids.is_empty());
        advance(PAUSE).await;
        assert_eq!(slow.of(&q).ids, [1], "one of them is tried");
        assert_eq!(slow.of(&q).ids, [1], "no other one");
        slow.note(&q, 7, 2);
        advance(BETWEEN_TRIES).await;
        assert_eq!(slow.of(&q).ids, [2]);
        advance(PAUSE).await;
        assert!(slow.has_any(&q));
        assert!(slow.of(&q).ids.is_empty() && !slow.has_any(&q), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn another_queue_of_the_same_name_has_none() {
        let (slow, q) = (SlowRows::default(), queue("q"));
        slow.note(&q, 7, 1);
        slow.note(&q, 8, 2);
        assert_eq!(slow.of(&q), PassedOver { queue_id: Some(8), ids: vec![2] });
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_remembered() {
        let slow = SlowRows::default();
        for n in 0..=MOST_QUEUES {
            slow.note(&queue(&format!("q{n}")), 1, 1);
        }
        assert!(!slow.has_any(&queue(&format!("q{MOST_QUEUES}"))));
        advance(PAUSE).await;
        slow.note(&queue("new"), 1, 1);
        assert_eq!(slow.lock().len(), 1);
        for id in 0..1_000 {
            slow.note(&queue("new"), 1, id);
        }
        assert_eq!(slow.of(&queue("new")).ids.len(), MOST_ROWS);
    }
}
