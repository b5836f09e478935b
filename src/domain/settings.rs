//! What can be set for a queue.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    Bounded, DEFAULT_VISIBILITY_TIMEOUT, Delay, JsonObject, QueueName, RetryBackoff,
    VisibilityTimeout,
};

/// Deliveries after which a message is not delivered again: 1 to 1,000.
pub type MaxReceives = Bounded<1, 1_000>;
/// Seconds after which something is deleted: 1 to 315,360,000 (10 years).
pub type Retention = Bounded<1, 315_360_000>;
/// Bytes of a message, where a queue's limit is below the server's: 1 to 67,108,864.
pub type MessageLimit = Bounded<1, { 64 << 20 }>;
/// Milliseconds within which there is at most one notification: 0 to 86,400,000.
pub type NotifyThrottle = Bounded<0, 86_400_000>;

/// The settings of a queue. What is not set has the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Seconds that a delivered message stays hidden unless the receive says otherwise.
    pub visibility_timeout: VisibilityTimeout,
    /// Seconds before a message is delivered unless the send says otherwise.
    pub delay: Delay,
    /// Bytes in one message, headers included; the server's limit where nothing is set.
    pub max_message_bytes: Option<MessageLimit>,
    /// Deliveries after which a message goes to the dead-letter queue.
    pub max_receives: Option<MaxReceives>,
    /// Where it goes; the archive where nothing is set.
    pub dead_letter_queue: Option<DeadLetterQueue>,
    /// Seconds after which a message is deleted.
    pub message_retention: Option<Retention>,
    /// Seconds after which an archived message is deleted.
    pub archive_retention: Option<Retention>,
    /// PGMQ's own insert notifications.
    pub notify: Option<Notify>,
    /// Whether nothing is delivered.
    pub paused: bool,
    /// How long a message waits that is given back without a delay; at once where nothing is set.
    pub retry_backoff: Option<RetryBackoff>,
    /// Whether receives take from the groups in turn, without order or blocking.
    pub fair: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            visibility_timeout: DEFAULT_VISIBILITY_TIMEOUT,
            delay: Delay::saturating(0),
            max_message_bytes: None,
            max_receives: None,
            dead_letter_queue: None,
            message_retention: None,
            archive_retention: None,
            notify: None,
            paused: false,
            retry_backoff: None,
            fair: false,
        }
    }
}

/// PGMQ's insert notifications of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// Milliseconds within which there is at most one.
    pub throttle_ms: NotifyThrottle,
}

/// The name of a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct DeadLetterQueue(pub QueueName);

/// Settings to change: those that are `Some`, to a value or, with `Some(None)`, to the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsChange {
    /// As [`QueueSettings::visibility_timeout`].
    #[serde(deserialize_with = "given")]
    pub visibility_timeout: Option<Option<VisibilityTimeout>>,
    /// As [`QueueSettings::delay`].
    #[serde(deserialize_with = "given")]
    pub delay: Option<Option<Delay>>,
    /// As [`QueueSettings::max_message_bytes`].
    #[serde(deserialize_with = "given")]
    pub max_message_bytes: Option<Option<MessageLimit>>,
    /// As [`QueueSettings::max_receives`].
    #[serde(deserialize_with = "given")]
    pub max_receives: Option<Option<MaxReceives>>,
    /// As [`QueueSettings::dead_letter_queue`].
    #[serde(deserialize_with = "given")]
    pub dead_letter_queue: Option<Option<DeadLetterQueue>>,
    /// As [`QueueSettings::message_retention`].
    #[serde(deserialize_with = "given")]
    pub message_retention: Option<Option<Retention>>,
    /// As [`QueueSettings::archive_retention`].
    #[serde(deserialize_with = "given")]
    pub archive_retention: Option<Option<Retention>>,
    /// As [`QueueSettings::notify`].
    #[serde(deserialize_with = "given")]
    pub notify: Option<Option<JsonObject<Notify>>>,
    /// As [`QueueSettings::paused`].
    #[serde(deserialize_with = "given")]
    pub paused: Option<Option<bool>>,
    /// As [`QueueSettings::retry_backoff`].
    #[serde(deserialize_with = "given")]
    pub retry_backoff: Option<Option<JsonObject<RetryBackoff>>>,
    /// As [`QueueSettings::fair`].
    #[serde(deserialize_with = "given")]
    pub fair: Option<Option<bool>>,
}

