//! How many messages queues have: exactly, and about.

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Call, QueueMetrics, QueueName},
    store::{self, LookLimits, QueueFigures},
};

use super::{Broker, Error, Result, work::Kind};

/// Messages that are counted where a number need not be exact.
const COUNT_LIMIT: u32 = 100_000;

/// Time for a look at a queue to wait for its lock.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// How many messages a queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageCounts {
    /// All of them.
    pub length: i64,
    /// Those that could be delivered now.
    pub visible: i64,
    /// Those that are in somebody's hands.
    pub in_flight: i64,
    /// Whether each was counted.
    pub is_exact: bool,
}

impl Broker {
    /// Exact figures of a queue, and how many clients of this gateway wait for its messages.
    pub async fn queue_metrics(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
    ) -> Result<(QueueMetrics, usize)> {
        let waiters = self.engine.waiters_on(&queue);
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let count = {
                let (broker, call, queue) = (broker.clone(), Arc::clone(&call), queue.clone());
                move || {
                    let (broker, call, queue) = (broker.clone(), Arc::clone(&call), queue.clone());
                    async move { broker.count(&call, &queue).await.map_err(Arc::new) }
                }
            };
            // A crowd that asks with the same key is answered together.
            let counted = broker.figures.get((queue, call.caller()), count).await;
            let counted = counted.unwrap_or_else(|| {
                Err(Arc::new(Error::Internal("the count ended without an answer".into())))
            });
            Ok((counted.map_err(Error::Shared)?, waiters))
        })
        .await
    }

    async fn count(&self, call: &Arc<Call>, queue: &QueueName) -> Result<QueueMetrics> {
        let policy = self.policies.of(queue).await?;
        let metrics = self.on_queue(Kind::Browse, queue, &policy, call, |mut conn| async move {
            store::metrics(&mut conn, queue).await
        });
        metrics.await?.map_err(Error::on(queue))
    }

    /// How many messages a queue has: about so many where it takes too long to count them.
    pub async fn message_counts(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
    ) -> Result<MessageCounts> {
        match self.queue_metrics(call, queue.clone()).await {
            Ok((counted, _)) => Ok(MessageCounts {
                length: counted.queue_length,
                visible: counted.queue_visible_length,
                in_flight: counted.in_flight,
                is_exact: true,
            }),
            Err(error) if took_too_long(&error) => self.about_counts(call, queue).await,
            Err(error) => Err(error),
        }
    }

    /// The same at a bounded cost.
    pub(super) async fn about_counts(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
    ) -> Result<MessageCounts> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let queue = &queue;
            let policy = broker.policies.of(queue).await?;
            let limits = LookLimits { lock: LOCK_WAIT, statement: broker.request_timeout / 4 };
            let found =
                broker.on_queue(Kind::Browse, queue, &policy, &call, |mut conn| async move {
                    store::figures(&mut conn, queue, COUNT_LIMIT, limits).await
                });
            let QueueFigures { length, visible, backlog, .. } =
                found.await?.map_err(Error::on(queue))?;
            Ok(MessageCounts { length, visible, in_flight: backlog - visible, is_exact: false })
        })
        .await
    }
}

fn took_too_long(error: &Error) -> bool {
    match error {
        Error::TookTooLong(_) => true,
        Error::Shared(error) => took_too_long(error),
        _ => false,
    }
}
