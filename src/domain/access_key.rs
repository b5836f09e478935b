//! Access keys for signatures as AWS has them: an id that is shown, and a secret that never is.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::ApiKey;

/// What the id of an access key begins with.
const PREFIX: &str = "PGMQ";
/// Characters behind that which tell one secret of a key from the next.
const SALT_CHARS: usize = 6;

/// The id of an access key: `PGMQ`, the id of a key in upper case, and six characters more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKeyId(String);

impl AccessKeyId {
    /// For the key with this id. `salt` is six random letters or digits.
    pub fn new(id: &str, salt: &str) -> Option<Self> {
        Self::parse(&format!("{PREFIX}{}{}", id.to_uppercase(), salt.to_uppercase()))
    }

    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        let is_fine = rest.len() > SALT_CHARS && rest.len() <= 64 && rest.bytes().all(fits);
        is_fine.then(|| Self(text.to_owned()))
    }

    /// The id of the key.
    fn key_id(&self) -> String {
        self.0[PREFIX.len()..self.0.len() - SALT_CHARS].to_ascii_lowercase()
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the secrets of access keys are derived from: a signature can be checked only by who knows the
/// secret, and the database has its hash alone.
#[derive(Clone)]
pub struct MasterKey(Hmac<Sha256>);

impl MasterKey {
    /// The least bytes of one.
    pub const MIN_BYTES: usize = 16;

    /// From secret bytes; nothing where they are too few.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let long_enough = secret.len() >= Self::MIN_BYTES;
        Hmac::new_from_slice(secret).ok().filter(|_| long_enough).map(Self)
    }

    /// The secret of an access key.
    pub fn secret(&self, id: &AccessKeyId) -> String {
        let mut mac = self.0.clone();
        mac.update(b"access key ");
        mac.update(id.0.as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// The key that an access key stands for, as REST takes it: whether it is one is said by its hash.
    pub fn api_key(&self, id: &AccessKeyId) -> String {
        ApiKey::write(&id.key_id(), &self.secret(id))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_access_key_stands_for_a_key() {
        let master = MasterKey::new(b"0123456789abcdef").expect("long enough");
        assert!(MasterKey::new(b"0123456789abcde").is_none());
        let id = AccessKeyId::new("a1b2c3d4e5", "salt01").expect("an id");
        assert_eq!(id.to_string(), "PGMQA1B2C3D4E5SALT01");
        let secret = master.secret(&id);
        assert_eq!(master.api_key(&id), format!("pgk_a1b2c3d4e5_{secret}"));
        let other = AccessKeyId::new("a1b2c3d4e5", "salt02").expect("an id");
        assert_ne!(master.secret(&other), secret);
        assert_ne!(MasterKey::new(b"0123456789abcdeg").expect("key").secret(&id), secret);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(PGMQ)?.{0,30}") {
            if let Some(id) = AccessKeyId::parse(&text) {
                prop_assert!(!id.key_id().is_empty());
            }
        }
    }
}
