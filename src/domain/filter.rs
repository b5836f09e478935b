//! What a message must contain to be meant.

use std::{
    hash::{Hash, Hasher},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::{MAX_JSON_DEPTH, RawJson, StorableLimits, Unstorable, check_storable};

/// A JSON object that a message must contain, as PostgreSQL's `@>` has it.
///
/// Its array elements are bounded, as each of them is compared with every value of the message, and nothing
/// ends PostgreSQL while it does so: neither a time limit nor an administrator.
#[derive(Clone, Debug)]
pub struct Filter(RawJson);

/// Why something is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// It is no JSON.
    #[error("must be a JSON object: {0}")]
    Syntax(String),
    /// It is another kind of JSON.
    #[error("must be a JSON object, such as {{\"type\":\"invoice\"}}")]
    NoObject,
    /// It is too long.
    #[error("must have at most {max} bytes, not {0}", max = Filter::MAX_BYTES)]
    TooLong(usize),
    /// It would take too long to compare.
    #[error(
        "must have at most {max} array elements, those of all its arrays together, not {0}: each is compared \
         with every value of a message",
        max = Filter::MAX_ARRAY_ELEMENTS
    )]
    TooManyElements(usize),
    /// No message can contain it.
    #[error(transparent)]
    Unstorable(#[from] Unstorable),
}

impl Filter {
    /// The most bytes.
    pub const MAX_BYTES: usize = 4_096;
    /// The most array elements, of all levels together.
    pub const MAX_ARRAY_ELEMENTS: usize = 16;
    /// Bytes that its numbers may take, written out in full.
    const MAX_EXPANDED: u64 = 1 << 20;

    /// The JSON.
    pub fn json(&self) -> &RawValue {
        &self.0
    }

    /// Whether it leaves anything out: `{}` does not, of messages that are no objects either.
    pub fn is_selective(&self) -> bool {
        let inside = self.0.get().trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        !inside.is_some_and(|inside| inside.trim().is_empty())
    }
}

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidFilter::TooLong(text.len()));
        }
        let json: RawJson =
            serde_json::from_str(text).map_err(|e| InvalidFilter::Syntax(e.to_string()))?;
        if !json.get().starts_with('{') {
            return Err(InvalidFilter::NoObject);
        }
        let elements = array_elements(json.get());
        if elements > Self::MAX_ARRAY_ELEMENTS {
            return Err(InvalidFilter::TooManyElements(elements));
        }
        let limits = StorableLimits { expanded: Self::MAX_EXPANDED, depth: MAX_JSON_DEPTH };
        check_storable(json.get(), limits)?;
        Ok(Self(json))
    }
}

impl<'de> Deserialize<'de> for Filter {
    /// From the object itself, not from a text that has it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawJson::deserialize(deserializer)?.get().parse().map_err(de::Error::custom)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.get().hash(state);
    }
}

/// How many elements the arrays of well-formed JSON have, all together.
fn array_elements(json: &str) -> usize {
    let (mut elements, mut in_array) = (0, Vec::new());
    // Whether what comes next is the first element of an array.
    let mut is_first = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii_whitespace() {
            continue;
        }
        if std::mem::take(&mut is_first) && byte != b']' {
            elements += 1;
        }
        match byte {
            b'[' => {
                in_array.push(true);
                is_first = true;
            }
            b'{' => in_array.push(false),
            b']' | b'}' => drop(in_array.pop()),
            b',' if in_array.last() == Some(&true) => elements += 1,
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    elements
}

fn skip_string(bytes: &mut impl Iterator<Item = u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn count(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.len() + items.iter().map(count).sum::<usize>(),
            Value::Object(fields) => fields.values().map(count).sum(),
            _ => 0,
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "[\\[\\]{},:\"\\\\ a]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec(("[\\[\\]{},\"a]{0,4}", inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn elements_are_those_of_a_parser(value in json(), pretty: bool) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            prop_assert_eq!(array_elements(&text), count(&value), "{}", text);
        }

        #[test]
        fn any_text_is_an_object_or_refused(text in "\\PC{0,40}|[\\[\\]{}\":,\\\\u0-9aef ]{0,40}") {
            if let Ok(filter) = Filter::from_str(&text) {
                let object = serde_json::from_str::<serde_json::Map<_, Value>>(filter.json().get());
                prop_assert!(object.is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn elements_count_whatever_their_level() {
        let of = |json: &str| Filter::from_str(json).map(drop);
        let flat = |n: usize| format!("{{\"a\":[{}]}}", vec!["[]"; n].join(","));
        assert_eq!(of(&flat(16)), Ok(()));
        assert_eq!(of(&flat(17)), Err(InvalidFilter::TooManyElements(17)));
        let deep = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(of(&deep(16)), Ok(()));
        assert_eq!(of(&deep(17)), Err(InvalidFilter::TooManyElements(17)));
        let spread = format!("{{{}}}", ["\"a\":[1,2]"; 9].join(","));
        assert_eq!(of(&spread), Err(InvalidFilter::TooManyElements(18)));
        assert_eq!(of(r#"{"a":[],"b":",[1,2,","c":{"d":[ ]}}"#), Ok(()));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(4_096 - 8));
        assert_eq!(of(&long), Ok(()));
        assert_eq!(of(&format!("{long} ")), Err(InvalidFilter::TooLong(4_097)));
    }

    #[test]
    fn a_filter_is_a_json_object() {
        assert_eq!(Filter::from_str(r#"{"a":1}"#).expect("object").json().get(), r#"{"a":1}"#);
        for wrong in ["", "[1]", "1", "{\"a\":}", "{\"a\":\"\\u0000\"}", "{\"a\":1e200000}"] {
            assert!(Filter::from_str(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_without_fields_leaves_nothing_out() {
        for (json, selective) in [("{}", false), (" { } ", false), (r#"{"a":{}}"#, true)] {
            assert_eq!(Filter::from_str(json).expect("object").is_selective(), selective, "{json}");
        }
    }
}
