//! The Query protocol's requests: forms whose names spell out lists and maps, `Attribute.1.Name`.

use std::collections::BTreeMap;

use percent_encoding::percent_decode;
use serde_json::{Map, Value};

use super::error::{Kind, Result, SqsError};

/// Parts of a name; the deepest of the service has six.
const MAX_DEPTH: usize = 8;
/// Fields of one form; a batch of ten messages with ten attributes each has 460.
const MAX_FIELDS: usize = 4_000;

/// A request of the Query protocol.
#[derive(Debug)]
pub(super) struct Form {
    /// What is to be done.
    pub(super) action: Option<String>,
    /// The version of the service's interface.
    pub(super) version: Option<String>,
    /// The input, as the JSON protocol has it.
    pub(super) input: Value,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Tree(BTreeMap<String, Node>),
}

impl Form {
    /// Reads the fields of the URL and those of the body, and none behind the last that there may be.
    pub(super) fn of(url: &[u8], body: &[u8]) -> Result<Self> {
        Self::read(fields(url).chain(fields(body)))
    }

    fn read(fields: impl IntoIterator<Item = Result<(String, String)>>) -> Result<Self> {
        let (mut action, mut version) = (None, None);
        let mut tree = BTreeMap::new();
        for (count, field) in fields.into_iter().enumerate() {
            if count >= MAX_FIELDS {
                return Err(SqsError::new(
                    Kind::RequestTooLarge,
                    "The request has too many fields.",
                ));
            }
            let (name, value) = field?;
            match &*name {
                "Action" => set(&mut action, &name, value)?,
                "Version" => set(&mut version, &name, value)?,
                // Of the signature in a URL.
                name if name.starts_with("X-Amz-") => {}
                // No field of the service is called so.
                name if name.starts_with(|first: char| first.is_ascii_lowercase()) => {}
                name => insert(&mut tree, name, value)?,
            }
        }
        Ok(Self { action, version, input: object(tree)? })
    }
}

/// The names and values of a form, one by one.
fn fields(text: &[u8]) -> impl Iterator<Item = Result<(String, String)>> {
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=').map(decoded);
        let name = parts.next().unwrap_or_else(|| Ok(String::new()))?;
        Ok((name, parts.next().unwrap_or_else(|| Ok(String::new()))?))
    })
}

/// What is no UTF-8 is refused: with other characters in its place, the message would be another.
fn decoded(part: &[u8]) -> Result<String> {
    let spaced: Vec<u8> =
        part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    let text = percent_decode(&spaced).decode_utf8();
    text.map(Into::into).map_err(|_| SqsError::invalid("The form must be in UTF-8."))
}

/// That a field has two values, of which none is to be taken for what was meant.
fn twice(name: &str) -> SqsError {
    SqsError::invalid(format!("{name} is given twice."))
}

/// Sets what is to be given once, or alike each time.
fn set(field: &mut Option<String>, name: &str, value: String) -> Result<()> {
    match field {
        Some(given) if *given != value => Err(twice(name)),
        _ => {
            *field = Some(value);
            Ok(())
        }
    }
}

fn insert(tree: &mut BTreeMap<String, Node>, name: &str, value: String) -> Result<()> {
    let mut parts = name.splitn(MAX_DEPTH, '.').peekable();
    let mut tree = tree;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return match tree.get(part) {
                Some(Node::Text(given)) if *given != value => Err(twice(name)),
                // So an empty list is written.
                Some(Node::Tree(_)) if value.is_empty() => Ok(()),
                Some(Node::Tree(_)) => Err(twice(name)),
                _ => {
                    tree.insert(part.to_owned(), Node::Text(value));
                    Ok(())
                }
            };
        }
        let next = tree.entry(part.to_owned()).or_insert_with(|| Node::Tree(BTreeMap::new()));
        if matches!(next, Node::Text(text) if text.is_empty()) {
            *next = Node::Tree(BTreeMap::new());
        }
        let Node::Tree(below) = next else { return Err(twice(name)) };
        tree = below;
    }
    Ok(())
}

/// What a list is called in JSON.
fn list_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "AttributeName" => "AttributeNames",
        "MessageAttributeName" => "MessageAttributeNames",
        "MessageSystemAttributeName" => "MessageSystemAttributeNames",
        "TagKey" => "TagKeys",
        "AWSAccountId" => "AWSAccountIds",
        "ActionName" => "Actions",
        "SendMessageBatchRequestEntry"
        | "DeleteMessageBatchRequestEntry"
        | "ChangeMessageVisibilityBatchRequestEntry" => "Entries",
        _ => return None,
    })
}

