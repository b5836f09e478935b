//! What clients ask for: those who ask for the same stand in the same wait queue.

use crate::{
    domain::{FifoMode, Filter},
    store::DeadLetters,
};

/// Clients whose keys are equal can be served by the same read.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) vt: i32,
    pub(super) filter: Option<Filter>,
    pub(super) fifo: Option<FifoMode>,
    pub(super) dead_letters: Option<DeadLetters>,
}

impl Key {
    /// Whether a client must not be given the messages of a read that others are given messages of:
    /// of a group, the next message is for whoever has those before it.
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self.fifo, Some(FifoMode::Grouped | FifoMode::RoundRobin))
    }

    /// Whether the wait queue may leave what others would take.
    pub(super) fn is_choosy(&self) -> bool {
        self.filter.is_some() || self.fifo.is_some_and(|mode| mode != FifoMode::Fair)
    }
}
