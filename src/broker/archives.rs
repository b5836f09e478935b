//! Archives and dead-letter queues: looking at them, and taking back from them.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    domain::{ArchivedMessage, Call, Filter, QueueName, Scope},
    store::{self, Archived, ArchivedCount, Moved, Page, Step, Unreturnable},
    telemetry::MessageEvent,
};

use super::{
    Broker, Error, Part, Result,
    archive_search::{ArchiveSearch, Browse},
    move_steps::{MoveSteps, Redriven, refused_by},
    moves::{MovedSome, Redrive, RedrivenThese, Replay},
    policies::Policy,
    these_steps::TheseSteps,
    work::Kind,
};

impl Broker {
    /// Archived messages in order of their ids. Where it takes too long to find as many as are wanted, these are
    /// fewer, and there may be more behind them.
    pub async fn browse_archive(
        &self,
        call: &Arc<Call>,
        mut what: Browse,
    ) -> Result<Page<ArchivedMessage>> {
        what.which.filter = what.which.filter.filter(Filter::is_selective);
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let policy = broker.policies.of(&what.queue).await?;
            let heavy = broker.engine.heavy_queues();
            let limit = heavy.rows(&what.queue, what.limit.as_i32());
            let mut search = ArchiveSearch::new(&what, limit, broker.limits.max_answer_bytes);
            let deadline = Instant::now() + broker.request_timeout / 2;
            loop {
                let began = Instant::now();
                let (queue, which, now) = (&what.queue, &what.which, &search);
                let step =
                    broker.on_queue(Kind::Archive, queue, &policy, &call, |mut conn| async move {
                        let (step, room, readable) = (now.step(), now.room, now.readable_only);
                        store::browse_archive(&mut conn, queue, step, which, room, readable).await
                    });
                let step = step.await?;
                let is_late = Instant::now() >= deadline;
                let goes_on = match step {
                    Ok(step) => search.take(step, began.elapsed()) && !is_late,
                    Err(store::Error::Timeout)
                        if !(is_late && search.has_moved()) && search.narrow() =>
                    {
                        // With one it may be the search that takes so long.
                        if which.filter.is_none() {
                            heavy.note(queue);
                        }
                        true
                    }
                    // What was found until then is found.
                    Err(store::Error::Timeout) if search.has_moved() => false,
                    // One that cannot be sent is left out, and hides no other.
                    Err(store::Error::Unreadable) if !search.readable_only => {
                        search.readable_only = true;
                        true
                    }
                    Err(error) => return Err(Error::on(queue)(error)),
                };
                if !goes_on {
                    return Ok(search.page);
                }
            }
        })
        .await
    }

    /// Moves archived messages into a queue, as new ones, and says how many.
    pub async fn replay(&self, call: &Arc<Call>, mut what: Replay) -> Result<MovedSome> {
        what.which.filter = what.which.filter.filter(Filter::is_selective);
        let to = what.to.clone().unwrap_or_else(|| what.queue.clone());
        self.must_exist(call, &to).await?;
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(!what.dry_run, async move {
            let policy = broker.policies.of(&what.queue).await?;
            let (queue, to, which) = (&what.queue, &to, &what.which);
            let steps = broker.steps(what.limit, what.after);
            if what.dry_run {
                let steps = steps.counting().searching(which.msg_ids.is_none());
                return broker.count_archived(&call, queue, which, &policy, steps).await;
            }
            let mut steps = steps.searching(which.is_search());
            while let Some(step) = steps.next() {
                let is_widest = steps.is_widest();
                let moved =
                    broker.on_queue(Kind::Replay, queue, &policy, &call, |mut conn| async move {
                        let step = store::replay(&mut conn, queue, to, step, which).await?;
                        if is_widest || step.last_id.is_none() { unlocked(step) } else { Ok(step) }
                    });
                let moved = moved.await;
                let moved = moved.and_then(|step| step.map_err(of_moving(queue, Some(to))));
                steps.done(broker.name_missing(&call, Some(to), moved).await);
            }
            broker.moved_to(to, steps.moved);
            steps.finish(queue, to)
        })
        .await
    }

    /// How many archived messages a replay would move.
    async fn count_archived(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        which: &Archived,
        policy: &Policy,
        mut steps: MoveSteps,
    ) -> Result<MovedSome> {
        while let Some(Step { after, rows, .. }) = steps.next() {
            let limit = steps.wanted();
            let counted =
                self.on_queue(Kind::Archive, queue, policy, call, |mut conn| async move {
                    store::count_archived(&mut conn, queue, after, limit, rows, which).await
                });
            let as_moved = |ArchivedCount { count, last_id }| Moved {
                count,
                failed: 0,
                rejection: None,
                destination: None,
                unreturnable: None,
                last_id,
                up_to: None,
            };
            let counted = counted.await;
            steps.done(counted.and_then(|found| found.map(as_moved).map_err(Error::on(queue))));
        }
        steps.finish(queue, queue)
    }

    /// Moves dead letters back to where they came from, or into a queue, and says how many.
    pub async fn redrive(&self, call: &Arc<Call>, what: Redrive) -> Result<MovedSome> {
        self.check_redrive(call, &what).await?;
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let mut steps = broker.steps(what.limit, what.after).searching(true);
            let Redriven { moved, next, kept, unreturnable, .. } =
                broker.redrive_steps(&call, &what, None, &mut steps).await?;
            let moved = MovedSome::new(moved, next, kept)?;
            Ok(moved.or_reason(unreturnable.map(|why| why_unreturnable(&what.queue, why))))
        })
        .await
    }

    /// Refuses to move dead letters where that cannot be.
    pub(super) async fn check_redrive(&self, call: &Arc<Call>, what: &Redrive) -> Result<()> {
        if what.to.as_ref() == Some(&what.queue) {
            return Err(Error::invalid(Part::Destination, "must be another queue than this"));
        }
        match &what.to {
            Some(to) => self.must_exist(call, to).await,
            None => Ok(()),
        }
    }

    /// Takes these steps, which somebody else may go on with, of a task maybe.
    pub(super) async fn redrive_steps(
        &self,
        call: &Arc<Call>,
        what: &Redrive,
        task: Option<&str>,
        steps: &mut MoveSteps,
    ) -> Result<Redriven> {
        let (queue, to, within) = (&what.queue, what.to.as_ref(), &what.within);
        let policy = self.policies.of(queue).await?;
        while let Some(step) = steps.next() {
            let (none_moved, is_widest) = (steps.moved == 0, steps.is_widest());
            let moved = self.on_queue(Kind::Move, queue, &policy, call, |mut conn| async move {
                let step = store::redrive(&mut conn, queue, to, within, step, task).await?;
                // Of several queues that they go to, one that is locked keeps none from the others.
                let is_last = step.last_id.is_none();
                let is_all =
                    if to.is_some() { is_widest || is_last } else { none_moved && is_last };
                if is_all { unlocked(step) } else { Ok(step) }
            });
            let moved = moved.await;
            let moved = moved.and_then(|step| step.map_err(of_moving(queue, to)));
            steps.done(self.name_missing(call, to, moved).await);
        }
        if let Some(to) = to {
            self.moved_to(to, steps.moved);
        }
        steps.redriven(queue, to)
    }

    /// A table that was dropped while messages were moved may be that of the queue that they go to.
    async fn name_missing<T>(
        &self,
        call: &Arc<Call>,
        to: Option<&QueueName>,
        moved: Result<T>,
    ) -> Result<T> {
        if let (Err(Error::QueueNotFound(_)), Some(to)) = (&moved, to) {
            self.must_exist(call, to).await?;
        }
        moved
    }

    /// Moves those of these dead letters back to where they came from that nobody has in hand, as far as the time goes.
    /// What came from a queue that is gone, or not `within`, stays.
    pub async fn redrive_these(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        ids: Vec<i64>,
        within: Scope,
    ) -> Result<RedrivenThese> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let (queue, within) = (&queue, &within);
            let policy = broker.policies.of(queue).await?;
            let mut steps = TheseSteps::new(ids, broker.request_timeout / 2);
            while let Some(ids) = steps.next() {
                let moved =
                    broker.on_queue(Kind::Move, queue, &policy, &call, |mut conn| async move {
                        store::redrive_these(&mut conn, queue, ids, within).await
                    });
                let moved = moved.await.and_then(|moved| moved.map_err(of_moving(queue, None)));
                steps.done(moved, |why, to| refused_by(queue, to, why))?;
            }
            Ok(steps.outcome())
        })
        .await
    }

    fn steps(&self, limit: Option<i64>, after: Option<i64>) -> MoveSteps {
        MoveSteps::new(limit, after, self.request_timeout / 2)
    }

    fn moved_to(&self, queue: &QueueName, count: i64) {
        self.metrics.messages(
            queue.as_str(),
            MessageEvent::Sent,
            usize::try_from(count).unwrap_or(0),
        );
        self.engine.tell(queue);
    }

    /// Refuses a queue that messages are to be moved into if it is not there.
    async fn must_exist(&self, call: &Arc<Call>, queue: &QueueName) -> Result<()> {
        match (self.is_served(call, queue).await?, queue.check_creatable()) {
            (true, _) => Ok(()),
            (false, Ok(())) => Err(Error::QueueNotFound(queue.to_string())),
            (false, Err(reason)) => Err(Error::invalid(Part::Destination, format!(": {reason}"))),
        }
    }

    /// Whether messages go into such a queue and out of it.
    pub(super) async fn is_served(&self, call: &Arc<Call>, queue: &QueueName) -> Result<bool> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let queue = &queue;
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::is_served(&mut conn, queue).await
            });
            Ok(found.await??)
        })
        .await
    }
}

