//! Kinds of work outside the lanes.

use crate::engine::Intent;

/// A kind of work: what is in the way of one is not in the way of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Reading and deleting at once.
    Pop,
    /// Looking at one message.
    Look,
    /// Looking at many messages, or counting them.
    Browse,
    /// Several things to messages that were delivered.
    Settle,
    /// The same, of messages that were met locked.
    SettleLocked,
    /// Looking at an archive.
    Archive,
    /// Moving messages from an archive into a queue.
    Replay,
    /// Moving messages from one queue to another.
    Move,
    /// Looking at a queue's settings.
    Show,
    /// Looking at what is written down of queues, or changing it.
    Catalogue,
    /// Making, changing and dropping a queue.
    Define,
    /// Emptying a queue.
    Purge,
    /// Several things at once, in several queues.
    Transact,
}

impl Kind {
    /// Whether it may take long: such work is done by few at a time, and on a queue by one.
    pub(super) fn is_dear(self) -> bool {
        matches!(self, Self::Browse | Self::Archive | Self::Replay)
    }

    /// Whether it may lock the table of its queue as a whole.
    pub(super) fn locks_table(self) -> bool {
        matches!(self, Self::Define | Self::Purge)
    }

    /// What it is about to do to the table of its queue, if that is what it works on.
    pub(super) fn intent(self) -> Option<Intent> {
        match self {
            Self::Look | Self::Browse | Self::Show => Some(Intent::Look),
            Self::Pop
            | Self::Settle
            | Self::SettleLocked
            | Self::Replay
            | Self::Move
            | Self::Purge
            | Self::Transact => Some(Intent::Change),
            // What is in the way of these is in the way of nothing else.
            Self::Archive | Self::Define | Self::Catalogue => None,
        }
    }
}
