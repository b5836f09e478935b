//! Emptying queues.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use crate::{
    domain::{Call, QueueName, Settled},
    store::{self, Deleted},
};

use super::{
    Broker, Error, Result, error::of_one_step, move_steps::hides, policies::Policy,
    row_budget::RowBudget, work::Kind,
};

/// The most messages that are deleted in one transaction where a queue cannot be emptied at once.
const PURGE_STEP: i32 = 5_000;

/// What emptying a queue came to.
#[derive(Debug)]
pub struct Purged {
    /// How many messages were deleted.
    pub count: i64,
    /// Whether the time was up before all were.
    pub more: bool,
    /// Why one stays.
    pub kept: Option<Error>,
}

impl Purged {
    /// Why one stays, in words.
    pub fn reason(&self) -> Option<String> {
        self.kept.as_ref().map(|error| of_one_step(&error.to_string()))
    }
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
                Some(count) => Ok(Purged { count, more: false, kept: None }),
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
        let mut most = RowBudget::of_changes(PURGE_STEP);
        let (mut purged, mut next, mut kept) = (0, Some(i64::MIN), None);
        let deadline = Instant::now() + self.request_timeout / 2;
        let mut is_over = false;
        while let Some(after) = next.filter(|_| !is_over) {
            let (began, rows) = (Instant::now(), most.rows());
            let step = self.on_queue(Kind::Purge, queue, policy, call, |mut conn| async move {
                let step = store::delete_next(&mut conn, queue, after, up_to, rows).await?;
                // All that is left is locked, maybe for a moment.
                let is_all = step.last_id.is_none() || rows >= PURGE_STEP;
                if is_locked(&step) && is_all { Err(store::Error::Locked) } else { Ok(step) }
            });
            let step = step.await.and_then(|step| step.map_err(Error::on(queue)));
            let is_late = Instant::now() >= deadline;
            match step {
                // Those behind may not be.
                Ok(step) if is_locked(&step) && most.extend() => {}
                Ok(step) => {
                    most.note_change(began.elapsed(), rows.into());
                    purged += step.count;
                    next = step.last_id;
                    kept = kept.or_else(|| step.kept.and_then(|kept| stays(queue, kept)));
                    is_over = is_late;
                }
                Err(Error::TookTooLong(_)) if most.shrink() && !(is_late && after > i64::MIN) => {}
                // Whoever asks again has more time for it.
                Err(Error::TookTooLong(_)) if after > i64::MIN => is_over = true,
                Err(error) if hides(purged, &error) => return Err(error),
                // What the steps before it deleted is deleted.
                Err(error) => {
                    warn!(%queue, purged, %error, "a queue was purged in part: it broke off");
                    let is_slow = matches!(error, Error::TookTooLong(_));
                    kept = kept.or(Some(error).filter(|_| !is_slow));
                    break;
                }
            }
        }
        match kept {
            // Whoever asks again begins with these again, though the time was up before all had been looked at.
            Some(Error::MessageKept { .. }) if purged == 0 => {
                Err(Error::QueueKept(queue.to_string()))
            }
            Some(error) if purged == 0 => Err(error),
            kept => Ok(Purged { count: purged, more: next.is_some(), kept }),
        }
    }
}

/// Why a message stays.
fn stays(queue: &QueueName, (msg_id, why): (i64, Settled)) -> Option<Error> {
    match why {
        Settled::Done | Settled::Missing | Settled::Stale | Settled::Unknown => None,
        Settled::Locked => Some(Error::Locked(format!("message {msg_id} of queue `{queue}`"))),
        Settled::Failed => Some(Error::TriggerFailed(format!("queue `{queue}`"))),
        Settled::Kept
        | Settled::Conflict
        | Settled::NoArchive
        | Settled::NoUncount
        | Settled::NoReason
        | Settled::Differs
        | Settled::Unreadable => Some(Error::MessageKept { queue: queue.to_string(), msg_id }),
    }
}

/// Whether all that a step came to is locked.
fn is_locked(step: &Deleted) -> bool {
    step.count == 0 && matches!(step.kept, Some((_, Settled::Locked)))
}
