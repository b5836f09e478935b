//! What is past its time is deleted, a little at a time; a queue that is in the way of it is in nobody
//! else's.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::{
    config,
    domain::QueueName,
    store::{self, ExpiryStep, Kept, QueueRetention},
};

use super::{Broker, row_budget::RowBudget};

/// The most rows of one step: that are looked at, and that are deleted.
const STEP_ROWS: i32 = 1_000;
/// Steps at one queue, and the time for them, before it is the next one's turn.
const STEPS_IN_TURN: u32 = 50;
const TURN_TIME: Duration = Duration::from_secs(10);
/// Rows that a queue's table does not let go after which it is the next one's turn.
const MOST_KEPT: i64 = 5_000;
/// Pause between two steps when there is more to do.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Intervals between two rounds where no queue has a retention, and the longest that they may be together.
const IDLE_INTERVALS: u32 = 60;
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// The most rounds for which a queue is left out where nothing could be deleted.
const MAX_PAUSE: u32 = 16;

/// Enforces retention.
#[derive(Debug)]
pub struct Janitor {
    broker: Broker,
    settings: config::Maintenance,
    /// What failed when it was last tried, of which that was said.
    failing: HashMap<Task, Pause>,
    /// How many rows of a queue go in one step, going by the steps before.
    step_rows: HashMap<String, StepRows>,
}

/// Of its messages, and of its archive.
#[derive(Debug)]
struct StepRows {
    messages: RowBudget,
    archive: RowBudget,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// Keeping the register of queues right.
    Register,
    /// Finding out which queues have row-level security.
    RowSecurity,
    /// Deleting idempotency keys.
    Keys,
    /// Finding out which queues have a retention.
    List,
    /// Deleting messages of a queue.
    Queue(String),
}

/// A table of a queue's, and for how many seconds it keeps messages.
#[derive(Clone, Copy, Debug)]
enum Part {
    Messages(i64),
    Archive(i64),
}

/// For how many rounds something is left out.
#[derive(Debug, Default)]
struct Pause {
    left: u32,
    whole: u32,
}

/// Why something was not done.
enum Failure {
    Error(store::Error),
    /// Messages stay that are past their retention.
    Kept(Kept),
    /// A row of what PGMQ or the gateway keeps of queues was not written, with this SQLSTATE.
    Refused(String),
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self::Error(error)
    }
}

impl Janitor {
    /// A janitor for a broker.
    pub fn new(broker: Broker, settings: config::Maintenance) -> Self {
        Self { broker, settings, failing: HashMap::new(), step_rows: HashMap::new() }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        // What a restore or a crash left behind is put right before anybody meets it.
        let began = Instant::now();
        self.round().await;
        let (mut last_round, mut took) = (Some(Instant::now()), began.elapsed());
        let interval = self.settings.interval();
        let idle_interval = (interval * IDLE_INTERVALS).min(IDLE_LIMIT);
        loop {
            // Half of the time, at most.
            sleep(interval.max(took)).await;
            // Settings are not asked for where nobody needs them: that would keep an idle database
            // busy. A gateway that serves nobody learns of a new retention in a round like this.
            let due = last_round.is_none_or(|last| last.elapsed() >= idle_interval);
            if due || self.broker.policies.any_retention() {
                let began = Instant::now();
                self.round().await;
                took = began.elapsed();
                last_round = Some(Instant::now());
            }
        }
    }

    async fn round(&mut self) {
        let registered = self.register_queues().await;
        self.report(Task::Register, registered);
        let guarded = self.note_row_security().await;
        self.report(Task::RowSecurity, guarded.map_err(Failure::Error));
        let keys = self.delete_expired_keys().await;
        self.report(Task::Keys, keys.map_err(Failure::Error));
        let queues = match self.queues_with_retention().await {
            Ok(queues) => queues,
            Err(error) => return self.report(Task::List, Err(Failure::Error(error))),
        };
        self.report(Task::List, Ok(()));
        self.failing.retain(|task, _| match task {
            Task::Queue(name) => queues.iter().any(|queue| queue.queue == *name),
            _ => true,
        });
        self.step_rows.retain(|name, _| queues.iter().any(|queue| queue.queue == *name));
        for queue in queues {
            let task = Task::Queue(queue.queue.clone());
            if self.failing.get_mut(&task).is_some_and(Pause::goes_on) {
                continue;
            }
            let mut rows = self.step_rows.remove(&queue.queue).unwrap_or_default();
            let outcome = self.tend(&queue, &mut rows).await;
            self.step_rows.insert(queue.queue, rows);
            self.report(task, outcome);
        }
    }

    async fn register_queues(&self) -> Result<(), Failure> {
        let (mut after, mut kept_code) = (String::new(), None);
        loop {
            let mut conn = self.broker.db.background_conn().await?;
            let step = store::register_queues(&mut conn, &after).await?;
            drop(conn);
            kept_code = step.kept_code.or(kept_code);
            // A restore may leave sequences behind; whoever meets that first need not.
            for queue in step.restored.iter().filter_map(|queue| QueueName::parse(queue).ok()) {
                let mut conn = self.broker.db.background_conn().await?;
                if let Err(error) = store::advance_sequence(&mut conn, &queue, None).await {
                    debug!(%queue, %error, "cannot look at the sequence of a restored queue");
                }
            }
            match step.after {
                Some(last) => after = last,
                None => return kept_code.map_or(Ok(()), |code| Err(Failure::Refused(code))),
            }
            sleep(STEP_PAUSE).await;
        }
    }

    async fn note_row_security(&self) -> store::Result<()> {
        let names =
            store::queues_with_row_security(&mut *self.broker.db.background_conn().await?).await?;
        for queue in &names {
            self.broker.row_security.note(queue);
        }
        Ok(())
    }

