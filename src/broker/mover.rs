//! Moves dead letters back, as tasks in the database say. One gateway at a time is at a task; where that one
//! ends, another goes on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;
use uuid::Uuid;

use crate::{
    domain::{Call, QueueName, Scope},
    store::{self, MoveTask, Unreturnable},
};

use super::{
    Broker, Error, Redrive, Result,
    move_steps::{MoveSteps, Redriven},
};

/// Time between two looks for tasks that other gateways began, or left.
const POLL: Duration = Duration::from_secs(2);
/// Seconds for which a gateway has a task for itself.
const CLAIM_SECONDS: i32 = 60;
/// Tasks that are worked on at the same time: one that is held up is in nobody's way.
const MOST_AT_ONCE: usize = 4;
/// Messages that are moved, at most, between two notes of how far a task has come, and the time after which no step of
/// them begins: so long do others wait.
const PART: i64 = 500;
const PART_TIME: Duration = Duration::from_secs(2);
/// The shortest and the longest pause of a task that met a lock or the like, and how many times longer it is than what
/// that took.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const PAUSE_FACTOR: u32 = 10;
/// How often it is tried to note what came of a part.
const NOTE_ATTEMPTS: u32 = 5;
/// Time after which it is forgotten how far a task has come that another gateway is at, or that was cancelled.
const MEMORY: Duration = Duration::from_secs(600);

/// What a task failed of that is told in a word: a queue that is not there any more.
pub const FAILED_QUEUE_NOT_FOUND: &str = "queue_not_found";
/// Another: some of its messages do not say which queue they came from.
pub const FAILED_ORIGIN_UNKNOWN: &str = "origin_unknown";

/// Works on the tasks.
#[derive(Debug)]
pub struct Mover {
    broker: Broker,
    /// The parts of tasks that are worked on. A shutdown waits for them.
    parts: FuturesUnordered<BoxFuture<'static, (String, Result<Done>)>>,
    /// The tasks of these, and where others go on.
    tasks: HashMap<String, Place>,
    /// When tasks are due that pause.
    due: Vec<Instant>,
    complained: bool,
}

/// Where a task is.
#[derive(Debug)]
enum Place {
    Running,
    /// It has come so far by then.
    Left(Box<MoveSteps>, Instant),
}

/// A part of a task is done.
struct Done {
    /// How to go on, if there is more to do.
    steps: Option<Box<MoveSteps>>,
    pause: Duration,
}

/// What came of a part of a task.
struct Outcome {
    status: &'static str,
    failure: Option<String>,
    pause: Duration,
}

impl Mover {
    /// For the tasks in the broker's database.
    pub fn new(broker: Broker) -> Self {
        let (parts, tasks, due) = (FuturesUnordered::new(), HashMap::new(), Vec::new());
        Self { broker, parts, tasks, due, complained: false }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            let claimed = self.claim().await;
            self.complain(claimed.as_ref().err());
            let now = Instant::now();
            self.due.retain(|due| *due > now);
            let look = self.due.iter().min().map_or(now + POLL, |due| (now + POLL).min(*due));
            tokio::select! {
                Some((task, done)) = self.parts.next() => self.end(task, done),
                // Either there is a new one, or it is time to look.
                () = self.broker.move_tasks.notified(), if self.has_room() => {}
                () = sleep_until(look), if self.has_room() => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.parts.len() < MOST_AT_ONCE
    }

    /// Begins with what there is to be worked on.
    async fn claim(&mut self) -> Result<()> {
        while self.has_room() {
            let task = {
                let mut conn = self.broker.db.background_conn().await?;
                store::claim_move_task(&mut conn, CLAIM_SECONDS).await?
            };
            let Some(task) = task else { break };
            let steps = match self.tasks.insert(task.id.clone(), Place::Running) {
                // It takes longer than this gateway had it for.
                Some(Place::Running) => continue,
                Some(Place::Left(steps, _)) => Some(steps),
                None => None,
            };
            let (broker, id) = (self.broker.clone(), task.id.clone());
            let part = self.broker.tasks.spawn(async move { broker.do_part(&task, steps).await });
            let part = async move {
                (id, part.await.unwrap_or_else(|panic| Err(Error::Internal(panic.into()))))
            };
            self.parts.push(part.boxed());
        }
        Ok(())
    }

    fn end(&mut self, task: String, done: Result<Done>) {
        let now = Instant::now();
        self.tasks.remove(&task);
        match done {
            Ok(Done { steps, pause }) => {
                self.due.push(now + pause);
                if let Some(steps) = steps {
                    self.tasks.insert(task, Place::Left(steps, now));
                }
            }
            Err(error) => self.complain(Some(&error)),
        }
        self.tasks.retain(|_, place| match place {
            Place::Running => true,
            Place::Left(_, since) => now - *since < MEMORY,
        });
    }

    /// Says what is wrong once, until it is right again.
    fn complain(&mut self, error: Option<&Error>) {
        if let Some(error) = error
            && !self.complained
        {
            warn!(%error, "tasks that move dead letters cannot be worked on");
        }
        self.complained = error.is_some();
    }
}

impl Broker {
    /// Does a part of a task, beginning where the last one ended, and notes what came of it.
    async fn do_part(&self, task: &MoveTask, steps: Option<Box<MoveSteps>>) -> Result<Done> {
        let limit = task.max_per_second.map_or(PART, i64::from);
        let mut steps = steps.unwrap_or_else(|| {
            Box::new(MoveSteps::new(None, None, Duration::ZERO).searching(true))
        });
        steps.resume(limit, PART_TIME);
        let began = Instant::now();
        let redriven = self.redrive_part(task, &mut steps).await;
        let outcome = Outcome::of(task, redriven, steps.moved, began.elapsed());
        let mut attempts = 1;
        while let Err(error) = self.note_part(task, &outcome).await {
            if attempts == NOTE_ATTEMPTS || self.closing.is_cancelled() {
                return Err(error.into());
            }
            attempts += 1;
            sleep(RETRY_PAUSE).await;
        }
        Ok(Done { steps: (outcome.status == RUNNING).then_some(steps), pause: outcome.pause })
    }

