//! The actions of the service model, with its own names. Both protocols are read into these.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::domain::JsonObject;

use super::error::{Kind, Result, SqsError};

/// Declares the enum of all actions, and how one is read.
macro_rules! actions {
    ($($name:ident($input:ident)),* $(,)?) => {
        /// An action with its input.
        #[derive(Debug)]
        pub(super) enum Action {
            $($name($input),)*
        }

        impl Action {
            /// Every name of an action.
            #[cfg(test)]
            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];

            /// Whether there is an action of this name.
            pub(super) fn is_known(name: &str) -> bool {
                matches!(name, $(stringify!($name))|*)
            }

            /// Reads the input of an action.
            pub(super) fn read(name: &str, input: Value) -> Result<Self> {
                match name {
                    $(stringify!($name) => {
                        let input = JsonObject::<$input>::deserialize(input);
                        input.map(|input| Self::$name(input.0)).map_err(unreadable)
                    })*
                    _ => Err(SqsError::new(
                        Kind::UnknownOperation,
                        format!("The action {name} is not valid for this endpoint."),
                    )),
                }
            }

            /// Its name.
            pub(super) fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }
    };
}

actions! {
    AddPermission(AddPermission),
    CancelMessageMoveTask(CancelMessageMoveTask),
    ChangeMessageVisibility(ChangeMessageVisibility),
    ChangeMessageVisibilityBatch(ChangeMessageVisibilityBatch),
    CreateQueue(CreateQueue),
    DeleteMessage(DeleteMessage),
    DeleteMessageBatch(DeleteMessageBatch),
    DeleteQueue(OfQueue),
    GetQueueAttributes(GetQueueAttributes),
    GetQueueUrl(GetQueueUrl),
    ListDeadLetterSourceQueues(ListDeadLetterSourceQueues),
    ListMessageMoveTasks(ListMessageMoveTasks),
    ListQueueTags(OfQueue),
    ListQueues(ListQueues),
    PurgeQueue(OfQueue),
    ReceiveMessage(ReceiveMessage),
    RemovePermission(RemovePermission),
    SendMessage(SendMessage),
    SendMessageBatch(SendMessageBatch),
    SetQueueAttributes(SetQueueAttributes),
    StartMessageMoveTask(StartMessageMoveTask),
    TagQueue(TagQueue),
    UntagQueue(UntagQueue),
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn unreadable(error: serde_json::Error) -> SqsError {
    SqsError::new(Kind::SerializationException, error.to_string())
}

/// Declares inputs whose members are all optional: which of them are required is for the action to
/// say, in the words of the service. Members that are not known are ignored, as AWS ignores them.
macro_rules! inputs {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, Default, Deserialize)]
            #[serde(default, rename_all = "PascalCase")]
            pub(super) struct $name {
                $($(#[$field_meta])* pub(super) $field: $type,)*
            }
        )*
    };
}

type Attributes = BTreeMap<String, AttributeValue>;

