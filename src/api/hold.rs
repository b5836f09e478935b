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

use crate::domain::{CallerId, Share};

use super::caller_usage::{Callers, Usage, add};

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
    /// What one caller may hold.
    of_caller: usize,
}

/// Bytes that one request holds.
#[derive(Debug)]
pub(super) struct Held {
    budget: Budget,
    caller: Option<Arc<Usage>>,
    bytes: usize,
}

/// There is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// For anybody.
    ForAll,
    /// For this caller, who may hold so many.
    ForCaller(usize),
}

impl Budget {
    /// So many bytes, and so many for one caller, but at least what one request may need.
    pub(super) fn new(most: u64, share: Share, of_request: u64) -> Self {
        let [most, of_request] =
            [most, of_request].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Self { held: Arc::default(), most, of_caller: share.of(most).max(of_request) }
    }

    /// Nothing yet.
    pub(super) fn hold(&self, caller: Option<Arc<Usage>>) -> Held {
        Held { budget: self.clone(), caller, bytes: 0 }
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl Held {
    /// Holds so many bytes, if there are any left.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let wanted = if bytes <= FREE { 0 } else { bytes.next_multiple_of(STEP) };
        if wanted > self.bytes {
            self.take(wanted - self.bytes)?;
            self.bytes = wanted;
        }
        Ok(())
    }

    /// How many are held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        let Budget { held, most, of_caller } = &self.budget;
        let caller = self.caller.as_ref().map(|caller| &caller.bytes);
        if caller.is_some_and(|count| !add(count, bytes, *of_caller)) {
            return Err(Exhausted::ForCaller(*of_caller));
        }
        if !add(held, bytes, *most) {
            if let Some(count) = caller {
                count.fetch_sub(bytes, Relaxed);
            }
            return Err(Exhausted::ForAll);
        }
        Ok(())
    }

