//! Tokens that somebody else signs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tracing::{info, warn};

use crate::{
    config,
    domain::{Grant, Grants, KeyHash, KeyLimits},
};

use super::{
    Fingerprint, Identity, Principal,
    jwks::{JwksError, KeySet, Source},
    principal::Shares,
    session::TokenSubject,
};

/// Tokens whose signature was checked are remembered, so many of them beside those that are in use.
const REMEMBERED: usize = 10_000;
/// Time within which an unknown key has the signer's set loaded at most once.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);

/// Checks tokens. Nobody waits for the signer: its keys are loaded beside.
pub(super) struct Verifier {
    source: Source,
    settings: config::Jwt,
    limits: KeyLimits,
    state: Mutex<State>,
    /// Held by whoever loads the set.
    loading: AsyncMutex<()>,
}

struct State {
    keys: Arc<KeySet>,
    /// When they were asked for.
    as_of: Instant,
    /// When the signer was last asked, by an unknown key.
    asked: Instant,
    /// Whether it was said that they cannot be loaded again.
    failing: bool,
    remembered: Remembered,
    /// Those who logged in with a token, by its hash. Apart from the above: that a log-in is good says nothing
    /// of the signature of a token that is shown.
    sessions: Remembered,
    /// What is bounded for a subject, however many tokens they have, or for a token without one.
    subjects: HashMap<Fingerprint, Arc<Shares>>,
}

/// Whose tokens they are, by their hashes.
struct Remembered {
    known: HashMap<[u8; 32], Arc<Principal>>,
    /// With how many it is looked which of them are needed.
    most: usize,
}

/// A token that is signed as it should be.
struct Checked {
    claims: Map<String, Value>,
    /// The hash of the key that it is signed with.
    signer_key: [u8; 32],
    /// The keys with which it was checked.
    keys: Arc<KeySet>,
}

impl Verifier {
    /// A verifier with the signer's keys, if tokens are to be taken.
    pub(super) async fn new(
        settings: &config::Jwt,
        limits: KeyLimits,
    ) -> Result<Option<Arc<Self>>, JwksError> {
        let source = match (settings.published_at(), &settings.jwks) {
            (Some(url), _) => Source::Url(url.to_owned()),
            (None, Some(path)) => Source::File(path.into()),
            (None, None) => return Ok(None),
        };
        let as_of = Instant::now();
        let keys = Arc::new(source.load().await?);
        if keys.is_empty() {
            return Err(JwksError::NoKey);
        }
        let state = State {
            keys,
            as_of,
            asked: as_of,
            failing: false,
            remembered: Remembered::default(),
            sessions: Remembered::default(),
            subjects: HashMap::new(),
        };
        let (state, loading) = (Mutex::new(state), AsyncMutex::default());
        Ok(Some(Arc::new(Self { source, settings: settings.clone(), limits, state, loading })))
    }

    /// Whose token this is. One that is signed with an unknown key is refused, and the signer is asked.
    pub(super) fn find(
        self: &Arc<Self>,
        token: &str,
        now: DateTime<Utc>,
    ) -> Option<Arc<Principal>> {
        self.give_up_old_keys();
        let fingerprint = *KeyHash::of(token).as_bytes();
        if let Some(known) = self.lock().remembered.known.get(&fingerprint) {
            return Some(Arc::clone(known)).filter(|principal| !principal.is_expired(now));
        }
        let Checked { claims, keys, .. } = self.check(token)?;
        let principal = self.principal(&claims, &fingerprint);
        self.remember(&keys, |state| &mut state.remembered, fingerprint, &principal, now);
        Some(principal)
    }

