//! A message of SQS in a queue of PGMQ: the body is a JSON string, the rest is in the headers.

use std::collections::BTreeMap;

use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use uuid::Uuid;

use crate::domain::{
    GROUP_HEADER, MESSAGE_ID_HEADER, Message, NewMessage, SENDER_HEADER, Visibility, text_of,
};

use super::{
    headers::{
        ATTRIBUTES, DEAD, DEDUPLICATION_ID, DEDUPLICATION_SCOPE, FORMER_NUMBER, ORIGIN, TRACE,
    },
    message_attributes::{AttributeValue, foreign_attributes, stored_attributes},
};

/// What is stored of a message beside its body.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) id: String,
    pub(super) attributes: BTreeMap<String, AttributeValue>,
    pub(super) trace: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) group: Option<String>,
    pub(super) deduplication_id: Option<String>,
    /// Whether that counts within its group alone.
    pub(super) deduplicate_in_group: bool,
}

impl Envelope {
    /// The message as it is stored.
    pub(super) fn seal(
        self,
        body: &str,
        visible: Option<Visibility>,
    ) -> Result<NewMessage, serde_json::Error> {
        let mut headers = Map::new();
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                headers.insert(name.to_owned(), Value::String(value));
            }
        };
        put(MESSAGE_ID_HEADER, Some(self.id));
        put(TRACE, self.trace);
        put(SENDER_HEADER, self.sender);
        put(GROUP_HEADER, self.group);
        let scope = self.deduplication_id.is_some() && self.deduplicate_in_group;
        put(DEDUPLICATION_ID, self.deduplication_id);
        put(DEDUPLICATION_SCOPE, scope.then(|| "group".to_owned()));
        if !self.attributes.is_empty() {
            headers.insert(ATTRIBUTES.to_owned(), serde_json::to_value(self.attributes)?);
        }
        Ok(NewMessage {
            message: to_raw_value(body)?,
            sql_null: false,
            headers: Some(to_raw_value(&headers)?),
            visible,
        })
    }
}

/// A message as clients of SQS see it, whoever sent it.
#[derive(Debug)]
pub(super) struct Opened {
    /// The id that its sender was told.
    pub(super) id: Option<String>,
    pub(super) body: String,
    pub(super) attributes: BTreeMap<String, AttributeValue>,
    pub(super) trace: Option<String>,
    pub(super) sender: Option<String>,
    pub(super) group: Option<String>,
    pub(super) deduplication_id: Option<String>,
    /// The queue that it comes from as a dead letter.
    pub(super) origin: Option<String>,
    /// The number that it had there.
    pub(super) former_number: Option<i64>,
}

impl Opened {
    /// Its id. A dead letter keeps the one that it had where it comes from, as long as the id of that queue is
    /// among `queue_ids`.
    pub(super) fn id(&self, message: &Message, queue_ids: &BTreeMap<String, i64>) -> String {
        let former = || {
            let queue_id = queue_ids.get(self.origin.as_ref()?)?;
            Some(derived_id(*queue_id, self.former_number?))
        };
        let derived = || former().unwrap_or_else(|| derived_id(message.queue_id, message.msg_id));
        self.id.clone().unwrap_or_else(derived)
    }
}

/// Reads a message. A body that is no string is shown as its JSON text; headers of others that could be
/// attributes are.
pub(super) fn open(message: &Message) -> Opened {
    let text = message.message.get();
    let body = serde_json::from_str::<String>(text).unwrap_or_else(|_| text.to_owned());
    let headers = message.headers.as_ref().map(|headers| headers.get());
    // One by one: what is nested too deeply to be read concerns its header alone.
    let headers: BTreeMap<String, &RawValue> =
        headers.and_then(|headers| serde_json::from_str(headers).ok()).unwrap_or_default();
    let said = |name: &str| serde_json::from_str::<String>(headers.get(name)?.get()).ok();
    // By these, messages are put into groups and told from each other.
    let as_text = |name: &str| text_of(headers.get(name)?);
    let id = said(MESSAGE_ID_HEADER);
    let attributes = match headers.get(ATTRIBUTES) {
        Some(attributes) => stored_attributes(attributes),
        // What SQS sent has its attributes there, or none.
        None if id.is_some() => BTreeMap::new(),
        None => foreign_attributes(&headers),
    };
    Opened {
        id,
        body,
        attributes,
        trace: said(TRACE),
        sender: said(SENDER_HEADER),
        group: as_text(GROUP_HEADER),
        deduplication_id: as_text(DEDUPLICATION_ID),
        origin: said(ORIGIN),
        former_number: headers
            .get(FORMER_NUMBER)
            .filter(|_| headers.contains_key(DEAD))
            .and_then(|number| serde_json::from_str(number.get()).ok()),
    }
}

