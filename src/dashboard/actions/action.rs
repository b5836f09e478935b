//! What can be done to messages, in words.

use crate::domain::Right;

/// What can be done to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// Delete them.
    Delete,
    /// Move them into the archive.
    Archive,
    /// Have them delivered now.
    GiveBack,
    /// Move dead letters back to where they came from.
    Redrive,
    /// Deliver archived ones once more.
    Replay,
}

impl Action {
    const ALL: [Self; 5] =
        [Self::Delete, Self::Archive, Self::GiveBack, Self::Redrive, Self::Replay];

    /// The one of this word.
    pub(in super::super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }

    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::GiveBack => "give-back",
            Self::Redrive => "redrive",
            Self::Replay => "replay",
        }
    }

    /// As a button has it.
    pub(in super::super) fn title(self) -> &'static str {
        match self {
            Self::Delete => "Delete",
            Self::Archive => "Archive",
            Self::GiveBack => "Give back",
            Self::Redrive => "Redrive",
            Self::Replay => "Replay",
        }
    }

    /// What was done, of those to whom it was.
    pub(in super::super) fn done(self) -> &'static str {
        match self {
            Self::Delete => "Deleted",
            Self::Archive => "Archived",
            Self::GiveBack => "Gave back",
            Self::Redrive => "Moved back",
            Self::Replay => "Moved back into the queue",
        }
    }

    /// What comes of it, for those who are to confirm it.
    pub(in super::super) fn consequence(self) -> &'static str {
        match self {
            Self::Delete => "They are gone for good, whoever has them in hand.",
            Self::Archive => "They are not delivered any more, and stay in the archive.",
            Self::GiveBack => {
                "They can be delivered at once. A consumer that has one in hand may deal with it all the same, so \
                 that it is dealt with twice."
            }
            Self::Redrive => {
                "Each goes back to the queue that it came from, as a new message. Those that a consumer has in \
                 hand stay."
            }
            Self::Replay => "Each leaves the archive and is in the queue again, as a new message.",
        }
    }

    /// The rights that it takes on the queue where the messages are.
    pub(in super::super) fn rights(self) -> &'static [Right] {
        match self {
            Self::Delete | Self::Archive | Self::GiveBack => &[Right::Receive],
            Self::Redrive => &[Right::Manage, Right::Receive],
            Self::Replay => &[Right::Manage, Right::Send, Right::Receive],
        }
    }

    /// Whether it is about archived messages; the others are about those in a queue.
    pub(in super::super) fn is_of_archive(self) -> bool {
        self == Self::Replay
    }
}