    /// What a token says, if it is signed as it should be.
    fn check(self: &Arc<Self>, token: &str) -> Option<Checked> {
        // What a signer marks as critical would have to be understood.
        let header = decode_header(token).ok().filter(|header| header.crit.is_none())?;
        if !is_access_token(header.typ.as_deref()) {
            return None;
        }
        let keys = self.keys();
        if header.kid.as_deref().is_some_and(|id| !keys.knows(id)) {
            // The signer may have a new one.
            self.reload_beside();
            return None;
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.settings.leeway_seconds;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(self.settings.issuer.as_slice());
        validation.set_audience(self.settings.audience.as_slice());
        let candidates = keys.candidates(header.kid.as_deref(), header.alg);
        let (claims, signer_key) = candidates
            .filter_map(|signer| Some((decode(token, &signer.key, &validation).ok()?, signer.hash)))
            .map(|(token, hash)| (token.claims, hash))
            .next()?;
        Some(Checked { claims, signer_key, keys })
    }

    /// What a log-in with this token says of it.
    pub(super) fn subject(self: &Arc<Self>, token: &str) -> Option<TokenSubject> {
        self.give_up_old_keys();
        let Checked { mut claims, signer_key, .. } = self.check(token)?;
        let kept = ["sub", "exp", "role", &self.settings.grants_claim];
        claims.retain(|name, _| kept.contains(&&**name));
        let hash = *KeyHash::of(token).as_bytes();
        Some(TokenSubject { claims, checked_as: self.checked_as(), signer_key, hash })
    }

    /// Whose log-in this is, as long as the key that the token was signed with is the signer's.
    pub(super) fn find_session(
        &self,
        subject: &TokenSubject,
        now: DateTime<Utc>,
    ) -> Option<Arc<Principal>> {
        self.give_up_old_keys();
        let keys = self.keys();
        if !keys.has(&subject.signer_key) || subject.checked_as != self.checked_as() {
            return None;
        }
        let known = self.lock().sessions.known.get(&subject.hash).map(Arc::clone);
        let principal = known.unwrap_or_else(|| {
            let principal = self.principal(&subject.claims, &subject.hash);
            self.remember(&keys, |state| &mut state.sessions, subject.hash, &principal, now);
            principal
        });
        Some(principal).filter(|principal| !principal.is_expired(now))
    }

    /// For whom tokens are checked, and which claim grants: what a log-in keeps of a token was chosen by it.
    fn checked_as(&self) -> Value {
        let config::Jwt { issuer, audience, grants_claim, .. } = &self.settings;
        serde_json::json!([issuer, audience, grants_claim])
    }

    /// Loads the signer's keys again, unless somebody is at it. Whoever waits with a token has to show it
    /// again where they have changed.
    pub(super) async fn reload(&self) {
        let Ok(_turn) = self.loading.try_lock() else { return };
        let began = Instant::now();
        match self.source.load().await {
            Ok(keys) => self.replace(keys, began),
            Err(error) => {
                if !std::mem::replace(&mut self.lock().failing, true) {
                    let seconds = self.settings.max_age().as_secs();
                    warn!(%error, "the signer's keys stay as they were, for {seconds} s at most");
                }
                self.give_up_old_keys();
            }
        }
    }

    /// Loads the signer's keys while nobody waits for it, unless that was done a moment ago: strangers
    /// can have it done by what they write into a token.
    fn reload_beside(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.asked.elapsed() < RELOAD_PAUSE {
                return;
            }
            state.asked = Instant::now();
        }
        let verifier = Arc::clone(self);
        tokio::spawn(async move { verifier.reload().await });
    }

    /// Takes over keys that were asked for at a moment. A set without any withdraws all that there were.
    fn replace(&self, keys: KeySet, began: Instant) {
        let mut state = self.lock();
        state.as_of = began;
        if std::mem::take(&mut state.failing) {
            info!("the signer's keys are loaded again");
        }
        if state.keys.is_like(&keys) {
            return;
        }
        if keys.is_empty() {
            warn!("the signer shows no key of use: no token is taken");
        }
        state.set_keys(keys);
    }

    /// What could not be loaded again for too long may be withdrawn by now.
    fn give_up_old_keys(&self) {
        let mut state = self.lock();
        if state.as_of.elapsed() >= self.settings.max_age() && !state.keys.is_empty() {
            warn!("the signer's keys could not be loaded again for too long: no token is taken");
            state.set_keys(KeySet::default());
        }
    }

    fn principal(&self, claims: &Map<String, Value>, token: &[u8; 32]) -> Arc<Principal> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        // The only one whose tokens are taken.
        let issuer = self.settings.issuer.as_deref().unwrap_or_default();
        let identity = Identity::of_token(issuer, text("sub"), token);
        // A signer may write seconds with a fraction.
        let seconds = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "a number too large is no date")]
        let expires_at = DateTime::from_timestamp(seconds as i64, 0).and_then(|at| {
            let leeway = i64::try_from(self.settings.leeway_seconds).ok()?;
            at.checked_add_signed(TimeDelta::seconds(leeway))
        });
        let mut granted = grants(claims.get(&self.settings.grants_claim));
        granted.extend(self.grants_of_role(text("role")));
        let grants = Grants::new(granted);
        let shares = self.shares(identity.fingerprint());
        Principal::sharing(identity, grants, expires_at, shares)
    }

    /// What the bearers of a role may do by the configuration.
    fn grants_of_role(&self, role: Option<&str>) -> Vec<Grant> {
        let known = self.settings.roles.iter().find(|known| Some(&*known.role) == role);
        known.map(|known| known.grants.clone()).unwrap_or_default()
    }

    fn shares(&self, owner: Fingerprint) -> Arc<Shares> {
        let mut state = self.lock();
        if state.subjects.len() >= REMEMBERED {
            state.subjects.retain(|_, shares| Arc::strong_count(shares) > 1);
        }
        let new = || Shares::new(self.limits);
        Arc::clone(state.subjects.entry(owner).or_insert_with(new))
    }

    fn remember(
        &self,
        keys: &Arc<KeySet>,
        among: fn(&mut State) -> &mut Remembered,
        hash: [u8; 32],
        principal: &Arc<Principal>,
        now: DateTime<Utc>,
    ) {
        let mut state = self.lock();
        // Checked with keys that are not the signer's any more.
        if !Arc::ptr_eq(&state.keys, keys) {
            return principal.end();
        }
        among(&mut state).add(hash, Arc::clone(principal), now);
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.lock().keys)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set_keys(&mut self, keys: KeySet) {
        self.keys = Arc::new(keys);
        let known = self.remembered.known.drain().chain(self.sessions.known.drain());
        known.for_each(|(_, principal)| principal.end());
    }
}