    async fn queues_with_retention(&self) -> store::Result<Vec<QueueRetention>> {
        store::queues_with_retention(&mut *self.broker.db.background_conn().await?).await
    }

    async fn delete_expired_keys(&self) -> store::Result<()> {
        let lifetime = self.settings.idempotency_lifetime();
        loop {
            let mut conn = self.broker.db.background_conn().await?;
            let more_keys = store::delete_expired_keys(&mut conn, lifetime, STEP_ROWS).await?;
            if !store::delete_expired_attributes(&mut conn, STEP_ROWS).await? && !more_keys {
                return Ok(());
            }
            drop(conn);
            sleep(STEP_PAUSE).await;
        }
    }

    /// Deletes what is past its time in one queue and in its archive, up to a bound. Neither is in the way
    /// of the other.
    async fn tend(&self, retention: &QueueRetention, rows: &mut StepRows) -> Result<(), Failure> {
        let Ok(queue) = QueueName::parse(&retention.queue) else { return Ok(()) };
        let messages = match retention.messages {
            Some(seconds) => {
                self.delete_expired(&queue, Part::Messages(seconds), &mut rows.messages).await
            }
            None => Ok(()),
        };
        let archive = match retention.archive {
            Some(seconds) => {
                self.delete_expired(&queue, Part::Archive(seconds), &mut rows.archive).await
            }
            None => Ok(()),
        };
        messages.and(archive)
    }

    async fn delete_expired(
        &self,
        queue: &QueueName,
        part: Part,
        rows: &mut RowBudget,
    ) -> Result<(), Failure> {
        let (mut kept, mut code) = (0, None);
        let turn = Instant::now();
        for _ in 0..STEPS_IN_TURN {
            let began = Instant::now();
            let step = match self.step(queue, part, rows.rows(), kept).await {
                Ok(step) => step,
                // The others first: it has had its time.
                Err(store::Error::Timeout) if rows.shrink() => break,
                Err(error) => return Err(Failure::Error(error)),
            };
            rows.note_change(began.elapsed(), step.chosen.into());
            if let Some(more) = step.kept {
                kept += i64::from(more.count);
                code = more.code.or(code);
            }
            if !step.more || kept >= MOST_KEPT || turn.elapsed() >= TURN_TIME {
                break;
            }
            sleep(STEP_PAUSE).await;
        }
        let count = i32::try_from(kept).unwrap_or(i32::MAX);
        if count > 0 { Err(Failure::Kept(Kept { count, code })) } else { Ok(()) }
    }

    /// One step, where so many messages stayed in those before it.
    async fn step(
        &self,
        queue: &QueueName,
        part: Part,
        most: i32,
        kept: i64,
    ) -> store::Result<ExpiryStep> {
        let mut conn = self.broker.db.background_conn().await?;
        match part {
            Part::Messages(seconds) => {
                store::delete_expired_messages(&mut conn, queue, seconds, STEP_ROWS, most).await
            }
            Part::Archive(seconds) => {
                store::delete_expired_archive(&mut conn, queue, seconds, most, kept).await
            }
        }
    }

    /// Counts what fails, and says so when it begins to, and when it works again.
    fn report(&mut self, task: Task, outcome: Result<(), Failure>) {
        match outcome {
            // Dropped since it was listed.
            Ok(()) | Err(Failure::Error(store::Error::QueueNotFound)) => {
                if self.failing.remove(&task).is_some() {
                    info!(what = %task, "what is past its retention is deleted again");
                }
            }
            Err(failure) => {
                self.broker.metrics.maintenance_failed(task.queue());
                if !self.failing.contains_key(&task) {
                    failure.warn(&task);
                }
                self.failing.entry(task).or_default().begin();
            }
        }
    }
}

impl Default for StepRows {
    fn default() -> Self {
        let rows = RowBudget::of_changes(STEP_ROWS);
        Self { messages: rows, archive: rows }
    }
}

impl Task {
    fn queue(&self) -> Option<&str> {
        match self {
            Self::Queue(name) => Some(name),
            Self::Register | Self::RowSecurity | Self::Keys | Self::List => None,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register => f.write_str("the register of queues"),
            Self::RowSecurity => f.write_str("the list of queues with row-level security"),
            Self::Keys => f.write_str("idempotency keys"),
            Self::List => f.write_str("the queues with a retention"),
            Self::Queue(name) => f.write_str(name),
        }
    }
}

impl Failure {
    fn warn(&self, task: &Task) {
        match self {
            Self::Error(error) => {
                let reason = store::read_refusal(error);
                warn!(what = %task, %reason, "what is past its retention cannot be deleted");
            }
            Self::Kept(Kept { count, code }) => warn!(
                what = %task, messages = count, sqlstate = code.as_deref().unwrap_or("none"),
                "what is past its retention cannot be deleted: a trigger, a policy or a constraint of its \
                 table keeps it"
            ),
            Self::Refused(sqlstate) => warn!(
                what = %task, %sqlstate,
                "something cannot be written there: a trigger, a policy or a missing right on a table of pgmq or \
                 pgmq_gateway keeps it; the rest is done"
            ),
        }
    }
}

impl Pause {
    /// Begins, longer from time to time.
    fn begin(&mut self) {
        self.whole = (self.whole * 2 + 1).min(MAX_PAUSE);
        self.left = self.whole;
    }

    /// Whether it goes on for this round.
    fn goes_on(&mut self) -> bool {
        let goes_on = self.left > 0;
        self.left = self.left.saturating_sub(1);
        goes_on
    }
}
