//! Operations on queues.

use std::sync::Arc;

use crate::{
    domain::{
        Bounded, Call, InvalidQueueName, Partition, Queue, QueueKind, QueueName, QueuePageSize,
        Scope, SettingsChange,
    },
    engine::DearRead,
    store::{self, AttributesBeside, Conn, CreateOutcome},
};

use super::{Broker, Error, Part, Result, retry::Retry, work::Kind};

/// Queues that are looked at together where not all of them are shown.
const FILTERED_PAGE: usize = 1_000;

/// A queue to make.
#[derive(Clone, Debug)]
pub struct NewQueue {
    /// Its name.
    pub queue: QueueName,
    /// How it is stored.
    pub kind: QueueKind,
    /// How it is partitioned; PGMQ's defaults where nothing is said.
    pub partition: Option<Partition>,
    /// Whether it is read in groups; of one that is there this is compared only if it is said.
    pub fifo: Option<bool>,
    /// Its settings; of one that is there those that are given are compared.
    pub settings: SettingsChange,
    /// What else is kept of it if it is new.
    pub beside: Option<AttributesBeside>,
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
    /// Those that are shown.
    pub visible: Scope,
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
    pub async fn create_queue(&self, call: &Arc<Call>, new: NewQueue) -> Result<Created> {
        self.create_or_find(call, new, true).await
    }

    /// Makes a queue, or finds it there, `alike` or at least of the same kind.
    pub(super) async fn create_or_find(
        &self,
        call: &Arc<Call>,
        new: NewQueue,
        alike: bool,
    ) -> Result<Created> {
        let name = &new.queue;
        name.check_creatable().map_err(|reason| Error::invalid_name(name, reason))?;
        if new.kind != QueueKind::Partitioned && new.partition.is_some() {
            let kind = new.kind;
            let reason = format!("goes with partitioned queues, not with {kind} ones");
            return Err(Error::invalid(Part::Partition, reason));
        }
        if new.kind == QueueKind::Partitioned && name.as_str().contains('.') {
            return Err(Error::invalid_name(
                name,
                "the name of a partitioned queue has no `.`, which pg_partman takes for the end of a \
                 schema's name",
            ));
        }
        self.check_settings(name, &new.settings)?;
        let (broker, call) = (self.clone(), Arc::clone(call));
        // Asking again is harmless, so a lost answer is no unknown outcome.
        self.run(false, async move {
            match broker.create(&call, &new, alike).await {
                // Dropped before it could be shown: who asks for it means to have it.
                Err(Error::QueueNotFound(_)) => broker.create(&call, &new, alike).await,
                outcome => outcome,
            }
        })
        .await
    }

    async fn create(&self, call: &Arc<Call>, new: &NewQueue, alike: bool) -> Result<Created> {
        let queue = &new.queue;
        let mut retry = Retry::new(self, Kind::Define, vec![queue.clone()]);
        let outcome = loop {
            let turn = retry.turn().await.map_err(Error::on(queue))?;
            let outcome = put(&mut *self.connect(call).await?, new).await;
            drop(turn);
            match outcome {
                Ok(outcome) => break outcome?,
                Err(error) if retry.is_worth_it(&error).await => {}
                Err(error) => return Err(Error::of_changing(queue)(error)),
            }
        };
        let created = match outcome {
            CreateOutcome::Created => {
                // Whatever was counted was another queue's that had its name.
                self.metrics.forget_queue(queue.as_str());
                self.metrics.know_queue(queue.as_str());
                // Whether it can be looked at or not: it does not go by defaults.
                self.policies.forget(queue);
                self.attributes.forget(queue);
                let paused = new.settings.paused.flatten().unwrap_or(false);
                self.policies.note_pause(queue, paused);
                true
            }
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
            CreateOutcome::Taken(name) => {
                return Err(Error::QueueConflict(format!(
                    "queue `{queue}` cannot be made: `{name}` in PGMQ's schema, whose name it \
                     needs for a table of its own, is there and belongs to no queue of this name; \
                     choose another name"
                )));
            }
            CreateOutcome::PartitionOf(other) => {
                return Err(Error::QueueConflict(format!(
                    "queue `{queue}` cannot be made: partitions of queue `{other}` are called like this; \
                     choose another name"
                )));
            }
            CreateOutcome::Derived => {
                return Err(Error::invalid_name(queue, InvalidQueueName::Derived));
            }
            CreateOutcome::NoPartman => {
                return Err(Error::NotSupported(
                    "partitioned queues need the PostgreSQL extension pg_partman: have an \
                     administrator install it and run CREATE EXTENSION pg_partman in the queues' \
                     database"
                        .to_owned(),
                ));
            }
        };
        let done: &[&str] = if created { &["it is made"] } else { &[] };
        let shown = self.show_made(call, queue).await;
        let queue = self.complete(shown.map_err(|error| error.of_look_behind(queue, done))?);
        if !created && alike {
            self.check_alike(new, &queue)?;
        }
        Ok(Created { queue, created })
    }

