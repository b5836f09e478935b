//! What is past its time is deleted, a little at a time and by one gateway at a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{config, store};

use super::Broker;

/// Rows of one step.
const STEP_ROWS: i32 = 1_000;
/// Pause between two steps when there is more to do.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Time between two rounds where no queue has a retention.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// Enforces retention.
#[derive(Debug)]
pub struct Janitor {
    broker: Broker,
    settings: config::Maintenance,
}

impl Janitor {
    /// A janitor for a broker.
    pub fn new(broker: Broker, settings: config::Maintenance) -> Self {
        Self { broker, settings }
    }

    /// Works until it is dropped.
    pub async fn run(self) {
        let mut last_round = None::<Instant>;
        loop {
            sleep(self.settings.interval()).await;
            // Settings are not asked for where nobody needs them: that would keep an idle database
            // busy. A gateway that serves nobody learns of a new retention in a round like this.
            let due = last_round.is_none_or(|last| last.elapsed() >= IDLE_INTERVAL);
            if due || self.broker.policies.any_retention() {
                self.round().await;
                last_round = Some(Instant::now());
            }
        }
    }

    async fn round(&self) {
        loop {
            match self.step().await {
                Ok(true) => sleep(STEP_PAUSE).await,
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "cannot delete what is past its retention");
                    return;
                }
            }
        }
    }

    async fn step(&self) -> store::Result<bool> {
        self.broker.policies.ensure_fresh().await?;
        let mut conn = self.broker.db.errand().await?;
        let lifetime = self.settings.idempotency_lifetime();
        store::forget_old(&mut conn, lifetime, STEP_ROWS).await
    }
}
