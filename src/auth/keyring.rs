//! Keys: those of the configuration, and those of the database.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use chrono::{DateTime, Utc};

use crate::{
    config,
    domain::{ApiKey, Grant, Grants, KeyHash, KeyLimits, StoredKey},
};

use super::{AccessError, Identity, Principal, principal::Shares, session::SessionSubject};

/// Every key there is.
pub(super) struct Keyring {
    configured: Vec<(KeyHash, Arc<Principal>)>,
    stored: RwLock<HashMap<String, Stored>>,
    defaults: KeyLimits,
    /// Uses of keys that have changed since, and are not noted yet.
    unnoted: Mutex<Vec<(String, DateTime<Utc>)>>,
}

struct Stored {
    key: StoredKey,
    principal: Arc<Principal>,
    /// Whoever still shows the secret before the last rotation.
    previous: Option<Arc<Principal>>,
}

impl Keyring {
    /// The keys of the configuration; `defaults` are for those without limits of their own.
    pub(super) fn new(settings: &config::Auth, defaults: KeyLimits) -> Result<Self, AccessError> {
        let mut configured: Vec<(KeyHash, Arc<Principal>)> = Vec::new();
        if let Some(key) = &settings.admin_key {
            let grants = Grants::new(vec![Grant::everything()]);
            let limits = limits(KeyLimits::default(), defaults);
            let hash = KeyHash::of(key.expose());
            let identity = Identity::of_configured_key(config::Auth::ADMIN_KEY, &hash);
            configured.push((hash, Principal::new(identity, grants, None, limits)));
        }
        for key in &settings.keys {
            let own = KeyLimits {
                requests_per_second: key.requests_per_second,
                max_waiters: key.max_waiters,
            };
            let grants = Grants::new(key.grants.clone());
            let (hash, limits) = (hash(key)?, limits(own, defaults));
            if let Some((_, same)) = configured.iter().find(|(other, _)| *other == hash) {
                let same = same.identity().name().to_owned();
                return Err(AccessError::SameKey(same, key.name.clone()));
            }
            let identity = Identity::of_configured_key(&key.name, &hash);
            configured.push((hash, Principal::new(identity, grants, key.expires_at, limits)));
        }
        Ok(Self { configured, stored: RwLock::default(), defaults, unnoted: Mutex::default() })
    }

    /// Whether there is a key, in force or not: then nobody gets in without.
    pub(super) fn has_keys(&self) -> bool {
        !self.configured.is_empty() || !self.read().is_empty()
    }

    /// Whose key this is. Takes the same time wherever a wrong one differs from a right one.
    pub(super) fn find(&self, key: &str, now: DateTime<Utc>) -> Option<Arc<Principal>> {
        let hash = KeyHash::of(key);
        let mut found = None;
        for (configured, principal) in &self.configured {
            if *configured == hash {
                found = Some(Arc::clone(principal));
            }
        }
        let found = found.or_else(|| {
            let stored = self.read();
            let stored = stored.get(ApiKey::parse(key)?.id)?;
            stored.takes(&hash)
        });
        found.filter(|principal| !principal.is_expired(now))
    }

    /// What a log-in with this key says of it, and what it is bound to.
    pub(super) fn subject(&self, key: &str) -> Option<(SessionSubject, KeyHash)> {
        let hash = KeyHash::of(key);
        let configured = self.configured.iter().find(|(known, _)| *known == hash);
        if let Some((_, principal)) = configured {
            let name = principal.identity().name().to_owned();
            return Some((SessionSubject::Configured { name }, hash));
        }
        let id = ApiKey::parse(key)?.id;
        self.read().get(id)?.takes(&hash)?;
        Some((SessionSubject::Stored { id: id.to_owned() }, hash))
    }

    /// Whose log-in this is: the key's that is called so now, and that it is bound to.
    pub(super) fn find_session(
        &self,
        subject: &SessionSubject,
        is_bound_to: impl Fn(&KeyHash) -> bool,
        now: DateTime<Utc>,
    ) -> Option<Arc<Principal>> {
        let found = match subject {
            SessionSubject::Configured { name } => self
                .configured
                .iter()
                .find(|(hash, principal)| principal.identity().name() == name && is_bound_to(hash))
                .map(|(_, principal)| Arc::clone(principal)),
            SessionSubject::Stored { id } => self.read().get(id)?.takes_session(is_bound_to),
            SessionSubject::Token(_) => None,
        };
        found.filter(|principal| !principal.is_expired(now))
    }

