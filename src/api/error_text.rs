//! What REST says of the broker's errors: its own names for the parts of a request, and what would be right.

use std::fmt;

use crate::broker::{Error, Part, Subject, changed_unseen, partly_changed};

/// Where in a body the message, or the operation, stands that an error is about.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// It is the body.
    Alone,
    /// In `messages`.
    Message(usize),
    /// In `operations`.
    Operation(usize),
}

/// The detail of a problem.
pub(super) fn detail(error: &Error) -> String {
    at(error, Place::Alone)
}

fn at(error: &Error, place: Place) -> String {
    match error {
        Error::InMessage { index, source } => at(source, Place::Message(*index)),
        Error::InOperation { operation, source } => {
            let source = at(source, Place::Operation(*operation));
            format!("`operations[{operation}]`: {source}; nothing was done")
        }
        Error::Shared(source) => at(source, place),
        Error::PartlyChanged { queue, done, source } => {
            partly_changed(queue, done, source, &at(source, place))
        }
        Error::ChangedUnseen { queue, done, source } => {
            changed_unseen(queue, done, &at(source, place))
        }
        Error::Invalid { part: Some(part), reason }
        | Error::MessageRejected { part: Some(part), reason } => {
            let colon = if reason.starts_with(':') { "" } else { " " };
            format!("{}{colon}{reason}", Named(*part, place))
        }
        Error::FilterInGroups => {
            "`filter` and `fifo` exclude each other: what a filter leaves out \
                                  would block its group"
                .to_owned()
        }
        Error::QueueNotFound(queue) => format!("{error}; PUT /queues/{queue} creates it"),
        Error::NoDeadLetterQueue(queue) => format!(
            "`settings.dead_letter_queue`: there is no queue `{queue}`; PUT /queues/{queue} creates it"
        ),
        Error::QueueDiffers { queue, .. } => format!("{error}; PATCH /queues/{queue} changes that"),
        Error::QueueInUse { queue, .. } => format!(
            "dead letters of other queues go to queue `{queue}`: set another `dead_letter_queue` for them \
             first, or pass `force=true` to have them go into the archives of those queues; nothing was \
             dropped"
        ),
        Error::IdempotencyConflict | Error::IdempotencyAnswerLost => {
            error.to_string().replacen("idempotency key", "Idempotency-Key", 1)
        }
        Error::MessageTooLarge { what, bytes, limit } => {
            format!("{} has {bytes} bytes; the limit is {limit}", weighed(what, place))
        }
        Error::MessageExpands { what, bytes, limit } => format!(
            "{} has {bytes} bytes once numbers are written out in full; the limit is {limit}",
            weighed(what, place)
        ),
        other => other.to_string(),
    }
}

/// A part as bodies and queries call it.
struct Named(Part, Place);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(part, place) = self;
        let of_message = |field: &str| match place {
            Place::Alone => format!("`{field}`"),
            Place::Message(index) => format!("`messages[{index}].{field}`"),
            Place::Operation(index) => format!("`operations[{index}].send.{field}`"),
        };
        match part {
            Part::Message => f.write_str(&of_message("message")),
            Part::Headers => f.write_str(&of_message("headers")),
            Part::VisibleAt => f.write_str(&of_message("visible_at")),
            Part::HiddenUntil => match place {
                Place::Operation(index) => write!(f, "`operations[{index}].set_vt.visible_at`"),
                Place::Alone | Place::Message(_) => f.write_str("`visible_at`"),
            },
            Part::Messages => f.write_str("`messages`"),
            Part::Operations => f.write_str("`operations`"),
            Part::Entries => f.write_str("`delete`, `archive`, `dead_letter` and `retry`"),
            Part::Target => f.write_str("either `msg_id` or `receipt`"),
            Part::Receipt => f.write_str("`receipt`"),
            Part::Destination => f.write_str("`to`"),
            Part::Partition => f.write_str("`partition`"),
            Part::MaxMessageBytes => f.write_str("`settings.max_message_bytes`"),
            Part::DeadLetterQueue => f.write_str("`settings.dead_letter_queue`"),
            Part::Pattern => f.write_str("`pattern`"),
            Part::RoutingKey => f.write_str("routing key"),
        }
    }
}

fn weighed(what: &Subject, place: Place) -> String {
    match (what, place) {
        (Subject::Message, Place::Message(index)) => format!("`messages[{index}]`"),
        (Subject::Message, Place::Operation(index)) => format!("`operations[{index}].send`"),
        (Subject::All(part), _) => Named(*part, place).to_string(),
        (Subject::Message | Subject::MessageFor(_), _) => what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(part: Part) -> Error {
        Error::Invalid { part: Some(part), reason: "is wrong".to_owned() }
    }

    #[test]
    fn parts_are_called_as_in_the_body() {
        let in_message = |source| Error::InMessage { index: 3, source: Box::new(source) };
        let in_operation = |source| Error::InOperation { operation: 2, source: Box::new(source) };
        let large = || Error::MessageTooLarge { what: Subject::Message, bytes: 2, limit: 1 };
        for (error, text) in [
            (invalid(Part::Headers), "`headers` is wrong"),
            (in_message(invalid(Part::VisibleAt)), "`messages[3].visible_at` is wrong"),
            (
                in_operation(invalid(Part::HiddenUntil)),
                "`operations[2]`: `operations[2].set_vt.visible_at` is wrong; nothing was done",
            ),
            (
                in_operation(Error::QueueNotFound("q".to_owned())),
                "`operations[2]`: there is no queue `q`; PUT /queues/q creates it; nothing was done",
            ),
            (large(), "the message has 2 bytes; the limit is 1"),
            (in_message(large()), "`messages[3]` has 2 bytes; the limit is 1"),
            (
                Error::IdempotencyConflict,
                "this Idempotency-Key was used for another request; a new request needs a new key",
            ),
        ] {
            assert_eq!(detail(&error), text);
        }
    }
}