/// What a map is called in JSON, and what its keys are called in a form.
fn map_name(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "Attribute" => ("Attributes", "Name"),
        "MessageAttribute" => ("MessageAttributes", "Name"),
        "MessageSystemAttribute" => ("MessageSystemAttributes", "Name"),
        "Tag" => ("Tags", "Key"),
        _ => return None,
    })
}

/// Whether this is what JSON calls a list or a map, which a form spells out.
fn is_plural(name: &str) -> bool {
    const LISTS: [&str; 10] = [
        "AttributeNames",
        "MessageAttributeNames",
        "MessageSystemAttributeNames",
        "TagKeys",
        "AWSAccountIds",
        "Actions",
        "Entries",
        "Attributes",
        "MessageAttributes",
        "Tags",
    ];
    LISTS.contains(&name)
}

fn object(tree: BTreeMap<String, Node>) -> Result<Value> {
    let mut object = Map::new();
    for (name, node) in tree {
        if is_plural(&name) {
            // So an empty list is written, or an empty map.
            continue;
        }
        if let Some(list) = list_name(&name) {
            let items = items(node).into_iter().map(value).collect::<Result<_>>()?;
            object.insert(list.to_owned(), Value::Array(items));
        } else if let Some((map, key)) = map_name(&name) {
            let mut all = Map::new();
            for item in pairs(node, key) {
                let (called, value) = pair(item, &name, key)?;
                if all.contains_key(&called) {
                    return Err(SqsError::invalid(format!("{name} {called} is given twice.")));
                }
                all.insert(called, value);
            }
            object.insert(map.to_owned(), Value::Object(all));
        } else {
            object.insert(name, value(node)?);
        }
    }
    Ok(Value::Object(object))
}

fn value(node: Node) -> Result<Value> {
    match node {
        Node::Text(text) => Ok(Value::String(text)),
        Node::Tree(tree) => object(tree),
    }
}

/// The items of a list in order. An empty list is written as an empty text.
fn items(node: Node) -> Vec<Node> {
    match node {
        Node::Text(text) if text.is_empty() => Vec::new(),
        Node::Text(text) => vec![Node::Text(text)],
        Node::Tree(tree) => {
            let number = |(name, item): (String, Node)| (name.parse().unwrap_or(u32::MAX), item);
            let mut items: Vec<(u32, Node)> = tree.into_iter().map(number).collect();
            items.sort_by_key(|(number, _)| *number);
            items.into_iter().map(|(_, item)| item).collect()
        }
    }
}

/// The pairs of a map: numbered, or one that is not.
fn pairs(node: Node, key: &str) -> Vec<Node> {
    match node {
        Node::Tree(tree) if tree.contains_key(key) => vec![Node::Tree(tree)],
        node => items(node),
    }
}

