use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, within};

/// `[long_poll]`: waiting receives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongPoll {
    /// Clients that can wait at the same time; each holds one connection of a pool of its own.
    pub max_connections: u32,
    /// Milliseconds between two looks at a queue on behalf of a waiting client.
    pub poll_interval_ms: u32,
}

impl Default for LongPoll {
    fn default() -> Self {
        Self { max_connections: 16, poll_interval_ms: 100 }
    }
}

impl LongPoll {
    /// Time between two looks at a queue on behalf of a waiting client.
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms.into())
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        within("long_poll.max_connections", self.max_connections, 1, 1_000)?;
        within("long_poll.poll_interval_ms", self.poll_interval_ms, 5, 1_000)
    }
}