    async fn note_part(&self, task: &MoveTask, outcome: &Outcome) -> store::Result<()> {
        let Outcome { status, failure, pause } = outcome;
        let (failure, pause) = (failure.as_deref(), pause.as_secs_f64());
        let mut conn = self.db.background_conn().await?;
        store::advance_move_task(&mut conn, &task.id, status, failure, pause).await
    }

    /// Without a bound on its time but that of its steps.
    async fn redrive_part(&self, task: &MoveTask, steps: &mut MoveSteps) -> Result<Redriven> {
        let parse =
            |name: &str| QueueName::parse(name).map_err(|_| Error::QueueNotFound(name.to_owned()));
        let to = task.destination.as_deref().map(parse).transpose()?;
        let (queue, within) = (parse(&task.source)?, Scope::ALL);
        let what = Redrive { queue, to, within, limit: None, after: None };
        let call = Arc::default();
        self.check_redrive(&call, &what).await?;
        let mut redriven = self.redrive_steps(&call, &what, Some(&task.id), steps).await?;
        if redriven.is_through && redriven.kept.is_none() && redriven.unreturnable.is_none() {
            let mut conn = self.db.background_conn().await?;
            // What somebody else has locked is passed over without a word: it is to be moved, too.
            let is_left = store::has_letters_left(&mut conn, &what.queue, task.started_at).await;
            redriven.is_through = !is_left.map_err(Error::on(&what.queue))?;
        }
        Ok(redriven)
    }
}

const RUNNING: &str = "RUNNING";

/// The word for it.
fn why_unreturnable(why: Unreturnable) -> &'static str {
    match why {
        Unreturnable::Unknown => FAILED_ORIGIN_UNKNOWN,
        Unreturnable::Forbidden | Unreturnable::Gone => FAILED_QUEUE_NOT_FOUND,
    }
}

impl Outcome {
    fn of(task: &MoveTask, redriven: Result<Redriven>, moved: i64, took: Duration) -> Self {
        let held_up = (took * PAUSE_FACTOR).clamp(RETRY_PAUSE, LONGEST_PAUSE);
        let (status, failure, pause) = match redriven {
            Ok(Redriven { is_through: false, .. }) if moved > 0 => {
                let pause = task.max_per_second.map_or(0, |_| 1);
                (RUNNING, None, Duration::from_secs(pause))
            }
            // All that it has looked at stays: what is behind may not.
            Ok(Redriven { is_through: false, next: Some(_), .. }) => (RUNNING, None, RETRY_PAUSE),
            Ok(Redriven { is_through: false, .. })
            | Err(
                Error::Locked(_)
                | Error::Overloaded(_)
                | Error::DatabaseUnavailable(_)
                | Error::TookTooLong(_)
                | Error::Undone(_)
                | Error::OutcomeUnknown(_)
                | Error::TriggerFailed(_),
            ) => (RUNNING, None, held_up),
            Ok(Redriven { kept: Some(error), .. }) => {
                ("FAILED", Some(error.to_string()), Duration::ZERO)
            }
            Ok(Redriven { unreturnable: Some(why), .. }) => {
                ("FAILED", Some(why_unreturnable(why).to_owned()), Duration::ZERO)
            }
            Ok(Redriven { .. }) => ("COMPLETED", None, Duration::ZERO),
            Err(Error::QueueNotFound(_)) => {
                ("FAILED", Some(FAILED_QUEUE_NOT_FOUND.to_owned()), Duration::ZERO)
            }
            Err(error) => ("FAILED", Some(error.to_string()), Duration::ZERO),
        };
        Self { status, failure, pause }
    }
}

