use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, check_range};

/// `[long_poll]`: waiting receives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongPoll {
    /// How clients wait.
    pub strategy: Strategy,
    /// Clients that can wait at the same time with `shared`.
    pub max_waiters: usize,
    /// Those of them that can wait for messages of the same queue.
    pub max_waiters_per_queue: usize,
    /// Those of them that can wait with the same key, at one gateway, where it has no limit of its own.
    pub max_waiters_per_key: Option<u32>,
    /// Receives that differ in `vt`, `filter` or `fifo`, and so in the read that serves them, with which clients
    /// can wait for messages of the same queue at the same time.
    pub max_distinct_per_queue: usize,
    /// Those of all queues with which clients of the same key can wait, at one gateway.
    pub max_distinct_per_key: usize,
    /// Clients that can wait at the same time with `read_with_poll`; each holds one connection of a
    /// pool of its own.
    pub max_connections: u32,
    /// Milliseconds between two looks at the queues in which somebody waits.
    pub poll_interval_ms: u32,
}

/// How clients wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Strategy {
    /// In a line, without a connection: one read serves all who stand there.
    Shared,
    /// Each with a `pgmq.read_with_poll` of its own.
    ReadWithPoll,
}

impl TryFrom<String> for Strategy {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match &*name {
            "shared" => Ok(Self::Shared),
            "read_with_poll" => Ok(Self::ReadWithPoll),
            _ => Err(format!("`{name}` is neither shared nor read_with_poll")),
        }
    }
}

impl Default for LongPoll {
    fn default() -> Self {
        Self {
            strategy: Strategy::Shared,
            max_waiters: 20_000,
            max_waiters_per_queue: 20_000,
            max_waiters_per_key: None,
            max_distinct_per_queue: 1_000,
            max_distinct_per_key: 1_000,
            max_connections: 16,
            poll_interval_ms: 100,
        }
    }
}

impl LongPoll {
    /// Time between two looks at the queues in which somebody waits.
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms.into())
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("long_poll.max_waiters", self.max_waiters, 1, 1_000_000)?;
        check_range("long_poll.max_waiters_per_queue", self.max_waiters_per_queue, 1, 1_000_000)?;
        let per_key = self.max_waiters_per_key.unwrap_or(1);
        check_range("long_poll.max_waiters_per_key", per_key, 1, 1_000_000)?;
        check_range("long_poll.max_distinct_per_queue", self.max_distinct_per_queue, 1, 1_000_000)?;
        check_range("long_poll.max_distinct_per_key", self.max_distinct_per_key, 1, 1_000_000)?;
        check_range("long_poll.max_connections", self.max_connections, 1, 1_000)?;
        check_range("long_poll.poll_interval_ms", self.poll_interval_ms, 5, 1_000)
    }
}
