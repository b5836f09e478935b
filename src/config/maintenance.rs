use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, check_range};

/// `[maintenance]`: what is forgotten, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Maintenance {
    /// Milliseconds between two looks for messages past their retention, where a queue has one.
    pub interval_ms: u32,
    /// Seconds for which an `Idempotency-Key` is remembered.
    pub idempotency_lifetime_seconds: u32,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { interval_ms: 1_000, idempotency_lifetime_seconds: 24 * 60 * 60 }
    }
}

impl Maintenance {
    /// Time between two looks for what is past its retention.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.into())
    }

    /// How long an idempotency key is remembered.
    pub fn idempotency_lifetime(&self) -> Duration {
        Duration::from_secs(self.idempotency_lifetime_seconds.into())
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("maintenance.interval_ms", self.interval_ms, 50, 3_600_000)?;
        let (key, lifetime) =
            ("maintenance.idempotency_lifetime_seconds", self.idempotency_lifetime_seconds);
        check_range(key, lifetime, 1, 30 * 24 * 60 * 60)
    }
}
