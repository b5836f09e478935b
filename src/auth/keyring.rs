//! Keys: those of the configuration, and those of the database.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, PoisonError, RwLock},
};

use chrono::{DateTime, Utc};

use crate::{
    config,
    domain::{ApiKey, Grant, Grants, KeyHash, KeyLimits, StoredKey},
};

use super::{AccessError, Principal};

/// Every key there is.
pub(super) struct Keyring {
    configured: Vec<(KeyHash, Arc<Principal>)>,
    stored: RwLock<HashMap<String, Stored>>,
    default_rate: Option<u32>,
}

struct Stored {
    key: StoredKey,
    principal: Arc<Principal>,
}

impl Keyring {
    /// The keys of the configuration; `default_rate` is for those without a limit of their own.
    pub(super) fn new(
        settings: &config::Auth,
        default_rate: Option<u32>,
    ) -> Result<Self, AccessError> {
        let mut configured = Vec::new();
        if let Some(key) = &settings.admin_key {
            let grants = Grants::new(vec![Grant::everything()]);
            let limits = limits(KeyLimits::default(), default_rate);
            let principal = Principal::new("admin_key", grants, None, limits);
            configured.push((KeyHash::of(key.expose()), principal));
        }
        for key in &settings.keys {
            let own = KeyLimits {
                requests_per_second: key.requests_per_second,
                max_waiters: key.max_waiters,
            };
            let grants = Grants::new(key.grants.clone());
            let limits = limits(own, default_rate);
            let principal = Principal::new(&key.name, grants, key.expires_at, limits);
            configured.push((hash(key)?, principal));
        }
        Ok(Self { configured, stored: RwLock::default(), default_rate })
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
            stored.takes(&hash, now).then(|| Arc::clone(&stored.principal))
        });
        found.filter(|principal| !principal.is_expired(now))
    }

    /// Takes over the keys of the database. One that is as before keeps its limits' state; whoever
    /// waits with one that has changed, or is gone, is told as it is dropped.
    pub(super) fn replace(&self, keys: Vec<StoredKey>) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *stored);
        for key in keys {
            let id = key.id.clone();
            let same = before.remove(&id).filter(|old| old.key == key);
            stored.insert(id, same.unwrap_or_else(|| Stored::new(key, self.default_rate)));
        }
    }

    /// Which keys of the database were used since this was last asked, and when.
    pub(super) fn take_used(&self) -> Vec<(String, DateTime<Utc>)> {
        let stored = self.read();
        let used = stored
            .iter()
            .filter_map(|(id, stored)| Some((id.clone(), stored.principal.take_last_used()?)));
        used.collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Stored>> {
        self.stored.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stored {
    fn new(key: StoredKey, default_rate: Option<u32>) -> Self {
        let name = format!("{} ({})", key.name, key.id);
        let limits = limits(key.limits, default_rate);
        let principal = Principal::new(&name, key.grants.clone(), key.expires_at, limits);
        Self { key, principal }
    }

    fn takes(&self, hash: &KeyHash, now: DateTime<Utc>) -> bool {
        let previous = self.key.previous.as_ref().filter(|(_, until)| *until > now);
        let matches = self.key.hash == *hash || previous.is_some_and(|(old, _)| old == hash);
        matches && !self.key.revoked
    }
}

impl Drop for Stored {
    /// Whoever waits with it has to show their credential again.
    fn drop(&mut self) {
        self.principal.end();
    }
}

fn limits(own: KeyLimits, default_rate: Option<u32>) -> KeyLimits {
    KeyLimits { requests_per_second: own.requests_per_second.or(default_rate), ..own }
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
    if read.chars().count() < config::Auth::MIN_KEY_CHARS {
        return Err(AccessError::ShortKey { name, least: config::Auth::MIN_KEY_CHARS });
    }
    Ok(KeyHash::of(read))
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
        let ring = Keyring::new(&config::Auth::default(), None).expect("no keys");
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
        ring.find("pgk_a_s", Utc::now()).expect("a key").used(Utc::now());
        let used = ring.take_used();
        assert_eq!(used.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(ring.take_used().is_empty());
    }
}
