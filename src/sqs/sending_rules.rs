//! What holds for the messages that are sent to a queue.

use crate::broker::{QueueAttributes, QueueRules};

use super::names::SqsName;

/// What holds for the messages of a queue.
pub(super) struct Rules {
    pub(super) is_fifo: bool,
    pub(super) is_content_based: bool,
    /// Whether deduplication ids count within their group alone.
    pub(super) in_group: bool,
    pub(super) sending: QueueRules,
}

impl Rules {
    pub(super) fn new(name: &SqsName, attributes: &QueueAttributes, sending: QueueRules) -> Self {
        let is = |attribute: &str, value: &str| {
            attributes.attributes.get(attribute).is_some_and(|is| is == value)
        };
        Self {
            is_fifo: name.is_fifo(),
            is_content_based: is("ContentBasedDeduplication", "true"),
            in_group: is("DeduplicationScope", "messageGroup"),
            sending,
        }
    }
}
