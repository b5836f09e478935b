//! The arguments of a call, by name, and their conversion to the types of parameters, as PostgreSQL
//! does it.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::to_raw_value;
use url::form_urlencoded;

use crate::domain::{
    Limited, MAX_BATCH, QueueName, RawJson, StorableLimits, Unstorable, check_storable,
};

use super::failure::Failure;

/// Parameters of a query that are PostgREST's own.
const RESERVED: [&str; 7] = ["select", "order", "limit", "offset", "columns", "on_conflict", "and"];

/// What was given.
#[derive(Debug)]
pub(super) struct Arguments(BTreeMap<String, RawJson>);

/// The most members of a body that are kept: no function has so many parameters.
const MAX_MEMBERS: usize = 16;

/// The members of an object, the first of them if there are too many.
struct Members(BTreeMap<String, RawJson>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersReader)
    }
}

struct MembersReader;

impl<'de> Visitor<'de> for MembersReader {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(name) = object.next_key::<String>()? {
            if members.len() < MAX_MEMBERS || members.contains_key(&name) {
                members.insert(name, object.next_value()?);
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Members(members))
    }
}

impl Arguments {
    /// Of a body: an object. None at all is one without members.
    pub(super) fn from_body(bytes: &[u8]) -> Result<Self, Failure> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let read = serde_json::from_slice::<Members>(bytes);
        let given = read.map_err(|_| Failure::bad("PGRST102", "Empty or invalid json"))?;
        Ok(Self(with_usual_names(given.0)))
    }

    /// Of a query.
    pub(super) fn from_query(query: &str) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes());
        let given = pairs.filter(|(name, _)| !RESERVED.contains(&&**name));
        let text = |text: Cow<'_, str>| to_raw_value(&text).unwrap_or_default();
        let given = given.map(|(name, value)| (name.into_owned(), text(value)));
        Self(with_usual_names(given.collect()))
    }

    /// Their names, sorted.
    pub(super) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The queue.
    pub(super) fn queue(&self) -> Result<QueueName, Failure> {
        let name = self.text("queue_name")?.ok_or_else(|| null("queue_name"))?;
        if name.contains(['$', ';', '\'']) || name.contains("--") {
            let message = r"queue name contains invalid characters: $, ;, --, or \'";
            return Err(Failure::bad("P0001", message));
        }
        if name.contains('\0') {
            return Err(unsupported_escape());
        }
        QueueName::parse(&name).map_err(|_| Failure::no_relation('q', &name))
    }

    /// An `integer`.
    pub(super) fn integer(&self, name: &str) -> Result<i32, Failure> {
        let text = self.text(name)?.ok_or_else(|| null(name))?;
        let wide = number(&text, "integer")?;
        i32::try_from(wide).map_err(|_| out_of_range(&text, "integer"))
    }

    /// An `integer` that is 0 where it is not given.
    pub(super) fn integer_or_0(&self, name: &str) -> Result<i32, Failure> {
        if self.0.contains_key(name) { self.integer(name) } else { Ok(0) }
    }

    /// A `bigint`.
    pub(super) fn bigint(&self, name: &str) -> Result<i64, Failure> {
        let text = self.text(name)?.ok_or_else(|| null(name))?;
        number(&text, "bigint")
    }

    /// A `jsonb`, taken out.
    pub(super) fn json(&mut self, name: &str) -> Result<RawJson, Failure> {
        let json = self.0.remove(name).ok_or_else(|| null(name))?;
        check(&json)?;
        Ok(json)
    }

    /// A `jsonb[]`, taken out.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<RawJson>, Failure> {
        let json = self.0.remove(name).ok_or_else(|| null(name))?;
        let text = json.get();
        if text == "null" {
            return Ok(Vec::new());
        }
        let list: serde_json::Result<Limited<RawJson, 1, MAX_BATCH>> = serde_json::from_str(text);
        let list = list.map(|list| list.0).map_err(|error| match text.as_bytes() {
            [b'[', ..] if error.is_data() => Failure::bad("22023", format!("`{name}` {error}")),
            [b'"', ..] => {
                let inner: String = serde_json::from_str(text).unwrap_or_default();
                Failure::bad("22P02", format!("malformed array literal: {}", quoted(&inner)))
            }
            _ => Failure::bad("22P02", "expected JSON array")
                .hint(format!("See the value of key {}.", quoted(name))),
        })?;
        list.iter().try_for_each(check)?;
        Ok(list)
    }

    /// As `text`; nothing if it is null.
    fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Failure> {
        let Some(json) = self.0.get(name) else { return Ok(None) };
        match json.get() {
            "null" => Ok(None),
            text if text.starts_with('"') => {
                let inner = serde_json::from_str::<String>(text);
                // Half of a surrogate pair is no text.
                let inner = inner.map_err(|_| invalid_json())?;
                Ok(Some(inner.into()))
            }
            text => Ok(Some(text.into())),
        }
    }
}

