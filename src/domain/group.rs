//! The group that a message belongs to, where a queue is read in groups.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess},
};
use serde_json::value::RawValue;

use super::expanded_length;

/// The header that names the group.
pub const GROUP_HEADER: &str = "x-pgmq-group";

/// The most bytes of a group's name. One that is much longer does not fit the index by which a queue is read
/// in groups: its message could not be moved into such a queue.
pub const MAX_GROUP_BYTES: usize = 255;

/// Bytes of the name of the group that headers put a message into: the longest, if they name several, and 0 if
/// they name none. A value that is no text counts as it is written in JSON.
pub fn group_bytes(headers: &str) -> usize {
    // It may be written with escapes.
    if !headers.contains(GROUP_HEADER) && !headers.contains('\\') {
        return 0;
    }
    // What is no object has no group.
    serde_json::from_str::<Longest>(headers).map_or(0, |longest| longest.0)
}

/// The name of the group that headers put a message into: the last, if they name several, as in PostgreSQL. A value that
/// is no text is as it is written.
pub fn group_of(headers: &str) -> Option<String> {
    let fields: HashMap<String, &RawValue> = serde_json::from_str(headers).ok()?;
    text_of(fields.get(GROUP_HEADER)?)
}

/// The text of a value, as PostgreSQL's `->>` has it: of what is no text, as it is written; none of null.
pub fn text_of(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).unwrap_or_else(|_| Some(value.get().to_owned()))
}

struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Longest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
                let mut longest = 0;
                while let Some(Key(key)) = map.next_key()? {
                    if key == GROUP_HEADER {
                        let value: &RawValue = map.next_value()?;
                        longest = longest.max(text_bytes(value.get()));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Longest(longest))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Bytes of what PostgreSQL's `->>` makes of a value, or a few more.
fn text_bytes(json: &str) -> usize {
    if json == "null" {
        return 0;
    }
    if let Ok(text) = serde_json::from_str::<Cow<'_, str>>(json) {
        return text.len();
    }
    // It sets a space behind each of these.
    let separators = json.bytes().filter(|byte| matches!(byte, b',' | b':')).count();
    usize::try_from(expanded_length(json)).unwrap_or(usize::MAX).saturating_add(separators)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_counts_as_it_is_stored() {
        for (headers, bytes) in [
            ("{}", 0),
            (r#"{"group":"abc"}"#, 0),
            (r#"{"x-pgmq-group":null}"#, 0),
            (r#"{"x-pgmq-group":"abc"}"#, 3),
            (r#"{"a":{"x-pgmq-group":"abcdef"},"x-pgmq-group":"\u00fc\n"}"#, 3),
            (r#"{"\u0078-pgmq-group":"abc"}"#, 3),
            (r#"{"x-pgmq-group":"abcdef","x-pgmq-group":"a"}"#, 6),
            (r#"{"x-pgmq-group":7}"#, 1),
            (r#"{"x-pgmq-group":1e300}"#, 301),
            (r#"{"x-pgmq-group":{"a":[1,2]}}"#, r#"{"a": [1, 2]}"#.len()),
            (r#"["x-pgmq-group"]"#, 0),
        ] {
            assert_eq!(group_bytes(headers), bytes, "{headers}");
        }
    }

    #[test]
    fn the_group_is_the_one_that_postgresql_finds() {
        for (headers, group) in [
            ("", None),
            ("{}", None),
            (r#"{"x-pgmq-group":null}"#, None),
            (r#"{"a":{"x-pgmq-group":"other"},"x-pgmq-group":"a"}"#, Some("a")),
            (r#"{"\u0078-pgmq-group":"\u0061"}"#, Some("a")),
            (r#"{"x-pgmq-group":"a","x-pgmq-group":"b"}"#, Some("b")),
            (r#"{"x-pgmq-group":7}"#, Some("7")),
            (r#"["x-pgmq-group"]"#, None),
        ] {
            assert_eq!(group_of(headers).as_deref(), group, "{headers}");
        }
    }
}
