//! The figures that `/metrics` shows and that somebody has to go and get.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::{
    config,
    domain::QueueName,
    store::{self, LookLimits},
    telemetry::QueueFigures,
};

use super::Broker;

/// Time between two looks at the process and the pools, which cost nothing.
const PROCESS_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two looks at which queues are gone, where no figures are collected.
const NAMES_INTERVAL: Duration = Duration::from_secs(15);
/// Time to wait for a queue's lock: the less of it the more were waited for in vain in a round, and
/// the least for a queue that could not be read the last time.
const LOCK_WAIT: Duration = Duration::from_millis(100);
const LEAST_LOCK_WAIT: Duration = Duration::from_millis(10);
/// Time for a look at a queue, if one round may not take longer.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// The most rounds for which a queue is left out that takes all of that time.
const MAX_PAUSE: u32 = 8;
/// Figures that were not renewed for so many rounds, or so long, tell nothing any more.
const STALE_ROUNDS: u32 = 4;
const STALE_AGE: Duration = Duration::from_secs(60);

/// Looks at the process, the pools and the queues, so that a scrape never has to.
#[derive(Debug)]
pub struct Collector {
    broker: Broker,
    settings: config::Metrics,
    /// The queue that was looked at last.
    resume_after: String,
    /// Queues that could not be read when they were looked at last.
    unreadable: HashMap<String, Pause>,
    /// Time to wait for the lock of the next one.
    lock_wait: Duration,
    /// When figures were had last; nothing if they were taken away since, as they were too old.
    fresh: Option<Instant>,
}

/// For how many rounds a queue is left out.
#[derive(Debug, Default)]
struct Pause {
    left: u32,
    whole: u32,
}

impl Collector {
    /// A collector for a broker.
    pub fn new(broker: Broker, settings: config::Metrics) -> Self {
        Self {
            broker,
            settings,
            resume_after: String::new(),
            unreadable: HashMap::new(),
            lock_wait: LOCK_WAIT,
            fresh: Some(Instant::now()),
        }
    }

    /// Collects until it is dropped.
    pub async fn run(mut self) {
        let broker = self.broker.clone();
        let process = async {
            let mut ticks = interval(PROCESS_INTERVAL);
            loop {
                ticks.tick().await;
                collect_process(&broker);
            }
        };
        let queues = async {
            let figures = self.settings.queue_interval();
            let mut ticks = interval(figures.unwrap_or(NAMES_INTERVAL));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let Some(every) = figures else {
                return self.forget_gone_ever_more(ticks).await;
            };
            loop {
                ticks.tick().await;
                match self.collect_queues().await {
                    Ok(()) => self.keep_fresh(),
                    Err(error) => self.give_up_on_stale(&error, every),
                }
            }
        };
        tokio::join!(process, queues);
    }

    /// One round over the queues, or as many as the budget allows; the next goes on from there.
    /// Fails where the database does, not where a queue does.
    async fn collect_queues(&mut self) -> store::Result<()> {
        let deadline = Instant::now() + self.settings.queue_budget();
        self.lock_wait = LOCK_WAIT;
        for queue in self.list().await? {
            if self.unreadable.get_mut(queue.as_str()).is_some_and(Pause::go_on) {
                continue;
            }
            // Whatever comes of it: the next round must not stick to it.
            queue.as_str().clone_into(&mut self.resume_after);
            self.look_at(&queue).await?;
            if Instant::now() >= deadline {
                break;
            }
        }
        Ok(())
    }

    /// Without figures there are counters all the same, and queues that are dropped elsewhere.
    async fn forget_gone_ever_more(&self, mut ticks: Interval) {
        loop {
            ticks.tick().await;
            // A database that nobody uses is left alone.
            if self.broker.metrics.known_queues().is_empty() {
                continue;
            }
            if let Err(error) = self.forget_gone().await {
                debug!(%error, "cannot look which queues are gone");
            }
        }
    }

    /// Takes away the series of queues that are gone, and returns the names of those that are there.
    async fn forget_gone(&self) -> store::Result<Vec<String>> {
        // Before the names: a queue that is made meanwhile is none that is gone.
        let known = self.broker.metrics.known_queues();
        let names = store::names(&mut *self.broker.db.background_conn().await?).await?;
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        for gone in known.iter().filter(|queue| !there.contains(&***queue)) {
            self.broker.metrics.forget_queue(gone);
        }
        Ok(names)
    }

