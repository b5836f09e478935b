//! Settings of a queue in words.

use crate::domain::{Bounded, QueueSettings};

use super::text;

/// Those that are kept in memory.
pub(super) fn known(settings: &QueueSettings, fifo: bool) -> Vec<(&'static str, String)> {
    let seconds =
        |value: Option<i64>, none: &str| value.map_or_else(|| none.to_owned(), text::duration);
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let dead = settings.dead_letter_queue.as_ref().map(|dead| dead.0.to_string());
    let backoff =
        settings.retry_backoff.map(|backoff| serde_json::to_string(&backoff).unwrap_or_default());
    vec![
        ("Visibility timeout", text::duration(settings.visibility_timeout.get())),
        ("Delay", text::duration(settings.delay.get())),
        (
            "Deliveries before a message is dead",
            settings.max_receives.map_or_else(|| "unlimited".to_owned(), |most| most.to_string()),
        ),
        ("Dead letters go to", dead.unwrap_or_else(|| "the archive".to_owned())),
        (
            "Largest message",
            settings
                .max_message_bytes
                .map_or_else(|| "the server's limit".to_owned(), |most| text::bytes(most.get())),
        ),
        (
            "Messages are kept",
            seconds(settings.message_retention.map(Bounded::get), "until deleted"),
        ),
        ("The archive is kept", seconds(settings.archive_retention.map(Bounded::get), "for ever")),
        ("Back-off of retries", backoff.unwrap_or_else(|| "none".to_owned())),
        ("Groups in order", yes(fifo)),
        ("Fair among groups", yes(settings.fair)),
        ("Paused", yes(settings.paused)),
    ]
}
