//! Settings of a queue as fields of a form.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::domain::{Bounded, Queue, QueueSettings, SettingsChange};

use super::{failure::Failure, form::Form};

/// What a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Name,
    Yes,
}

/// The fields: names, titles, and what is said of them.
pub(super) const FIELDS: [(&str, &str, &str, Kind); 13] = [
    (
        "visibility_timeout",
        "Visibility timeout",
        "seconds that a delivered message stays hidden; 30 by default",
        Kind::Number,
    ),
    ("delay", "Delay", "seconds before a new message is delivered; 0 by default", Kind::Number),
    (
        "max_receives",
        "Deliveries",
        "after which a message is dead; empty for no limit",
        Kind::Number,
    ),
    (
        "dead_letter_queue",
        "Dead-letter queue",
        "where dead messages go; empty for the archive",
        Kind::Name,
    ),
    ("max_message_bytes", "Largest message", "bytes; empty for the server's limit", Kind::Number),
    (
        "message_retention",
        "Messages are kept",
        "seconds after which they are deleted; empty for ever",
        Kind::Number,
    ),
    (
        "archive_retention",
        "The archive is kept",
        "seconds after which archived messages are deleted; empty for ever",
        Kind::Number,
    ),
    (
        "retry_min",
        "Back-off, least",
        "seconds that a retry waits at first; empty for no back-off",
        Kind::Number,
    ),
    ("retry_max", "Back-off, most", "seconds that a retry waits at most", Kind::Number),
    (
        "retry_factor",
        "Back-off, factor",
        "by which it grows with each delivery, such as 2",
        Kind::Number,
    ),
    (
        "notify",
        "PGMQ's notifications",
        "milliseconds between two of them; empty for none",
        Kind::Number,
    ),
    ("fair", "Fair", "receives take from the groups in turn", Kind::Yes),
    ("paused", "Paused", "nothing is delivered", Kind::Yes),
];

/// A field with its value.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) hint: &'static str,
    pub(super) kind: Kind,
    pub(super) value: String,
}

impl Field {
    pub(super) fn is_yes(&self) -> bool {
        self.kind == Kind::Yes
    }

    pub(super) fn is_number(&self) -> bool {
        self.kind == Kind::Number
    }
}

/// The fields with what is set now.
pub(super) fn current(settings: &QueueSettings) -> Vec<Field> {
    let backoff = settings.retry_backoff.and_then(|backoff| serde_json::to_value(backoff).ok());
    let of_backoff = |name: &str| {
        let value = backoff.as_ref().and_then(|backoff| backoff.get(name));
        value.map(Value::to_string).unwrap_or_default()
    };
    let number = |value: Option<i64>| value.map(|value| value.to_string()).unwrap_or_default();
    let yes = |value: bool| if value { "1".to_owned() } else { String::new() };
    let value = |name: &str| match name {
        "visibility_timeout" => number(Some(settings.visibility_timeout.get())),
        "delay" => number(Some(settings.delay.get())),
        "max_receives" => number(settings.max_receives.map(Bounded::get)),
        "dead_letter_queue" => {
            settings.dead_letter_queue.as_ref().map(|dead| dead.0.to_string()).unwrap_or_default()
        }
        "max_message_bytes" => number(settings.max_message_bytes.map(Bounded::get)),
        "message_retention" => number(settings.message_retention.map(Bounded::get)),
        "archive_retention" => number(settings.archive_retention.map(Bounded::get)),
        "retry_min" => of_backoff("min"),
        "retry_max" => of_backoff("max"),
        "retry_factor" => of_backoff("factor"),
        "notify" => number(settings.notify.map(|notify| notify.throttle_ms.get())),
        "fair" => yes(settings.fair),
        _ => yes(settings.paused),
    };
    let field = |(name, title, hint, kind)| Field { name, title, hint, kind, value: value(name) };
    FIELDS.into_iter().map(field).collect()
}

/// Stands for all that is set, so that a form that comes later can tell whether it still is.
pub(super) fn stamp(there: &Queue) -> String {
    let mut hash = Sha256::new();
    for field in current(&there.settings) {
        // Neither has such a byte in it.
        hash.update(format!("{}={}\0", field.name, field.value));
    }
    hash.update([u8::from(there.fifo)]);
    format!("{:x}", hash.finalize())
}