/// A pair of the map that a form calls `map`.
fn pair(item: Node, map: &str, key: &str) -> Result<(String, Value)> {
    let unnamed = || SqsError::missing(&format!("{map}.{key}"));
    let Node::Tree(mut tree) = item else { return Err(unnamed()) };
    let Some(Node::Text(name)) = tree.remove(key) else { return Err(unnamed()) };
    let value = match tree.remove("Value") {
        Some(node) => value(node)?,
        // Of those that have parts, all are missing.
        None if map.starts_with("Message") => Value::Object(Map::new()),
        None => Value::String(String::new()),
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(fields: &[(&str, &str)]) -> Form {
        Form::read(owned(fields).into_iter().map(Ok)).expect("few fields")
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn lists_and_maps_are_spelled_out() {
        let form = read(&[
            ("Action", "SendMessageBatch"),
            ("Version", "2012-11-05"),
            ("X-Amz-Signature", "abc"),
            ("QueueUrl", "http://h/1/q"),
            ("AttributeName.2", "b"),
            ("AttributeName.10", "c"),
            ("AttributeName.1", "a"),
            ("Tag.1.Key", "k"),
            ("Tag.1.Value", "v"),
            ("SendMessageBatchRequestEntry.1.Id", "one"),
            ("SendMessageBatchRequestEntry.1.MessageAttribute.1.Name", "n"),
            ("SendMessageBatchRequestEntry.1.MessageAttribute.1.Value.DataType", "String"),
            ("SendMessageBatchRequestEntry.1.MessageAttribute.1.Value.StringValue", "x"),
        ]);
        assert_eq!(form.action.as_deref(), Some("SendMessageBatch"));
        assert_eq!(form.version.as_deref(), Some("2012-11-05"));
        let attributes = json!({"n": {"DataType": "String", "StringValue": "x"}});
        assert_eq!(
            form.input,
            json!({
                "QueueUrl": "http://h/1/q", "AttributeNames": ["a", "b", "c"], "Tags": {"k": "v"},
                "Entries": [{"Id": "one", "MessageAttributes": attributes}],
            })
        );
        let one = read(&[("Attribute.Name", "DelaySeconds"), ("Attribute.Value", "5")]);
        assert_eq!(one.input, json!({"Attributes": {"DelaySeconds": "5"}}));
        assert_eq!(read(&[("AttributeName", "")]).input, json!({"AttributeNames": []}));
        assert_eq!(read(&[("MessageAttributeNames", "")]).input, json!({}));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let refusal = |fields: &[(&str, &str)]| {
            let read = Form::read(owned(fields).into_iter().map(Ok));
            read.expect_err("must be refused").message
        };
        let twice = [
            ("Attribute.1.Name", "a"),
            ("Attribute.1.Value", "1"),
            ("Attribute.2.Name", "a"),
            ("Attribute.2.Value", "2"),
        ];
        assert_eq!(refusal(&twice), "Attribute a is given twice.");
        for fields in [
            [("Action", "SendMessage"), ("Action", "PurgeQueue")],
            [("Version", "2012-11-05"), ("Version", "2011-10-01")],
            [("MessageBody", "a"), ("MessageBody", "b")],
            [("Attribute.1.Name", "a"), ("Attribute.1.Name", "b")],
            [("AttributeName", "a"), ("AttributeName.1", "b")],
            [("AttributeName.1", "a"), ("AttributeName", "b")],
        ] {
            let (name, _) = fields[1];
            assert_eq!(refusal(&fields), format!("{name} is given twice."));
        }
        let alike = read(&[("MessageBody", "a"), ("MessageBody", "a"), ("Tag", ""), ("Tag", "")]);
        assert_eq!(alike.input, json!({"MessageBody": "a", "Tags": {}}));
        let unnamed = "The request must contain the parameter MessageAttribute.Name.";
        assert_eq!(refusal(&[("MessageAttribute.1.Value.StringValue", "v")]), unnamed);
        assert_eq!(refusal(&[("MessageAttribute.1", "v")]), unnamed);
        let input = read(&[("MessageAttribute.1.Name", "a"), ("Tag.1.Key", "k")]).input;
        assert_eq!(input, json!({"MessageAttributes": {"a": {}}, "Tags": {"k": ""}}));
    }

    #[test]
    fn fields_are_decoded_and_in_utf_8() {
        for (text, expected) in [
            ("", &[][..]),
            ("a=b+c%2B&&d", &[("a", "b c+"), ("d", "")]),
            ("%C3%A9=%zz=%", &[("é", "%zz=%")]),
        ] {
            let read: Vec<_> = fields(text.as_bytes()).collect::<Result<_>>().expect("fine");
            assert_eq!(read, owned(expected), "{text}");
        }
        for wrong in [&b"a=%ff"[..], b"a=\xff", b"%C3=a"] {
            assert!(Form::of(wrong, b"").is_err() && Form::of(b"", wrong).is_err(), "{wrong:?}");
        }
    }

    /// Those of the URL count too, and what stands behind the last is not looked at.
    #[test]
    fn fields_are_read_up_to_their_bound() {
        let most = "a&".repeat(MAX_FIELDS);
        assert!(Form::of(most.as_bytes(), b"").is_ok() && Form::of(b"", most.as_bytes()).is_ok());
        let over = [most.as_bytes(), b"a=%ff"].concat();
        for (url, body) in [(&over[..], &b""[..]), (b"", &over), (b"a", most.as_bytes())] {
            let error = Form::of(url, body).expect_err("too many");
            assert_eq!(error.kind, Kind::RequestTooLarge);
        }
    }

    proptest! {
        #[test]
        fn any_form_is_read_without_panic(
            fields in prop::collection::vec(("(Attribute|Tag|A)?[.a-z0-9]{0,20}", ".{0,5}"), 0..20),
        ) {
            let _ = Form::read(fields.into_iter().map(Ok));
        }
    }
}