    /// What the keys of the configuration are called and may do.
    pub(super) fn configured(&self) -> Vec<(String, Vec<String>, Option<DateTime<Utc>>)> {
        let keys = self.configured.iter().map(|(_, principal)| {
            let name = principal.identity().name().to_owned();
            (name, principal.grants(), principal.expires_at())
        });
        keys.collect()
    }

    /// Takes over the keys of the database. One that is as before keeps its limits' state; whoever
    /// waits with one that has changed, or is gone, is told as it is dropped.
    pub(super) fn replace(&self, keys: Vec<StoredKey>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *stored);
        for key in keys {
            let id = key.id.clone();
            let same = match before.remove(&id) {
                Some(old) if old.key == key => Some(old),
                Some(old) => {
                    let used = old.take_last_used().map(|at| (id.clone(), at));
                    self.unnoted.lock().unwrap_or_else(PoisonError::into_inner).extend(used);
                    None
                }
                None => None,
            };
            stored.insert(id, same.unwrap_or_else(|| Stored::new(key, self.defaults)));
        }
    }

    /// Which keys of the database were used since this was last asked, and when.
    pub(super) fn take_used(&self) -> Vec<(String, DateTime<Utc>)> {
        let mut unnoted = self.unnoted.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.read();
        let used =
            stored.iter().filter_map(|(id, stored)| Some((id.clone(), stored.take_last_used()?)));
        // One that was used before and after its change counts from then on.
        let mut all: HashMap<String, DateTime<Utc>> = unnoted.drain(..).collect();
        all.extend(used);
        all.into_iter().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Stored>> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn new(key: StoredKey, defaults: KeyLimits) -> Self {
        let identity = Identity::of_stored_key(&key.id, &key.name);
        let shares = Shares::new(limits(key.limits, defaults));
        let until = |end: Option<DateTime<Utc>>| {
            Principal::sharing(identity.clone(), key.grants.clone(), end, Arc::clone(&shares))
        };
        let ends = |at: DateTime<Utc>| key.expires_at.map_or(at, |end| end.min(at));
        let previous = key.previous.as_ref().map(|(_, at)| until(Some(ends(*at))));
        Self { principal: until(key.expires_at), previous, key }
    }

    fn takes(&self, hash: &KeyHash) -> Option<Arc<Principal>> {
        let previous = self.key.previous.as_ref().is_some_and(|(old, _)| old == hash);
        let found = if self.key.hash == *hash {
            Some(&self.principal)
        } else {
            self.previous.as_ref().filter(|_| previous)
        };
        found.filter(|_| !self.key.revoked).cloned()
    }

    /// As [`Self::takes`], for a log-in, which is bound to a key's hash.
    fn takes_session(&self, is_bound_to: impl Fn(&KeyHash) -> bool) -> Option<Arc<Principal>> {
        let previous = self.key.previous.as_ref().filter(|(old, _)| is_bound_to(old));
        let found = if is_bound_to(&self.key.hash) {
            Some(&self.principal)
        } else {
            previous.and(self.previous.as_ref())
        };
        found.filter(|_| !self.key.revoked).cloned()
    }

    fn take_last_used(&self) -> Option<DateTime<Utc>> {
        let previous = self.previous.as_ref().and_then(|previous| previous.take_last_used());
        self.principal.take_last_used().max(previous)
    }
}

impl Drop for Stored {
    /// Whoever waits with it has to show their credential again.
    fn drop(&mut self) {
        self.principal.end();
        self.previous.iter().for_each(|previous| previous.end());
    }
}

fn limits(own: KeyLimits, defaults: KeyLimits) -> KeyLimits {
    KeyLimits {
        requests_per_second: own.requests_per_second.or(defaults.requests_per_second),
        max_waiters: own.max_waiters.or(defaults.max_waiters),
    }
}

