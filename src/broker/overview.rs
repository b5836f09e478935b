//! What is known of queues in memory, for those who look: nothing is asked for it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{
    domain::{QueueName, QueueSettings, Scope},
    engine::LaneLoad,
    telemetry::{Metrics, QueueSnapshot},
};

use super::Broker;

/// A queue, as far as it is known here.
#[derive(Clone, Debug)]
pub struct QueueOverview {
    /// Its name.
    pub queue: QueueName,
    /// What was measured and counted.
    pub known: QueueSnapshot,
    /// Its settings, as they were when they were last loaded; [`QueueSettings::notify`] is not among them.
    pub settings: QueueSettings,
    /// Whether the queue that is set for its dead letters is not there: they go into the archive.
    pub dead_letters_missing: bool,
    /// Whether it is read in groups.
    pub fifo: bool,
    /// Whether nothing is delivered.
    pub paused: bool,
    /// Clients that wait for its messages at this gateway.
    pub waiters: usize,
}

impl QueueOverview {
    /// The queue where its dead letters go; nothing is the archive.
    pub fn dead_letters(&self) -> Option<&QueueName> {
        let set = self.settings.dead_letter_queue.as_ref().map(|dead| &dead.0);
        set.filter(|_| !self.dead_letters_missing)
    }
}

impl Broker {
    /// Whether it is known which queues there are.
    pub fn knows_queues(&self) -> bool {
        self.queues_known.load(Relaxed)
    }

    /// The queues that are known, as far as they are `visible`, in no order.
    pub fn overview(&self, visible: &Scope) -> Vec<QueueOverview> {
        let known = self.metrics.queue_snapshots();
        let shown = known.into_iter().filter(|known| visible.contains(&known.queue));
        shown.filter_map(|known| self.complete_overview(known)).collect()
    }

    /// One queue; there is no telling whether it is there.
    pub fn overview_of(&self, queue: &QueueName) -> QueueOverview {
        let known = self.metrics.queue_snapshot(queue.as_str());
        self.with_policy(queue.clone(), known)
    }

    /// Whether it is among the queues that are known.
    pub fn knows(&self, queue: &QueueName) -> bool {
        self.metrics.queue_snapshots().iter().any(|known| *known.queue == *queue.as_str())
    }

    /// What is in the lanes of a queue at this gateway; nothing where it is not in use.
    pub fn lane_loads(&self, queue: &QueueName) -> Vec<LaneLoad> {
        self.engine.lane_loads(queue)
    }

    /// Whether dead letters of other queues go there, as far as that is known.
    pub fn takes_dead_letters(&self, queue: &QueueName) -> bool {
        self.policies.takes_dead_letters(queue)
    }

    fn complete_overview(&self, known: QueueSnapshot) -> Option<QueueOverview> {
        // What is counted for several queues together has no queue's name.
        let queue = QueueName::parse(&known.queue).ok()?;
        Some(self.with_policy(queue, known))
    }

    fn with_policy(&self, queue: QueueName, known: QueueSnapshot) -> QueueOverview {
        let policy = self.policies.last_known(&queue);
        QueueOverview {
            settings: policy.settings.clone(),
            dead_letters_missing: policy.dead_letters_missing,
            fifo: policy.fifo,
            paused: self.engine.pauses().is_paused(&queue),
            waiters: self.engine.waiters_on(&queue),
            known,
            queue,
        }
    }

    /// Where it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits until nobody is to wait any more, as the gateway stops.
    pub async fn stops_waiting(&self) {
        self.closing.cancelled().await;
    }

    /// Connections that the database's pool has, and of these those that nobody uses.
    pub fn pool_size(&self) -> (u32, u32) {
        self.db.size()
    }

    /// Clients that wait for messages at this gateway.
    pub fn waiters(&self) -> usize {
        self.engine.waiters()
    }

    /// Queues of which something is kept in memory, as they are in use.
    pub fn queues_in_use(&self) -> usize {
        self.engine.queues_in_use()
    }
}
