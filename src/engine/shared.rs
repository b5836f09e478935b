//! What all lanes of a gateway stand on.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config, store::Db, telemetry::Metrics};

/// What all lanes share. A clone is the same.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The pool.
    pub db: Db,
    /// Bounds.
    pub settings: config::Engine,
    /// Statements that one queue has under way at the same time, of all kinds together: fewer than
    /// the pool has connections, so that no queue takes all of them.
    pub statements_per_queue: usize,
    /// Clients that can wait at the same time.
    pub max_waiters: usize,
    /// Those of them that can wait for messages of the same queue.
    pub max_waiters_per_queue: usize,
    /// Clients that wait.
    pub waiters: Arc<AtomicUsize>,
    /// Bytes in an answer that carries messages.
    pub max_answer_bytes: u64,
    /// Time between two sweeps.
    pub poll_interval: Duration,
    /// Where work is run that outlives its client.
    pub tasks: TaskTracker,
    /// Cancelled when the gateway stops: those who wait are answered at once.
    pub closing: CancellationToken,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}
