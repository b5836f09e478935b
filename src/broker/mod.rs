//! The operations that a front end can ask for, with the gateway's policies applied.
//!
//! Knows no HTTP: each front end translates [`Error`] in one table of its own.

mod collector;
mod error;
mod messages;
mod queues;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Limits, Settings},
    domain::{CallStats, QueueName},
    engine::{Receiver, ReceiverParts},
    store::{self, Conn, Db, Health},
    telemetry::Metrics,
};

pub use crate::{
    engine::{Delivery, Lease},
    store::HealthState,
};
pub use collector::Collector;
pub use error::{Error, Result};
pub use messages::{Peek, Receive};
pub use queues::{Created, ListQueues, NewQueue, QueuePage};

/// The gateway's operations. A clone is the same broker.
#[derive(Clone, Debug)]
pub struct Broker {
    db: Db,
    health: Arc<Health>,
    receiver: Receiver,
    limits: Limits,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// What a [`Broker`] stands on.
#[derive(Debug)]
pub struct BrokerParts {
    /// The shared pool.
    pub db: Db,
    /// The pool of those who wait.
    pub waiting: Db,
    /// The health check.
    pub health: Arc<Health>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

impl Broker {
    /// Puts the parts together.
    pub fn new(parts: BrokerParts, settings: &Settings) -> Self {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let receiver = Receiver::new(ReceiverParts {
            work: parts.db.clone(),
            waiting: parts.waiting,
            places: settings.long_poll.max_connections as usize,
            poll_interval: settings.long_poll.poll_interval(),
            closing: closing.clone(),
            tasks: tasks.clone(),
            metrics: Arc::clone(&parts.metrics),
        });
        Self {
            db: parts.db,
            health: parts.health,
            receiver,
            limits: settings.limits.clone(),
            request_timeout: settings.server.request_timeout(),
            metrics: parts.metrics,
            tasks,
            closing,
        }
    }

    /// Asks the database whether it can serve.
    pub async fn check_health(&self) -> HealthState {
        self.health.check().await
    }

    /// Answers everyone who waits, and from now on lets nobody wait.
    pub fn stop_waiting(&self) {
        self.closing.cancel();
    }

    /// Waits until the work in hand is done, then closes every connection.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tokio::join!(self.db.close(), self.receiver.close(), self.health.close());
    }

    /// Runs work that its client does not cancel by leaving. `changes` says whether the outcome
    /// stays unknown if the time runs out.
    async fn run<T, F>(&self, changes: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match timeout(self.request_timeout, self.tasks.spawn(work)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(Error::Internal(panic.into())),
            Err(_) if changes => Err(store::Error::OutcomeUnknown(None).into()),
            Err(_) => Err(store::Error::Unavailable(None).into()),
        }
    }

    /// A connection for work on a queue, once its name is known to mean that queue alone.
    async fn open(&self, queue: &QueueName, stats: &Arc<CallStats>) -> Result<Conn> {
        let mut conn = self.db.acquire(stats).await?;
        // PGMQ folds upper case away: `Orders` would reach the table of `orders`.
        if let Err(reason) = queue.check_creatable()
            && !store::exists(&mut conn, queue).await?
        {
            return Err(Error::Invalid(format!("queue `{queue}`: {reason}")));
        }
        Ok(conn)
    }
}
