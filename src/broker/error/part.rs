//! What of a request an error is about.

use std::fmt;

/// A part of a request. `Display` is in plain words; a front end calls it as its clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What a message says.
    Message,
    /// The headers of a message.
    Headers,
    /// The moment from which a new message may be delivered.
    VisibleAt,
    /// The moment until which a message is to be hidden.
    HiddenUntil,
    /// Several messages to send.
    Messages,
    /// The operations of a transaction.
    Operations,
    /// The messages to settle.
    Entries,
    /// A message that is meant, by its id or a receipt.
    Target,
    /// What stands for a delivery.
    Receipt,
    /// The queue to move messages into.
    Destination,
    /// How a queue is divided.
    Partition,
    /// The most bytes of a queue's messages.
    MaxMessageBytes,
    /// The queue that dead letters go to.
    DeadLetterQueue,
    /// The pattern of a binding.
    Pattern,
    /// What the patterns are compared with.
    RoutingKey,
}

/// What is too large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The message.
    Message,
    /// All of several together.
    All(Part),
    /// A message for this queue.
    MessageFor(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "the message",
            Self::Headers => "the headers",
            Self::VisibleAt => "the moment from which it may be delivered",
            Self::HiddenUntil => "the moment until which it is hidden",
            Self::Messages => "the messages",
            Self::Operations => "the operations",
            Self::Entries => "the messages to settle",
            Self::Target => "a message id or a receipt",
            Self::Receipt => "the receipt",
            Self::Destination => "the queue to move into",
            Self::Partition => "the partitioning",
            Self::MaxMessageBytes => "the most bytes of a message",
            Self::DeadLetterQueue => "the queue for dead letters",
            Self::Pattern => "the pattern",
            Self::RoutingKey => "routing key",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message => f.write_str("the message"),
            Self::All(part) => write!(f, "all of {part}"),
            Self::MessageFor(queue) => write!(f, "a message for queue `{queue}`"),
        }
    }
}

/// A sentence about a part: a reason is its predicate, or stands behind a colon.
pub(super) fn said(part: Option<&Part>, reason: &str) -> String {
    match part {
        Some(part) if reason.starts_with(':') => format!("{part}{reason}"),
        Some(part) => format!("{part} {reason}"),
        None => reason.to_owned(),
    }
}