    async fn show_made(&self, call: &Arc<Call>, queue: &QueueName) -> Result<Queue> {
        let shown = self.on_catalogue(call, queue.as_str(), |mut conn| async move {
            store::show(&mut conn, queue).await
        });
        let shown = shown.await?.map_err(Error::on(queue))?;
        shown.ok_or_else(|| Error::QueueNotFound(queue.to_string()))
    }

    /// Lists queues by name.
    pub async fn list_queues(&self, call: &Arc<Call>, what: ListQueues) -> Result<QueuePage> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let _leave = broker.leave_to_list(&what.visible, &call).await?;
            let what = &what;
            // One more than asked for tells whether there is a rest.
            let limit = usize::try_from(what.limit.get()).unwrap_or(usize::MAX);
            let found = broker.on_catalogue(&call, "queues", |mut conn| async move {
                visible_queues(&mut conn, what, limit + 1).await
            });
            let mut queues = found.await??;
            let more = queues.len() > limit;
            queues.truncate(limit);
            let queues: Vec<Queue> = queues.into_iter().map(|q| broker.complete(q)).collect();
            let next = queues.last().filter(|_| more).map(|queue| queue.queue.clone());
            Ok(QueuePage { queues, next })
        })
        .await
    }

    /// Leave to list queues: who is shown a few of many has all of them looked at.
    pub(super) async fn leave_to_list(
        &self,
        visible: &Scope,
        call: &Call,
    ) -> store::Result<Option<DearRead>> {
        if visible.is_all() {
            return Ok(None);
        }
        self.dear(None, call).await.map(Some)
    }

    /// One queue.
    pub async fn show_queue(&self, call: &Arc<Call>, queue: QueueName) -> Result<Queue> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let one = &queue;
            let policy = broker.policies.of(one).await?;
            let found = broker.on_queue(Kind::Show, one, &policy, &call, |mut conn| async move {
                store::show(&mut conn, one).await
            });
            let found = found.await?.map_err(Error::on(&queue))?;
            let found = found.ok_or_else(|| Error::QueueNotFound(queue.to_string()))?;
            Ok(broker.complete(found))
        })
        .await
    }

    /// Refuses what is about a queue that is not there.
    pub async fn check_exists(&self, call: &Arc<Call>, queue: &QueueName) -> Result<()> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let one = &queue;
            let found = broker.on_catalogue(&call, one.as_str(), |mut conn| async move {
                store::exists(&mut conn, one).await
            });
            if found.await?.map_err(Error::on(&queue))? {
                Ok(())
            } else {
                Err(Error::QueueNotFound(queue.to_string()))
            }
        })
        .await
    }

    /// Refuses settings that cannot be right, whatever is in the database.
    pub(super) fn check_settings(
        &self,
        queue: &QueueName,
        settings: &SettingsChange,
    ) -> Result<()> {
        let limit = settings.max_message_bytes.flatten().map_or(0, Bounded::get);
        let most = self.limits.max_message_bytes;
        if limit.unsigned_abs() > most {
            let reason = format!("must be at most {most}, the limit of this server, not {limit}");
            return Err(Error::invalid(Part::MaxMessageBytes, reason));
        }
        let dead_letters = settings.dead_letter_queue.as_ref().and_then(Option::as_ref);
        if dead_letters.is_some_and(|dead_letters| dead_letters.0 == *queue) {
            let reason = "must be another queue than this";
            return Err(Error::invalid(Part::DeadLetterQueue, reason));
        }
        Ok(())
    }

    /// Fills in what the server knows.
    pub(super) fn complete(&self, mut queue: Queue) -> Queue {
        if queue.row_security {
            self.row_security.note(&queue.queue);
        }
        let most = i64::try_from(self.limits.max_message_bytes).unwrap_or(i64::MAX);
        let limit = queue.settings.max_message_bytes.map_or(most, |limit| limit.get().min(most));
        queue.settings.max_message_bytes = Some(Bounded::saturating(limit));
        queue
    }

    /// Compares what is wished with what is there.
    fn check_alike(&self, wished: &NewQueue, there: &Queue) -> Result<()> {
        let name = &wished.queue;
        if wished.fifo.is_some_and(|fifo| fifo != there.fifo) {
            let how = if there.fifo {
                "and has an index for reading in groups, and is wanted without one"
            } else {
                "and has no index for reading in groups, and is wanted with one"
            };
            return Err(Error::QueueDiffers { queue: name.to_string(), how });
        }
        let settings = wished.settings.applied_to(&there.settings);
        if self.complete(Queue { settings, ..there.clone() }) != *there {
            let how = "with other settings";
            return Err(Error::QueueDiffers { queue: name.to_string(), how });
        }
        Ok(())
    }
}