inputs! {
    /// What is about a queue and nothing else.
    OfQueue { queue_url: Option<String> }
    AddPermission {
        queue_url: Option<String>,
        label: Option<String>,
        #[serde(rename = "AWSAccountIds")]
        account_ids: Option<Vec<String>>,
        actions: Option<Vec<String>>,
    }
    RemovePermission { queue_url: Option<String>, label: Option<String> }
    CancelMessageMoveTask { task_handle: Option<String> }
    ListMessageMoveTasks {
        source_arn: Option<String>,
        #[serde(deserialize_with = "integer")]
        max_results: Option<i64>,
    }
    StartMessageMoveTask {
        source_arn: Option<String>,
        destination_arn: Option<String>,
        #[serde(deserialize_with = "integer")]
        max_number_of_messages_per_second: Option<i64>,
    }
    CreateQueue {
        queue_name: Option<String>,
        #[serde(deserialize_with = "texts")]
        attributes: Option<BTreeMap<String, String>>,
        #[serde(rename = "tags", alias = "Tags", deserialize_with = "texts")]
        tags: Option<BTreeMap<String, String>>,
    }
    GetQueueUrl { queue_name: Option<String> }
    ListQueues {
        queue_name_prefix: Option<String>,
        next_token: Option<String>,
        #[serde(deserialize_with = "integer")]
        max_results: Option<i64>,
    }
    ListDeadLetterSourceQueues {
        queue_url: Option<String>,
        next_token: Option<String>,
        #[serde(deserialize_with = "integer")]
        max_results: Option<i64>,
    }
    GetQueueAttributes { queue_url: Option<String>, attribute_names: Option<Vec<String>> }
    SetQueueAttributes {
        queue_url: Option<String>,
        #[serde(deserialize_with = "texts")]
        attributes: Option<BTreeMap<String, String>>,
    }
    TagQueue {
        queue_url: Option<String>,
        #[serde(deserialize_with = "texts")]
        tags: Option<BTreeMap<String, String>>,
    }
    UntagQueue { queue_url: Option<String>, tag_keys: Option<Vec<String>> }
    /// A message to send; of a batch with an `Id`, alone with the URL of its queue.
    SendMessage {
        queue_url: Option<String>,
        id: Option<String>,
        message_body: Option<String>,
        #[serde(deserialize_with = "integer")]
        delay_seconds: Option<i64>,
        #[serde(deserialize_with = "values")]
        message_attributes: Option<Attributes>,
        #[serde(deserialize_with = "values")]
        message_system_attributes: Option<Attributes>,
        message_deduplication_id: Option<String>,
        message_group_id: Option<String>,
    }
    SendMessageBatch {
        queue_url: Option<String>,
        #[serde(deserialize_with = "entries")]
        entries: Option<Vec<SendMessage>>,
    }
    ReceiveMessage {
        queue_url: Option<String>,
        attribute_names: Option<Vec<String>>,
        message_system_attribute_names: Option<Vec<String>>,
        message_attribute_names: Option<Vec<String>>,
        #[serde(deserialize_with = "integer")]
        max_number_of_messages: Option<i64>,
        #[serde(deserialize_with = "integer")]
        visibility_timeout: Option<i64>,
        #[serde(deserialize_with = "integer")]
        wait_time_seconds: Option<i64>,
    }
    DeleteMessage { queue_url: Option<String>, id: Option<String>, receipt_handle: Option<String> }
    DeleteMessageBatch {
        queue_url: Option<String>,
        #[serde(deserialize_with = "entries")]
        entries: Option<Vec<DeleteMessage>>,
    }
    ChangeMessageVisibility {
        queue_url: Option<String>,
        id: Option<String>,
        receipt_handle: Option<String>,
        #[serde(deserialize_with = "integer")]
        visibility_timeout: Option<i64>,
    }
    ChangeMessageVisibilityBatch {
        queue_url: Option<String>,
        #[serde(deserialize_with = "entries")]
        entries: Option<Vec<ChangeMessageVisibility>>,
    }
}

/// The value of a message attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct AttributeValue {
    /// `String`, `Number` or `Binary`, and maybe a `.` and a suffix of the sender's own.
    pub(super) data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) string_value: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) binary_value: Option<String>,
}

impl AttributeValue {
    /// The bytes of one that is binary.
    pub(super) fn binary(&self) -> Option<Vec<u8>> {
        let is_binary = self.data_type.split('.').next() == Some("Binary");
        let text = self.binary_value.as_deref().filter(|_| is_binary)?;
        STANDARD.decode(text).ok()
    }

    /// The same without what does not belong to its type.
    pub(super) fn of_its_type(self) -> Self {
        let is_binary = self.data_type.split('.').next() == Some("Binary");
        let (text, binary) = (self.string_value, self.binary_value);
        Self {
            data_type: self.data_type,
            string_value: text.filter(|_| !is_binary),
            binary_value: binary.filter(|_| is_binary),
        }
    }

    /// A text.
    pub(super) fn text(data_type: &str, value: String) -> Self {
        Self { data_type: data_type.to_owned(), string_value: Some(value), binary_value: None }
    }
}