    /// All queues, beginning behind the one that was looked at last. Forgets those that are gone.
    async fn list(&mut self) -> store::Result<Vec<QueueName>> {
        let broker = self.broker.clone();
        // For those who look at what is set: they ask for nothing.
        let _ = broker.policies.ensure_fresh().await;
        let mut names = self.forget_gone().await?;
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        // Of more, those that are in use are to have the names.
        if broker.metrics.has_names_for(names.len()) {
            for queue in &names {
                broker.metrics.know_queue(queue);
            }
        }
        broker.queues_known.store(true, Relaxed);
        self.unreadable.retain(|queue, _| there.contains(&**queue));
        let start = names.partition_point(|name| *name <= self.resume_after);
        names.rotate_left(start);
        Ok(names.iter().filter_map(|name| QueueName::parse(name).ok()).collect())
    }

    /// Shows the figures of a queue, or that they cannot be had.
    async fn look_at(&mut self, queue: &QueueName) -> store::Result<()> {
        let lock = if self.is_unreadable(queue) { LEAST_LOCK_WAIT } else { self.lock_wait };
        let statement = self.settings.queue_budget().max(LOOK_LIMIT);
        let limits = LookLimits { lock, statement };
        let count_limit = self.settings.queue_count_limit;
        // A connection for each: others go in between.
        let mut conn = self.broker.db.background_conn().await?;
        let figures = store::figures(&mut conn, queue, count_limit, limits).await;
        drop(conn);
        match figures {
            Ok(figures) => self.show(queue, figures),
            Err(error) => {
                self.broker.metrics.forget_queue_figures(queue.as_str());
                self.lock_wait = (self.lock_wait / 2).max(LEAST_LOCK_WAIT);
                // A database that still answers says that it is the queue that fails.
                let mut conn = self.broker.db.background_conn().await?;
                if store::exists(&mut conn, queue).await? {
                    self.leave_out(queue, &error);
                } else {
                    self.unreadable.remove(queue.as_str());
                    self.broker.metrics.forget_queue(queue.as_str());
                }
            }
        }
        Ok(())
    }

    fn is_unreadable(&self, queue: &QueueName) -> bool {
        self.unreadable.contains_key(queue.as_str())
    }

    fn show(&mut self, queue: &QueueName, figures: store::QueueFigures) {
        let figures = QueueFigures {
            length: figures.length,
            visible: figures.visible,
            backlog: figures.backlog,
            oldest_age_seconds: figures.oldest_age_seconds,
            oldest_visible_age_seconds: figures.oldest_visible_age_seconds,
        };
        self.broker.metrics.set_queue_figures(queue.as_str(), figures);
        self.keep_fresh();
        if self.unreadable.remove(queue.as_str()).is_some() {
            info!(%queue, "the queue's figures can be collected again");
        }
    }

    fn leave_out(&mut self, queue: &QueueName, error: &store::Error) {
        if !self.is_unreadable(queue) {
            let reason = store::read_refusal(error);
            warn!(
                %queue, %reason,
                "the queue's figures cannot be collected; /metrics goes without them until they can"
            );
        }
        let pause = self.unreadable.entry(queue.as_str().to_owned()).or_default();
        pause.begin(matches!(error, store::Error::Timeout));
    }

    fn keep_fresh(&mut self) {
        if self.fresh.replace(Instant::now()).is_none() {
            info!("the queues' figures can be collected again");
        }
    }

    /// Takes all figures away once they are old: they would look as if they were of now.
    fn give_up_on_stale(&mut self, error: &store::Error, every: Duration) {
        debug!(%error, "cannot collect the queues' figures");
        let too_old = (every * STALE_ROUNDS).max(STALE_AGE);
        if self.fresh.is_some_and(|since| since.elapsed() >= too_old) {
            self.fresh = None;
            self.broker.metrics.forget_all_figures();
            let reason = store::read_refusal(error);
            warn!(
                %reason,
                "no queue's figures can be collected; /metrics goes without them until they can"
            );
        }
    }
}

impl Pause {
    /// Begins anew: longer from time to time for a queue that costs much, none for others.
    fn begin(&mut self, is_slow: bool) {
        self.whole = if is_slow { (self.whole * 2).clamp(1, MAX_PAUSE) } else { 0 };
        self.left = self.whole;
    }

    /// Whether it goes on for this round.
    fn go_on(&mut self) -> bool {
        let goes_on = self.left > 0;
        self.left = self.left.saturating_sub(1);
        goes_on
    }
}

fn collect_process(broker: &Broker) {
    let (open, idle) = broker.db.size();
    broker.metrics.pool("shared", open, idle);
    if let Some((open, idle)) = broker.engine.waiting_pool_size() {
        broker.metrics.pool("long_poll", open, idle);
    }
    broker.metrics.waiters(broker.engine.waiters());
    broker.metrics.queues_in_use(broker.engine.queues_in_use());
    broker.metrics.process();
}
