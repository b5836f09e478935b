//! Moves dead letters back, as tasks in the database say. One gateway at a time is at a task; where that one
//! ends, another goes on.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::warn;
use uuid::Uuid;

use crate::{
    domain::{Call, QueueName, Scope},
    store::{self, MoveTask},
};

use super::{Broker, Error, Redrive, Result, move_steps::Redriven};

/// Time between two looks for tasks that other gateways began, or left.
const POLL: Duration = Duration::from_secs(2);
/// Seconds for which a gateway has a task for itself.
const CLAIM_SECONDS: i32 = 60;
/// Messages that are moved between two notes of how far a task has come.
const STEP: i64 = 500;
/// Seconds before a task goes on that met a lock or the like.
const RETRY_PAUSE: f64 = 1.0;

/// What a task failed of that is told in a word: a queue that is not there any more.
pub const FAILED_QUEUE_NOT_FOUND: &str = "queue_not_found";

/// Works on the tasks.
#[derive(Debug)]
pub struct Mover(Broker);

/// What came of a part of a task.
struct Step {
    moved: i64,
    status: &'static str,
    failure: Option<String>,
    pause: f64,
}

impl Mover {
    /// For the tasks in the broker's database.
    pub fn new(broker: Broker) -> Self {
        Self(broker)
    }

    /// Works until it is dropped.
    pub async fn run(self) {
        let mut complained = false;
        // The shortest pause of a task since the last time that none could be worked on.
        let mut pause = POLL;
        loop {
            match self.step().await {
                Ok(Some(of_task)) => {
                    if of_task > Duration::ZERO {
                        pause = pause.min(of_task);
                    }
                    continue;
                }
                Ok(None) => complained = false,
                Err(error) if !complained => {
                    warn!(%error, "tasks that move dead letters cannot be worked on");
                    complained = true;
                }
                Err(_) => {}
            }
            // Either there is a new one, or it is time to look.
            let _ =
                timeout(std::mem::replace(&mut pause, POLL), self.0.move_tasks.notified()).await;
        }
    }

    /// Does a part of a task, and says for how long it pauses then; nothing if there is none to be worked on.
    async fn step(&self) -> Result<Option<Duration>> {
        let task = {
            let mut conn = self.0.db.background_conn().await?;
            store::claim_move_task(&mut conn, CLAIM_SECONDS).await?
        };
        let Some(task) = task else { return Ok(None) };
        let step = self.move_some(&task).await;
        let mut conn = self.0.db.background_conn().await?;
        let failure = step.failure.as_deref();
        let noted = store::advance_move_task(
            &mut conn,
            &task.id,
            step.moved,
            step.status,
            failure,
            step.pause,
        );
        noted.await?;
        Ok(Some(Duration::from_secs_f64(step.pause)))
    }

    async fn move_some(&self, task: &MoveTask) -> Step {
        let limit = task.max_per_second.map_or(STEP, i64::from);
        let pause = if task.max_per_second.is_some() { 1.0 } else { 0.0 };
        let parse =
            |name: &str| QueueName::parse(name).map_err(|_| Error::QueueNotFound(name.to_owned()));
        let moved = async {
            let to = task.destination.as_deref().map(parse).transpose()?;
            let queue = parse(&task.source)?;
            let what = Redrive { queue, to, within: Scope::ALL, limit: Some(limit), after: None };
            self.0.redrive_some(&Arc::default(), what).await
        };
        match moved.await {
            Ok(Redriven { moved, is_through: false, .. }) => {
                Step { moved, status: "RUNNING", failure: None, pause }
            }
            Ok(Redriven { moved, rejected: Some(error), .. }) => {
                let failure = Some(error.to_string());
                Step { moved, status: "FAILED", failure, pause: 0.0 }
            }
            Ok(Redriven { moved, .. }) => {
                Step { moved, status: "COMPLETED", failure: None, pause: 0.0 }
            }
            Err(
                Error::Locked(_)
                | Error::Overloaded(_)
                | Error::DatabaseUnavailable(_)
                | Error::TookTooLong(_)
                | Error::Undone(_)
                | Error::OutcomeUnknown(_)
                | Error::TriggerFailed(_),
            ) => Step { moved: 0, status: "RUNNING", failure: None, pause: RETRY_PAUSE },
            Err(error) => {
                let failure = match &error {
                    Error::QueueNotFound(_) => FAILED_QUEUE_NOT_FOUND.to_owned(),
                    other => other.to_string(),
                };
                Step { moved: 0, status: "FAILED", failure: Some(failure), pause: 0.0 }
            }
        }
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
        let count = self.about_counts(call, source).await?.length;
        let (broker, call) = (self.clone(), Arc::clone(call));
        let (source, destination) = (source.to_string(), destination.map(QueueName::to_string));
        self.run(true, async move {
            let id = Uuid::now_v7().to_string();
            let to = destination.as_deref();
            let (new, source) = (&*id, &*source);
            let started = broker.on_catalogue(&call, source, |mut conn| async move {
                store::start_move_task(&mut conn, new, source, to, max_per_second, count).await
            });
            let started = started.await??;
            broker.move_tasks.notify_one();
            Ok(started.then_some(id))
        })
        .await
    }

    /// Ends a task; how many messages it has moved, or nothing if it does not run.
    pub async fn cancel_move_task(&self, call: &Arc<Call>, id: String) -> Result<Option<i64>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let id = &*id;
            let ended = broker.on_catalogue(&call, "move tasks", |mut conn| async move {
                store::cancel_move_task(&mut conn, id).await
            });
            Ok(ended.await??)
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