/// The names as the functions have them: Supabase's own guide calls one otherwise. Of both, which may differ,
/// neither is meant more than the other.
fn with_usual_names(mut given: BTreeMap<String, RawJson>) -> BTreeMap<String, RawJson> {
    const USUAL: &str = "message_id";
    if !given.contains_key(USUAL)
        && let Some(id) = given.remove("msg_id")
    {
        given.insert(USUAL.to_owned(), id);
    }
    given
}

fn number(text: &str, kind: &str) -> Result<i64, Failure> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = format!("invalid input syntax for type {kind}: {}", quoted(text));
        return Err(Failure::bad("22P02", message));
    }
    trimmed.parse().map_err(|_| out_of_range(text, kind))
}

fn out_of_range(text: &str, kind: &str) -> Failure {
    Failure::bad("22003", format!("value {} is out of range for type {kind}", quoted(text)))
}

fn null(name: &str) -> Failure {
    Failure::bad("22004", format!("argument {} must not be null", quoted(name)))
}

/// A text between quotation marks, cut where nobody wants to read on.
fn quoted(text: &str) -> String {
    const MOST: usize = 200;
    let cut: String = text.chars().take(MOST).collect();
    format!("\"{cut}{}\"", if cut.len() < text.len() { "…" } else { "" })
}

/// Refuses what `jsonb` has no place for, as PostgreSQL words it. Other bounds are the broker's.
fn check(json: &RawJson) -> Result<(), Failure> {
    let limits = StorableLimits { expanded: u64::MAX, depth: u32::MAX };
    match check_storable(json.get(), limits) {
        Err(Unstorable::NulCharacter) => Err(unsupported_escape()),
        Err(Unstorable::LoneSurrogate) => Err(invalid_json()),
        Err(Unstorable::NumberOutOfRange) => {
            Err(Failure::bad("22003", "value overflows numeric format"))
        }
        Ok(_) | Err(Unstorable::Expands { .. } | Unstorable::TooDeep { .. }) => Ok(()),
    }
}

fn unsupported_escape() -> Failure {
    Failure::bad("22P05", "unsupported Unicode escape sequence")
        .details("\\u0000 cannot be converted to text.")
}

fn invalid_json() -> Failure {
    Failure::bad("22P02", "invalid input syntax for type json")
        .details("Unicode low surrogate must follow a high surrogate.")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_function_takes_is_read_no_further() {
        let body: Vec<String> = (0..100_000).map(|n| format!(r#","m{n}":1"#)).collect();
        let body = body.concat();
        let given =
            Arguments::from_body(format!(r#"{{"a":1{body}}}"#).as_bytes()).expect("an object");
        assert_eq!(given.names().len(), MAX_MEMBERS);
        let list = format!(r#"{{"messages":[1{}]}}"#, ",1".repeat(MAX_BATCH));
        let mut given = Arguments::from_body(list.as_bytes()).expect("an object");
        let refused = format!("{:?}", given.list("messages").expect_err("one too many"));
        assert!(refused.contains("1 to 1000 entries, not 1001 or more"), "{refused}");
    }

    fn of(body: &str) -> Arguments {
        Arguments::from_body(body.as_bytes()).expect("an object")
    }

    #[test]
    fn numbers_are_read_from_numbers_and_from_texts() {
        let arguments =
            of(r#"{"a":5,"b":"7","c":" -3 ","d":1.5,"e":"x","f":99999999999,"g":null}"#);
        assert_eq!(arguments.integer("a").ok(), Some(5));
        assert_eq!(arguments.integer("b").ok(), Some(7));
        assert_eq!(arguments.integer("c").ok(), Some(-3));
        assert_eq!(arguments.bigint("f").ok(), Some(99_999_999_999));
        assert_eq!(arguments.integer_or_0("h").ok(), Some(0));
        for wrong in ["d", "e", "f", "g", "h"] {
            assert!(arguments.integer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_name_of_the_id_is_taken() {
        let arguments = of(r#"{"queue_name":"q","msg_id":"9007199254740993"}"#);
        assert_eq!(arguments.names(), ["message_id", "queue_name"]);
        assert_eq!(arguments.bigint("message_id").ok(), Some(9_007_199_254_740_993));
        let both = of(r#"{"queue_name":"q","message_id":1,"msg_id":2}"#);
        assert_eq!(both.names(), ["message_id", "msg_id", "queue_name"]);
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in "\\PC{0,60}|[{}\\[\\]\",:0-9a\\\\ud]{0,40}") {
            if let Ok(mut arguments) = Arguments::from_body(body.as_bytes()) {
                let names: Vec<String> = arguments.names().into_iter().map(str::to_owned).collect();
                for name in names {
                    let _ = (arguments.integer(&name), arguments.bigint(&name));
                    let _ = arguments.list(&name);
                }
                let _ = arguments.queue();
            }
        }
    }
}
