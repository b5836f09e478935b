//! What queues and their settings look like in the document: the domain knows no OpenAPI.

use chrono::{DateTime, Utc};
use utoipa::ToSchema;

/// A queue.
#[derive(ToSchema)]
#[schema(as = Queue, example = queue_example)]
#[expect(dead_code, reason = "describes domain::Queue, which knows no OpenAPI")]
pub(super) struct QueueSchema {
    /// Its name; one made by another client may have upper case in it.
    #[schema(example = "orders")]
    queue: String,
    /// How PGMQ stores it.
    kind: KindSchema,
    /// Whether it has an index for reading by group.
    fifo: bool,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Row-level security policies decide which messages the gateway sees and what may be done to them: an
    /// empty queue may only look empty. Only there where it is so.
    row_security: Option<bool>,
    /// There is no queue any more of the name that is set as `dead_letter_queue`: dead letters go into the
    /// archive. Only there where it is so.
    dead_letter_queue_missing: Option<bool>,
    /// What was set for it, or the defaults.
    settings: SettingsSchema,
}

/// What a queue looks like.
pub(super) fn queue_example() -> serde_json::Value {
    serde_json::json!({
        "queue": "orders", "kind": "standard", "fifo": false,
        "created_at": "2026-01-01T12:00:00.000000Z",
        "settings": {
            "visibility_timeout": 30, "delay": 0, "max_message_bytes": 1_048_576, "max_receives": 5,
            "dead_letter_queue": "orders-dead", "message_retention": null,
            "archive_retention": 604_800, "notify": null, "paused": false,
            "retry_backoff": {"min": 1, "max": 3_600, "factor": 2}, "fair": false
        }
    })
}

/// Settings of a queue.
#[derive(ToSchema)]
#[schema(as = QueueSettings)]
#[expect(dead_code, reason = "describes domain::QueueSettings, which knows no OpenAPI")]
pub(super) struct SettingsSchema {
    /// Seconds that a delivered message stays hidden unless the receive says otherwise.
    #[schema(minimum = 0, maximum = 315_360_000, default = 30)]
    visibility_timeout: i64,
    /// Seconds before a message is delivered unless the send says otherwise.
    #[schema(minimum = 0, maximum = 315_360_000, default = 0)]
    delay: i64,
    /// Bytes in one message, headers included; at most the server's limit.
    #[schema(minimum = 1)]
    max_message_bytes: i64,
    /// Deliveries after which a message is not delivered again.
    #[schema(required, minimum = 1, maximum = 1_000)]
    max_receives: Option<i64>,
    /// The queue that such a message is moved to; the archive where none is named.
    #[schema(required)]
    dead_letter_queue: Option<String>,
    /// Seconds after which a message is deleted.
    #[schema(required, minimum = 1, maximum = 315_360_000)]
    message_retention: Option<i64>,
    /// Seconds after which an archived message is deleted.
    #[schema(required, minimum = 1, maximum = 315_360_000)]
    archive_retention: Option<i64>,
    /// PGMQ's own insert notifications, which slow down inserts; the gateway does not need them.
    #[schema(required)]
    notify: Option<NotifySchema>,
    /// Whether receives and pop get nothing. Those that wait go on waiting, and are woken when it ends; sends
    /// and settling go on.
    #[schema(default = false)]
    paused: bool,
    /// What a settle's retry without a delay waits; nothing where it is null.
    #[schema(required)]
    retry_backoff: Option<BackoffSchema>,
    /// Whether receives take from the groups of `x-pgmq-group` in turn, without order or blocking: a group
    /// with many messages holds up no other. One with a `filter`, or with `fifo`, does not.
    #[schema(default = false)]
    fair: bool,
}

/// PGMQ's insert notifications.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Notify)]
#[expect(dead_code, reason = "describes domain::Notify, which knows no OpenAPI")]
pub(super) struct NotifySchema {
    /// Milliseconds within which there is at most one.
    #[schema(minimum = 0, maximum = 86_400_000, example = 250)]
    throttle_ms: i64,
}

/// Seconds that a message waits that is given back: `min * factor ^ (read_ct - 1)`, at most `max`, give or take
/// a fifth.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryBackoff)]
#[expect(dead_code, reason = "describes domain::RetryBackoff, which knows no OpenAPI")]
pub(super) struct BackoffSchema {
    /// After the first delivery.
    #[schema(minimum = 1, maximum = 315_360_000, example = 1)]
    min: i64,
    /// However often it was delivered; at least `min`.
    #[schema(minimum = 1, maximum = 315_360_000, example = 3_600)]
    max: i64,
    /// From one delivery to the next, with at most three decimals.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    factor: f64,
}

/// Settings to change: those that are given, to null for the default.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SettingsChange, example = json!({"visibility_timeout": 60, "max_receives": 5}))]
#[expect(dead_code, reason = "describes domain::SettingsChange, which knows no OpenAPI")]
pub(super) struct ChangeSchema {
    #[schema(minimum = 0, maximum = 315_360_000)]
    visibility_timeout: Option<i64>,
    #[schema(minimum = 0, maximum = 315_360_000)]
    delay: Option<i64>,
    #[schema(minimum = 1, maximum = 67_108_864)]
    max_message_bytes: Option<i64>,
    #[schema(minimum = 1, maximum = 1_000)]
    max_receives: Option<i64>,
    dead_letter_queue: Option<String>,
    #[schema(minimum = 1, maximum = 315_360_000)]
    message_retention: Option<i64>,
    #[schema(minimum = 1, maximum = 315_360_000)]
    archive_retention: Option<i64>,
    notify: Option<NotifySchema>,
    paused: Option<bool>,
    retry_backoff: Option<BackoffSchema>,
    fair: Option<bool>,
}

/// `standard`: an ordinary table. `unlogged`: faster, and empty after a crash of the database.
/// `partitioned`: by pg_partman.
#[derive(ToSchema)]
#[schema(as = QueueKind, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes domain::QueueKind, which knows no OpenAPI")]
pub(super) enum KindSchema {
    Standard,
    Unlogged,
    Partitioned,
}