/// What is read, or why it is not.
type Read<T, E> = std::result::Result<Option<T>, E>;

/// The entries of a batch, each an object.
fn entries<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Read<Vec<T>, D::Error> {
    let read = Option::<Vec<JsonObject<T>>>::deserialize(deserializer)?;
    Ok(read.map(|list| list.into_iter().map(|entry| entry.0).collect()))
}

/// A map of texts, in which null is nothing.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Read<BTreeMap<String, String>, D::Error> {
    let read = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    Ok(read.map(|map| map.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()))
}

/// A map of objects, in which null is nothing.
fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Read<Attributes, D::Error> {
    type Values = BTreeMap<String, Option<JsonObject<AttributeValue>>>;
    let read = Option::<Values>::deserialize(deserializer)?;
    Ok(read.map(|map| map.into_iter().filter_map(|(name, one)| Some((name, one?.0))).collect()))
}

/// A whole number, also where it came as text: forms have nothing else, and some SDKs write texts.
fn integer<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<i64>, D::Error> {
    match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => {
            let whole = text.parse().map(Some);
            whole
                .map_err(|_| de::Error::custom(format!("a whole number is expected, not {text:?}")))
        }
        Some(Value::Number(number)) => {
            let whole = number.as_i64();
            whole.map(Some).ok_or_else(|| de::Error::custom("a whole number is expected"))
        }
        Some(_) => Err(de::Error::custom("a whole number is expected")),
    }
}

/// The URL of the queue that an action names.
pub(super) fn required<'a>(value: Option<&'a String>, parameter: &str) -> Result<&'a str> {
    let given = value.map(String::as_str).filter(|value| !value.is_empty());
    given.ok_or_else(|| SqsError::missing(parameter))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn there_are_the_actions_of_the_service_model() {
        assert_eq!(Action::NAMES.len(), 23);
        for name in Action::NAMES {
            let action = Action::read(name, json!({"Unknown": [1]})).expect("all are optional");
            assert_eq!(action.name(), *name);
        }
        assert!(Action::read("Fly", json!({})).is_err());
    }

    /// An array of values is none: nobody means to drop a queue by `["url"]`.
    #[test]
    fn inputs_and_what_is_in_them_are_objects() {
        for (action, wrong) in [
            ("DeleteQueue", json!(["q"])),
            ("ListQueues", json!([])),
            ("SendMessageBatch", json!({"Entries": [["q", "a", "body"]]})),
            ("DeleteMessageBatch", json!({"Entries": [[]]})),
            ("ChangeMessageVisibilityBatch", json!({"Entries": [["q"]]})),
            ("SendMessage", json!({"MessageAttributes": {"a": ["String", "v"]}})),
        ] {
            let error = Action::read(action, wrong).expect_err(action);
            assert_eq!(error.kind, Kind::SerializationException, "{action}");
        }
    }

    #[test]
    fn numbers_may_be_texts_and_null_is_nothing() {
        let input = json!({"DelaySeconds": "5", "MessageBody": null, "QueueUrl": "q"});
        let Ok(Action::SendMessage(send)) = Action::read("SendMessage", input) else {
            panic!("a message");
        };
        assert_eq!((send.delay_seconds, send.message_body), (Some(5), None));
        let input = json!({"QueueUrl": "q", "Attributes": {"Policy": null, "DelaySeconds": "1"}});
        let Ok(Action::SetQueueAttributes(set)) = Action::read("SetQueueAttributes", input) else {
            panic!("attributes");
        };
        let given = set.attributes.expect("a map");
        assert_eq!(given.keys().collect::<Vec<_>>(), ["DelaySeconds"]);
        for wrong in [json!("x"), json!(1.5), json!([])] {
            let input = json!({ "DelaySeconds": wrong });
            let error = Action::read("SendMessage", input).expect_err("no number");
            assert_eq!(error.kind, Kind::SerializationException);
        }
    }
}
