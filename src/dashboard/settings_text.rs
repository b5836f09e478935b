//! Settings of a queue in words.

use crate::{broker::QueueOverview, domain::Bounded};

use super::text;

/// Those that are kept in memory.
pub(super) fn known(queue: &QueueOverview) -> Vec<(&'static str, String)> {
    let settings = &queue.settings;
    let seconds =
        |value: Option<i64>, none: &str| value.map_or_else(|| none.to_owned(), text::duration);
    let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let backoff =
        settings.retry_backoff.map(|backoff| serde_json::to_string(&backoff).unwrap_or_default());
    vec![
        ("Visibility timeout", text::duration(settings.visibility_timeout.get())),
        ("Delay", text::duration(settings.delay.get())),
        (
            "Deliveries before a message is dead",
            settings.max_receives.map_or_else(|| "unlimited".to_owned(), |most| most.to_string()),
        ),
        ("Dead letters go to", dead_letters(queue)),
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
        ("Groups in order", yes(queue.fifo)),
        ("Fair among groups", yes(settings.fair)),
        ("Paused", yes(settings.paused)),
    ]
}

/// Where dead letters go.
fn dead_letters(queue: &QueueOverview) -> String {
    match &queue.settings.dead_letter_queue {
        None => "the archive".to_owned(),
        Some(dead) if queue.dead_letters_missing => {
            format!("the archive ({} is not there)", dead.0)
        }
        Some(dead) => dead.0.to_string(),
    }
}
