//! Keys: what a client shows, and what is kept of it.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Grants;

/// What a key that the gateway makes begins with, so that secret scanners know it.
const PREFIX: &str = "pgk_";

/// The hash of a key. Keys are long and random, so a fast hash does.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes a key as it is shown.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// A hash from its bytes, 32 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A hash from 64 hexadecimal digits, as `sha256sum` prints them.
    pub fn from_hex(text: &str) -> Option<Self> {
        let is_hex = text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let mut bytes = [0; 32];
        for (place, byte) in bytes.iter_mut().enumerate().filter(|_| is_hex) {
            *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
        }
        is_hex.then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyHash {
    /// Takes the same time wherever they differ.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// A key that the gateway made: `pgk_<id>_<secret>`. The id is no secret; it names the key in lists
/// and logs.
pub struct ApiKey<'a> {
    /// What names it.
    pub id: &'a str,
}

impl<'a> ApiKey<'a> {
    /// Writes a key from its parts.
    pub fn write(id: &str, secret: &str) -> String {
        format!("{PREFIX}{id}_{secret}")
    }

    /// Reads one that may be a key of the gateway's making.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        (!id.is_empty() && !secret.is_empty()).then_some(Self { id })
    }
}

/// A key to be stored.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// What names it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The hash of what is shown.
    pub hash: KeyHash,
    /// What it may do.
    pub grants: Vec<String>,
    /// How long it lives.
    pub expires_in: Option<Duration>,
    /// Limits of its own.
    pub limits: KeyLimits,
}

/// Limits of a key's own; none where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests in a second, and at once.
    pub requests_per_second: Option<u32>,
    /// Clients that wait at the same time, at one gateway.
    pub max_waiters: Option<u32>,
}

/// A key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// What names it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The hash of what is shown.
    pub hash: KeyHash,
    /// The one before the last rotation, and until when that is taken.
    pub previous: Option<(KeyHash, DateTime<Utc>)>,
    /// What it may do.
    pub grants: Grants,
    /// The end of its life.
    pub expires_at: Option<DateTime<Utc>>,
    /// Limits of its own.
    pub limits: KeyLimits,
    /// Whether it was revoked.
    pub revoked: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hash_is_read_as_sha256sum_prints_it() {
        let hex = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
        assert_eq!(KeyHash::from_hex(hex), Some(KeyHash::of("foo")));
        assert!(KeyHash::from_hex(&hex[1..]).is_none());
        assert!(KeyHash::from_hex(&hex.replace('2', "g")).is_none());
        assert!(KeyHash::from_hex(&"é".repeat(32)).is_none());
    }

    proptest! {
        #[test]
        fn a_key_tells_its_id(id in "[a-z0-9]{1,12}", secret in "[A-Za-z0-9_-]{1,50}") {
            let text = ApiKey::write(&id, &secret);
            prop_assert_eq!(ApiKey::parse(&text).expect("a key").id, &*id);
        }

        #[test]
        fn any_text_is_read_without_panic(text in "(pgk_)?.{0,60}") {
            let _ = (ApiKey::parse(&text), KeyHash::from_hex(&text));
        }
    }
}
