//! The door: whether a credential is needed, and whose it is.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use chrono::{DateTime, Utc};

use crate::{
    config::{self, AuthMode},
    domain::{AccessKeyId, Grant, Grants, KeyHash, KeyLimits, MasterKey, SessionKey, StoredKey},
};

use super::{
    AccessError, Credential, Identity, LogIn, LogInError, Principal,
    credential::Proof,
    jwt::Verifier,
    keyring::Keyring,
    session::{Session, SessionSubject},
};

/// Who is let in, and who is not.
pub struct Access {
    mode: AuthMode,
    keyring: Keyring,
    jwt: Option<Arc<Verifier>>,
    /// What secrets of access keys are derived from, if that is known.
    master_key: Option<MasterKey>,
    /// What log-ins are signed with, if there are any.
    session_key: Option<SessionKey>,
    /// Set once a credential is needed, and never taken back: keys that are gone open no door.
    needed: AtomicBool,
    /// Whoever comes while nobody needs a credential.
    anyone: Arc<Principal>,
}

/// What a signature is checked with.
pub struct SigningKey {
    /// The secret of the access key.
    pub secret: String,
    /// The key that it stands for.
    pub credential: Credential,
}

/// No credential that is in force: missing, wrong, revoked and expired are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthenticated;

impl Access {
    /// Keys and tokens of the configuration; those of the database come by [`Access::replace_keys`].
    pub async fn new(
        auth: &config::Auth,
        jwt: &config::Jwt,
        defaults: KeyLimits,
    ) -> Result<Self, AccessError> {
        let jwt = Verifier::new(jwt, defaults).await?;
        let keyring = Keyring::new(auth, defaults)?;
        let needed = match auth.mode {
            AuthMode::Required => true,
            AuthMode::None => false,
            AuthMode::Auto => auth.has_keys() || jwt.is_some(),
        };
        let everything = Grants::new(vec![Grant::everything()]);
        let anyone = Principal::new(Identity::anonymous(), everything, None, KeyLimits::default());
        let (mode, needed) = (auth.mode, AtomicBool::new(needed));
        Ok(Self { mode, keyring, jwt, master_key: None, session_key: None, needed, anyone })
    }

    /// The same, with what secrets of access keys are derived from.
    #[must_use]
    pub fn with_master_key(self, master_key: Option<MasterKey>) -> Self {
        Self { master_key, ..self }
    }

    /// The same, with what log-ins are signed with.
    #[must_use]
    pub fn with_session_key(self, session_key: Option<SessionKey>) -> Self {
        Self { session_key, ..self }
    }

    /// Gives out a log-in for a key or a token that is in force.
    pub fn log_in(&self, credential: &Credential) -> Result<LogIn, LogInError> {
        let refused = LogInError::Unauthenticated;
        let principal = self.identify(Some(credential)).map_err(|_| refused)?;
        let key = self.session_key.as_ref().ok_or(refused)?;
        // A log-in is for what was shown itself.
        let Proof::Text(text) = credential.proof() else { return Err(refused) };
        let (ends_at, now) = (principal.expires_at(), Utc::now());
        if let Some((subject, hash)) = self.keyring.subject(text) {
            return Session::begin(key, subject, hash.as_bytes(), ends_at, now);
        }
        let subject = self.jwt.as_ref().and_then(|jwt| jwt.subject(text)).ok_or(refused)?;
        Session::begin(key, SessionSubject::Token(subject), &[], ends_at, now)
    }

    /// What somebody shows who logged in; nothing where it is none of ours. Whether it is in force is asked
    /// with each request, as for every credential.
    pub fn session(&self, text: &str) -> Option<Credential> {
        self.session_key.as_ref()?;
        Session::parse(text).map(Credential::of_session)
    }

    fn find_session(&self, session: &Session, now: DateTime<Utc>) -> Option<Arc<Principal>> {
        let key = self.session_key.as_ref().filter(|_| !session.is_over(now))?;
        match &session.subject {
            SessionSubject::Token(token) => {
                let jwt = self.jwt.as_ref().filter(|_| session.is_signed(key, &[]))?;
                jwt.find_session(token, now)
            }
            subject => {
                let is_bound_to = |hash: &KeyHash| session.is_signed(key, hash.as_bytes());
                self.keyring.find_session(subject, is_bound_to, now)
            }
        }
    }

