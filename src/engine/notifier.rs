//! There may be something in a queue: who is to know.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::domain::QueueName;

use super::{peers::Peers, receivers::Receivers};

/// Tells those who wait for a queue's messages, here and at other gateways.
pub(super) struct Notifier {
    queue: QueueName,
    receivers: Arc<Receivers>,
    peers: Arc<OnceLock<Arc<Peers>>>,
}

impl Notifier {
    pub(super) fn new(
        queue: &QueueName,
        receivers: &Arc<Receivers>,
        peers: &Arc<OnceLock<Arc<Peers>>>,
    ) -> Arc<Self> {
        let (receivers, peers) = (Arc::clone(receivers), Arc::clone(peers));
        Arc::new(Self { queue: queue.clone(), receivers, peers })
    }

    /// As [`Receivers::note_read`], for what reads beside it.
    pub(super) fn note_read(&self, took: Duration) {
        self.receivers.note_read(took);
    }

    /// Something was committed that could be delivered, now or later.
    pub(super) fn notify(&self) {
        self.receivers.notify();
        if let Some(peers) = self.peers.get() {
            peers.notify(&self.queue);
        }
    }
}
