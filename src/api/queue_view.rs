//! Queues and their figures, as clients see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{Queue, QueueKind, QueueMetrics, Timestamp};

use super::settings_view::SettingsView;

/// A queue.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue, example = queue_example)]
pub(super) struct QueueView {
    /// Its name; one made by another client may have upper case in it.
    #[schema(example = "orders")]
    queue: String,
    /// How PGMQ stores it.
    kind: KindView,
    /// Whether it has an index for reading by group.
    fifo: bool,
    /// When it was made.
    #[schema(inline)]
    created_at: Timestamp,
    /// Row-level security policies decide which messages the gateway sees and what may be done to them: an
    /// empty queue may only look empty. Only there where it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    row_security: Option<bool>,
    /// There is no queue any more of the name that is set as `dead_letter_queue`: dead letters go into the
    /// archive. Only there where it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter_queue_missing: Option<bool>,
    /// What was set for it, or the defaults.
    settings: SettingsView,
}

impl From<Queue> for QueueView {
    fn from(queue: Queue) -> Self {
        let where_so = |is_so: bool| is_so.then_some(true);
        Self {
            queue: queue.queue,
            kind: queue.kind.into(),
            fifo: queue.fifo,
            created_at: Timestamp(queue.created_at),
            row_security: where_so(queue.row_security),
            dead_letter_queue_missing: where_so(queue.dead_letter_queue_missing),
            settings: queue.settings.into(),
        }
    }
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

/// `standard`: an ordinary table. `unlogged`: faster, and empty after a crash of the database.
/// `partitioned`: by pg_partman.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = QueueKind)]
pub(super) enum KindView {
    Standard,
    Unlogged,
    Partitioned,
}

impl From<QueueKind> for KindView {
    fn from(kind: QueueKind) -> Self {
        match kind {
            QueueKind::Standard => Self::Standard,
            QueueKind::Unlogged => Self::Unlogged,
            QueueKind::Partitioned => Self::Partitioned,
        }
    }
}

impl From<KindView> for QueueKind {
    fn from(kind: KindView) -> Self {
        match kind {
            KindView::Standard => Self::Standard,
            KindView::Unlogged => Self::Unlogged,
            KindView::Partitioned => Self::Partitioned,
        }
    }
}

/// Exact figures of a queue.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueMetrics, example = json!({
    "queue": "orders", "queue_name": "orders", "queue_length": 5, "queue_visible_length": 3,
    "in_flight": 2, "newest_msg_age_sec": 1, "oldest_msg_age_sec": 60, "total_messages": 42,
    "backlog": 5, "oldest_visible_msg_age_sec": 12,
    "scrape_time": "2026-01-01T12:00:00.000000Z", "waiters": 0
}))]
pub(super) struct MetricsView {
    /// The queue's name.
    queue: String,
    /// Messages in the queue, visible or not.
    queue_length: i64,
    /// Messages that could be delivered now.
    queue_visible_length: i64,
    /// Messages that were delivered and are hidden until their visibility timeout is over.
    in_flight: i64,
    /// Seconds since the newest message was stored.
    #[schema(required)]
    newest_msg_age_sec: Option<i32>,
    /// Seconds since the oldest message was stored.
    #[schema(required)]
    oldest_msg_age_sec: Option<i32>,
    /// Messages ever sent to the queue.
    total_messages: i64,
    /// Messages that could be delivered now or are in flight: what there is to do.
    backlog: i64,
    /// Seconds for which the message that waits longest could have been delivered, counted from its `vt`:
    /// delayed and leased messages do not raise it. Null if there is none.
    #[schema(required)]
    oldest_visible_msg_age_sec: Option<i32>,
    /// When these figures were taken.
    #[schema(inline)]
    scrape_time: Timestamp,
    /// The same, as `pgmq.metrics` calls it.
    queue_name: String,
    /// Clients that wait for its messages at this gateway.
    waiters: usize,
}

impl MetricsView {
    /// The figures, and what this gateway alone knows.
    pub(super) fn new(metrics: QueueMetrics, waiters: usize) -> Self {
        Self {
            queue_name: metrics.queue.clone(),
            queue: metrics.queue,
            queue_length: metrics.queue_length,
            queue_visible_length: metrics.queue_visible_length,
            in_flight: metrics.in_flight,
            newest_msg_age_sec: metrics.newest_msg_age_sec,
            oldest_msg_age_sec: metrics.oldest_msg_age_sec,
            total_messages: metrics.total_messages,
            backlog: metrics.backlog,
            oldest_visible_msg_age_sec: metrics.oldest_visible_msg_age_sec,
            scrape_time: Timestamp(metrics.scrape_time),
            waiters,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::QueueSettings;

    fn queue(settings: QueueSettings) -> Queue {
        Queue {
            queue: "orders".to_owned(),
            kind: QueueKind::Unlogged,
            fifo: true,
            created_at: DateTime::from_timestamp(1_767_225_600, 0).expect("a time"),
            row_security: false,
            dead_letter_queue_missing: false,
            settings,
        }
    }

    fn written(queue: Queue) -> String {
        serde_json::to_string(&QueueView::from(queue)).expect("JSON")
    }

    #[test]
    fn a_queue_is_written_with_all_its_settings() {
        let expected = "{\"queue\":\"orders\",\"kind\":\"unlogged\",\"fifo\":true,\
             \"created_at\":\"2026-01-01T00:00:00.000000Z\",\"settings\":{\"visibility_timeout\":30,\"delay\":0,\
             \"max_message_bytes\":null,\"max_receives\":null,\"dead_letter_queue\":null,\
             \"message_retention\":null,\"archive_retention\":null,\"notify\":null,\"paused\":false,\
             \"retry_backoff\":null,\"fair\":false}}";
        assert_eq!(written(queue(QueueSettings::default())), expected);
        let odd = Queue {
            row_security: true,
            dead_letter_queue_missing: true,
            ..queue(QueueSettings::default())
        };
        let flags = "000Z\",\"row_security\":true,\"dead_letter_queue_missing\":true,\"settings\"";
        assert!(written(odd.clone()).contains(flags), "{}", written(odd));
    }
}