/// Makes a queue if its dead-letter queue is there.
async fn put(conn: &mut Conn, new: &NewQueue) -> store::Result<Result<CreateOutcome>> {
    if let Some(error) = missing_dead_letter_queue(conn, &new.settings).await? {
        return Ok(Err(error));
    }
    let NewQueue { queue, kind, partition, fifo, settings, beside } = new;
    let (fifo, partition) = (fifo.unwrap_or(false), partition.as_ref());
    let beside = beside.as_ref();
    store::create(conn, queue, *kind, partition, fifo, settings, beside).await.map(Ok)
}

/// What is to be said of a dead-letter queue that is not there: a typo would send messages into the archive.
pub(super) async fn missing_dead_letter_queue(
    conn: &mut Conn,
    settings: &SettingsChange,
) -> store::Result<Option<Error>> {
    let Some(Some(name)) = &settings.dead_letter_queue else { return Ok(None) };
    if store::exists(conn, &name.0).await? {
        return Ok(None);
    }
    Ok(Some(match name.0.check_creatable() {
        Ok(()) => Error::NoDeadLetterQueue(name.0.to_string()),
        Err(reason) => Error::invalid(Part::DeadLetterQueue, format!(": {reason}")),
    }))
}

/// The first `count` of the queues that are asked for and shown. Who is shown a few of many has the
/// others looked at all the same, a page at a time.
async fn visible_queues(
    conn: &mut Conn,
    what: &ListQueues,
    count: usize,
) -> store::Result<Vec<Queue>> {
    let page = if what.visible.is_all() { count } else { count.max(FILTERED_PAGE) };
    let mut visible = Vec::new();
    let mut after = what.after.clone();
    loop {
        let limit = i64::try_from(page).unwrap_or(i64::MAX);
        let found = store::list(conn, &what.prefix, after.as_deref(), limit).await?;
        let is_last = found.len() < page;
        after = found.last().map(|queue| queue.queue.clone());
        visible.extend(found.into_iter().filter(|queue| what.visible.contains(&queue.queue)));
        if is_last || visible.len() >= count {
            visible.truncate(count);
            return Ok(visible);
        }
    }
}