/// What a form wishes, as the API takes it: checked as it is there.
pub(super) fn read(form: &Form) -> Result<SettingsChange, Failure> {
    let mut wishes = Map::new();
    for (name, title, _, kind) in FIELDS {
        let text = form.get(name);
        let value = match (kind, text) {
            (Kind::Yes, text) => Value::Bool(text.is_some()),
            (_, None) => Value::Null,
            (Kind::Name, Some(text)) => Value::String(text.to_owned()),
            (Kind::Number, Some(text)) => {
                serde_json::from_str(text).ok().filter(Value::is_number).ok_or_else(|| {
                    Failure::invalid(format!("{title} must be a number, not `{text}`."))
                })?
            }
        };
        wishes.insert(name.to_owned(), value);
    }
    let mut take = |name: &str| wishes.remove(name).unwrap_or(Value::Null);
    let parts =
        [("min", take("retry_min")), ("max", take("retry_max")), ("factor", take("retry_factor"))];
    let backoff = if parts.iter().all(|(_, value)| value.is_null()) {
        Value::Null
    } else {
        let given = parts.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(given.map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let notify = match take("notify") {
        Value::Null => Value::Null,
        throttle => serde_json::json!({"throttle_ms": throttle}),
    };
    wishes.insert("retry_backoff".to_owned(), backoff);
    wishes.insert("notify".to_owned(), notify);
    let parsed = serde_path_to_error::deserialize::<_, SettingsChange>(Value::Object(wishes));
    parsed.map_err(|error| Failure::invalid(format!("`{}`: {}.", error.path(), error.inner())))
}

/// Of what is wished only what is different, and that in words: what, as it is, and as it would be.
pub(super) fn changes(
    there: &Queue,
    wished: SettingsChange,
    fifo: bool,
) -> (SettingsChange, Vec<(String, String, String)>) {
    let before = current(&there.settings);
    let after = current(&wished.applied_to(&there.settings));
    let said = |text: &str, kind| match (kind, text) {
        (Kind::Yes, "") => "no".to_owned(),
        (Kind::Yes, _) => "yes".to_owned(),
        (_, "") => "default".to_owned(),
        (_, text) => text.to_owned(),
    };
    let pairs = before.iter().zip(&after).filter(|(before, after)| before.value != after.value);
    let mut listed: Vec<(String, String, String)> = pairs
        .map(|(before, after)| {
            let (was, is) = (said(&before.value, before.kind), said(&after.value, after.kind));
            (before.title.to_owned(), was, is)
        })
        .collect();
    if fifo != there.fifo {
        let said = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
        listed.push(("Groups in order".to_owned(), said(there.fifo), said(fifo)));
    }
    let is_other = |names: &[&str]| {
        let differs = |name: &&str| {
            let value = |fields: &[Field]| {
                fields.iter().find(|field| field.name == *name).map(|field| field.value.clone())
            };
            value(&before) != value(&after)
        };
        names.iter().any(differs)
    };
    let change = SettingsChange {
        visibility_timeout: wished.visibility_timeout.filter(|_| is_other(&["visibility_timeout"])),
        delay: wished.delay.filter(|_| is_other(&["delay"])),
        max_message_bytes: wished.max_message_bytes.filter(|_| is_other(&["max_message_bytes"])),
        max_receives: wished.max_receives.filter(|_| is_other(&["max_receives"])),
        dead_letter_queue: wished.dead_letter_queue.filter(|_| is_other(&["dead_letter_queue"])),
        message_retention: wished.message_retention.filter(|_| is_other(&["message_retention"])),
        archive_retention: wished.archive_retention.filter(|_| is_other(&["archive_retention"])),
        notify: wished.notify.filter(|_| is_other(&["notify"])),
        paused: wished.paused.filter(|_| is_other(&["paused"])),
        retry_backoff: wished
            .retry_backoff
            .filter(|_| is_other(&["retry_min", "retry_max", "retry_factor"])),
        fair: wished.fair.filter(|_| is_other(&["fair"])),
    };
    (change, listed)
}
