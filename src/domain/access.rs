//! What a credential may do, in words: rights on queues, by name or pattern.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What can be allowed on a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Store messages.
    Send,
    /// Take messages, look at them, and say what became of them.
    Receive,
    /// Make, change, empty and drop the queue, bind it, and take messages back.
    Manage,
    /// All of these; on every queue also what concerns the gateway as a whole.
    Admin,
}

impl Right {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Send, "send"),
        (Self::Receive, "receive"),
        (Self::Manage, "manage"),
        (Self::Admin, "admin"),
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(right, _)| *right == self).map_or("", |(_, word)| word)
    }

    /// Whether having this is having `wanted`.
    fn covers(self, wanted: Self) -> bool {
        self == wanted || self == Self::Admin
    }
}

impl FromStr for Right {
    type Err = InvalidGrant;

    fn from_str(word: &str) -> Result<Self, InvalidGrant> {
        let found = Self::ALL.iter().find(|(_, known)| *known == word);
        found.map(|(right, _)| *right).ok_or(InvalidGrant::Right)
    }
}

/// The names of queues: a name, in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QueuePattern(String);

impl QueuePattern {
    /// The most characters; those of a name, and a few stars.
    const MAX_CHARS: usize = 64;

    fn parse(text: &str) -> Result<Self, InvalidGrant> {
        let filled = text.replace('*', "x");
        let fits = (1..=Self::MAX_CHARS).contains(&text.chars().count());
        let named = text == "*" || filled.chars().all(|c| !c.is_control() && !"$;',".contains(c));
        // It would be about no queue, and nobody would see why.
        let is_bare = text.trim() == text;
        if fits && named && is_bare {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidGrant::Pattern)
        }
    }

    /// Whether it is about every queue.
    fn is_all(&self) -> bool {
        self.0 == "*"
    }

    /// Whether a queue is among those it is about.
    fn matches(&self, name: &str) -> bool {
        if self.is_all() {
            return true;
        }
        let mut parts = self.0.split('*');
        let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        let mut rest = rest;
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            // The first place is as good as any: what is behind it is longest.
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }

    /// The same as a regular expression of PostgreSQL's, without anchors.
    fn to_regex(&self) -> String {
        let mut regex = String::new();
        for character in self.0.chars() {
            match character {
                '*' => regex.push_str(".*"),
                c if c.is_alphanumeric() => regex.push(c),
                c => regex.extend(['\\', c]),
            }
        }
        regex
    }
}

/// Rights on some queues, written `send,receive:orders*`; without a pattern they are on every queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    rights: Vec<Right>,
    queues: QueuePattern,
}

/// Why a grant was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// No such right.
    #[error(
        "a grant is `<right>:<queues>`, such as `send,receive:orders*`; the rights are `send`, \
         `receive`, `manage` and `admin`"
    )]
    Right,
    /// No name of queues.
    #[error(
        "behind the `:` of a grant stands the name of a queue, without white space around it, in which `*` stands for any \
         characters"
    )]
    Pattern,
}

impl Grant {
    /// Every right on every queue.
    pub fn everything() -> Self {
        Self { rights: vec![Right::Admin], queues: QueuePattern("*".to_owned()) }
    }

    fn covers(&self, wanted: Option<Right>) -> bool {
        wanted.is_none_or(|wanted| self.rights.iter().any(|right| right.covers(wanted)))
    }
}

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let (rights, queues) = text.split_once(':').unwrap_or((text, "*"));
        let rights = rights.split(',').map(|word| word.trim().parse());
        Ok(Self { rights: rights.collect::<Result<_, _>>()?, queues: QueuePattern::parse(queues)? })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<&str> = self.rights.iter().map(|right| right.as_str()).collect();
        write!(f, "{}:{}", rights.join(","), self.queues.0)
    }
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// All that a credential was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Puts grants together.
    pub fn new(grants: Vec<Grant>) -> Self {
        Self(grants)
    }

    /// Each as it is written.
    pub fn to_texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Whether something may be done to a queue; with no right named, whether anything may.
    pub fn allow(&self, right: Option<Right>, queue: &str) -> bool {
        self.0.iter().any(|grant| grant.covers(right) && grant.queues.matches(queue))
    }

    /// Whether what concerns the gateway as a whole may be seen.
    pub fn allow_operations(&self) -> bool {
        self.0.iter().any(|grant| grant.covers(Some(Right::Admin)) && grant.queues.is_all())
    }

    /// The queues to which something may be done.
    pub fn scope(&self, right: Option<Right>) -> Scope {
        let granted: Vec<&Grant> = self.0.iter().filter(|grant| grant.covers(right)).collect();
        if granted.iter().any(|grant| grant.queues.is_all()) {
            return Scope(None);
        }
        Scope(Some(granted.into_iter().map(|grant| grant.queues.clone()).collect()))
    }
}

