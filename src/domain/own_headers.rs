//! Headers that the gateway writes, and that those who read them believe.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use super::RawJson;

/// Who sent a message, where senders have a credential.
pub const SENDER_HEADER: &str = "x-sender-id";
/// The id that the sender was told.
pub const MESSAGE_ID_HEADER: &str = "x-message-id";

/// Headers as a client gives them, without those that are not for a client to say.
pub fn without_own_headers(headers: RawJson) -> RawJson {
    let rest = rest(headers.get());
    rest.unwrap_or(headers)
}

/// What is left of headers that have such ones.
fn rest(headers: &str) -> Option<RawJson> {
    // They may be written with escapes.
    if ![SENDER_HEADER, MESSAGE_ID_HEADER, "\\"].iter().any(|part| headers.contains(part)) {
        return None;
    }
    // What is no object has none.
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(headers).ok()?;
    let given = fields.len();
    fields.retain(|name, _| name != SENDER_HEADER && name != MESSAGE_ID_HEADER);
    if fields.len() < given { to_raw_value(&fields).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_are_left_out_and_others_are_as_they_were() {
        for (given, left) in [
            (r#"{ "a" : 1.00 }"#, r#"{ "a" : 1.00 }"#),
            (r#"{"a":"x-sender-id","b":"\n"}"#, r#"{"a":"x-sender-id","b":"\n"}"#),
            (r#"{"x-sender-id":"me"}"#, "{}"),
            (r#"{"a":1.00,"x-message-id":{"b":[1]},"x-sender-id":7}"#, r#"{"a":1.00}"#),
            (
                r#"{"\u0078-sender-id":"me","b":{"x-sender-id":"b"}}"#,
                r#"{"b":{"x-sender-id":"b"}}"#,
            ),
            (r#"["x-sender-id"]"#, r#"["x-sender-id"]"#),
        ] {
            let raw = RawValue::from_string(given.to_owned()).expect("JSON");
            assert_eq!(without_own_headers(raw).get(), left, "{given}");
        }
    }
}
