//! Changing queues that are there, and dropping them.

use std::sync::Arc;

use tracing::warn;

use crate::{
    domain::{Call, Queue, QueueKind, QueueName, SettingsChange},
    store::{self, AttributesBeside, DropOutcome, GroupIndex},
};

use super::{
    Broker, Created, Error, NewQueue, Result, caller, policies::Policy,
    queues::missing_dead_letter_queue, work::Kind,
};

/// How often an index is tried to be made, or dropped, that others are at.
const MOST_ATTEMPTS: u32 = 4;

/// What to change of a queue.
#[derive(Clone, Debug, Default)]
pub struct QueueChange {
    /// Settings: those that are given.
    pub settings: SettingsChange,
    /// Whether it is to have the index for reading in groups.
    pub fifo: Option<bool>,
    /// What else is kept of it, in the same transaction as the settings.
    pub beside: Option<AttributesBeside>,
}

impl QueueChange {
    /// The indexes that it is to have or, with false, to lose.
    fn indexes(&self) -> Vec<(GroupIndex, bool)> {
        let fifo = self.fifo.map(|wanted| (GroupIndex::Fifo, wanted));
        let fair = self.settings.fair.map(|wanted| (GroupIndex::Fair, wanted.unwrap_or(false)));
        fifo.into_iter().chain(fair).collect()
    }
}

/// A queue that is to be changed, with what was known of it when the call began.
#[derive(Clone, Copy)]
struct Known<'a> {
    queue: &'a QueueName,
    policy: &'a Policy,
    call: &'a Arc<Call>,
}

impl Broker {
    /// Makes a queue or, where it is there and of the same kind, has the settings of it that are given, and
    /// the index if that is.
    pub async fn create_or_update_queue(&self, call: &Arc<Call>, new: NewQueue) -> Result<Created> {
        let queue = new.queue.clone();
        let change = QueueChange { settings: new.settings.clone(), fifo: new.fifo, beside: None };
        let found = self.create_or_find(call, new, false).await?;
        if found.created {
            return Ok(found);
        }
        let queue = self.change_queue(call, queue, change).await?;
        Ok(Created { queue, created: false })
    }

    /// Changes settings of a queue.
    pub async fn change_settings(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        settings: SettingsChange,
    ) -> Result<Queue> {
        self.change_queue(call, queue, QueueChange { settings, ..QueueChange::default() }).await
    }

    /// Changes settings and indexes of a queue. Indexes are made and dropped beside whoever is at work there,
    /// for as long as that takes: where it takes longer than a request may, it goes on, and asking again tells
    /// when it is done.
    pub async fn change_queue(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        change: QueueChange,
    ) -> Result<Queue> {
        self.check_settings(&queue, &change.settings)?;
        let (broker, call) = (self.clone(), Arc::clone(call));
        let changes = change.settings != SettingsChange::default() || !change.indexes().is_empty();
        self.run(changes, async move {
            let policy = broker.policies.of(&queue).await?;
            let known = Known { queue: &queue, policy: &policy, call: &call };
            broker.check_change(known, &change).await?;
            let mut done = Vec::new();
            let changed = broker.apply_change(known, &change, &mut done).await;
            broker.engine.tell(&queue);
            changed.map_err(|error| error.behind(&queue, &done))?;
            let shown = broker.show(known).await;
            let shown = shown.map_err(|error| error.of_look_behind(&queue, &done))?;
            broker.policies.note_pause(&queue, shown.settings.paused);
            if shown.settings.fair && change.settings.fair.is_some() {
                // Another gateway may have set it while this one dropped what it needs.
                let made = broker.set_index(known, GroupIndex::Fair, true, &mut done).await;
                made.map_err(|error| error.behind(&queue, &done))?;
            }
            Ok(shown)
        })
        .await
    }

