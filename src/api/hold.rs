//! What requests hold while they are served: bounded, so that memory is.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

/// Bytes of a body or an answer that are not counted: what is small is bounded by the number of
/// requests, and is served however much others hold.
const FREE: usize = 16 << 10;
/// Bytes that are taken from the budget at a time.
const STEP: usize = 64 << 10;

/// Bytes that all requests together may hold. A clone is the same budget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// Bytes that one request holds.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    bytes: usize,
}

/// There is no more.
#[derive(Debug)]
pub(super) struct Exhausted;

impl Budget {
    pub(super) fn new(most: u64) -> Self {
        Self { held: Arc::default(), most: usize::try_from(most).unwrap_or(usize::MAX) }
    }

    /// Nothing yet.
    pub(super) fn hold(&self) -> Held {
        Held { budget: self.clone(), bytes: 0 }
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        let held = self.held.fetch_add(bytes, Relaxed);
        if held.saturating_add(bytes) > self.most {
            self.held.fetch_sub(bytes, Relaxed);
            return Err(Exhausted);
        }
        Ok(())
    }
}

impl Held {
    /// Holds so many bytes, if there are any left.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let wanted = if bytes <= FREE { 0 } else { bytes.next_multiple_of(STEP) };
        if wanted > self.bytes {
            self.budget.take(wanted - self.bytes)?;
            self.bytes = wanted;
        }
        Ok(())
    }

    /// How many are held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that are on their way, and held for as long.
    pub(super) fn keep(self, bytes: Vec<u8>) -> Bytes {
        if self.bytes == 0 { bytes.into() } else { Bytes::from_owner(Kept { bytes, _held: self }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Relaxed);
    }
}

struct Kept {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Requests that are served at the same time, and how many come in a second.
#[derive(Debug)]
pub(super) struct InHand {
    count: Arc<AtomicUsize>,
    most: usize,
    rate: Option<DefaultDirectRateLimiter>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

/// There are as many as may be.
#[derive(Debug)]
pub(super) struct Full;

impl InHand {
    pub(super) fn new(most: usize, requests_per_second: Option<u32>) -> Self {
        let rate = requests_per_second.and_then(NonZeroU32::new);
        let rate = rate.map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        Self { count: Arc::default(), most, rate }
    }

    /// Counts a request in, or refuses it.
    pub(super) fn enter(&self) -> Result<Counted, Full> {
        let counted = Counted(Arc::clone(&self.count));
        if self.count.fetch_add(1, Relaxed) >= self.most {
            return Err(Full);
        }
        Ok(counted)
    }

    /// Takes note of a request of somebody who was let in, or says when there may be another.
    pub(super) fn pace(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_is_free_and_the_rest_is_bounded() {
        let budget = Budget::new(3 * STEP as u64);
        let mut small = budget.hold();
        small.grow_to(FREE).expect("free");
        assert_eq!(budget.held(), 0);
        let mut large = budget.hold();
        large.grow_to(FREE + 1).expect("room");
        large.grow_to(2 * STEP).expect("room");
        let mut other = budget.hold();
        other.grow_to(2 * STEP).expect_err("only one step is left");
        other.grow_to(STEP).expect("room");
        small.grow_to(FREE).expect("free, however full it is");
        assert_eq!(budget.held(), 3 * STEP);
        drop((large, other));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn an_answer_is_held_until_its_last_byte_is_gone() {
        let budget = Budget::new(1 << 20);
        let mut held = budget.hold();
        held.grow_to(100_000).expect("room");
        let bytes = held.keep(vec![7; 100_000]);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert!(budget.held() > 0);
        drop(part);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn one_more_than_may_be_is_refused() {
        let in_hand = InHand::new(1, None);
        let first = in_hand.enter().expect("room");
        assert!(in_hand.enter().is_err());
        assert_eq!(in_hand.len(), 1);
        drop(first);
        in_hand.enter().expect("room again");
    }

    #[test]
    fn one_that_comes_too_fast_is_told_when_to_come_again() {
        let in_hand = InHand::new(10, Some(1));
        in_hand.pace().expect("the first");
        let wait = in_hand.pace().expect_err("must be refused");
        assert!(wait <= Duration::from_secs(1));
    }
}
