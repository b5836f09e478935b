//! The queues to which messages were given back that had been on their way to somebody.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::domain::QueueName;

/// Queues in which there is something again, until somebody has told those who wait.
#[derive(Debug, Default)]
pub(super) struct GivenBack {
    queues: Mutex<HashSet<QueueName>>,
    added: Notify,
}

impl GivenBack {
    /// That was committed.
    pub(super) fn note(&self, queue: &QueueName) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.insert(queue.clone()) {
            self.added.notify_one();
        }
    }

    /// Has it told of each, until it is dropped.
    pub(super) async fn follow(&self, tell: impl Fn(&QueueName)) {
        loop {
            self.added.notified().await;
            let queues = {
                let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *queues)
            };
            queues.iter().for_each(&tell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_queue_is_told_of_once() {
        let [a, b] = ["a", "b"].map(|name| QueueName::parse(name).expect("valid"));
        let (given_back, told) = (GivenBack::default(), Mutex::new(Vec::new()));
        for queue in [&a, &b, &a] {
            given_back.note(queue);
        }
        let all_told = async {
            while told.lock().expect("whole").len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = given_back.follow(|queue| told.lock().expect("whole").push(queue.clone())) => {}
            () = all_told => {}
        }
        let mut told = told.into_inner().expect("whole");
        told.sort_unstable();
        assert_eq!(told, [a, b]);
    }
}