/// A part of all queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Option<Vec<QueuePattern>>);

impl Scope {
    /// Every queue.
    pub const ALL: Self = Self(None);
    /// No queue.
    pub const NOTHING: Self = Self(Some(Vec::new()));

    /// Whether it is every queue.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether no queue is part of it.
    pub fn is_nothing(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether a queue is part of it.
    pub fn contains(&self, queue: &str) -> bool {
        self.0.as_ref().is_none_or(|patterns| patterns.iter().any(|p| p.matches(queue)))
    }

    /// A regular expression of PostgreSQL's that matches the names in it; none if that is all.
    pub fn to_regex(&self) -> Option<String> {
        let patterns = self.0.as_ref()?;
        let regexes: Vec<String> = patterns.iter().map(QueuePattern::to_regex).collect();
        // Without a pattern it matches no name: each has a character.
        Some(format!("^({})$", regexes.join("|")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|text| text.parse().expect("a grant")).collect())
    }

    #[test]
    fn rights_are_on_the_queues_they_name() {
        let grants = grants(&["send:orders", "receive,manage:eu-*"]);
        for (right, queue, allowed) in [
            (Some(Right::Send), "orders", true),
            (Some(Right::Send), "orders2", false),
            (Some(Right::Receive), "orders", false),
            (Some(Right::Receive), "eu-west", true),
            (Some(Right::Manage), "eu-", true),
            (Some(Right::Admin), "eu-west", false),
            (None, "orders", true),
            (None, "us-west", false),
        ] {
            assert_eq!(grants.allow(right, queue), allowed, "{right:?} {queue}");
        }
        assert!(!grants.allow_operations());
    }

    #[test]
    fn admin_is_everything_where_it_holds() {
        let some = grants(&["admin:a*"]);
        assert!(some.allow(Some(Right::Manage), "a1") && !some.allow_operations());
        let all = grants(&["admin"]);
        assert!(all.allow(Some(Right::Send), "x") && all.allow_operations());
        assert!(all.scope(Some(Right::Send)).is_all());
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, fits) in [
            ("*", "anything", true),
            ("a*", "a", true),
            ("*a", "banana", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a.c", "abc", false),
            ("", "a", false),
        ] {
            let matched = QueuePattern::parse(pattern).is_ok_and(|p| p.matches(name));
            assert_eq!(matched, fits, "{pattern} {name}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, reason) in [
            ("", InvalidGrant::Right),
            ("sent:a", InvalidGrant::Right),
            ("send,:a", InvalidGrant::Right),
            ("send:", InvalidGrant::Pattern),
            ("send:a,b", InvalidGrant::Pattern),
            ("send:a'b", InvalidGrant::Pattern),
            ("send: a", InvalidGrant::Pattern),
            ("send:a ", InvalidGrant::Pattern),
        ] {
            assert_eq!(text.parse::<Grant>(), Err(reason), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_grant_is_written_as_it_is_read(text in "(send|receive|manage|admin):[a-z0-9*._-]{1,20}") {
            let grant: Grant = text.parse().expect("a grant");
            prop_assert_eq!(grant.to_string(), text);
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}") {
            let _ = text.parse::<Grant>();
        }

        #[test]
        fn a_name_matches_itself_and_what_its_parts_make(
            parts in prop::collection::vec("[a-c]{0,3}", 1..5), filling in "[a-c]{0,3}",
        ) {
            let pattern = parts.join("*");
            prop_assume!(!pattern.is_empty());
            let pattern = QueuePattern::parse(&pattern).expect("a pattern");
            prop_assert!(pattern.matches(&parts.join(&*filling)));
        }
    }
}
