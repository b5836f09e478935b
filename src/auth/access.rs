//! The door: whether a credential is needed, and whose it is.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use chrono::{DateTime, Utc};

use crate::{
    config::{self, AuthMode},
    domain::{Grant, Grants, KeyLimits, StoredKey},
};

use super::{Credential, Principal, jwks::JwksError, jwt::Verifier, keyring::Keyring};

/// Whoever comes where nobody needs a credential.
static ANYONE: LazyLock<Arc<Principal>> = LazyLock::new(|| {
    let grants = Grants::new(vec![Grant::everything()]);
    Principal::new("anyone", grants, None, KeyLimits::default())
});

/// Who is let in, and who is not.
pub struct Access {
    mode: AuthMode,
    keyring: Keyring,
    jwt: Option<Verifier>,
}

/// No credential that is in force: missing, wrong, revoked and expired are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthenticated;

/// Why the gateway does not start with these keys.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file with a key cannot be read.
    #[error("auth.keys: cannot read the file {path} of key `{name}`: {source}")]
    KeyFile {
        /// Which key.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key that can be guessed.
    #[error("auth.keys: key `{name}` has fewer than {least} characters")]
    ShortKey {
        /// Which key.
        name: String,
        /// How many it needs.
        least: usize,
    },
    /// The signer's keys are not there.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// A credential is needed, and nobody can have one.
    #[error(
        "auth.mode is \"required\", but there is no key: make one with `pgmq-gateway keys create`, \
         or set auth.admin_key, auth.keys or [jwt]"
    )]
    NoKeys,
    /// Without a credential, only this machine is served.
    #[error(
        "without a key, {0} would let everyone in who reaches it: make a key with `pgmq-gateway \
         keys create` or set auth.admin_key, or listen on 127.0.0.1, or say auth.mode = \"none\" \
         where the network lets in the right ones only"
    )]
    Exposed(SocketAddr),
}

impl Access {
    /// Keys and tokens of the configuration; those of the database come by [`Access::replace_keys`].
    pub async fn new(
        auth: &config::Auth,
        jwt: &config::Jwt,
        requests_per_second: Option<u32>,
    ) -> Result<Self, AccessError> {
        let jwt = Verifier::new(jwt, requests_per_second).await?;
        Ok(Self { mode: auth.mode, keyring: Keyring::new(auth, requests_per_second)?, jwt })
    }

    /// Takes over the keys of the database.
    pub fn replace_keys(&self, keys: Vec<StoredKey>) {
        self.keyring.replace(keys);
    }

    /// Which keys of the database were used since this was last asked, and when.
    pub fn take_used(&self) -> Vec<(String, DateTime<Utc>)> {
        self.keyring.take_used()
    }

    /// Loads the keys of whoever signs tokens again.
    pub async fn reload_signer(&self) {
        if let Some(jwt) = &self.jwt {
            jwt.reload(std::time::Duration::ZERO).await;
        }
    }

    /// Whether clients need a credential.
    pub fn is_required(&self) -> bool {
        match self.mode {
            AuthMode::Required => true,
            AuthMode::None => false,
            AuthMode::Auto => self.keyring.has_keys() || self.jwt.is_some(),
        }
    }

    /// Refuses to serve at an address that others reach where no credential is needed, and nobody
    /// said that this is meant; `None` is a socket in the file system, which has an owner.
    pub fn check(&self, address: Option<SocketAddr>) -> Result<(), AccessError> {
        if self.mode == AuthMode::Required && !self.keyring.has_keys() && self.jwt.is_none() {
            return Err(AccessError::NoKeys);
        }
        match address.filter(|address| !address.ip().is_loopback()) {
            Some(exposed) if self.mode == AuthMode::Auto && !self.is_required() => {
                Err(AccessError::Exposed(exposed))
            }
            _ => Ok(()),
        }
    }

    /// Whose credential this is.
    pub async fn authenticate(
        &self,
        credential: Option<&Credential>,
    ) -> Result<Arc<Principal>, Unauthenticated> {
        if !self.is_required() {
            return Ok(Arc::clone(&ANYONE));
        }
        let now = Utc::now();
        let text = credential.ok_or(Unauthenticated)?.expose();
        let mut found = self.keyring.find(text, now);
        if let (None, Some(jwt)) = (&found, &self.jwt) {
            found = jwt.find(text, now).await;
        }
        let principal = found.ok_or(Unauthenticated)?;
        principal.used(now);
        Ok(principal)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("mode", &self.mode).finish_non_exhaustive()
    }
}
