//! Operations on queues.

use std::sync::Arc;

use crate::{
    domain::{CallStats, Partition, Queue, QueueKind, QueueMetrics, QueueName, QueuePageSize},
    store::{self, CreateOutcome},
};

use super::{Broker, Error, Result};

/// A queue to make.
#[derive(Clone, Debug)]
pub struct NewQueue {
    /// Its name.
    pub queue: QueueName,
    /// How it is stored.
    pub kind: QueueKind,
    /// How it is partitioned; PGMQ's defaults where nothing is said.
    pub partition: Option<Partition>,
}

/// A queue, and whether it is new.
#[derive(Clone, Debug)]
pub struct Created {
    /// The queue.
    pub queue: Queue,
    /// False if it was there already.
    pub created: bool,
}

/// Which queues to list.
#[derive(Clone, Debug)]
pub struct ListQueues {
    /// What their names begin with.
    pub prefix: String,
    /// The name behind which to go on.
    pub after: Option<String>,
    /// The most queues to list.
    pub limit: QueuePageSize,
}

/// A part of the list of queues.
#[derive(Clone, Debug)]
pub struct QueuePage {
    /// The queues, by name.
    pub queues: Vec<Queue>,
    /// The name behind which the rest comes, if there is a rest.
    pub next: Option<String>,
}

impl Broker {
    /// Makes a queue, or finds it there and alike.
    pub async fn create_queue(&self, stats: &Arc<CallStats>, new: NewQueue) -> Result<Created> {
        let name = &new.queue;
        name.check_creatable()
            .map_err(|reason| Error::Invalid(format!("queue `{name}`: {reason}")))?;
        if new.kind != QueueKind::Partitioned && new.partition.is_some() {
            let kind = new.kind;
            return Err(Error::Invalid(format!(
                "`partition` goes with `\"kind\":\"partitioned\"`, not with `{kind}`"
            )));
        }
        if new.kind == QueueKind::Partitioned && name.as_str().contains('.') {
            return Err(Error::Invalid(format!(
                "queue `{name}`: the name of a partitioned queue has no `.`, which pg_partman \
                 takes for the end of a schema's name"
            )));
        }
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        // Asking again is harmless, so a lost answer is no unknown outcome.
        self.run(false, async move { broker.create(&stats, &new).await }).await
    }

    async fn create(&self, stats: &Arc<CallStats>, new: &NewQueue) -> Result<Created> {
        let queue = &new.queue;
        let mut conn = self.db.acquire(stats).await?;
        let outcome = store::create(&mut conn, queue, new.kind, new.partition.as_ref()).await;
        let created = match outcome.map_err(Error::on(queue))? {
            CreateOutcome::Created => true,
            CreateOutcome::Exists => false,
            CreateOutcome::Differs(kind) => {
                let wanted = new.kind;
                return Err(Error::QueueConflict(format!(
                    "queue `{queue}` exists and is {kind}, not {wanted}"
                )));
            }
            CreateOutcome::PartitionDiffers => {
                return Err(Error::QueueConflict(format!(
                    "queue `{queue}` exists with another partition interval or retention"
                )));
            }
            CreateOutcome::Folds(other) => {
                return Err(Error::QueueConflict(format!(
                    "queue `{other}` exists and has the table that `{queue}` would have"
                )));
            }
            CreateOutcome::NoPartman => {
                return Err(Error::NotSupported(
                    "partitioned queues need the PostgreSQL extension pg_partman: have an \
                     administrator install it and run CREATE EXTENSION pg_partman in the queues' \
                     database",
                ));
            }
        };
        let shown = store::show(&mut conn, queue).await.map_err(Error::on(queue))?;
        let queue = shown.ok_or_else(|| Error::QueueNotFound(queue.to_string()))?;
        Ok(Created { queue, created })
    }

    /// Lists queues by name.
    pub async fn list_queues(&self, stats: &Arc<CallStats>, what: ListQueues) -> Result<QueuePage> {
        let (db, stats) = (self.db.clone(), Arc::clone(stats));
        self.run(false, async move {
            let mut conn = db.acquire(&stats).await?;
            // One more than asked for tells whether there is a rest.
            let limit = what.limit.get();
            let mut queues =
                store::list(&mut conn, &what.prefix, what.after.as_deref(), limit + 1).await?;
            let more = queues.len() > usize::try_from(limit).unwrap_or(usize::MAX);
            if more {
                queues.pop();
            }
            let next = queues.last().filter(|_| more).map(|queue| queue.queue.clone());
            Ok(QueuePage { queues, next })
        })
        .await
    }

    /// One queue.
    pub async fn show_queue(&self, stats: &Arc<CallStats>, queue: QueueName) -> Result<Queue> {
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(false, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            let found = store::show(&mut conn, &queue).await.map_err(Error::on(&queue))?;
            found.ok_or_else(|| Error::QueueNotFound(queue.to_string()))
        })
        .await
    }

    /// Drops a queue with its messages and its archive.
    pub async fn drop_queue(&self, stats: &Arc<CallStats>, queue: QueueName) -> Result<()> {
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(true, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            let found = store::drop_queue(&mut conn, &queue).await.map_err(Error::on(&queue))?;
            if found { Ok(()) } else { Err(Error::QueueNotFound(queue.to_string())) }
        })
        .await
    }

    /// Deletes every message of a queue and says how many there were.
    pub async fn purge_queue(&self, stats: &Arc<CallStats>, queue: QueueName) -> Result<i64> {
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(true, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            store::purge(&mut conn, &queue).await.map_err(Error::on(&queue))
        })
        .await
    }

    /// Exact figures of a queue, and how many clients of this gateway wait for its messages.
    pub async fn queue_metrics(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
    ) -> Result<(QueueMetrics, usize)> {
        let waiters = self.engine.waiters_on(&queue);
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(false, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            let metrics = store::metrics(&mut conn, &queue).await.map_err(Error::on(&queue))?;
            Ok((metrics, waiters))
        })
        .await
    }
}