impl Default for Remembered {
    fn default() -> Self {
        Self { known: HashMap::new(), most: REMEMBERED }
    }
}

impl Remembered {
    /// Where there are many, those go that nobody uses. Whoever waits with one has to be told when the signer's keys
    /// change.
    fn add(&mut self, hash: [u8; 32], principal: Arc<Principal>, now: DateTime<Utc>) {
        if self.known.len() >= self.most {
            self.known.retain(|_, principal| !principal.is_expired(now));
            if self.known.len() >= REMEMBERED {
                self.known.retain(|_, principal| Arc::strong_count(principal) > 1);
            }
            self.most = REMEMBERED.max(2 * self.known.len());
        }
        self.known.insert(hash, principal);
    }
}

/// Whether a token is of a type that lets somebody in: one without a type, any JWT, or one for access by
/// RFC 9068. Tokens for other ends (a logout, an event, a proof) have types of their own.
fn is_access_token(typ: Option<&str>) -> bool {
    let Some(typ) = typ.map(str::to_ascii_lowercase) else { return true };
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

/// What a claim grants: `right:queues`, between spaces or in a list. A scope has other words in it
/// too, which are no grants; here a grant always names its queues.
fn grants(claim: Option<&Value>) -> Vec<Grant> {
    let words: Vec<&str> = match claim {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    words.into_iter().filter(|word| word.contains(':')).filter_map(|w| w.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_for_access() {
        for typ in [None, Some("JWT"), Some("jwt"), Some("at+jwt"), Some("application/AT+JWT")] {
            assert!(is_access_token(typ), "{typ:?}");
        }
        for typ in ["", "JOSE", "logout+jwt", "secevent+jwt", "dpop+jwt", "application/", "JWT "] {
            assert!(!is_access_token(Some(typ)), "{typ:?}");
        }
    }

    #[test]
    fn a_token_that_is_in_use_is_not_forgotten_among_many() {
        let mut remembered = Remembered::default();
        let principal = |_| {
            let limits = KeyLimits::default();
            Principal::new(Identity::anonymous(), Grants::default(), None, limits)
        };
        let hash = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            hash
        };
        let in_use: Vec<_> = (0..3).map(principal).collect();
        for (n, used) in in_use.iter().enumerate() {
            remembered.add(hash(n), Arc::clone(used), Utc::now());
        }
        for n in 3..3 * REMEMBERED {
            remembered.add(hash(n), principal(n), Utc::now());
        }
        assert!(remembered.known.len() <= REMEMBERED);
        assert!((0..3).all(|n| remembered.known.contains_key(&hash(n))));
        // Where all are in use, all stay, and it is not looked each time.
        let all: Vec<_> = (0..2 * REMEMBERED).map(principal).collect();
        for (n, used) in all.iter().enumerate() {
            remembered.add(hash(n), Arc::clone(used), Utc::now());
        }
        assert!((0..all.len()).all(|n| remembered.known.contains_key(&hash(n))));
        assert!(remembered.most > REMEMBERED);
    }

    #[test]
    fn a_claim_grants_what_is_written_in_it() {
        let written = |claim: Value| -> Vec<String> {
            grants(Some(&claim)).iter().map(ToString::to_string).collect()
        };
        assert_eq!(written(json!("openid send:a* admin receive:b")), ["send:a*", "receive:b"]);
        assert_eq!(written(json!(["send,receive:a", 7, "email"])), ["send,receive:a"]);
        assert!(written(json!({"send": "a"})).is_empty());
        assert!(grants(None).is_empty());
    }
}