    /// Changes what is to be changed, step by step: each commits on its own, and is `done` then.
    async fn apply_change(
        &self,
        known: Known<'_>,
        change: &QueueChange,
        done: &mut Vec<&'static str>,
    ) -> Result<()> {
        for (index, _) in change.indexes().into_iter().filter(|(_, wanted)| *wanted) {
            self.set_index(known, index, true, done).await?;
        }
        if change.settings != SettingsChange::default() {
            let outcome = self.store_settings(known, change).await;
            if !matches!(outcome, Err(Error::Locked(_))) {
                self.policies.forget(known.queue);
                self.attributes.forget(known.queue);
            }
            outcome?;
            done.push("its settings are changed");
            if let Some(paused) = change.settings.paused {
                self.policies.note_pause(known.queue, paused.unwrap_or(false));
            }
        }
        for (index, _) in change.indexes().into_iter().filter(|(_, wanted)| !*wanted) {
            self.set_index(known, index, false, done).await?;
        }
        Ok(())
    }

    /// Refuses a change that cannot be made, before any of it is.
    async fn check_change(&self, known: Known<'_>, change: &QueueChange) -> Result<()> {
        let (Known { queue, policy, call }, settings) = (known, &change.settings);
        let missing = self.on_queue(Kind::Define, queue, policy, call, |mut conn| async move {
            if let Some(Some(notify)) = &settings.notify {
                store::check_notify(&mut conn, notify.0).await?;
            }
            missing_dead_letter_queue(&mut conn, settings).await
        });
        if let Some(error) = missing.await?.map_err(Error::of_changing(queue))? {
            return Err(error);
        }
        if change.indexes().is_empty() {
            return Ok(());
        }
        let there = self.show(known).await?;
        let changes = |(index, wanted): (GroupIndex, bool)| match index {
            GroupIndex::Fifo => wanted != there.fifo,
            GroupIndex::Fair => wanted != there.settings.fair,
        };
        if there.kind == QueueKind::Partitioned && change.indexes().into_iter().any(changes) {
            return Err(Error::QueueConflict(format!(
                "queue `{queue}` is partitioned: PostgreSQL makes and drops an index of such a table while \
                 nobody else is at work there only, so `fifo` and `fair` are said when it is made"
            )));
        }
        for (index, _) in change.indexes().into_iter().filter(|(_, wanted)| !*wanted) {
            // One that is being made cannot be dropped, which is found out before anything is changed.
            self.index_work(known, index, false).await?;
        }
        Ok(())
    }

    async fn store_settings(&self, known: Known<'_>, change: &QueueChange) -> Result<()> {
        let Known { queue, policy, call } = known;
        let (settings, beside) = (&change.settings, change.beside.as_ref());
        let changed = self.on_queue(Kind::Define, queue, policy, call, |mut conn| async move {
            store::change_settings(&mut conn, queue, settings, beside).await
        });
        if changed.await?.map_err(Error::of_changing(queue))? {
            Ok(())
        } else {
            Err(Error::QueueNotFound(queue.to_string()))
        }
    }

    async fn show(&self, Known { queue, policy, call }: Known<'_>) -> Result<Queue> {
        let shown = self.on_queue(Kind::Show, queue, policy, call, |mut conn| async move {
            store::show(&mut conn, queue).await
        });
        let shown = shown.await?.map_err(Error::of_changing(queue))?;
        let shown = shown.ok_or_else(|| Error::QueueNotFound(queue.to_string()))?;
        Ok(self.complete(shown))
    }

    /// Makes an index, or drops it. Where there is nothing to do, that waits for nobody.
    async fn set_index(
        &self,
        known: Known<'_>,
        index: GroupIndex,
        wanted: bool,
        done: &mut Vec<&'static str>,
    ) -> Result<()> {
        if !self.index_work(known, index, wanted).await?.is_empty() {
            self.work_on_index(known, index, wanted).await?;
            done.push(match (index, wanted) {
                (GroupIndex::Fifo, true) => "its index for reading in groups is made",
                (GroupIndex::Fifo, false) => "its index for reading in groups is dropped",
                (GroupIndex::Fair, true) => "its index for groups that take turns is made",
                (GroupIndex::Fair, false) => "its index for groups that take turns is dropped",
            });
        }
        if index == GroupIndex::Fifo { self.note_fifo(known).await } else { Ok(()) }
    }

    async fn note_fifo(&self, Known { queue, policy, call }: Known<'_>) -> Result<()> {
        let noted = self.on_queue(Kind::Define, queue, policy, call, |mut conn| async move {
            store::note_fifo(&mut conn, queue).await
        });
        let noted = noted.await?;
        if !matches!(noted, Err(store::Error::Locked)) {
            self.policies.forget(queue);
        }
        match noted {
            // The index is what counts: the janitor writes it down once nobody has the row.
            Err(store::Error::Locked) => Ok(()),
            noted => noted.map_err(Error::of_changing(queue)),
        }
    }

