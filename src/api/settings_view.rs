//! Settings of queues, as clients see them and write them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{
    BackoffFactor, BackoffSeconds, Bounded, DeadLetterQueue, Delay, JsonObject, MaxReceives,
    MessageLimit, Notify, NotifyThrottle, QueueName, QueueSettings, Retention, RetryBackoff,
    SettingsChange, VisibilityTimeout, given,
};

use super::schemas::WithExample;

/// What [`SettingsView::max_message_bytes`] is like: the server's limit, of which there is no bound, or less.
type AnyLimit = Bounded<1, { i64::MAX }>;

/// Settings of a queue.
#[derive(Serialize, ToSchema)]
#[schema(as = QueueSettings)]
pub(super) struct SettingsView {
    /// Seconds that a delivered message stays hidden unless the receive says otherwise.
    #[schema(inline, default = json!(QueueSettings::default().visibility_timeout))]
    visibility_timeout: VisibilityTimeout,
    /// Seconds before a message is delivered unless the send says otherwise.
    #[schema(inline, default = json!(QueueSettings::default().delay))]
    delay: Delay,
    /// Bytes in one message, headers included; at most the server's limit.
    // Which the broker says where none is set: it is never null.
    #[schema(inline, value_type = AnyLimit)]
    max_message_bytes: Option<MessageLimit>,
    /// Deliveries after which a message is not delivered again.
    #[schema(required, inline)]
    max_receives: Option<MaxReceives>,
    /// The queue that such a message is moved to; the archive where none is named.
    #[schema(required)]
    dead_letter_queue: Option<String>,
    /// Seconds after which a message is deleted.
    #[schema(required, inline)]
    message_retention: Option<Retention>,
    /// Seconds after which an archived message is deleted.
    #[schema(required, inline)]
    archive_retention: Option<Retention>,
    /// PGMQ's own insert notifications, which slow down inserts; the gateway does not need them.
    #[schema(required)]
    notify: Option<NotifyView>,
    /// Whether receives and pop get nothing. Those that wait go on waiting, and are woken when it ends; sends
    /// and settling go on.
    #[schema(default = false)]
    paused: bool,
    /// What a settle's retry without a delay waits; nothing where it is null.
    #[schema(required)]
    retry_backoff: Option<BackoffView>,
    /// Whether receives take from the groups of `x-pgmq-group` in turn, without order or blocking: a group
    /// with many messages holds up no other. One with a `filter`, or with `fifo`, does not.
    #[schema(default = false)]
    fair: bool,
}

impl From<QueueSettings> for SettingsView {
    fn from(settings: QueueSettings) -> Self {
        let QueueSettings {
            visibility_timeout,
            delay,
            max_message_bytes,
            max_receives,
            dead_letter_queue,
            message_retention,
            archive_retention,
            notify,
            paused,
            retry_backoff,
            fair,
        } = settings;
        Self {
            visibility_timeout,
            delay,
            max_message_bytes,
            max_receives,
            dead_letter_queue: dead_letter_queue.map(|queue| queue.0.to_string()),
            message_retention,
            archive_retention,
            notify: notify.map(NotifyView::from),
            paused,
            retry_backoff: retry_backoff.map(BackoffView::from),
            fair,
        }
    }
}

type ExampleThrottle = WithExample<NotifyThrottle, 250>;

/// PGMQ's insert notifications.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Notify)]
struct NotifyView {
    /// Milliseconds within which there is at most one.
    #[schema(inline, value_type = ExampleThrottle)]
    throttle_ms: NotifyThrottle,
}

impl From<Notify> for NotifyView {
    fn from(Notify { throttle_ms }: Notify) -> Self {
        Self { throttle_ms }
    }
}

impl From<NotifyView> for Notify {
    fn from(NotifyView { throttle_ms }: NotifyView) -> Self {
        Self { throttle_ms }
    }
}

type ExampleMin = WithExample<BackoffSeconds, 1>;
type ExampleMax = WithExample<BackoffSeconds, 3_600>;
type ExampleFactor = WithExample<BackoffFactor, 2>;

/// Seconds that a message waits that is given back: `min * factor ^ (read_ct - 1)`, at most `max`, give or take
/// a fifth.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RetryBackoff)]
struct BackoffView {
    /// After the first delivery.
    #[schema(inline, value_type = ExampleMin)]
    min: BackoffSeconds,
    /// However often it was delivered; at least `min`.
    #[schema(inline, value_type = ExampleMax)]
    max: BackoffSeconds,
    /// From one delivery to the next, with at most three decimals.
    #[schema(inline, value_type = ExampleFactor)]
    factor: BackoffFactor,
}

impl From<RetryBackoff> for BackoffView {
    fn from(backoff: RetryBackoff) -> Self {
        Self { min: backoff.min(), max: backoff.max(), factor: backoff.factor() }
    }
}

