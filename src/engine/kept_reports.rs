//! Messages that their table keeps: what is said of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{domain::QueueName, store::Kept};

/// Says that there are messages which are not delivered, as their table keeps them: now and then, as every
/// read meets them.
#[derive(Debug, Default)]
pub(super) struct KeptReports(Mutex<HashMap<QueueName, Instant>>);

impl KeptReports {
    /// Time between two reports about a queue.
    const INTERVAL: Duration = Duration::from_secs(60);
    /// Queues that are remembered.
    const MOST: usize = 1_000;

    pub(super) fn report(&self, queue: &QueueName, kept: Option<&Kept>) {
        let Some(Kept { count, code }) = kept else { return };
        if self.is_due(queue) {
            let code = code.as_deref().unwrap_or("none");
            warn!(
                %queue, messages = count, sqlstate = code,
                "not delivered: a trigger, a policy or a constraint of the queue's table keeps them"
            );
        }
    }

    fn is_due(&self, queue: &QueueName) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reported.retain(|_, at| at.elapsed() < Self::INTERVAL);
        if reported.contains_key(queue) || reported.len() >= Self::MOST {
            return false;
        }
        reported.insert(queue.clone(), Instant::now());
        true
    }
}
