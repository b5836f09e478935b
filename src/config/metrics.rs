use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, check_range};

/// `[metrics]`: the Prometheus endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Seconds between two rounds of looking at the queues' lengths; 0 for never.
    pub queue_interval_seconds: u64,
    /// Milliseconds that one round may take; the next goes on where it stopped.
    pub queue_budget_ms: u64,
    /// Messages that are counted one by one; a longer queue's length is PostgreSQL's estimate.
    pub queue_count_limit: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { queue_interval_seconds: 15, queue_budget_ms: 500, queue_count_limit: 10_000 }
    }
}

impl Metrics {
    /// Time between two rounds, or nothing for never.
    pub fn queue_interval(&self) -> Option<Duration> {
        (self.queue_interval_seconds > 0).then(|| Duration::from_secs(self.queue_interval_seconds))
    }

    /// Time that one round may take.
    pub fn queue_budget(&self) -> Duration {
        Duration::from_millis(self.queue_budget_ms)
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("metrics.queue_interval_seconds", self.queue_interval_seconds, 0, 3_600)?;
        check_range("metrics.queue_budget_ms", self.queue_budget_ms, 1, 60_000)?;
        check_range("metrics.queue_count_limit", self.queue_count_limit, 1, 1_000_000)
    }
}
