//! The actions of the service model, with its own names. Both protocols are read into these.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::domain::JsonObject;

use super::{
    batch::Entries,
    error::{Kind, Result, SqsError},
    message_attributes::AttributeValue,
    readers::{integer, names, texts, values},
};

/// What an action is read from.
pub(super) enum Input<'a> {
    /// JSON as it came, of which only what the action knows is kept.
    Json(&'a [u8]),
    /// What a form spells out, which has few fields.
    Form(Value),
}

impl Input<'_> {
    fn read<T: DeserializeOwned>(self) -> serde_json::Result<JsonObject<T>> {
        match self {
            Self::Json(text) => serde_json::from_slice(text),
            Self::Form(value) => JsonObject::deserialize(value),
        }
    }
}

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
            pub(super) fn read(name: &str, input: Input<'_>) -> Result<Self> {
                match name {
                    $(stringify!($name) => {
                        let input = input.read::<$input>();
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

impl Action {
    /// Where it names its queue, if it is about one that has a URL.
    fn queue_url(&mut self) -> Option<&mut Option<String>> {
        match self {
            Self::AddPermission(AddPermission { queue_url, .. })
            | Self::ChangeMessageVisibility(ChangeMessageVisibility { queue_url, .. })
            | Self::ChangeMessageVisibilityBatch(ChangeMessageVisibilityBatch {
                queue_url, ..
            })
            | Self::DeleteMessage(DeleteMessage { queue_url, .. })
            | Self::DeleteMessageBatch(DeleteMessageBatch { queue_url, .. })
            | Self::DeleteQueue(OfQueue { queue_url })
            | Self::GetQueueAttributes(GetQueueAttributes { queue_url, .. })
            | Self::ListDeadLetterSourceQueues(ListDeadLetterSourceQueues { queue_url, .. })
            | Self::ListQueueTags(OfQueue { queue_url })
            | Self::PurgeQueue(OfQueue { queue_url })
            | Self::ReceiveMessage(ReceiveMessage { queue_url, .. })
            | Self::RemovePermission(RemovePermission { queue_url, .. })
            | Self::SendMessage(SendMessage { queue_url, .. })
            | Self::SendMessageBatch(SendMessageBatch { queue_url, .. })
            | Self::SetQueueAttributes(SetQueueAttributes { queue_url, .. })
            | Self::TagQueue(TagQueue { queue_url, .. })
            | Self::UntagQueue(UntagQueue { queue_url, .. }) => Some(queue_url),
            Self::CancelMessageMoveTask(_)
            | Self::CreateQueue(_)
            | Self::GetQueueUrl(_)
            | Self::ListMessageMoveTasks(_)
            | Self::ListQueues(_)
            | Self::StartMessageMoveTask(_) => None,
        }
    }

    /// Says which queue it is about, unless it names one.
    pub(super) fn address(&mut self, url: &str) {
        if let Some(queue_url) = self.queue_url() {
            queue_url.get_or_insert_with(|| url.to_owned());
        }
    }
}

/// Both protocols say the same: where in the text it stands is told of what is no JSON alone.
#[expect(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn unreadable(error: serde_json::Error) -> SqsError {
    let mut message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    if error.is_data() && message.ends_with(&place) {
        message.truncate(message.len() - place.len());
    }
    SqsError::new(Kind::SerializationException, message)
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
        #[serde(rename = "AWSAccountIds", deserialize_with = "names")]
        account_ids: Option<Vec<String>>,
        #[serde(deserialize_with = "names")]
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
    GetQueueAttributes {
        queue_url: Option<String>,
        #[serde(deserialize_with = "names")]
        attribute_names: Option<Vec<String>>,
    }
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
    UntagQueue {
        queue_url: Option<String>,
        #[serde(deserialize_with = "names")]
        tag_keys: Option<Vec<String>>,
    }
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
    SendMessageBatch { queue_url: Option<String>, entries: Option<Entries<SendMessage>> }
    ReceiveMessage {
        queue_url: Option<String>,
        #[serde(deserialize_with = "names")]
        attribute_names: Option<Vec<String>>,
        #[serde(deserialize_with = "names")]
        message_system_attribute_names: Option<Vec<String>>,
        #[serde(deserialize_with = "names")]
        message_attribute_names: Option<Vec<String>>,
        #[serde(deserialize_with = "integer")]
        max_number_of_messages: Option<i64>,
        #[serde(deserialize_with = "integer")]
        visibility_timeout: Option<i64>,
        #[serde(deserialize_with = "integer")]
        wait_time_seconds: Option<i64>,
    }
    DeleteMessage { queue_url: Option<String>, id: Option<String>, receipt_handle: Option<String> }
    DeleteMessageBatch { queue_url: Option<String>, entries: Option<Entries<DeleteMessage>> }
    ChangeMessageVisibility {
        queue_url: Option<String>,
        id: Option<String>,
        receipt_handle: Option<String>,
        #[serde(deserialize_with = "integer")]
        visibility_timeout: Option<i64>,
    }
    ChangeMessageVisibilityBatch { queue_url: Option<String>, entries: Option<Entries<ChangeMessageVisibility>> }
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

    /// Of a form; JSON says the same.
    fn of(name: &str, input: Value) -> Result<Action> {
        let of_json = Action::read(name, Input::Json(input.to_string().as_bytes()));
        let of_form = Action::read(name, Input::Form(input));
        assert_eq!(format!("{of_json:?}"), format!("{of_form:?}"));
        of_form
    }

    #[test]
    fn there_are_the_actions_of_the_service_model() {
        assert_eq!(Action::NAMES.len(), 23);
        for name in Action::NAMES {
            let action = of(name, json!({"Unknown": [1]})).expect("all are optional");
            assert_eq!(action.name(), *name);
        }
        assert!(of("Fly", json!({})).is_err());
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
            let error = of(action, wrong).expect_err(action);
            assert_eq!(error.kind, Kind::SerializationException, "{action}");
        }
    }

    #[test]
    fn what_is_sent_to_a_queue_is_about_that_queue() {
        let url = |action: &str, input: Value| {
            let mut action = of(action, input).expect("fine");
            action.address("/0/q");
            action.queue_url().cloned().flatten()
        };
        for name in ["DeleteQueue", "ReceiveMessage", "SendMessageBatch", "UntagQueue"] {
            assert_eq!(url(name, json!({})).as_deref(), Some("/0/q"), "{name}");
            assert_eq!(url(name, json!({"QueueUrl": null})).as_deref(), Some("/0/q"), "{name}");
            assert_eq!(url(name, json!({"QueueUrl": "o"})).as_deref(), Some("o"), "{name}");
        }
        assert_eq!(url("ListQueues", json!({"QueueUrl": "o"})), None);
    }

    /// What is read of a text stays in proportion to it, whatever is in there.
    #[test]
    fn a_list_is_read_no_further_than_it_may_be_long() {
        let refusal = |action: &str, input: String| {
            Action::read(action, Input::Json(input.as_bytes())).expect_err(action).message
        };
        // What stands behind the bound is not looked at.
        let names = format!(r#"["a"{}"#, r#","a""#.repeat(256));
        for (action, list) in [
            ("ReceiveMessage", "AttributeNames"),
            ("ReceiveMessage", "MessageSystemAttributeNames"),
            ("ReceiveMessage", "MessageAttributeNames"),
            ("GetQueueAttributes", "AttributeNames"),
            ("UntagQueue", "TagKeys"),
            ("AddPermission", "Actions"),
            ("AddPermission", "AWSAccountIds"),
        ] {
            let told = refusal(action, format!(r#"{{"{list}":{names}"#));
            assert_eq!(told, "must hold 0 to 256 entries, not 257 or more", "{action} {list}");
        }
        let members: Vec<String> = (0..256).map(|n| format!(r#""{n}":null,"#)).collect();
        let members = members.concat();
        for (action, map) in [
            ("SetQueueAttributes", "Attributes"),
            ("CreateQueue", "tags"),
            ("TagQueue", "Tags"),
            ("SendMessage", "MessageAttributes"),
            ("SendMessage", "MessageSystemAttributes"),
        ] {
            let told = refusal(action, format!(r#"{{"{map}":{{{members}"x":"#));
            assert_eq!(told, "must hold at most 256 members", "{action} {map}");
        }
    }

    #[test]
    fn what_an_action_does_not_know_is_not_read() {
        for input in [
            format!(r#"{{"x":{}1{}}}"#, "[".repeat(300), "]".repeat(300)),
            r#"{"x":"\ud800"}"#.to_owned(),
            r#"{"x":1e999}"#.to_owned(),
        ] {
            let read = Action::read("ListQueues", Input::Json(input.as_bytes()));
            assert!(read.is_ok(), "{input}");
        }
    }

    #[test]
    fn numbers_may_be_texts_and_null_is_nothing() {
        let input = json!({"DelaySeconds": "5", "MessageBody": null, "QueueUrl": "q"});
        let Ok(Action::SendMessage(send)) = of("SendMessage", input) else {
            panic!("a message");
        };
        assert_eq!((send.delay_seconds, send.message_body), (Some(5), None));
        let input = json!({"QueueUrl": "q", "Attributes": {"Policy": null, "DelaySeconds": "1"}});
        let Ok(Action::SetQueueAttributes(set)) = of("SetQueueAttributes", input) else {
            panic!("attributes");
        };
        let given = set.attributes.expect("a map");
        assert_eq!(given.keys().collect::<Vec<_>>(), ["DelaySeconds"]);
        for wrong in [json!("x"), json!(1.5), json!([])] {
            let input = json!({ "DelaySeconds": wrong });
            let error = of("SendMessage", input).expect_err("no number");
            assert_eq!(error.kind, Kind::SerializationException);
        }
    }
}
