//! There may be something in a queue: who is to know.

use std::sync::{Arc, OnceLock};

use crate::domain::QueueName;

use super::{peers::Peers, receivers::Receivers};

/// Tells those who wait for a queue's messages, here and at other gateways.
pub(super) struct Notifier {
    queue: QueueName,
    line: Arc<Receivers>,
    peers: Arc<OnceLock<Arc<Peers>>>,
}

impl Notifier {
    pub(super) fn new(
        queue: &QueueName,
        line: &Arc<Receivers>,
        peers: &Arc<OnceLock<Arc<Peers>>>,
    ) -> Arc<Self> {
        let (line, peers) = (Arc::clone(line), Arc::clone(peers));
        Arc::new(Self { queue: queue.clone(), line, peers })
    }

    /// Something was committed that could be delivered, now or later.
    pub(super) fn tell(&self) {
        self.line.news();
        if let Some(peers) = self.peers.get() {
            peers.tell(&self.queue);
        }
    }
}