/// Settings to change: those that are given, to null for the default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SettingsChange, example = json!({"visibility_timeout": 60, "max_receives": 5}))]
#[expect(clippy::option_option, reason = "null is not nothing here")]
pub(super) struct ChangeView {
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<VisibilityTimeout>)]
    visibility_timeout: Option<Option<VisibilityTimeout>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<Delay>)]
    delay: Option<Option<Delay>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<MessageLimit>)]
    max_message_bytes: Option<Option<MessageLimit>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<MaxReceives>)]
    max_receives: Option<Option<MaxReceives>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<QueueName>)]
    dead_letter_queue: Option<Option<QueueName>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<Retention>)]
    message_retention: Option<Option<Retention>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(inline, value_type = Option<Retention>)]
    archive_retention: Option<Option<Retention>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<NotifyView>)]
    notify: Option<Option<JsonObject<NotifyView>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    paused: Option<Option<bool>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BackoffView>)]
    retry_backoff: Option<Option<JsonObject<CheckedBackoff>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    fair: Option<Option<bool>>,
}

/// A back-off that makes sense.
#[derive(Deserialize)]
#[serde(try_from = "BackoffView")]
struct CheckedBackoff(RetryBackoff);

impl TryFrom<BackoffView> for CheckedBackoff {
    type Error = String;

    fn try_from(BackoffView { min, max, factor }: BackoffView) -> Result<Self, String> {
        RetryBackoff::new(min, max, factor).map(Self)
    }
}

impl From<ChangeView> for SettingsChange {
    fn from(change: ChangeView) -> Self {
        let notify = |JsonObject(notify): JsonObject<NotifyView>| JsonObject(notify.into());
        let backoff = |JsonObject(checked): JsonObject<CheckedBackoff>| JsonObject(checked.0);
        Self {
            visibility_timeout: change.visibility_timeout,
            delay: change.delay,
            max_message_bytes: change.max_message_bytes,
            max_receives: change.max_receives,
            dead_letter_queue: change.dead_letter_queue.map(|queue| queue.map(DeadLetterQueue)),
            message_retention: change.message_retention,
            archive_retention: change.archive_retention,
            notify: change.notify.map(|given| given.map(notify)),
            paused: change.paused,
            retry_backoff: change.retry_backoff.map(|given| given.map(backoff)),
            fair: change.fair,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whatever can be set is shown as it was set.
    #[test]
    fn settings_are_shown_as_they_were_given() {
        let given = json!({
            "visibility_timeout": 7, "delay": 8, "max_message_bytes": 9, "max_receives": 10,
            "dead_letter_queue": "dead", "message_retention": 11, "archive_retention": 12,
            "notify": {"throttle_ms": 13}, "paused": true,
            "retry_backoff": {"min": 14, "max": 15, "factor": 1.5}, "fair": true
        });
        let change: ChangeView = serde_json::from_value(given.clone()).expect("valid");
        let settings = SettingsChange::from(change).applied_to(&QueueSettings::default());
        let shown = serde_json::to_value(SettingsView::from(settings.clone())).expect("JSON");
        assert_eq!(shown, given);
        let nulls =
            given.as_object().expect("an object").keys().map(|name| (name.clone(), json!(null)));
        let nulls = serde_json::Value::Object(nulls.collect());
        let change: ChangeView = serde_json::from_value(nulls).expect("valid");
        let defaults = SettingsChange::from(change).applied_to(&settings);
        assert_eq!(defaults, QueueSettings::default());
        let nothing: ChangeView = serde_json::from_value(json!({})).expect("valid");
        assert_eq!(SettingsChange::from(nothing), SettingsChange::default());
    }

    /// A setting is refused here with the very words that it is refused with elsewhere.
    #[test]
    fn what_is_no_setting_is_refused_as_the_domain_refuses_it() {
        for wrong in [
            json!({"delay": 315_360_001}),
            json!({"max_receives": 0}),
            json!({"notify": {"throttle_ms": -1}}),
            json!({"notify": {}}),
            json!({"notify": [250]}),
            json!({"notify": {"throttle_ms": 1, "more": 2}}),
            json!({"dead_letter_queue": "a;b"}),
            json!({"dead_letter_queue": 7}),
            json!({"retry_backoff": {"min": 2, "max": 1, "factor": 2}}),
            json!({"retry_backoff": {"min": 1, "max": 2, "factor": 0.5}}),
            json!({"retry_backoff": {"min": 1, "max": 2}}),
            json!({"retry_backoff": [1, 2, 3]}),
            json!({"paused": "yes"}),
            json!({"max_recieves": 1}),
        ] {
            let text = wrong.to_string();
            let view = serde_json::from_str::<ChangeView>(&text).err().map(|e| e.to_string());
            let domain = serde_json::from_str::<SettingsChange>(&text).err().map(|e| e.to_string());
            assert!(domain.is_some(), "{text}");
            assert_eq!(view, domain, "{text}");
        }
    }
}
