//! What tells one caller from every other, however alike their names are.

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::domain::{CallerId, KeyHash};

/// Characters of a token's subject that the logs show.
const SUBJECT_CHARS: usize = 64;
/// Characters of the fingerprint that the logs show where the rest of a name tells too little.
const SHORT_FINGERPRINT: usize = 8;

/// A caller: what the logs call them, and what nobody else has.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    name: String,
    fingerprint: Fingerprint,
}

/// Stands for one caller, and for no other. It is written in 43 characters of `A-Z a-z 0-9 - _`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Identity {
    /// Whoever comes while nobody needs a credential.
    pub fn anonymous() -> Self {
        Self::new("anyone".to_owned(), "anonymous", &[])
    }

    /// A key of the configuration. Gateways on one database may have different keys of the same name.
    pub(super) fn of_configured_key(name: &str, hash: &KeyHash) -> Self {
        Self::new(name.to_owned(), "configured key", &[name.as_bytes(), hash.as_bytes()])
    }

    /// A key of the database, whatever its secret is at the moment.
    pub(super) fn of_stored_key(id: &str, name: &str) -> Self {
        Self::new(format!("{name} ({id})"), "stored key", &[id.as_bytes()])
    }

    /// Whoever has tokens with this subject. A token that has none stands for itself alone: nothing in
    /// it says whose the next one is.
    pub(super) fn of_token(issuer: &str, subject: Option<&str>, token: &[u8; 32]) -> Self {
        let Some(subject) = subject.filter(|subject| !subject.is_empty()) else {
            let fingerprint = Fingerprint::of("token", &[token]);
            let name = format!("jwt:(no sub) {}", fingerprint.short());
            return Self { name, fingerprint };
        };
        let parts = [issuer.as_bytes(), subject.as_bytes()];
        let fingerprint = Fingerprint::of("subject", &parts);
        let shown: String =
            subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS).collect();
        let name = if shown == subject {
            format!("jwt:{subject}")
        } else {
            format!("jwt:{shown}… {}", fingerprint.short())
        };
        Self { name, fingerprint }
    }

    /// What the logs call them. Two callers may have the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What they alone have.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    fn new(name: String, kind: &str, parts: &[&[u8]]) -> Self {
        Self { name, fingerprint: Fingerprint::of(kind, parts) }
    }
}

impl Fingerprint {
    /// Whoever names a key from some address, and has yet to prove that it is theirs. Of addresses of which a
    /// client has many, all are one.
    pub fn of_claim(key_id: &str, address: Option<IpAddr>) -> Self {
        let network = match address {
            Some(IpAddr::V4(address)) => address.octets().to_vec(),
            Some(IpAddr::V6(address)) => address.octets()[..8].to_vec(),
            None => Vec::new(),
        };
        Self::of("claim", &[key_id.as_bytes(), &network])
    }

    /// Of parts, each with its length, so that no two lists of them read the same.
    fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in std::iter::once(kind.as_bytes()).chain(parts.iter().copied()) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The same for those who divide things among callers.
    pub fn caller_id(self) -> CallerId {
        CallerId(self.0)
    }

    fn short(self) -> String {
        self.to_string().chars().take(SHORT_FINGERPRINT).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn token(subject: Option<&str>, token: u8) -> Identity {
        Identity::of_token("https://login.example/", subject, &[token; 32])
    }

    #[test]
    fn callers_that_look_alike_have_different_fingerprints() {
        let long = "x".repeat(SUBJECT_CHARS);
        let key = KeyHash::of("a key");
        let callers = [
            Identity::anonymous(),
            Identity::of_configured_key("anyone", &key),
            Identity::of_configured_key("shop", &key),
            Identity::of_configured_key("shop", &KeyHash::of("another key")),
            Identity::of_stored_key("shop", "shop"),
            Identity::of_stored_key("abc", "shop"),
            token(Some("shop"), 1),
            token(Some(&long), 1),
            token(Some(&format!("{long}a")), 1),
            token(Some(&format!("{long}b")), 1),
            token(Some("shop\0"), 1),
            token(Some("?"), 1),
            token(None, 1),
            token(None, 2),
            token(Some(""), 3),
            Identity::of_token("https://login.example", Some("/shop"), &[1; 32]),
        ];
        let fingerprints: HashSet<_> = callers.iter().map(Identity::fingerprint).collect();
        assert_eq!(fingerprints.len(), callers.len(), "{callers:?}");
        // What differs only behind what is shown is told apart in the logs, too.
        let tokens: HashSet<_> = callers[6..15].iter().map(Identity::name).collect();
        assert_eq!(tokens.len(), 9, "{tokens:?}");
        for caller in &callers {
            let text = caller.fingerprint().to_string();
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(text.len() == 43 && text.chars().all(plain), "{text}");
        }
    }

    #[test]
    fn a_claim_is_of_a_key_and_a_network() {
        let of = |key, address: &str| Fingerprint::of_claim(key, address.parse().ok());
        assert_eq!(of("a", "2001:db8::1"), of("a", "2001:db8::2"));
        let claims = [
            of("a", "192.0.2.1"),
            of("a", "192.0.2.2"),
            of("b", "192.0.2.1"),
            of("a", "2001:db8::1"),
            of("a", "2001:db8:0:1::1"),
            of("a", "a socket"),
            Identity::of_stored_key("a", "a").fingerprint(),
        ];
        assert_eq!(HashSet::from(claims).len(), claims.len());
    }

    #[test]
    fn a_subject_is_the_same_caller_with_every_token() {
        assert_eq!(token(Some("shop"), 1), token(Some("shop"), 2));
        assert_eq!(token(Some("shop"), 1).name(), "jwt:shop");
        assert_eq!(Identity::of_stored_key("abc", "a"), Identity::of_stored_key("abc", "a"));
    }
}