    /// What the keys of the configuration are called and may do, and when they end.
    pub fn configured_keys(&self) -> Vec<(String, Vec<String>, Option<DateTime<Utc>>)> {
        self.keyring.configured()
    }

    /// What signatures with this access key are checked with, if it is in force.
    pub fn signing_key(&self, access_key_id: &str) -> Option<SigningKey> {
        let (master, id) = (self.master_key.as_ref()?, AccessKeyId::parse(access_key_id)?);
        let key = master.api_key(&id);
        self.keyring.find(&key, Utc::now())?;
        Some(SigningKey { secret: master.secret(&id), credential: Credential::of_key(key) })
    }

    /// Takes over the keys of the database; `any` says whether there is a key at all, of use or not.
    pub fn replace_keys(&self, keys: Vec<StoredKey>, any: bool) {
        self.keyring.replace(keys);
        if any && self.mode == AuthMode::Auto {
            self.need();
        }
    }

    /// From now on a credential is needed, also by those who wait.
    fn need(&self) {
        self.needed.store(true, Relaxed);
        self.anyone.end();
    }

    /// Which keys of the database were used since this was last asked, and when.
    pub fn take_used(&self) -> Vec<(String, DateTime<Utc>)> {
        self.keyring.take_used()
    }

    /// Loads the keys of whoever signs tokens again.
    pub async fn reload_signer(&self) {
        if let Some(jwt) = &self.jwt {
            jwt.reload().await;
        }
    }

    /// Whether clients need a credential.
    pub fn is_required(&self) -> bool {
        self.needed.load(Relaxed)
    }

    /// Refuses to serve at an address that others reach where no credential is needed, and nobody
    /// said that this is meant; `None` is a socket in the file system, which has an owner.
    pub fn check(&self, address: Option<SocketAddr>) -> Result<(), AccessError> {
        if self.mode == AuthMode::Required && !self.keyring.has_keys() && self.jwt.is_none() {
            return Err(AccessError::NoKeys);
        }
        match address.filter(|address| !address.ip().to_canonical().is_loopback()) {
            Some(exposed) if self.mode == AuthMode::Auto && !self.is_required() => {
                Err(AccessError::Exposed(exposed))
            }
            _ => Ok(()),
        }
    }

    /// As [`Access::check`], before the keys of the database are loaded: `any` says whether there are some.
    pub fn check_beforehand(
        &self,
        address: Option<SocketAddr>,
        any: bool,
    ) -> Result<(), AccessError> {
        if any { Ok(()) } else { self.check(address) }
    }

    /// Whose credential this is.
    #[expect(
        clippy::unused_async,
        reason = "whoever keeps credentials elsewhere is waited for here"
    )]
    pub async fn authenticate(
        &self,
        credential: Option<&Credential>,
    ) -> Result<Arc<Principal>, Unauthenticated> {
        self.identify(credential)
    }

    /// As [`Access::authenticate`], by what is known here.
    pub fn identify(
        &self,
        credential: Option<&Credential>,
    ) -> Result<Arc<Principal>, Unauthenticated> {
        let principal = self.find(credential)?;
        if self.is_required() {
            principal.used();
        }
        Ok(principal)
    }

    /// Whose credential this is, where it was named and not shown: it does not count as used before
    /// [`Principal::used`].
    pub fn find(&self, credential: Option<&Credential>) -> Result<Arc<Principal>, Unauthenticated> {
        if !self.is_required() {
            return Ok(Arc::clone(&self.anyone));
        }
        let now = Utc::now();
        let found = match credential.ok_or(Unauthenticated)?.proof() {
            Proof::Text(text) => {
                let found = self.keyring.find(text, now);
                found.or_else(|| self.jwt.as_ref().and_then(|jwt| jwt.find(text, now)))
            }
            Proof::Session(session) => self.find_session(session, now),
        };
        found.ok_or(Unauthenticated)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("mode", &self.mode).finish_non_exhaustive()
    }
}
