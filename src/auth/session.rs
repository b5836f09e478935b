//! Log-ins: what a browser keeps in place of a key or a token.
//!
//! A log-in says whose it is, and for how long, and is signed with a key that all gateways on a database have.
//! It holds no key: whoever reads it learns the name of one. It is bound to the key's hash, so that it ends with
//! the key, at every gateway, and with its secret once that is not taken any more. What it lets its owner do is
//! what the key may do at that moment.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::SessionKey;

/// Hours after which somebody has to log in again.
const LIFETIME_HOURS: i64 = 12;
/// The most bytes of a log-in: browsers keep no larger cookie than one of 4096 with its attributes.
const MAX_BYTES: usize = 3_800;
/// The layout, for the day when there is another.
const VERSION: u8 = 2;

/// A log-in that was given out.
#[derive(Clone, Debug)]
pub struct LogIn {
    /// What the browser is to show, of characters that a cookie may have.
    pub text: String,
    /// When it ends at the latest.
    pub ends_at: DateTime<Utc>,
}

/// Why nobody was logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogInError {
    /// The credential is not in force.
    Unauthenticated,
    /// What the token grants is more than a browser keeps.
    TooLong,
}

/// A log-in that was shown. Whether it is one of ours is known once its subject is found.
pub(super) struct Session {
    pub(super) subject: SessionSubject,
    ends_at: DateTime<Utc>,
    said: Vec<u8>,
    signature: Vec<u8>,
}

/// Whose a log-in is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum SessionSubject {
    /// A key of the configuration.
    Configured {
        /// What it is called.
        name: String,
    },
    /// A key of the database.
    Stored {
        /// What names it.
        id: String,
    },
    /// A token that somebody else signed.
    Token(TokenSubject),
}

/// What is kept of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSubject {
    /// Those claims that say who its owner is and what they may.
    pub(super) claims: Map<String, Value>,
    /// For whom it was checked, and which claim grants.
    pub(super) checked_as: Value,
    /// The hash of the key that signed it, which has to be among the signer's still.
    pub(super) signer_key: [u8; 32],
    /// The hash of the token.
    pub(super) hash: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedPart {
    version: u8,
    /// In seconds since 1970.
    ends_at: i64,
    subject: SessionSubject,
}

impl Session {
    /// Begins one, which ends with the credential, and after 12 hours at the latest.
    pub(super) fn begin(
        key: &SessionKey,
        subject: SessionSubject,
        bound_to: &[u8],
        credential_ends_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<LogIn, LogInError> {
        let last = now + TimeDelta::hours(LIFETIME_HOURS);
        let ends_at = credential_ends_at.map_or(last, |end| end.min(last));
        let said = SignedPart { version: VERSION, ends_at: ends_at.timestamp(), subject };
        // Strings and numbers: this cannot fail.
        let said = serde_json::to_vec(&said).unwrap_or_default();
        let signature = key.sign(&said, bound_to);
        let write = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let text = format!("{}.{}", write(&said), write(&signature));
        if text.len() > MAX_BYTES {
            return Err(LogInError::TooLong);
        }
        Ok(LogIn { text, ends_at })
    }

    /// Reads what a browser shows; nothing where that is no log-in.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let (said, signature) = text.split_once('.')?;
        let said = URL_SAFE_NO_PAD.decode(said).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let SignedPart { version, ends_at, subject } = serde_json::from_slice(&said).ok()?;
        let ends_at = DateTime::from_timestamp(ends_at, 0).filter(|_| version == VERSION)?;
        Some(Self { subject, ends_at, said, signature })
    }

    /// Whether it was given out for what it is said to be bound to.
    pub(super) fn is_signed(&self, key: &SessionKey, bound_to: &[u8]) -> bool {
        key.verify(&self.said, bound_to, &self.signature)
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.ends_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored() -> SessionSubject {
        SessionSubject::Stored { id: "a1b2".to_owned() }
    }

    #[test]
    fn it_ends_with_the_credential_and_after_twelve_hours() {
        let (key, now) = (SessionKey::new(b"secret"), Utc::now());
        let ends = |credential| {
            let begun = Session::begin(&key, stored(), b"hash", credential, now).expect("short");
            (begun.ends_at - now).num_minutes()
        };
        assert_eq!(ends(None), 720);
        assert_eq!(ends(Some(now + TimeDelta::minutes(5))), 5);
        assert_eq!(ends(Some(now + TimeDelta::days(5))), 720);
    }

    #[test]
    fn it_is_read_as_it_was_given_out_and_bound_to_the_key() {
        let (key, now) = (SessionKey::new(b"secret"), Utc::now());
        let begun = Session::begin(&key, stored(), b"hash", None, now).expect("short");
        let read = Session::parse(&begun.text).expect("one of ours");
        assert!(read.is_signed(&key, b"hash") && !read.is_over(now));
        assert!(!read.is_signed(&key, b"another hash"));
        assert!(!read.is_signed(&SessionKey::new(b"other"), b"hash"));
        assert!(read.is_over(begun.ends_at));
        assert!(matches!(read.subject, SessionSubject::Stored { id } if id == "a1b2"));
    }

    #[test]
    fn what_a_browser_would_not_keep_is_refused() {
        let name = "x".repeat(MAX_BYTES);
        let subject = SessionSubject::Configured { name };
        let begun = Session::begin(&SessionKey::new(b""), subject, b"", None, Utc::now());
        assert_eq!(begun.map(|begun| begun.text).err(), Some(LogInError::TooLong));
    }

    proptest! {
        #[test]
        fn one_other_character_makes_it_void(at in 0usize..120, other in "[A-Za-z0-9_.-]") {
            let key = SessionKey::new(b"secret");
            let text = Session::begin(&key, stored(), b"hash", None, Utc::now()).expect("short").text;
            let at = at % text.len();
            prop_assume!(!text[at..].starts_with(&other));
            let forged = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            let is_signed = Session::parse(&forged).is_some_and(|s| s.is_signed(&key, b"hash"));
            // The last character has bits that say nothing.
            prop_assert!(!is_signed || at == text.len() - 1, "{}", forged);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,60}|[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}") {
            prop_assert!(Session::parse(&text).is_none());
        }
    }
}