/// The id of a message that was sent by REST or SQL: always the same for the same message.
pub(super) fn derived_id(queue_id: i64, msg_id: i64) -> String {
    let name = format!("pgmq-gateway:{queue_id}:{msg_id}");
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    fn stored(message: &str, headers: Option<&str>) -> Message {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        Message {
            msg_id: 7,
            read_ct: 1,
            enqueued_at: Utc::now(),
            last_read_at: None,
            vt: Utc::now(),
            message: raw(message),
            headers: headers.map(raw),
            queue_id: 5,
            receipt: None,
        }
    }

    #[test]
    fn what_is_sealed_is_opened_as_it_was() {
        let binary = AttributeValue {
            data_type: "Binary.png".to_owned(),
            binary_value: Some("AAEC".to_owned()),
            ..AttributeValue::default()
        };
        let attributes = BTreeMap::from([
            ("a".to_owned(), AttributeValue::text("Number.int", "1".to_owned())),
            ("b".to_owned(), binary),
        ]);
        let envelope = Envelope {
            id: "id".to_owned(),
            attributes: attributes.clone(),
            trace: Some("Root=1".to_owned()),
            group: Some("g".to_owned()),
            deduplication_id: Some("d".to_owned()),
            ..Envelope::default()
        };
        let body = "\"{é\u{1f600}\r\n\t\\}";
        let new = envelope.seal(body, None).expect("JSON");
        let headers = new.headers.expect("headers");
        let opened = open(&stored(new.message.get(), Some(headers.get())));
        assert_eq!((opened.id.as_deref(), &*opened.body), (Some("id"), body));
        assert_eq!(opened.attributes, attributes);
        assert_eq!(opened.trace.as_deref(), Some("Root=1"));
        assert_eq!(opened.group.as_deref(), Some("g"));
        assert_eq!(opened.deduplication_id.as_deref(), Some("d"));
        assert!(!headers.get().contains(DEDUPLICATION_SCOPE));
    }

    #[test]
    fn what_the_gateway_adds_is_no_attribute() {
        let envelope = Envelope {
            id: "id".to_owned(),
            trace: Some("Root=1".to_owned()),
            sender: Some("PGMQ0".to_owned()),
            ..Envelope::default()
        };
        let headers = envelope.seal("x", None).expect("JSON").headers.expect("headers");
        let opened = open(&stored("\"x\"", Some(headers.get())));
        assert!(opened.attributes.is_empty(), "{:?}", opened.attributes);
        assert_eq!(opened.sender.as_deref(), Some("PGMQ0"));
        let headers = r#"{"x-message-id":"id","a":"b"}"#;
        assert!(open(&stored("1", Some(headers))).attributes.is_empty());
    }

    /// Only what moved it knows that.
    #[test]
    fn a_dead_letter_is_called_as_where_it_comes_from() {
        let ids = BTreeMap::from([("q".to_owned(), 9)]);
        let id = |headers: &str| {
            let message = stored("1", Some(headers));
            open(&message).id(&message, &ids)
        };
        let here = derived_id(5, 7);
        let dead =
            r#"{"x-dead-letter-queue":"q","x-dead-letter-msg-id":3,"x-dead-letter-read-ct":1}"#;
        assert_eq!(id(dead), derived_id(9, 3));
        assert_eq!(id(&dead.replace("\"q\"", "\"gone\"")), here);
        assert_eq!(id(&dead.replace("read-ct", "other")), here);
        assert_eq!(id(&dead.replace(":3", ":\"3\"")), here);
        assert_eq!(id(&dead.replace('{', "{\"x-message-id\":\"told\",")), "told");
        assert_eq!(id("{}"), here);
    }

    #[test]
    fn messages_of_others_are_shown_as_text() {
        let headers = r#"{"trace":"abc","n":12345678901234567890,"x-pgmq-group":"g","o":{},"e":"","a b":"c"}"#;
        let message = stored(r#"{"a": 1.50}"#, Some(headers));
        let opened = open(&message);
        assert_eq!(opened.body, r#"{"a": 1.50}"#);
        assert_eq!(opened.attributes.keys().collect::<Vec<_>>(), ["n", "trace"]);
        assert_eq!(opened.attributes["n"].string_value.as_deref(), Some("12345678901234567890"));
        assert_eq!((opened.id, opened.group.as_deref()), (None, Some("g")));
        // As they are grouped.
        for (group, shown) in [("7", Some("7")), ("{\"a\": 1}", Some("{\"a\": 1}")), ("null", None)]
        {
            let headers = format!(r#"{{"x-pgmq-group":{group},"x-deduplication-id":{group}}}"#);
            let opened = open(&stored("1", Some(&headers)));
            assert_eq!(opened.group.as_deref(), shown);
            assert_eq!(opened.deduplication_id.as_deref(), shown);
        }
        assert_eq!(open(&stored("null", Some("[1]"))).body, "null");
        let deep = format!(
            r#"{{"k":"v","x-pgmq-group":"g","deep":{}1{}}}"#,
            "[".repeat(300),
            "]".repeat(300)
        );
        let opened = open(&stored("1", Some(&deep)));
        assert_eq!((opened.attributes.len(), opened.group.as_deref()), (1, Some("g")));
        assert_eq!(open(&stored("\"a\"", Some(r#"{"x-message-attributes":7}"#))).body, "a");
    }

    /// A client of SQS that cannot read one attribute may take none of the messages.
    #[test]
    fn what_others_store_as_attributes_and_is_none_is_left_out() {
        let headers = r#"{"x-message-attributes":{
            "good":{"DataType":"Number","StringValue":"1","BinaryValue":"?"},
            "blob":{"DataType":"Binary","BinaryValue":"AAEC","StringValue":"a"},
            "bad base64":{"DataType":"Binary","BinaryValue":"AAEC"},
            "base64":{"DataType":"Binary","BinaryValue":"x"},
            "number":{"DataType":"Number","StringValue":"abc"},
            "empty":{"DataType":"String"},
            "typeless":{"StringValue":"a"},
            "illegal":{"DataType":"String","StringValue":"\u0001"},
            "list":[1],
            "wrong":{"DataType":"String","StringValue":7}
        }}"#;
        let opened = open(&stored("1", Some(headers)));
        let said: Vec<_> = opened.attributes.iter().map(|(name, value)| (&**name, value)).collect();
        let blob = AttributeValue {
            data_type: "Binary".to_owned(),
            string_value: None,
            binary_value: Some("AAEC".to_owned()),
        };
        let good = AttributeValue::text("Number", "1".to_owned());
        assert_eq!(said, [("blob", &blob), ("good", &good)]);
    }
}