    /// The statements that make or drop it, as it is now.
    async fn index_work(
        &self,
        Known { queue, policy, call }: Known<'_>,
        index: GroupIndex,
        wanted: bool,
    ) -> Result<Vec<String>> {
        let work = self.on_queue(Kind::Define, queue, policy, call, |mut conn| async move {
            store::group_index_work(&mut conn, queue, index, wanted).await
        });
        work.await?.map_err(Error::of_changing(queue))
    }

    async fn work_on_index(&self, known: Known<'_>, index: GroupIndex, wanted: bool) -> Result<()> {
        let queue = known.queue;
        // Nobody stands there for a client that has left.
        let _turn = tokio::select! {
            turn = self.index_builds.turn(queue) => turn,
            () = caller::gone() => return Err(Error::Locked(format!("the indexes of queue `{queue}`"))),
        };
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            let work = self.index_work(known, index, wanted).await?;
            let outcome = self.db.run_at_leisure(&work).await;
            // Another gateway is at the same, or the queue is another one: what there is to do is another thing, too.
            if attempts == MOST_ATTEMPTS || !matches!(outcome, Err(store::Error::Deadlock(_))) {
                break outcome;
            }
        };
        if let Err(error) = outcome {
            if wanted {
                self.drop_unfinished_index(known, index).await;
            }
            return Err(match error {
                store::Error::Unreadable => Error::QueueConflict(format!(
                    "a message of queue `{queue}` has a group (its header `x-pgmq-group`) that is too long for an \
                     index: it has to go first; nothing was changed"
                )),
                error => Error::of_changing(queue)(error),
            });
        }
        self.db.forget_table(queue);
        Ok(())
    }

    /// Drops what an attempt to make an index has left, which would be of no use and cost every send. Where that
    /// fails, the next attempt does it. One that another gateway has made meanwhile stays.
    async fn drop_unfinished_index(&self, known: Known<'_>, index: GroupIndex) {
        if let Ok(mut work) = self.index_work(known, index, true).await {
            // The last one may make it anew.
            work.retain(|statement| statement.starts_with("DROP"));
            drop(self.db.run_at_leisure(&work).await);
        }
    }

    /// Drops a queue with its messages and its archive; one to which dead letters of others go only if that is
    /// `forced`.
    pub async fn drop_queue(&self, call: &Arc<Call>, queue: QueueName, forced: bool) -> Result<()> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let queue = &queue;
            let policy = broker.policies.of(queue).await?;
            let outcome = broker
                .on_queue(Kind::Define, queue, &policy, &call, |mut conn| async move {
                    store::drop_queue(&mut conn, queue, forced).await
                })
                .await;
            if !matches!(outcome, Ok(Err(store::Error::Locked) | Ok(DropOutcome::InUse(_)))) {
                broker.policies.forget(queue);
                if matches!(outcome, Ok(Ok(DropOutcome::Dropped(_) | DropOutcome::Missing))) {
                    broker.policies.note_pause(queue, false);
                }
                broker.engine.tell(queue);
            }
            match outcome?.map_err(Error::of_changing(queue))? {
                DropOutcome::Dropped(used_by) => {
                    broker.metrics.forget_queue(queue.as_str());
                    if !used_by.is_empty() {
                        warn!(
                            %queue, ?used_by,
                            "a queue was dropped to which dead letters of others go: they go into their \
                             archives from now on"
                        );
                    }
                    Ok(())
                }
                DropOutcome::Missing => Err(Error::QueueNotFound(queue.to_string())),
                DropOutcome::InTheWay(name) => Err(Error::QueueConflict(format!(
                    "queue `{queue}` cannot be dropped: `{name}` in PGMQ's schema is no table of its own: an \
                     administrator has to rename it, or drop it; nothing was changed"
                ))),
                DropOutcome::InUse(used_by) => {
                    Err(Error::QueueInUse { queue: queue.to_string(), used_by })
                }
            }
        })
        .await
    }
}
