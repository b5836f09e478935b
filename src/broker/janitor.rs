//! What is past its time is deleted, a little at a time; a queue that is in the way of it is in nobody
//! else's.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::{
    config,
    domain::QueueName,
    store::{self, QueueRetention},
};

use super::Broker;

/// Rows of one step.
const STEP_ROWS: i32 = 1_000;
/// Steps at one queue before it is the next one's turn.
const STEPS_IN_TURN: u32 = 50;
/// Pause between two steps when there is more to do.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Intervals between two rounds where no queue has a retention, and the longest that they may be together.
const IDLE_INTERVALS: u32 = 60;
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Enforces retention.
#[derive(Debug)]
pub struct Janitor {
    broker: Broker,
    settings: config::Maintenance,
    /// What failed in the last round, of which that was said.
    failing: HashSet<String>,
}

impl Janitor {
    /// A janitor for a broker.
    pub fn new(broker: Broker, settings: config::Maintenance) -> Self {
        Self { broker, settings, failing: HashSet::new() }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        // What a restore or a crash left behind is put right before anybody meets it.
        self.round().await;
        let mut last_round = Some(Instant::now());
        let interval = self.settings.interval();
        let idle_interval = (interval * IDLE_INTERVALS).min(IDLE_LIMIT);
        loop {
            sleep(interval).await;
            // Settings are not asked for where nobody needs them: that would keep an idle database
            // busy. A gateway that serves nobody learns of a new retention in a round like this.
            let due = last_round.is_none_or(|last| last.elapsed() >= idle_interval);
            if due || self.broker.policies.any_retention() {
                self.round().await;
                last_round = Some(Instant::now());
            }
        }
    }

    async fn round(&mut self) {
        let registered = self.register_queues().await;
        self.report("the queues' register", registered);
        let guarded = self.note_row_security().await;
        self.report("the list of queues with row-level security", guarded);
        let keys = self.delete_expired_keys().await;
        self.report("idempotency keys", keys);
        match self.queues_with_retention().await {
            Ok(queues) => {
                self.report("the list of queues", Ok(()));
                for queue in queues {
                    let outcome = self.tend(&queue).await;
                    self.report(&queue.queue, outcome);
                }
            }
            Err(error) => self.report("the list of queues", Err(error)),
        }
    }

    async fn register_queues(&self) -> store::Result<()> {
        let restored = store::register_queues(&mut *self.broker.db.errand().await?).await?;
        // A restore may leave sequences behind; whoever meets that first need not.
        for queue in restored.iter().filter_map(|queue| QueueName::parse(queue).ok()) {
            let mut conn = self.broker.db.errand().await?;
            if let Err(error) = store::advance_sequence(&mut conn, &queue, None).await {
                debug!(%queue, %error, "cannot look at the sequence of a restored queue");
            }
        }
        Ok(())
    }

    async fn note_row_security(&self) -> store::Result<()> {
        let names = store::queues_with_row_security(&mut *self.broker.db.errand().await?).await?;
        for queue in &names {
            self.broker.row_security.note(queue);
        }
        Ok(())
    }

    async fn queues_with_retention(&self) -> store::Result<Vec<QueueRetention>> {
        store::queues_with_retention(&mut *self.broker.db.errand().await?).await
    }

    async fn delete_expired_keys(&self) -> store::Result<()> {
        let lifetime = self.settings.idempotency_lifetime();
        loop {
            let mut conn = self.broker.db.errand().await?;
            if !store::delete_expired_keys(&mut conn, lifetime, STEP_ROWS).await? {
                return Ok(());
            }
            drop(conn);
            sleep(STEP_PAUSE).await;
        }
    }

    /// Deletes what is past its time in one queue and its archive, up to a bound.
    async fn tend(&self, retention: &QueueRetention) -> store::Result<()> {
        let Ok(queue) = QueueName::parse(&retention.queue) else { return Ok(()) };
        let (mut messages, mut archive) = (retention.messages, retention.archive);
        for _ in 0..STEPS_IN_TURN {
            let mut conn = self.broker.db.errand().await?;
            if let Some(seconds) = messages
                && !store::delete_expired_messages(&mut conn, &queue, seconds, STEP_ROWS).await?
            {
                messages = None;
            }
            if let Some(seconds) = archive
                && !store::delete_expired_archive(&mut conn, &queue, seconds, STEP_ROWS).await?
            {
                archive = None;
            }
            drop(conn);
            if messages.or(archive).is_none() {
                break;
            }
            sleep(STEP_PAUSE).await;
        }
        Ok(())
    }

    /// Says what fails when it begins to, and when it works again.
    fn report(&mut self, what: &str, outcome: store::Result<()>) {
        match outcome {
            // Dropped since it was listed.
            Ok(()) | Err(store::Error::QueueNotFound) => {
                if self.failing.remove(what) {
                    info!(what, "what is past its retention can be deleted again");
                }
            }
            Err(error) => {
                self.broker.metrics.maintenance_failed(what);
                if self.failing.insert(what.to_owned()) {
                    warn!(what, %error, "cannot delete what is past its retention");
                }
            }
        }
    }
}