impl Broker {
    /// Begins to move the messages of a dead-letter queue; its id, or nothing if they are on their way.
    pub async fn start_move_task(
        &self,
        call: &Arc<Call>,
        source: &QueueName,
        destination: Option<&QueueName>,
        max_per_second: Option<i32>,
    ) -> Result<Option<String>> {
        // What is in somebody's hands, or is to come later, stays.
        let count = self.about_counts(call, source).await?.visible;
        let (broker, call) = (self.clone(), Arc::clone(call));
        let (queue, destination) = (source.clone(), destination.map(QueueName::to_string));
        self.run(true, async move {
            let id = Uuid::now_v7().to_string();
            let to = destination.as_deref();
            let (new, source) = (&*id, queue.as_str());
            let started = broker.on_catalogue(&call, source, |mut conn| async move {
                store::start_move_task(&mut conn, new, source, to, max_per_second, count).await
            });
            let started = started.await?.map_err(Error::of_changing(&queue))?;
            broker.move_tasks.notify_one();
            Ok(started.then_some(id))
        })
        .await
    }

    /// Ends a task of a queue; how many messages it has moved, or nothing if it does not run.
    pub async fn cancel_move_task(
        &self,
        call: &Arc<Call>,
        source: &QueueName,
        id: String,
    ) -> Result<Option<i64>> {
        let (broker, call, source) = (self.clone(), Arc::clone(call), source.clone());
        self.run(true, async move {
            let id = &*id;
            let ended = broker.on_catalogue(&call, "move tasks", |mut conn| async move {
                store::cancel_move_task(&mut conn, id).await
            });
            ended.await?.map_err(Error::of_changing(&source))
        })
        .await
    }

    /// The last tasks of a queue, the newest first.
    pub async fn list_move_tasks(
        &self,
        call: &Arc<Call>,
        source: &QueueName,
        limit: i32,
    ) -> Result<Vec<MoveTask>> {
        let (broker, call, source) = (self.clone(), Arc::clone(call), source.to_string());
        self.run(false, async move {
            let source = &*source;
            let found = broker.on_catalogue(&call, source, |mut conn| async move {
                store::list_move_tasks(&mut conn, source, limit).await
            });
            Ok(found.await??)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn outcome(redriven: Result<Redriven>, moved: i64, seconds: u64) -> Outcome {
        let task = MoveTask {
            id: "1".to_owned(),
            source: "dead".to_owned(),
            destination: None,
            max_per_second: None,
            status: RUNNING.to_owned(),
            moved: 0,
            to_move: 9,
            failure: None,
            started_at: DateTime::UNIX_EPOCH,
        };
        Outcome::of(&task, redriven, moved, Duration::from_secs(seconds))
    }

    fn redriven(moved: i64, is_through: bool, next: Option<i64>) -> Redriven {
        Redriven { moved, is_through, next, kept: None, unreturnable: None }
    }

    #[test]
    fn one_that_is_held_up_pauses_for_longer_than_it_took() {
        let locked = || Err(Error::Locked("q".to_owned()));
        for (took, pause) in [(0, 1), (3, 30), (50, 60)] {
            let outcome = outcome(locked(), 0, took);
            assert_eq!((outcome.status, outcome.pause), (RUNNING, Duration::from_secs(pause)));
        }
        let unknown = outcome(Err(store::Error::OutcomeUnknown(None).into()), 7, 1);
        assert_eq!(unknown.status, RUNNING);
    }

    #[test]
    fn one_that_moves_something_goes_on_at_once_and_one_that_finds_nothing_soon() {
        assert_eq!(outcome(Ok(redriven(3, false, Some(7))), 3, 9).pause, Duration::ZERO);
        assert_eq!(outcome(Ok(redriven(0, false, Some(7))), 0, 9).pause, RETRY_PAUSE);
        assert_eq!(outcome(Ok(redriven(3, true, None)), 3, 9).status, "COMPLETED");
        let kept = Some(Error::QueueConflict("as the test wishes".to_owned()));
        let failed = outcome(Ok(Redriven { kept, ..redriven(3, true, None) }), 3, 9);
        assert_eq!(failed.failure.as_deref(), Some("as the test wishes"));
        assert_eq!(failed.status, "FAILED");
        for (why, word) in [
            (Unreturnable::Unknown, FAILED_ORIGIN_UNKNOWN),
            (Unreturnable::Gone, FAILED_QUEUE_NOT_FOUND),
        ] {
            let unreturnable = Some(why);
            let failed = outcome(Ok(Redriven { unreturnable, ..redriven(3, true, None) }), 3, 9);
            assert_eq!((failed.status, failed.failure.as_deref()), ("FAILED", Some(word)));
            let going = outcome(Ok(Redriven { unreturnable, ..redriven(3, false, Some(7)) }), 3, 9);
            assert_eq!(going.status, RUNNING);
        }
    }
}