/// Why letters of a dead-letter queue stay that can go nowhere.
fn why_unreturnable(queue: &QueueName, why: Unreturnable) -> String {
    let it = match why {
        Unreturnable::Unknown => "does not say which queue it came from",
        Unreturnable::Forbidden => "came from a queue to which this key may not send",
        Unreturnable::Gone => "came from a queue that is not there any more",
    };
    format!("a message of queue `{queue}` {it}: it stays")
}

/// A step that came to nothing, as somebody has locked where the messages go, is worth another try.
fn unlocked(step: Moved) -> store::Result<Moved> {
    let is_locked = step.count == 0 && step.failed > 0 && step.rejection.is_none();
    if is_locked { Err(store::Error::Locked) } else { Ok(step) }
}

/// Sorts what the store said of messages that were to be moved from one queue to another.
fn of_moving(from: &QueueName, to: Option<&QueueName>) -> impl Fn(store::Error) -> Error {
    let what = match to {
        Some(to) if to != from => format!("queue `{from}` or `{to}`, or something in them"),
        Some(_) => format!("queue `{from}`, or something in it"),
        None => format!("queue `{from}`, or where its messages came from"),
    };
    let from = from.clone();
    move |error| match error {
        store::Error::Locked => Error::Locked(what.clone()),
        // The queue that they were to go to is gone by now.
        error @ store::Error::Refused { .. } => Error::from(error).without_operation(),
        other => Error::on(&from)(other),
    }
}
