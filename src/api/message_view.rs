//! Messages as clients see them.

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use crate::domain::{ArchivedMessage, Message, Receipt, Timestamp};

/// A message in a queue.
#[derive(Serialize, ToSchema)]
#[schema(as = Message, example = message_example)]
pub(super) struct MessageView<'a> {
    /// Its number within the queue.
    #[schema(example = 42)]
    msg_id: i64,
    /// How many times it has been delivered.
    #[schema(example = 1)]
    read_ct: i32,
    /// When it was stored.
    #[schema(inline)]
    enqueued_at: Timestamp,
    /// When it was last delivered.
    #[schema(required, inline)]
    last_read_at: Option<Timestamp>,
    /// The moment from which it may be delivered (again).
    #[schema(inline)]
    vt: Timestamp,
    /// The JSON value that was sent.
    #[schema(value_type = Value)]
    message: &'a RawValue,
    /// The headers that were sent with it.
    #[schema(required, value_type = Option<Object>)]
    headers: Option<&'a RawValue>,
    /// Stands for this one delivery; null where the message was only looked at. Passed on to a
    /// delete, an archive or a change of visibility, it makes that fail if the message has been
    /// delivered again since.
    #[schema(required, value_type = Option<String>, example = "AQAAQIUAAAAAAAAAKgAAAAGgW1FhWp-2zR3tLQo")]
    receipt: Option<&'a Receipt>,
}

impl<'a> From<&'a Message> for MessageView<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            msg_id: message.msg_id,
            read_ct: message.read_ct,
            enqueued_at: Timestamp(message.enqueued_at),
            last_read_at: message.last_read_at.map(Timestamp),
            vt: Timestamp(message.vt),
            message: &message.message,
            headers: message.headers.as_deref(),
            receipt: message.receipt.as_ref(),
        }
    }
}

/// What a message looks like that was delivered.
pub(super) fn message_example() -> Value {
    serde_json::json!({
        "msg_id": 42, "read_ct": 1, "enqueued_at": "2026-01-01T12:00:00.000000Z",
        "last_read_at": "2026-01-01T12:00:01.000000Z", "vt": "2026-01-01T12:00:31.000000Z",
        "message": {"order": 7}, "headers": {"trace": "abc"},
        "receipt": "AQAAQIUAAAAAAAAAKgAAAAGgW1FhWp-2zR3tLQo"
    })
}

/// The same message, looked at.
fn seen(mut message: Value) -> Value {
    message["receipt"] = Value::Null;
    message
}

/// Messages.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"messages": [message_example()]}))]
pub(super) struct MessageList<'a> {
    /// In the order they were sent.
    messages: Vec<MessageView<'a>>,
}

impl<'a> From<&'a [Message]> for MessageList<'a> {
    fn from(messages: &'a [Message]) -> Self {
        Self { messages: views(messages) }
    }
}

/// Messages as clients see them.
pub(super) fn views(messages: &[Message]) -> Vec<MessageView<'_>> {
    messages.iter().map(MessageView::from).collect()
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"messages": [seen(message_example())], "next": "42"}))]
pub(super) struct MessagePage<'a> {
    /// In order of `msg_id`.
    messages: Vec<MessageView<'a>>,
    /// What to pass as `after` for the next page; null on the last one.
    #[schema(required, example = "42")]
    next: Option<String>,
}

impl<'a> MessagePage<'a> {
    /// A page, and where the next one begins.
    pub(super) fn new(messages: &'a [Message], next: Option<String>) -> Self {
        Self { messages: views(messages), next }
    }
}

/// A message in the archive.
#[derive(Serialize, ToSchema)]
#[schema(as = ArchivedMessage)]
pub(super) struct ArchivedView<'a> {
    #[schema(inline)]
    #[serde(flatten)]
    message: MessageView<'a>,
    /// When it was archived.
    #[schema(inline)]
    archived_at: Timestamp,
}

impl<'a> From<&'a ArchivedMessage> for ArchivedView<'a> {
    fn from(archived: &'a ArchivedMessage) -> Self {
        Self {
            message: MessageView::from(&archived.message),
            archived_at: Timestamp(archived.archived_at),
        }
    }
}

/// What a message looks like in the archive.
fn archived_example() -> Value {
    let mut message = seen(message_example());
    message["archived_at"] = "2026-01-01T12:00:02.000000Z".into();
    message
}

/// A page of archived messages.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"messages": [archived_example()], "next": "42"}))]
pub(super) struct ArchivePage<'a> {
    /// In order of `msg_id`.
    messages: Vec<ArchivedView<'a>>,
    /// What to pass as `after` for the next page; null on the last one.
    #[schema(required, example = "42")]
    next: Option<String>,
}

impl<'a> ArchivePage<'a> {
    /// A page, and where the next one begins.
    pub(super) fn new(messages: &'a [ArchivedMessage], next: Option<String>) -> Self {
        Self { messages: messages.iter().map(ArchivedView::from).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::domain::ReceiptKey;

    fn second(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_225_600 + second, 120_000).expect("a time")
    }

    fn message() -> Message {
        let number = serde_json::from_str("12345678901234567890.10").expect("JSON");
        Message {
            msg_id: 42,
            read_ct: 0,
            enqueued_at: second(0),
            last_read_at: None,
            vt: second(1),
            message: number,
            headers: None,
            queue_id: 7,
            receipt: None,
        }
    }

    fn written(view: &impl Serialize) -> String {
        serde_json::to_string(view).expect("JSON")
    }

    #[test]
    fn what_is_not_known_is_null_and_no_digit_is_lost() {
        let expected = "{\"msg_id\":42,\"read_ct\":0,\"enqueued_at\":\"2026-01-01T00:00:00.000120Z\",\
                        \"last_read_at\":null,\"vt\":\"2026-01-01T00:00:01.000120Z\",\
                        \"message\":12345678901234567890.10,\"headers\":null,\"receipt\":null}";
        assert_eq!(written(&MessageView::from(&message())), expected);
    }

    #[test]
    fn what_is_known_stands_there_as_it_is() {
        let headers = to_raw_value(&serde_json::json!({"a": 1})).expect("JSON");
        let mut delivered =
            Message { last_read_at: Some(second(2)), headers: Some(headers), ..message() };
        delivered.sign(&ReceiptKey::new(b"secret"));
        let receipt = delivered.receipt.expect("signed").to_string();
        let written = written(&MessageView::from(&delivered));
        let rest = ",\"headers\":{\"a\":1},\"receipt\":\"";
        assert!(written.contains("\"last_read_at\":\"2026-01-01T00:00:02.000120Z\","), "{written}");
        assert!(written.ends_with(&format!("{rest}{receipt}\"}}")), "{written}");
    }

    #[test]
    fn an_archived_message_is_a_message_and_when_it_was_archived() {
        let archived = ArchivedMessage { message: message(), archived_at: second(3) };
        let expected = written(&MessageView::from(&archived.message)).replace(
            "\"receipt\":null}",
            "\"receipt\":null,\"archived_at\":\"2026-01-01T00:00:03.000120Z\"}",
        );
        assert_eq!(written(&ArchivedView::from(&archived)), expected);
        let page = [archived];
        let expected = format!("{{\"messages\":[{expected}],\"next\":null}}");
        assert_eq!(written(&ArchivePage::new(&page, None)), expected);
    }
}
