//! What gateways on one database say to each other where every role that may connect can listen.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;

use super::QueueName;

/// Bytes that are kept of a hash: nobody finds another text for them.
const KEPT: usize = 16;
/// Characters in which they are written.
const WRITTEN: usize = 22;

/// The key by which gateways on a database know each other, and the queues that they speak of.
#[derive(Clone)]
pub struct PeerKey(Hmac<Sha256>);

/// Stands for a queue. Without the key nobody can tell for which, not even for a name that they guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueTag([u8; KEPT]);

impl PeerKey {
    /// A key of its own, made of a secret that has other uses.
    pub fn derive(secret: &[u8]) -> Self {
        Self(keyed(&hash(&keyed(secret), b"pgmq_gateway peers", b"")))
    }

    /// What stands for a queue.
    pub fn tag(&self, queue: &QueueName) -> QueueTag {
        QueueTag(truncated(hash(&self.0, b"queue ", queue.as_str().as_bytes())))
    }

    /// A text that shows who wrote it.
    pub fn seal(&self, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.signature(text)) + text
    }

    /// The text, if it was sealed with this key.
    pub fn open<'a>(&self, sealed: &'a str) -> Option<&'a str> {
        let (signature, text) = sealed.split_at_checked(WRITTEN)?;
        // What everybody may write here is worth no secret of time: a signature is good for one text.
        (URL_SAFE_NO_PAD.decode(signature).ok()? == self.signature(text)).then_some(text)
    }

    fn signature(&self, text: &str) -> [u8; KEPT] {
        truncated(hash(&self.0, b"text ", text.as_bytes()))
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    // A key of any length is fine: HMAC hashes what is too long and pads what is short.
    Hmac::new_from_slice(secret).unwrap_or_else(|_| unreachable!("any length"))
}

fn hash(key: &Hmac<Sha256>, kind: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = key.clone();
    mac.update(kind);
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn truncated(hash: [u8; 32]) -> [u8; KEPT] {
    let mut kept = [0; KEPT];
    kept.copy_from_slice(&hash[..KEPT]);
    kept
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl fmt::Debug for QueueTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl Serialize for QueueTag {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for QueueTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| de::Error::custom("a tag has 16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).expect("a name")
    }

    #[test]
    fn a_tag_is_the_same_for_the_same_queue_and_key_alone() {
        let (key, other) = (PeerKey::derive(b"secret"), PeerKey::derive(b"another"));
        let tag = key.tag(&queue("orders"));
        assert_eq!(tag, PeerKey::derive(b"secret").tag(&queue("orders")));
        assert!(tag != key.tag(&queue("order")) && tag != other.tag(&queue("orders")));
        let written = serde_json::to_string(&tag).expect("JSON");
        assert_eq!(written.len(), WRITTEN + 2, "{written}");
        assert_eq!(serde_json::from_str::<QueueTag>(&written).expect("a tag"), tag);
        for wrong in [r#""orders""#, "7", r#""AAAA""#] {
            assert!(serde_json::from_str::<QueueTag>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_was_sealed_with_the_key_is_opened() {
        let key = PeerKey::derive(b"secret");
        for text in ["", "{}", r#"{"news":["größe"]}"#] {
            let sealed = key.seal(text);
            assert_eq!(key.open(&sealed), Some(text));
            assert_eq!(PeerKey::derive(b"another").open(&sealed), None);
            assert_eq!(key.open(&(sealed + " ")), None);
        }
        for forged in ["", "{}", "ääääääääääääääääääääääää", &"A".repeat(WRITTEN)]
        {
            assert_eq!(key.open(forged), None, "{forged}");
        }
    }
}
