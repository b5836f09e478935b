//! The key with which log-ins are signed.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key of log-ins; the same for all gateways on a database, so that one holds at each of them.
#[derive(Clone)]
pub struct SessionKey(Hmac<Sha256>);

impl SessionKey {
    /// Bytes of a signature.
    pub const SIGNATURE: usize = 32;

    /// A key from secret bytes.
    pub fn new(secret: &[u8]) -> Self {
        // A key of any length is fine: HMAC hashes what is too long and pads what is short.
        Self(Hmac::new_from_slice(secret).unwrap_or_else(|_| unreachable!("any length")))
    }

    /// The signature of what a log-in says, bound to what the credential was: with another one it is another.
    pub fn sign(&self, said: &[u8], bound_to: &[u8]) -> [u8; Self::SIGNATURE] {
        self.mac(said, bound_to).finalize().into_bytes().into()
    }

    /// Whether this is that signature. Takes the same time wherever it differs.
    pub fn verify(&self, said: &[u8], bound_to: &[u8], signature: &[u8]) -> bool {
        self.mac(said, bound_to).verify_slice(signature).is_ok()
    }

    fn mac(&self, said: &[u8], bound_to: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [said, bound_to] {
            // With its length, so that no two pairs read the same.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_what_was_signed_and_nothing_else() {
        let key = SessionKey::new(b"secret");
        let signature = key.sign(b"ab", b"c");
        assert!(key.verify(b"ab", b"c", &signature));
        assert!(!key.verify(b"a", b"bc", &signature));
        assert!(!key.verify(b"ab", b"d", &signature));
        assert!(!key.verify(b"ab", b"c", &signature[1..]));
        assert!(!SessionKey::new(b"other").verify(b"ab", b"c", &signature));
    }
}