/// Reads a field so that null can be told from nothing; `#[serde(default)]` stands for nothing.
pub fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

impl SettingsChange {
    /// The settings with this change.
    pub fn applied_to(&self, settings: &QueueSettings) -> QueueSettings {
        let default = QueueSettings::default();
        QueueSettings {
            visibility_timeout: match self.visibility_timeout {
                Some(value) => value.unwrap_or(default.visibility_timeout),
                None => settings.visibility_timeout,
            },
            delay: match self.delay {
                Some(value) => value.unwrap_or(default.delay),
                None => settings.delay,
            },
            max_message_bytes: self.max_message_bytes.unwrap_or(settings.max_message_bytes),
            max_receives: self.max_receives.unwrap_or(settings.max_receives),
            dead_letter_queue: self
                .dead_letter_queue
                .clone()
                .unwrap_or_else(|| settings.dead_letter_queue.clone()),
            message_retention: self.message_retention.unwrap_or(settings.message_retention),
            archive_retention: self.archive_retention.unwrap_or(settings.archive_retention),
            notify: self.notify.map_or(settings.notify, |notify| notify.map(|notify| notify.0)),
            paused: self.paused.map_or(settings.paused, Option::unwrap_or_default),
            retry_backoff: self
                .retry_backoff
                .map_or(settings.retry_backoff, |backoff| backoff.map(|backoff| backoff.0)),
            fair: self.fair.map_or(settings.fair, Option::unwrap_or_default),
        }
    }

    /// The change as a JSON object: the settings that are given, null for the default.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        put("visibility_timeout", number(self.visibility_timeout));
        put("delay", number(self.delay));
        put("max_message_bytes", number(self.max_message_bytes));
        put("max_receives", number(self.max_receives));
        let queue = self.dead_letter_queue.as_ref();
        put("dead_letter_queue", queue.map(|q| q.as_ref().map(|q| q.0.as_str()).into()));
        put("message_retention", number(self.message_retention));
        put("archive_retention", number(self.archive_retention));
        let throttle = |notify: JsonObject<Notify>| serde_json::json!({"throttle_ms": notify.0.throttle_ms.get()});
        put("notify", self.notify.map(|notify| notify.map_or(Value::Null, throttle)));
        put("paused", self.paused.map(Value::from));
        let backoff = |backoff: JsonObject<RetryBackoff>| serde_json::json!(backoff.0);
        put("retry_backoff", self.retry_backoff.map(|given| given.map_or(Value::Null, backoff)));
        put("fair", self.fair.map(Value::from));
        Value::Object(object)
    }
}

#[expect(clippy::option_option, reason = "null is not nothing here")]
fn number<const MIN: i64, const MAX: i64>(
    given: Option<Option<Bounded<MIN, MAX>>>,
) -> Option<Value> {
    given.map(|value| value.map(Bounded::get).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> SettingsChange {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn null_means_the_default_and_nothing_means_no_change() {
        let change = parse(r#"{"delay":5,"max_receives":3}"#);
        let settings = change.applied_to(&QueueSettings::default());
        assert_eq!((settings.delay.get(), settings.max_receives.map(Bounded::get)), (5, Some(3)));
        let settings = parse(r#"{"delay":null}"#).applied_to(&settings);
        assert_eq!((settings.delay.get(), settings.max_receives.map(Bounded::get)), (0, Some(3)));
    }

    #[test]
    fn the_change_is_written_as_it_was_read() {
        for json in [
            "{}",
            r#"{"delay":null,"notify":{"throttle_ms":250}}"#,
            r#"{"fair":true,"paused":null,"retry_backoff":{"factor":1.5,"max":60,"min":1}}"#,
            r#"{"dead_letter_queue":"dead","max_receives":3,"message_retention":null,"notify":null}"#,
        ] {
            assert_eq!(parse(json).to_json().to_string(), json);
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for json in [
            r#"{"delay":315360001}"#,
            r#"{"max_receives":0}"#,
            r#"{"notify":{"throttle_ms":-1}}"#,
            r#"{"dead_letter_queue":"a;b"}"#,
            r#"{"notify":{}}"#,
            r#"{"notify":[250]}"#,
            r#"{"max_recieves":1}"#,
        ] {
            assert!(serde_json::from_str::<SettingsChange>(json).is_err(), "{json}");
        }
    }
}
