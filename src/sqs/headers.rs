//! The headers in which SQS keeps what belongs to a message beside its body.

/// The message attributes, as the JSON protocol has them.
pub(super) const ATTRIBUTES: &str = "x-message-attributes";
/// The system attribute AWSTraceHeader.
pub(super) const TRACE: &str = "x-trace-header";
/// See `migrations/functions/sqs.sql`.
pub(super) const DEDUPLICATION_ID: &str = "x-deduplication-id";
/// Whether that counts within its group alone.
pub(super) const DEDUPLICATION_SCOPE: &str = "x-deduplication-scope";
/// Where a dead letter comes from.
pub(super) const ORIGIN: &str = "x-dead-letter-queue";
/// The number that it had there.
pub(super) const FORMER_NUMBER: &str = "x-dead-letter-msg-id";
/// What no sender gives it.
pub(super) const DEAD: &str = "x-dead-letter-read-ct";
