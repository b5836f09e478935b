//! Emptying queues.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use crate::{
    domain::{Call, QueueName, Settled},
    store,
};

use super::{Broker, Error, Result, move_steps::hides, policies::Policy, retry::Kind};

/// Messages that are deleted in one transaction where a queue cannot be emptied at once.
const PURGE_STEP: i32 = 5_000;

/// What emptying a queue came to.
#[derive(Clone, Copy, Debug)]
pub struct Purged {
    /// How many messages were deleted.
    pub count: i64,
    /// Whether the time was up before all were.
    pub more: bool,
}

impl Broker {
    /// Deletes every message of a queue and says how many there were.
    pub async fn purge_queue(&self, call: &Arc<Call>, queue: QueueName) -> Result<Purged> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let queue = &queue;
            let policy = broker.policies.of(queue).await?;
            let truncated =
                broker.on_queue(Kind::Purge, queue, &policy, &call, |mut conn| async move {
                    store::truncate(&mut conn, queue).await
                });
            match truncated.await?.map_err(Error::of_changing(queue))? {
                Some(count) => Ok(Purged { count, more: false }),
                None => broker.delete_all(queue, &policy, &call).await,
            }
        })
        .await
    }

    /// Deletes the messages that are in a queue now, step by step, beside whoever else is at work there.
    async fn delete_all(
        &self,
        queue: &QueueName,
        policy: &Policy,
        call: &Arc<Call>,
    ) -> Result<Purged> {
        let last = self.on_queue(Kind::Purge, queue, policy, call, |mut conn| async move {
            store::last_id(&mut conn, queue).await
        });
        let up_to = last.await?.map_err(Error::on(queue))?;
        let (mut purged, mut next, mut kept) = (0, Some(i64::MIN), None);
        let deadline = Instant::now() + self.request_timeout / 2;
        while let Some(after) = next.filter(|_| Instant::now() < deadline) {
            let step = self.on_queue(Kind::Purge, queue, policy, call, |mut conn| async move {
                let step = store::delete_next(&mut conn, queue, after, up_to, PURGE_STEP).await?;
                // All that is left is locked, maybe for a moment.
                let is_locked = step.count == 0 && step.kept == Some(Settled::Locked);
                if is_locked { Err(store::Error::Locked) } else { Ok(step) }
            });
            match step.await.and_then(|step| step.map_err(Error::on(queue))) {
                Ok(step) => {
                    purged += step.count;
                    next = step.last_id;
                    kept = kept.or(step.kept);
                }
                Err(error) if hides(purged, &error) => return Err(error),
                // What the steps before it deleted is deleted.
                Err(error) => {
                    warn!(%queue, purged, %error, "a queue was purged in part: it broke off");
                    break;
                }
            }
        }
        match kept {
            Some(Settled::Kept | Settled::Conflict) if purged == 0 => {
                Err(Error::QueueKept(queue.to_string()))
            }
            Some(Settled::Failed) if purged == 0 => {
                Err(Error::TriggerFailed(format!("queue `{queue}`")))
            }
            _ => Ok(Purged { count: purged, more: next.is_some() }),
        }
    }
}