    /// Bytes that are on their way, and held for as long.
    pub(super) fn keep(self, bytes: Vec<u8>) -> Bytes {
        if self.bytes == 0 { bytes.into() } else { Bytes::from_owner(Kept { bytes, _held: self }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Relaxed);
        if let Some(caller) = &self.caller {
            caller.bytes.fetch_sub(self.bytes, Relaxed);
        }
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

/// Requests at the same time, and how many come in a second.
#[derive(Debug)]
pub(super) struct InHand {
    counts: Arc<Counts>,
    callers: Callers,
    rate: Option<DefaultDirectRateLimiter>,
}

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestLimits {
    /// Those that are served.
    pub(super) served: usize,
    /// Those whose body has not come yet.
    pub(super) arriving: usize,
    /// What one caller may have of both.
    pub(super) share: Share,
    /// Those in a second.
    pub(super) per_second: Option<u32>,
}

#[derive(Debug)]
struct Counts {
    arriving: AtomicUsize,
    served: AtomicUsize,
    most: RequestLimits,
}

/// One of them: first among those that arrive, and once its body is there among those that are served.
#[derive(Debug)]
pub(super) struct Counted {
    counts: Arc<Counts>,
    caller: Option<Arc<Usage>>,
    is_here: bool,
}

/// There are as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Whose bodies have not come yet.
    Arriving,
    /// That are served.
    Served,
    /// Of this caller, whose bodies have not come yet.
    ArrivingOfCaller(usize),
    /// Of this caller, that are served.
    ServedOfCaller(usize),
}

impl InHand {
    pub(super) fn new(most: RequestLimits) -> Self {
        let rate = most.per_second.and_then(NonZeroU32::new);
        let rate = rate.map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let counts = Counts { arriving: AtomicUsize::new(0), served: AtomicUsize::new(0), most };
        Self { counts: Arc::new(counts), callers: Callers::default(), rate }
    }

    /// Counts a request in, or refuses it.
    pub(super) fn enter(&self) -> Result<Counted, Full> {
        if !add(&self.counts.arriving, 1, self.counts.most.arriving) {
            return Err(Full::Arriving);
        }
        Ok(Counted { counts: Arc::clone(&self.counts), caller: None, is_here: false })
    }

    /// What a caller has in hand.
    pub(super) fn usage(&self, caller: CallerId) -> Arc<Usage> {
        self.callers.usage(caller)
    }

    /// Takes note of a request of somebody who was let in, or says when there may be another.
    pub(super) fn pace(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.counts.arriving.load(Relaxed) + self.counts.served.load(Relaxed)
    }
}

impl Counted {
    /// It turned out whose it is.
    pub(super) fn belongs_to(&mut self, caller: Arc<Usage>) -> Result<(), Full> {
        let RequestLimits { share, arriving, .. } = self.counts.most;
        if self.caller.is_none() && !self.is_here {
            if !add(&caller.arriving, 1, share.of(arriving)) {
                return Err(Full::ArrivingOfCaller(share.of(arriving)));
            }
            self.caller = Some(caller);
        }
        Ok(())
    }

    /// Its body is there, or it has none.
    pub(super) fn body_is_here(&mut self) -> Result<(), Full> {
        if self.is_here {
            return Ok(());
        }
        let RequestLimits { share, served, .. } = self.counts.most;
        if let Some(caller) = &self.caller
            && !add(&caller.served, 1, share.of(served))
        {
            return Err(Full::ServedOfCaller(share.of(served)));
        }
        if !add(&self.counts.served, 1, served) {
            if let Some(caller) = &self.caller {
                caller.served.fetch_sub(1, Relaxed);
            }
            return Err(Full::Served);
        }
        self.leave();
        self.is_here = true;
        Ok(())
    }

    /// Is not counted any more as what it was.
    fn leave(&self) {
        let caller = self.caller.as_deref();
        let (of_all, of_caller) = if self.is_here {
            (&self.counts.served, caller.map(|caller| &caller.served))
        } else {
            (&self.counts.arriving, caller.map(|caller| &caller.arriving))
        };
        of_all.fetch_sub(1, Relaxed);
        if let Some(count) = of_caller {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Full {
    /// The limit that it is over, as the metrics have it, and what its client is told.
    pub(super) fn explain(self) -> (&'static str, String) {
        let again = "try again in a moment";
        match self {
            Self::Arriving => (
                "max_arriving_requests",
                format!("as many requests are arriving as this gateway takes; {again}"),
            ),
            Self::Served => (
                "max_requests",
                format!("as many requests are served as this gateway takes; {again}"),
            ),
            Self::ArrivingOfCaller(most) => (
                "key_arriving_requests",
                format!("{most} requests of this key are arriving, as many as may; {again}"),
            ),
            Self::ServedOfCaller(most) => (
                "key_requests",
                format!("{most} requests of this key are served, as many as may be; {again}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Share = Share(50);

    fn budget(most: usize) -> Budget {
        Budget::new(most as u64, HALF, 0)
    }

    #[test]
    fn what_is_small_is_free_and_the_rest_is_bounded() {
        let budget = budget(3 * STEP);
        let mut small = budget.hold(None);
        small.grow_to(FREE).expect("free");
        assert_eq!(budget.held(), 0);
        let mut large = budget.hold(None);
        large.grow_to(FREE + 1).expect("room");
        large.grow_to(2 * STEP).expect("room");
        let mut other = budget.hold(None);
        assert_eq!(other.grow_to(2 * STEP), Err(Exhausted::ForAll), "only one step is left");
        other.grow_to(STEP).expect("room");
        small.grow_to(FREE).expect("free, however full it is");
        assert_eq!(budget.held(), 3 * STEP);
        drop((large, other));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn one_caller_holds_a_share() {
        let budget = budget(4 * STEP);
        let [a, b] = [Arc::<Usage>::default(), Arc::default()];
        let hold = |caller: &Arc<Usage>| budget.hold(Some(Arc::clone(caller)));
        let (mut first, mut second) = (hold(&a), hold(&a));
        first.grow_to(STEP).expect("room");
        assert_eq!(second.grow_to(2 * STEP), Err(Exhausted::ForCaller(2 * STEP)));
        second.grow_to(STEP).expect("room");
        let mut others = hold(&b);
        others.grow_to(2 * STEP).expect("room");
        drop(first);
        let mut last = hold(&b);
        last.grow_to(STEP).expect_err("b has as much as it may");
        second.grow_to(2 * STEP).expect("room");
        drop((second, others));
        assert_eq!((a.bytes.load(Relaxed), b.bytes.load(Relaxed), budget.held()), (0, 0, 0));
        // The largest request is taken, whatever a share is.
        let budget = Budget::new(4 * STEP as u64, HALF, 3 * STEP as u64);
        budget.hold(Some(a)).grow_to(3 * STEP).expect("room");
    }

    #[test]
    fn an_answer_is_held_until_its_last_byte_is_gone() {
        let budget = budget(1 << 20);
        let mut held = budget.hold(None);
        held.grow_to(100_000).expect("room");
        let bytes = held.keep(vec![7; 100_000]);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert!(budget.held() > 0);
        drop(part);
        assert_eq!(budget.held(), 0);
    }

    fn limits(served: usize, arriving: usize) -> RequestLimits {
        RequestLimits { served, arriving, share: HALF, per_second: None }
    }

    #[test]
    fn one_more_than_may_be_is_refused() {
        let in_hand = InHand::new(limits(1, 2));
        let mut first = in_hand.enter().expect("room");
        let mut second = in_hand.enter().expect("room");
        assert_eq!(in_hand.enter().expect_err("two arrive"), Full::Arriving);
        first.body_is_here().expect("room");
        assert_eq!(second.body_is_here(), Err(Full::Served));
        assert_eq!(in_hand.len(), 2);
        drop(first);
        second.body_is_here().expect("room again");
        second.body_is_here().expect("it counts once");
        assert_eq!(in_hand.len(), 1);
        drop(second);
        assert_eq!(in_hand.len(), 0);
    }

    #[test]
    fn one_caller_has_a_share_of_the_requests() {
        let in_hand = InHand::new(limits(4, 6));
        let [a, b] = [1, 2].map(|n| in_hand.usage(CallerId([n; 32])));
        let of = |caller: &Arc<Usage>| {
            let mut counted = in_hand.enter().expect("room");
            counted.belongs_to(Arc::clone(caller)).map(|()| counted)
        };
        let mut requests: Vec<_> = (0..3).map(|_| of(&a).expect("room")).collect();
        assert_eq!(of(&a).expect_err("it has its share"), Full::ArrivingOfCaller(3));
        for request in &mut requests[..2] {
            request.body_is_here().expect("room");
        }
        assert_eq!(requests[2].body_is_here(), Err(Full::ServedOfCaller(2)));
        let mut others: Vec<_> = (0..2).map(|_| of(&b).expect("room")).collect();
        for request in &mut others {
            request.body_is_here().expect("room");
        }
        drop((requests, others));
        for usage in [a, b] {
            let counts = [&usage.arriving, &usage.served, &usage.bytes];
            assert_eq!(counts.map(|count| count.load(Relaxed)), [0; 3]);
        }
        assert_eq!(in_hand.len(), 0);
    }

    #[test]
    fn one_that_comes_too_fast_is_told_when_to_come_again() {
        let in_hand = InHand::new(RequestLimits { per_second: Some(1), ..limits(10, 10) });
        in_hand.pace().expect("the first");
        let wait = in_hand.pace().expect_err("must be refused");
        assert!(wait <= Duration::from_secs(1));
    }
}
