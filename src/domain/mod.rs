//! The words of the problem: queue names, messages as raw JSON, bounded numbers.
//!
//! Nothing here does I/O or knows of HTTP or SQL.

mod access;
mod access_key;
mod api_key;
mod bounded;
mod call;
mod caller_id;
mod filter;
mod group;
mod limited;
mod message;
mod object;
mod own_headers;
mod peer_key;
mod queue;
mod queue_name;
mod receipt;
mod retry_backoff;
mod session_key;
mod settings;
mod share;
pub mod spelling;
mod storable;
mod time;

pub use access::{Grant, Grants, InvalidGrant, Right, Scope};
pub use access_key::{AccessKeyId, MasterKey};
pub use api_key::{ApiKey, KeyHash, KeyLimits, NewApiKey, StoredKey};
pub use bounded::{Bounded, OutOfRange};
pub use call::Call;
pub use caller_id::CallerId;
pub use filter::{Filter, InvalidFilter};
pub use group::{GROUP_HEADER, MAX_GROUP_BYTES, group_bytes, group_of, text_of};
pub use limited::Limited;
pub use message::{
    ArchivedMessage, FifoMode, Message, NewMessage, RawJson, Settled, Target, Visibility, fitting,
};
pub use object::JsonObject;
pub use own_headers::{MESSAGE_ID_HEADER, SENDER_HEADER, without_own_headers};
pub use peer_key::{PeerKey, QueueTag};
pub use queue::{Partition, Queue, QueueKind, QueueMetrics};
pub use queue_name::{InvalidQueueName, QueueName};
pub use receipt::{DeliveryId, InvalidReceipt, Receipt, ReceiptKey};
pub use retry_backoff::{BackoffFactor, BackoffSeconds, RetryBackoff};
pub use session_key::SessionKey;
pub use settings::{
    DeadLetterQueue, MaxReceives, MessageLimit, Notify, NotifyThrottle, QueueSettings, Retention,
    SettingsChange, given,
};
pub use share::Share;
pub use storable::{
    MAX_JSON_DEPTH, MAX_READABLE_BYTES, StorableLimits, Unstorable, check_storable, expanded_length,
};
pub use time::{Timestamp, rfc3339};

/// Seconds that a delivered message stays hidden: 0 to 315,360,000 (10 years).
pub type VisibilityTimeout = Bounded<0, 315_360_000>;
/// Seconds before a new message is delivered for the first time: 0 to 315,360,000 (10 years).
pub type Delay = Bounded<0, 315_360_000>;
/// How many messages one receive may return: 1 to 100.
pub type Quantity = Bounded<1, 100>;
/// Seconds a receive waits for a first message: 0 to 20.
pub type Wait = Bounded<0, 20>;
/// How many messages one page shows: 1 to 100.
pub type PageSize = Bounded<1, 100>;
/// How many queues one page of the list shows: 1 to 1,000.
pub type QueuePageSize = Bounded<1, 1_000>;
/// A message's number within its queue. PGMQ counts from 1; SQL may have stored a message under any number.
pub type MsgId = Bounded<{ i64::MIN }, { i64::MAX }>;
/// The same as a path or an operation names it: one that PGMQ gave.
pub type GivenMsgId = Bounded<1, { i64::MAX }>;
/// The most messages that one batch may carry.
pub const MAX_BATCH: usize = 1_000;
/// The visibility timeout of a receive that names none, in seconds.
pub const DEFAULT_VISIBILITY_TIMEOUT: VisibilityTimeout = VisibilityTimeout::saturating(30);
