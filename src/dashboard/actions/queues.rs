//! Doing something to a queue as a whole.

use std::sync::Arc;

use crate::{
    broker::{Broker, QueueChange},
    domain::{Call, QueueName, SettingsChange},
};

use super::super::{failure::Failure, text};

/// What can be done to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum QueueAction {
    /// Delete all of its messages.
    Purge,
    /// Deliver nothing.
    Pause,
    /// Deliver again.
    Resume,
    /// Drop it with its messages and its archive.
    Drop,
}

impl QueueAction {
    const ALL: [Self; 4] = [Self::Purge, Self::Pause, Self::Resume, Self::Drop];

    /// The one of this word.
    pub(in super::super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.word() == word)
    }

    pub(in super::super) fn word(self) -> &'static str {
        match self {
            Self::Purge => "purge",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Drop => "drop",
        }
    }

    /// As a button has it.
    pub(in super::super) fn title(self) -> &'static str {
        match self {
            Self::Purge => "Purge the queue",
            Self::Pause => "Pause the queue",
            Self::Resume => "Resume the queue",
            Self::Drop => "Drop the queue",
        }
    }

    /// What comes of it.
    pub(in super::super) fn consequence(self) -> &'static str {
        match self {
            Self::Purge => {
                "All messages in the queue are deleted for good, those in flight and delayed ones too. The archive \
                 stays."
            }
            Self::Pause => {
                "Nothing is delivered until it is resumed. Receivers that wait go on waiting; sending, and dealing \
                 with what was delivered, goes on."
            }
            Self::Resume => "Messages are delivered again, also to receivers that wait.",
            Self::Drop => {
                "The queue is gone for good, with all of its messages, its archive and its settings."
            }
        }
    }

    /// Whether the queue's name is to be typed first.
    pub(in super::super) fn is_final(self) -> bool {
        matches!(self, Self::Purge | Self::Drop)
    }
}

/// Does it, and says what was done; how many messages it was done to, where that is known.
pub(in super::super) async fn perform_on_queue(
    broker: &Broker,
    call: &Arc<Call>,
    queue: &QueueName,
    action: QueueAction,
    forced: bool,
) -> Result<(String, Option<i64>), Failure> {
    let pause = async |paused| {
        let settings = SettingsChange { paused: Some(Some(paused)), ..SettingsChange::default() };
        let change = QueueChange { settings, ..QueueChange::default() };
        let changed = broker.change_queue(call, queue.clone(), change).await?;
        broker.refresh_settings(queue).await;
        Ok::<_, Failure>(changed.settings.paused)
    };
    Ok(match action {
        QueueAction::Purge => {
            let purged = broker.purge_queue(call, queue.clone()).await?;
            let count = purged.count;
            let said = text::counted(count, "message was deleted.", "messages were deleted.");
            let left = if purged.more { " Others are left: purge it again to go on." } else { "" };
            let stay = purged.reason().map(|reason| format!(" Others stay: {reason}."));
            (said + left + &stay.unwrap_or_default(), Some(count))
        }
        QueueAction::Pause | QueueAction::Resume => {
            let is_paused = pause(action == QueueAction::Pause).await?;
            (format!("The queue is {}.", if is_paused { "paused" } else { "not paused" }), None)
        }
        QueueAction::Drop => {
            broker.drop_queue(call, queue.clone(), forced).await?;
            ("The queue is dropped.".to_owned(), None)
        }
    })
}
