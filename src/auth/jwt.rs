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
use tracing::warn;

use crate::{
    config,
    domain::{Grant, Grants, KeyHash, KeyLimits},
};

use super::{
    Fingerprint, Identity, Principal,
    jwks::{JwksError, KeySet, Source},
    principal::Shares,
};

/// Tokens whose signature was checked are remembered, so many of them.
const REMEMBERED: usize = 10_000;
/// Time within which an unknown key has the signer's set loaded at most once.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);

/// Checks tokens.
pub(super) struct Verifier {
    source: Source,
    settings: config::Jwt,
    limits: KeyLimits,
    state: Mutex<State>,
    /// When the set was last loaded; held by whoever loads it.
    loaded: AsyncMutex<Instant>,
}

struct State {
    keys: Arc<KeySet>,
    remembered: HashMap<[u8; 32], Arc<Principal>>,
    /// What is bounded for a subject, however many tokens they have, or for a token without one.
    subjects: HashMap<Fingerprint, Arc<Shares>>,
}

impl Verifier {
    /// A verifier with the signer's keys, if tokens are to be taken.
    pub(super) async fn new(
        settings: &config::Jwt,
        limits: KeyLimits,
    ) -> Result<Option<Self>, JwksError> {
        let source = match (settings.published_at(), &settings.jwks) {
            (Some(url), _) => Source::Url(url.to_owned()),
            (None, Some(path)) => Source::File(path.into()),
            (None, None) => return Ok(None),
        };
        let keys = Arc::new(source.load().await?);
        let state = State { keys, remembered: HashMap::new(), subjects: HashMap::new() };
        let state = Mutex::new(state);
        let loaded = AsyncMutex::new(Instant::now());
        Ok(Some(Self { source, settings: settings.clone(), limits, state, loaded }))
    }

    /// Whose token this is.
    pub(super) async fn find(&self, token: &str, now: DateTime<Utc>) -> Option<Arc<Principal>> {
        let fingerprint = *KeyHash::of(token).as_bytes();
        if let Some(known) = self.lock().remembered.get(&fingerprint) {
            return Some(Arc::clone(known)).filter(|principal| !principal.is_expired(now));
        }
        // What a signer marks as critical would have to be understood.
        let header = decode_header(token).ok().filter(|header| header.crit.is_none())?;
        let mut keys = self.keys();
        if header.kid.as_deref().is_some_and(|id| !keys.knows(id)) {
            // The signer may have a new one.
            self.reload(RELOAD_PAUSE).await;
            keys = self.keys();
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.settings.leeway_seconds;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(self.settings.issuer.as_slice());
        validation.set_audience(self.settings.audience.as_slice());
        let candidates = keys.candidates(header.kid.as_deref(), header.alg);
        let claims = candidates
            .filter_map(|signer| decode::<Map<String, Value>>(token, &signer.key, &validation).ok())
            .map(|token| token.claims)
            .next()?;
        let principal = self.principal(&claims, &fingerprint);
        self.remember(&keys, fingerprint, &principal, now);
        Some(principal)
    }

    /// Loads the signer's keys again, unless that was done less than `pause` ago. Whoever waits with
    /// a token has to show it again where they have changed.
    pub(super) async fn reload(&self, pause: Duration) {
        let mut loaded = self.loaded.lock().await;
        if loaded.elapsed() < pause {
            return;
        }
        match self.source.load().await {
            Ok(keys) => self.replace(keys),
            // What was known is still true.
            Err(error) => warn!(%error, "the signer's keys stay as they were"),
        }
        *loaded = Instant::now();
    }

    fn replace(&self, keys: KeySet) {
        let mut state = self.lock();
        if state.keys.is_like(&keys) {
            return;
        }
        state.keys = Arc::new(keys);
        state.remembered.drain().for_each(|(_, principal)| principal.end());
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
        let grants = Grants::new(grants(claims.get(&self.settings.grants_claim)));
        let shares = self.shares(identity.fingerprint());
        Principal::sharing(identity, grants, expires_at, shares)
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
        fingerprint: [u8; 32],
        principal: &Arc<Principal>,
        now: DateTime<Utc>,
    ) {
        let mut state = self.lock();
        // Checked with keys that are not the signer's any more.
        if !Arc::ptr_eq(&state.keys, keys) {
            return;
        }
        if state.remembered.len() >= REMEMBERED {
            state.remembered.retain(|_, principal| !principal.is_expired(now));
        }
        if state.remembered.len() >= REMEMBERED {
            state.remembered.clear();
        }
        state.remembered.insert(fingerprint, Arc::clone(principal));
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.lock().keys)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
