//! Names of queues.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, de};

/// The name of a queue that PGMQ could hold.
///
/// Other clients make queues with names that the gateway would not give (`Orders`, `my queue`);
/// those are served. [`QueueName::check_creatable`] says whether the gateway itself would.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

/// Why a queue name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQueueName {
    /// No characters, or more than PGMQ takes.
    #[error("a queue name has 1 to 47 characters")]
    Length,
    /// Characters that PGMQ itself refuses.
    #[error("a queue name cannot contain `$`, `;`, `'`, `--` or control characters")]
    Reserved,
    /// PGMQ folds upper case away in the table's name.
    #[error(
        "a queue name is lower case: PGMQ folds upper case away, so `Orders` and `orders` would \
         share one table"
    )]
    UpperCase,
    /// What belongs to other queues is called like this.
    #[error(
        "PostgreSQL and PGMQ call indexes and sequences of queues like this (`_pkey`, `_msg_id_seq`, \
         `_vt_idx`, `_fifo_idx` or `_part_idx` behind the queue's name): choose another name"
    )]
    Derived,
    /// Anything else outside the alphabet.
    #[error(
        "a queue name consists of `a-z`, `0-9`, `_`, `-` and `.`, begins with a letter or digit, \
         and has no `--`"
    )]
    Alphabet,
}

impl QueueName {
    /// The most characters PGMQ takes.
    pub const MAX_CHARS: usize = 47;

    /// Accepts every name that a queue in PGMQ may have, whoever made it.
    pub fn parse(name: &str) -> Result<Self, InvalidQueueName> {
        if !(1..=Self::MAX_CHARS).contains(&name.chars().count()) {
            return Err(InvalidQueueName::Length);
        }
        if name.contains(['$', ';', '\''])
            || name.contains("--")
            || name.chars().any(char::is_control)
        {
            return Err(InvalidQueueName::Reserved);
        }
        Ok(Self(name.into()))
    }

    /// Whether the gateway would make a queue of this name.
    pub fn check_creatable(&self) -> Result<(), InvalidQueueName> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
        if self.0.chars().any(char::is_uppercase) {
            return Err(InvalidQueueName::UpperCase);
        }
        let begins_well = self.0.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !begins_well || !self.0.bytes().all(allowed) {
            return Err(InvalidQueueName::Alphabet);
        }
        Ok(())
    }

    /// Whether its table would be called as something is, or may be, that belongs to another queue. No such
    /// queue is made, as the other would lack its index, or have its figures from there.
    pub fn is_derived(&self) -> bool {
        const ENDINGS: [&str; 5] = ["_pkey", "_msg_id_seq", "_vt_idx", "_fifo_idx", "_part_idx"];
        ENDINGS
            .iter()
            .any(|ending| self.0.strip_suffix(ending).is_some_and(|other| !other.is_empty()))
    }

    /// The name as PGMQ's functions take it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for QueueName {
    /// As [`QueueName::parse`] does, whose reason is the error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).map_err(de::Error::custom)
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The contract's words, read by someone else.
    fn reference(name: &str) -> bool {
        let mut before = '-';
        (1..=47).contains(&name.len())
            && !name.starts_with(['-', '_', '.'])
            && name.chars().all(|c| {
                let fine = "abcdefghijklmnopqrstuvwxyz0123456789_.".contains(c)
                    || (c == '-' && before != '-');
                before = c;
                fine
            })
    }

    proptest! {
        #[test]
        fn names_are_judged_by_the_contract(name in "[a-cA0_.\\-$;' \u{e9}\u{0}]{0,5}|[a-z-]{40,50}") {
            prop_assert_eq!(creatable(&name).is_ok(), reference(&name), "{:?}", name);
        }

        #[test]
        fn any_text_is_judged_without_panic(name in any::<String>()) {
            let Ok(parsed) = QueueName::parse(&name) else { return Ok(()) };
            prop_assert_eq!(parsed.as_str(), &name);
            prop_assert!(!name.contains(['\'', ';', '$', '\0']) && !name.contains("--"));
        }
    }

    fn creatable(name: &str) -> Result<(), InvalidQueueName> {
        QueueName::parse(name)?.check_creatable()
    }

    #[test]
    fn ordinary_names_can_be_created() {
        for name in ["a", "0", "orders", "eu-west.orders_2", "q-", "9.", &"x".repeat(47)] {
            assert_eq!(creatable(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        for (name, reason) in [
            ("", InvalidQueueName::Length),
            (&*"x".repeat(48), InvalidQueueName::Length),
            ("Orders", InvalidQueueName::UpperCase),
            ("ÄRGER", InvalidQueueName::UpperCase),
            ("a--b", InvalidQueueName::Reserved),
            ("a;drop", InvalidQueueName::Reserved),
            ("a$b", InvalidQueueName::Reserved),
            ("a'b", InvalidQueueName::Reserved),
            ("a\0b", InvalidQueueName::Reserved),
            ("_a", InvalidQueueName::Alphabet),
            (".a", InvalidQueueName::Alphabet),
            ("-a", InvalidQueueName::Alphabet),
            ("my queue", InvalidQueueName::Alphabet),
            ("größe", InvalidQueueName::Alphabet),
            ("a\"b", InvalidQueueName::Alphabet),
        ] {
            assert_eq!(creatable(name), Err(reason), "{name:?}");
        }
    }

    #[test]
    fn names_of_what_belongs_to_queues_are_told() {
        for name in
            ["a_pkey", "a_msg_id_seq", "a_vt_idx", "a_gw_fifo_idx", "x_part_idx", "a.b_pkey"]
        {
            assert!(QueueName::parse(name).expect("a name").is_derived(), "{name}");
        }
        for name in ["pkey", "a_key", "a_seq", "a_idx", "a_default", "a_p1", "_pkey", "a_pkey_b"] {
            assert!(!QueueName::parse(name).expect("a name").is_derived(), "{name}");
        }
    }

    #[test]
    fn a_name_in_json_is_judged_by_the_same_rules() {
        let read = serde_json::from_str::<QueueName>(r#""my queue""#).expect("a name");
        assert_eq!(read.as_str(), "my queue");
        for (json, reason) in [
            (r#""a;b""#, InvalidQueueName::Reserved.to_string()),
            (r#""""#, InvalidQueueName::Length.to_string()),
            ("7", "invalid type: integer `7`, expected a string".to_owned()),
        ] {
            let error = serde_json::from_str::<QueueName>(json).expect_err(json).to_string();
            assert!(error.starts_with(&reason), "{json}: {error}");
        }
    }

    #[test]
    fn names_made_elsewhere_are_parsed() {
        for name in ["Orders", "my queue", "größe", "_a", "a/b"] {
            assert!(QueueName::parse(name).is_ok(), "{name}");
        }
    }
}
