//! The figures that `/metrics` shows and that somebody has to go and get.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    config,
    domain::{QueueName, QueuePageSize},
    store,
    telemetry::{Metrics, QueueFigures},
};

use super::Broker;

/// Time between two looks at the process and the pools, which cost nothing.
const PROCESS_INTERVAL: Duration = Duration::from_secs(5);
/// Queues that are listed at once.
const PAGE: QueuePageSize = QueuePageSize::saturating(200);

/// Looks at the process, the pools and the queues, so that a scrape never has to.
#[derive(Debug)]
pub struct Collector {
    broker: Broker,
    settings: config::Metrics,
    /// The queue that the last round ended with, for want of time.
    resume_after: Option<String>,
}

impl Collector {
    /// A collector for a broker.
    pub fn new(broker: Broker, settings: config::Metrics) -> Self {
        Self { broker, settings, resume_after: None }
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
            let Some(every) = self.settings.queue_interval() else {
                return std::future::pending().await;
            };
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.collect_queues().await;
            }
        };
        tokio::join!(process, queues);
    }

    /// One round over the queues, or as many as the budget allows; the next goes on from there.
    async fn collect_queues(&mut self) {
        let deadline = Instant::now() + self.settings.queue_budget();
        loop {
            match self.collect_page(deadline).await {
                Ok(resume_after) => self.resume_after = resume_after,
                // The next round begins here.
                Err(error) => {
                    tracing::debug!(%error, "cannot collect the queues' figures");
                    return;
                }
            }
            if self.resume_after.is_none() || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Figures of a page of queues; returns the queue to go on behind, if there are more.
    async fn collect_page(&self, deadline: Instant) -> store::Result<Option<String>> {
        let db = &self.broker.db;
        let after = self.resume_after.as_deref();
        let queues = store::list(&mut *db.errand().await?, "", after, PAGE.get()).await?;
        let full = i64::try_from(queues.len()).is_ok_and(|count| count == PAGE.get());
        let mut last = None;
        for queue in queues {
            let Ok(name) = QueueName::parse(&queue.queue) else {
                continue;
            };
            // An errand for each: others go in between.
            let mut conn = db.errand().await?;
            match store::figures(&mut conn, &name, self.settings.queue_count_limit).await {
                Ok(figures) => show(&self.broker.metrics, &queue.queue, &figures),
                // Dropped since it was listed.
                Err(store::Error::QueueNotFound) => {}
                Err(error) => return Err(error),
            }
            last = Some(queue.queue);
            if Instant::now() >= deadline {
                return Ok(last);
            }
        }
        Ok(last.filter(|_| full))
    }
}

fn collect_process(broker: &Broker) {
    let (open, idle) = broker.db.size();
    broker.metrics.pool("shared", open, idle);
    if let Some((open, idle)) = broker.engine.waiting_pool_size() {
        broker.metrics.pool("long_poll", open, idle);
    }
    broker.metrics.waiters(broker.engine.waiters());
    broker.metrics.process();
}

fn show(metrics: &Metrics, queue: &str, figures: &store::QueueFigures) {
    let store::QueueFigures { length, visible, oldest_age_seconds } = *figures;
    metrics.set_queue_figures(queue, QueueFigures { length, visible, oldest_age_seconds });
}
