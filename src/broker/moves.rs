//! Which messages are to be moved out of an archive or a dead-letter queue, and what becomes of them.

use crate::{
    domain::{QueueName, Scope},
    store::Archived,
};

use super::{Error, Result, error::of_one_step};

/// Archived messages to deliver once more.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The queue in whose archive they are.
    pub queue: QueueName,
    /// The queue to put them into; the same one where nothing is said.
    pub to: Option<QueueName>,
    /// Which messages.
    pub which: Archived,
    /// The most messages to move.
    pub limit: Option<i64>,
    /// The id behind which to begin; with the first where nothing is said.
    pub after: Option<i64>,
    /// Whether to count them only.
    pub dry_run: bool,
}

/// Dead letters to deliver once more.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// The dead-letter queue.
    pub queue: QueueName,
    /// The queue to put them into; each to where it came from where nothing is said.
    pub to: Option<QueueName>,
    /// The queues that they may go back to; what came from another one stays.
    pub within: Scope,
    /// The most messages to move.
    pub limit: Option<i64>,
    /// The id behind which to begin; with the first where nothing is said.
    pub after: Option<i64>,
}

/// What became of dead letters that were to be delivered once more.
#[derive(Clone, Debug, Default)]
pub struct RedrivenThese {
    /// How many were moved.
    pub moved: i64,
    /// How many their queue did not take.
    pub failed: i64,
    /// Why; nothing where somebody had locked what was needed.
    pub why: Option<String>,
    /// How many are as they were, as the time was up.
    pub left: i64,
}

/// What became of messages that were to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedSome {
    /// How many were moved or, where they were to be counted only, how many there are.
    pub count: i64,
    /// The id behind which to go on, where the time was up before all had been looked at.
    pub next: Option<i64>,
    /// Why one stayed.
    pub reason: Option<String>,
}

impl MovedSome {
    /// That of so many, with why one was `kept`. Where that is all that there is to tell it is the answer; what is
    /// behind, at `next`, may fare better.
    pub(super) fn new(count: i64, next: Option<i64>, kept: Option<Error>) -> Result<Self> {
        match kept {
            Some(error) if count == 0 && next.is_none() => Err(error),
            kept => {
                Ok(Self { count, next, reason: kept.map(|error| of_one_step(&error.to_string())) })
            }
        }
    }

    /// The same with a reason, where it has none.
    pub(super) fn or_reason(self, reason: Option<String>) -> Self {
        Self { reason: self.reason.or(reason), ..self }
    }
}
