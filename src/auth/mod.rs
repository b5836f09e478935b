//! Who is let in: a credential becomes a principal, and a principal may do some things to some queues.
//!
//! Knows no HTTP beyond the text of a credential, and no SQL: the keys in the database are handed in.

mod access;
mod access_error;
mod credential;
mod identity;
mod jwks;
mod jwt;
mod keyring;
mod principal;
mod session;

use rand::{Rng, distr::Alphanumeric};

use crate::domain::{AccessKeyId, ApiKey};

pub use access::{Access, SigningKey, Unauthenticated};
pub use access_error::AccessError;
pub use credential::Credential;
pub use identity::{Fingerprint, Identity};
pub use principal::{Principal, Refusal, WaitingPlace};
pub use session::{LogIn, LogInError};

/// Characters of a key's id.
const ID_CHARS: usize = 10;
/// Characters of a key's secret, of 62 possible ones each: more than 2^255 keys.
const SECRET_CHARS: usize = 43;

/// Characters of an access key's id that differ from one of the same key to the next.
const ACCESS_KEY_SALT_CHARS: usize = 6;

/// A new id for a key.
pub fn new_key_id() -> String {
    random(ID_CHARS).to_lowercase()
}

/// A new access key for the key with this id.
pub fn new_access_key_id(id: &str) -> Option<AccessKeyId> {
    AccessKeyId::new(id, &random(ACCESS_KEY_SALT_CHARS))
}

/// A new key with this id, as its owner shows it.
pub fn new_key(id: &str) -> String {
    ApiKey::write(id, &random(SECRET_CHARS))
}

fn random(characters: usize) -> String {
    // A generator for secrets, seeded by the system.
    rand::rng().sample_iter(Alphanumeric).take(characters).map(char::from).collect()
}
