//! Whoever was let in, with what they may do.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio_util::sync::CancellationToken;

use crate::domain::{Grants, KeyLimits, Right, Scope};

use super::Identity;

/// Whoever was let in. Lives for as long as the credential is in force.
pub struct Principal {
    identity: Identity,
    grants: Grants,
    expires_at: Option<DateTime<Utc>>,
    shares: Arc<Shares>,
    /// Seconds since 1970; 0 for never.
    last_used: AtomicI64,
    /// Cancelled when the credential is not in force any more.
    ended: CancellationToken,
}

/// What is bounded for an owner, however many credentials they have.
#[derive(Debug)]
pub(super) struct Shares {
    limiter: Option<DefaultDirectRateLimiter>,
    max_waiters: usize,
    waiters: AtomicUsize,
}

/// Why a request is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More requests than allowed; the next is allowed after this time.
    Rate(Duration),
    /// More clients that wait than allowed.
    Waiters(usize),
}

/// A client that waits, for as long as this is kept.
#[derive(Debug)]
pub struct WaitingPlace(Arc<Shares>);

impl Principal {
    /// A principal with limits of its own.
    pub(super) fn new(
        identity: Identity,
        grants: Grants,
        expires_at: Option<DateTime<Utc>>,
        limits: KeyLimits,
    ) -> Arc<Self> {
        Self::sharing(identity, grants, expires_at, Shares::new(limits))
    }

    /// A principal that shares its limits with others of the same owner.
    pub(super) fn sharing(
        identity: Identity,
        grants: Grants,
        expires_at: Option<DateTime<Utc>>,
        shares: Arc<Shares>,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            grants,
            expires_at,
            shares,
            last_used: AtomicI64::new(0),
            ended: CancellationToken::new(),
        })
    }

    /// Whose credential it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether something may be done to a queue; with no right named, whether anything may.
    pub fn may(&self, right: Option<Right>, queue: &str) -> bool {
        self.grants.allow(right, queue)
    }

    /// Whether what concerns the gateway as a whole may be seen.
    pub fn may_see_operations(&self) -> bool {
        self.grants.allow_operations()
    }

    /// The queues to which something may be done.
    pub fn scope(&self, right: Option<Right>) -> Scope {
        self.grants.scope(right)
    }

    /// What it was given, in words.
    pub fn grants(&self) -> Vec<String> {
        self.grants.to_texts()
    }

    /// When the credential ends, if it does.
    pub fn expires_at(&self) -> Option<DateTime<Utc>> {
        self.expires_at
    }

    /// Takes note of a request, or refuses it.
    pub fn admit(&self) -> Result<(), Refusal> {
        let Some(limiter) = &self.shares.limiter else { return Ok(()) };
        limiter
            .check()
            .map_err(|until| Refusal::Rate(until.wait_time_from(DefaultClock::default().now())))
    }

    /// A place for a client that is going to wait.
    pub fn wait(&self) -> Result<WaitingPlace, Refusal> {
        let place = WaitingPlace(Arc::clone(&self.shares));
        if self.shares.waiters.fetch_add(1, Relaxed) >= self.shares.max_waiters {
            return Err(Refusal::Waiters(self.shares.max_waiters));
        }
        Ok(place)
    }

    /// Waits until the credential is not in force any more, or may not be.
    pub async fn ended(&self) {
        let left = self.expires_at.map(|at| (at - Utc::now()).to_std().unwrap_or_default());
        match left {
            None => self.ended.cancelled().await,
            Some(left) => tokio::select! {
                () = self.ended.cancelled() => {}
                () = tokio::time::sleep(left) => {}
            },
        }
    }

    /// Whether the credential is not in force any more, or may not be.
    pub fn is_over(&self) -> bool {
        self.ended.is_cancelled() || self.is_expired(Utc::now())
    }

    pub(super) fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Notes that it is used now.
    pub fn used(&self) {
        self.last_used.store(Utc::now().timestamp(), Relaxed);
    }

    /// When it was last used, if it was since this was last asked.
    pub(super) fn take_last_used(&self) -> Option<DateTime<Utc>> {
        let seconds = self.last_used.swap(0, Relaxed);
        DateTime::from_timestamp(seconds, 0).filter(|_| seconds > 0)
    }
}

impl Shares {
    pub(super) fn new(limits: KeyLimits) -> Arc<Self> {
        let rate = limits.requests_per_second.and_then(NonZeroU32::new);
        Arc::new(Self {
            limiter: rate.map(|rate| RateLimiter::direct(Quota::per_second(rate))),
            max_waiters: limits.max_waiters.map_or(usize::MAX, |most| most as usize),
            waiters: AtomicUsize::new(0),
        })
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Principal").field(&self.identity).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(limits: KeyLimits) -> Arc<Principal> {
        Principal::new(Identity::anonymous(), Grants::default(), None, limits)
    }

    #[test]
    fn more_than_its_rate_is_refused_and_told_for_how_long() {
        let limits = KeyLimits { requests_per_second: Some(2), ..KeyLimits::default() };
        let principal = limited(limits);
        assert_eq!(principal.admit(), Ok(()));
        assert_eq!(principal.admit(), Ok(()));
        let Err(Refusal::Rate(wait)) = principal.admit() else { panic!("must be refused") };
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
    }

    #[test]
    fn a_place_to_wait_is_free_again_once_it_is_given_up() {
        let principal = limited(KeyLimits { max_waiters: Some(1), ..KeyLimits::default() });
        let place = principal.wait().expect("a place");
        assert!(matches!(principal.wait(), Err(Refusal::Waiters(1))));
        drop(place);
        assert!(principal.wait().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_principal_ends_when_it_is_ended_or_expires() {
        let principal = limited(KeyLimits::default());
        let soon = Utc::now() + Duration::from_secs(5);
        let limits = KeyLimits::default();
        let expiring = Principal::new(Identity::anonymous(), Grants::default(), Some(soon), limits);
        expiring.ended().await;
        principal.end();
        principal.ended().await;
    }
}