/// The hash of a configured key, of which one of three forms is given.
fn hash(key: &config::KeySettings) -> Result<KeyHash, AccessError> {
    if let Some(hash) = key.sha256.as_deref().and_then(KeyHash::from_hex) {
        return Ok(hash);
    }
    if let Some(key) = &key.key {
        return Ok(KeyHash::of(key.expose()));
    }
    let path = key.key_file.clone().unwrap_or_default();
    let name = key.name.clone();
    let read = fs::read_to_string(&path);
    let read = read.map_err(|source| AccessError::KeyFile { name: name.clone(), path, source })?;
    let read = read.trim_end_matches(['\r', '\n']);
    match config::Auth::fault_of_key(read) {
        Some(fault) => Err(AccessError::UnusableKey { name, fault }),
        None => Ok(KeyHash::of(read)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn stored(id: &str, secret: &str) -> StoredKey {
        StoredKey {
            id: id.to_owned(),
            name: "test".to_owned(),
            hash: KeyHash::of(&ApiKey::write(id, secret)),
            previous: None,
            grants: Grants::default(),
            expires_at: None,
            limits: KeyLimits::default(),
            revoked: false,
        }
    }

    fn ring(keys: Vec<StoredKey>) -> Keyring {
        let ring = Keyring::new(&config::Auth::default(), KeyLimits::default()).expect("no keys");
        ring.replace(keys);
        ring
    }

    #[test]
    fn a_key_is_found_while_it_is_in_force() {
        let now = Utc::now();
        let key = stored("a", "secret");
        let in_past = Some(now - TimeDelta::seconds(1));
        for (key, finds) in [
            (key.clone(), true),
            (StoredKey { revoked: true, ..key.clone() }, false),
            (StoredKey { expires_at: in_past, ..key.clone() }, false),
            (StoredKey { id: "b".to_owned(), ..key.clone() }, false),
            (StoredKey { hash: KeyHash::of("pgk_a_other"), ..key }, false),
        ] {
            assert_eq!(
                ring(vec![key.clone()]).find("pgk_a_secret", now).is_some(),
                finds,
                "{key:?}"
            );
        }
        assert!(ring(vec![]).find("pgk_a_secret", now).is_none());
    }

    #[test]
    fn the_secret_before_the_last_rotation_is_taken_for_a_while() {
        let now = Utc::now();
        let until = now + TimeDelta::seconds(5);
        let old = KeyHash::of("pgk_a_old");
        let ring = ring(vec![StoredKey { previous: Some((old, until)), ..stored("a", "new") }]);
        assert!(ring.find("pgk_a_new", now).is_some() && ring.find("pgk_a_old", now).is_some());
        assert!(ring.find("pgk_a_old", until).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_with_the_secret_before_is_told_when_that_is_over() {
        let now = Utc::now();
        let until = now + TimeDelta::seconds(5);
        let old = KeyHash::of("pgk_a_old");
        let ring = ring(vec![StoredKey { previous: Some((old, until)), ..stored("a", "new") }]);
        let previous = ring.find("pgk_a_old", now).expect("still taken");
        previous.ended().await;
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_key_changes_and_only_then() {
        let now = Utc::now();
        let ring = ring(vec![stored("a", "s"), stored("b", "s")]);
        let a = ring.find("pgk_a_s", now).expect("a key");
        let b = ring.find("pgk_b_s", now).expect("a key");
        ring.replace(vec![StoredKey { revoked: true, ..stored("a", "s") }, stored("b", "s")]);
        a.ended().await;
        assert!(Arc::ptr_eq(&b, &ring.find("pgk_b_s", now).expect("as before")));
        ring.replace(vec![]);
        b.ended().await;
    }

    #[test]
    fn only_keys_that_were_used_are_noted_and_once() {
        let ring = ring(vec![stored("a", "s"), stored("b", "s")]);
        ring.find("pgk_a_s", Utc::now()).expect("a key").used();
        let used = ring.take_used();
        assert_eq!(used.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(ring.take_used().is_empty());
        // A change does not lose it.
        ring.find("pgk_b_s", Utc::now()).expect("a key").used();
        ring.replace(vec![StoredKey { revoked: true, ..stored("b", "s") }]);
        assert_eq!(ring.take_used().len(), 1);
    }
}
