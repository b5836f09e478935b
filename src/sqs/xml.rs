//! The Query protocol's answers.

use serde_json::{Map, Value};

use super::error::SqsError;

const NAMESPACE: &str = "http://queue.amazonaws.com/doc/2012-11-05/";
const DECLARATION: &str = "<?xml version=\"1.0\"?>";

/// The answer to an action. One with an output has the element for it even where that is empty.
pub(super) fn answer(
    action: &str,
    output: Option<&Map<String, Value>>,
    request_id: &str,
) -> String {
    let mut text = format!("{DECLARATION}<{action}Response xmlns=\"{NAMESPACE}\">");
    if let Some(output) = output {
        open(&mut text, &format!("{action}Result"));
        members(&mut text, action, output);
        close(&mut text, &format!("{action}Result"));
    }
    text.push_str("<ResponseMetadata>");
    element(&mut text, "RequestId", request_id);
    text.push_str("</ResponseMetadata>");
    close(&mut text, &format!("{action}Response"));
    text
}

/// The answer to what failed.
pub(super) fn error(error: &SqsError, request_id: &str) -> String {
    let (_, code, _) = error.kind.parts();
    let mut text = format!("{DECLARATION}<ErrorResponse xmlns=\"{NAMESPACE}\"><Error>");
    let kind = if error.kind.is_senders_fault() { "Sender" } else { "Receiver" };
    element(&mut text, "Type", kind);
    element(&mut text, "Code", code);
    element(&mut text, "Message", &error.message);
    text.push_str("<Detail/></Error>");
    element(&mut text, "RequestId", request_id);
    close(&mut text, "ErrorResponse");
    text
}

fn members(text: &mut String, action: &str, object: &Map<String, Value>) {
    for (name, value) in object {
        match value {
            Value::Array(items) => {
                for item in items {
                    member(text, action, item_name(action, name), item);
                }
            }
            Value::Object(map) => match pair_names(name) {
                Some((item, key)) => pairs(text, action, item, key, map),
                None => member(text, action, name, value),
            },
            value => member(text, action, name, value),
        }
    }
}

fn member(text: &mut String, action: &str, name: &str, value: &Value) {
    match value {
        Value::Object(object) => {
            open(text, name);
            members(text, action, object);
            close(text, name);
        }
        Value::String(value) => element(text, name, value),
        value => element(text, name, &value.to_string()),
    }
}

fn pairs(text: &mut String, action: &str, item: &str, key: &str, map: &Map<String, Value>) {
    for (name, value) in map {
        open(text, item);
        element(text, key, name);
        member(text, action, "Value", value);
        close(text, item);
    }
}

/// What an item of a list is called: lists have no element of their own.
fn item_name<'a>(action: &str, list: &'a str) -> &'a str {
    match (action, list) {
        (_, "QueueUrls" | "queueUrls") => "QueueUrl",
        (_, "Messages") => "Message",
        (_, "Failed") => "BatchResultErrorEntry",
        (_, "Results") => "ListMessageMoveTasksResultEntry",
        ("SendMessageBatch", "Successful") => "SendMessageBatchResultEntry",
        ("DeleteMessageBatch", "Successful") => "DeleteMessageBatchResultEntry",
        (_, "Successful") => "ChangeMessageVisibilityBatchResultEntry",
        (_, list) => list,
    }
}

/// What an entry of a map is called, and its key.
fn pair_names(map: &str) -> Option<(&'static str, &'static str)> {
    match map {
        "Attributes" => Some(("Attribute", "Name")),
        "MessageAttributes" => Some(("MessageAttribute", "Name")),
        "Tags" => Some(("Tag", "Key")),
        _ => None,
    }
}

fn element(text: &mut String, name: &str, value: &str) {
    open(text, name);
    escape(text, value);
    close(text, name);
}

fn open(text: &mut String, name: &str) {
    text.extend(["<", name, ">"]);
}

fn close(text: &mut String, name: &str) {
    text.extend(["</", name, ">"]);
}

/// The character, or what stands for one that XML has no place for, not even as a number: REST and SQL can store it.
fn storable(character: char) -> char {
    match character {
        '\t' | '\n' | '\r' => character,
        c if c < ' ' => '\u{fffd}',
        '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c => c,
    }
}

/// A text as who reads it in XML has it.
pub(super) fn as_read(text: &str) -> String {
    text.chars().map(storable).collect()
}

/// A parser makes a line feed of a carriage return that is not written as a number.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\r' => text.push_str("&#13;"),
            c => text.push(storable(c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(action: &str, output: &Value) -> String {
        let text = answer(action, output.as_object(), "id");
        let start = text.find("Response xmlns").expect("an answer");
        text[start..].split_once('>').expect("an element").1.to_owned()
    }

    #[test]
    fn lists_and_maps_are_flat() {
        let output = json!({"Messages": [{
            "Body": "a<b>&\r\n\"", "Attributes": {"SenderId": "x"},
            "MessageAttributes": {"n": {"DataType": "String", "StringValue": "v"}},
        }]});
        assert_eq!(
            written("ReceiveMessage", &output),
            "<ReceiveMessageResult><Message><Attribute><Name>SenderId</Name><Value>x</Value></Attribute>\
             <Body>a&lt;b&gt;&amp;&#13;\n&quot;</Body><MessageAttribute><Name>n</Name><Value>\
             <DataType>String</DataType><StringValue>v</StringValue></Value></MessageAttribute></Message>\
             </ReceiveMessageResult><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata>\
             </ReceiveMessageResponse>"
        );
    }

    #[test]
    fn an_output_without_members_has_its_element() {
        assert!(
            written("ListQueueTags", &json!({}))
                .starts_with("<ListQueueTagsResult></ListQueueTagsResult>")
        );
        assert!(written("DeleteQueue", &Value::Null).starts_with("<ResponseMetadata>"));
    }

    #[test]
    fn errors_say_who_is_to_blame() {
        let text = error(&SqsError::missing("QueueName"), "id");
        assert!(text.contains(
            "<Error><Type>Sender</Type><Code>MissingParameter</Code><Message>The request must contain the \
             parameter QueueName.</Message><Detail/></Error><RequestId>id</RequestId></ErrorResponse>"
        ));
    }
}
