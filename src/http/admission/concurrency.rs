//! The requests that are served at the same time, and how many come in a second: bounded.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

use crate::domain::{CallerId, Share};

use super::caller_usage::{CallerUsage, CallerUsages, add};

/// Answers that wait for their client, of requests that count nowhere else.
const MOST_ASIDE: usize = 1024;

/// Requests at the same time, and how many come in a second.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    counts: Arc<Counts>,
    callers: CallerUsages,
    rate: Option<DefaultDirectRateLimiter>,
}

/// Bounds on requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    /// Those that are served.
    pub(crate) served: usize,
    /// Those whose body has not come yet.
    pub(crate) arriving: usize,
    /// What one caller may have of both.
    pub(crate) share: Share,
    /// Those in a second.
    pub(crate) per_second: Option<u32>,
}

#[derive(Debug)]
struct Counts {
    arriving: AtomicUsize,
    served: AtomicUsize,
    aside: AtomicUsize,
    most: RequestLimits,
}

/// One of them: first among those that arrive, and once its body is there among those that are served.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    counts: Arc<Counts>,
    caller: Option<Arc<CallerUsage>>,
    stage: Stage,
}

/// As what a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its body has not come yet.
    Arriving,
    /// It is served.
    Served,
    /// It was never let in, and has an answer that waits for its client.
    Aside,
}

/// There are as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// Whose bodies have not come yet.
    Arriving,
    /// That are served.
    Served,
    /// Of this caller, whose bodies have not come yet.
    ArrivingOfCaller(usize),
    /// Of this caller, that are served.
    ServedOfCaller(usize),
}

impl ConcurrencyLimit {
    pub(crate) fn new(most: RequestLimits) -> Self {
        let rate = most.per_second.and_then(NonZeroU32::new);
        let rate = rate.map(|rate| RateLimiter::direct(Quota::per_second(rate)));
        let [arriving, served, aside] = [0; 3].map(AtomicUsize::new);
        let counts = Counts { arriving, served, aside, most };
        Self { counts: Arc::new(counts), callers: CallerUsages::default(), rate }
    }

    /// Counts a request in, or refuses it.
    pub(crate) fn enter(&self) -> Result<InFlightGuard, Full> {
        if !add(&self.counts.arriving, 1, self.counts.most.arriving) {
            return Err(Full::Arriving);
        }
        Ok(self.guard(None, Stage::Arriving))
    }

    /// Counts a request in that was let go of while it waited, and now has an answer: that is there, and counts
    /// even where it is one more than may be. Whoever comes next finds that there is no room.
    pub(crate) fn enter_again(&self, caller: Option<Arc<CallerUsage>>) -> InFlightGuard {
        self.counts.served.fetch_add(1, Relaxed);
        if let Some(caller) = &caller {
            caller.served.fetch_add(1, Relaxed);
        }
        self.guard(caller, Stage::Served)
    }

    /// A place for the answer to a request that counts nowhere, if there is one left.
    pub(crate) fn stand_aside(&self) -> Option<InFlightGuard> {
        add(&self.counts.aside, 1, MOST_ASIDE).then(|| self.guard(None, Stage::Aside))
    }

    fn guard(&self, caller: Option<Arc<CallerUsage>>, stage: Stage) -> InFlightGuard {
        InFlightGuard { counts: Arc::clone(&self.counts), caller, stage }
    }

    /// What a caller has in hand.
    pub(crate) fn usage(&self, caller: CallerId) -> Arc<CallerUsage> {
        self.callers.usage(caller)
    }

    /// Takes note of a request of somebody who was let in, or says when there may be another.
    pub(crate) fn check_rate(&self) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        rate.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.counts.arriving.load(Relaxed) + self.counts.served.load(Relaxed)
    }
}

impl InFlightGuard {
    /// Whether it is known whose it is.
    pub(crate) fn has_caller(&self) -> bool {
        self.caller.is_some()
    }

    /// Whether it was never let in, and has one of the few places for answers to such requests.
    pub(crate) fn stands_aside(&self) -> bool {
        self.stage == Stage::Aside
    }

    /// It turned out whose it is.
    pub(crate) fn belongs_to(&mut self, caller: Arc<CallerUsage>) -> Result<(), Full> {
        let RequestLimits { share, arriving, .. } = self.counts.most;
        if self.caller.is_none() && self.stage == Stage::Arriving {
            if !add(&caller.arriving, 1, share.of(arriving)) {
                return Err(Full::ArrivingOfCaller(share.of(arriving)));
            }
            self.caller = Some(caller);
        }
        Ok(())
    }

    /// It turned out whose it is, after it was counted as another's.
    pub(crate) fn moves_to(&mut self, caller: Arc<CallerUsage>) -> Result<(), Full> {
        let RequestLimits { share, arriving, served, .. } = self.counts.most;
        if self.stage == Stage::Served {
            if !add(&caller.served, 1, share.of(served)) {
                return Err(Full::ServedOfCaller(share.of(served)));
            }
        } else if !add(&caller.arriving, 1, share.of(arriving)) {
            return Err(Full::ArrivingOfCaller(share.of(arriving)));
        }
        if let Some(before) = self.caller.replace(caller) {
            let count = if self.stage == Stage::Served { &before.served } else { &before.arriving };
            count.fetch_sub(1, Relaxed);
        }
        Ok(())
    }

    /// Its body is there, or it has none.
    pub(crate) fn body_is_here(&mut self) -> Result<(), Full> {
        if self.stage != Stage::Arriving {
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
        self.stage = Stage::Served;
        Ok(())
    }

    /// Is not counted any more as what it was.
    fn leave(&self) {
        let caller = self.caller.as_deref();
        let (of_all, of_caller) = match self.stage {
            Stage::Arriving => (&self.counts.arriving, caller.map(|caller| &caller.arriving)),
            Stage::Served => (&self.counts.served, caller.map(|caller| &caller.served)),
            Stage::Aside => (&self.counts.aside, None),
        };
        of_all.fetch_sub(1, Relaxed);
        if let Some(count) = of_caller {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Full {
    /// The limit that it is over, as the metrics have it, and what its client is told.
    pub(crate) fn explain(self) -> (&'static str, String) {
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

    fn limits(served: usize, arriving: usize) -> RequestLimits {
        RequestLimits { served, arriving, share: HALF, per_second: None }
    }

    #[test]
    fn one_more_than_may_be_is_refused() {
        let limit = ConcurrencyLimit::new(limits(1, 2));
        let mut first = limit.enter().expect("room");
        let mut second = limit.enter().expect("room");
        assert_eq!(limit.enter().expect_err("two arrive"), Full::Arriving);
        first.body_is_here().expect("room");
        assert_eq!(second.body_is_here(), Err(Full::Served));
        assert_eq!(limit.len(), 2);
        drop(first);
        second.body_is_here().expect("room again");
        second.body_is_here().expect("it counts once");
        assert_eq!(limit.len(), 1);
        drop(second);
        assert_eq!(limit.len(), 0);
    }

    #[test]
    fn a_request_counts_as_its_owners_once_that_is_known() {
        let limit = ConcurrencyLimit::new(limits(2, 2));
        let [seeming, owner] = [1, 2].map(|n| limit.usage(CallerId([n; 32])));
        let counts =
            |usage: &CallerUsage| (usage.arriving.load(Relaxed), usage.served.load(Relaxed));
        let mut first = limit.enter().expect("room");
        first.belongs_to(Arc::clone(&seeming)).expect("room");
        first.moves_to(Arc::clone(&owner)).expect("room");
        assert_eq!((counts(&seeming), counts(&owner)), ((0, 0), (1, 0)));
        first.body_is_here().expect("room");
        let mut second = limit.enter().expect("room");
        second.belongs_to(Arc::clone(&seeming)).expect("room");
        second.body_is_here().expect("room");
        assert_eq!(second.moves_to(Arc::clone(&owner)), Err(Full::ServedOfCaller(1)));
        assert_eq!((counts(&seeming), counts(&owner)), ((0, 1), (0, 1)));
        drop(first);
        second.moves_to(Arc::clone(&owner)).expect("room again");
        assert_eq!((counts(&seeming), counts(&owner)), ((0, 0), (0, 1)));
        drop(second);
        assert_eq!((counts(&owner), limit.len()), ((0, 0), 0));
    }

    #[test]
    fn one_caller_has_a_share_of_the_requests() {
        let limit = ConcurrencyLimit::new(limits(4, 6));
        let [a, b] = [1, 2].map(|n| limit.usage(CallerId([n; 32])));
        let of = |caller: &Arc<CallerUsage>| {
            let mut counted = limit.enter().expect("room");
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
        assert_eq!(limit.len(), 0);
    }

    #[test]
    fn an_answer_that_cannot_be_refused_counts_beyond_the_bound() {
        let limit = ConcurrencyLimit::new(limits(2, 2));
        let caller = limit.usage(CallerId([1; 32]));
        let answers: Vec<_> =
            (0..3).map(|_| limit.enter_again(Some(Arc::clone(&caller)))).collect();
        assert_eq!((limit.len(), caller.served.load(Relaxed)), (3, 3));
        let mut next = limit.enter().expect("room to arrive");
        assert_eq!(next.body_is_here(), Err(Full::Served));
        drop(answers);
        next.body_is_here().expect("room again");
        assert_eq!((limit.len(), caller.served.load(Relaxed)), (1, 0));
    }

    #[test]
    fn answers_of_what_counts_nowhere_have_places_of_their_own() {
        let limit = ConcurrencyLimit::new(limits(1, 1));
        let mut aside: Vec<_> = std::iter::from_fn(|| limit.stand_aside()).collect();
        assert_eq!((aside.len(), limit.len()), (MOST_ASIDE, 0));
        aside.pop();
        assert!(limit.stand_aside().is_some());
        limit.enter().expect("they take nothing from others");
    }

    #[test]
    fn one_that_comes_too_fast_is_told_when_to_come_again() {
        let limit = ConcurrencyLimit::new(RequestLimits { per_second: Some(1), ..limits(10, 10) });
        limit.check_rate().expect("the first");
        let wait = limit.check_rate().expect_err("must be refused");
        assert!(wait <= Duration::from_secs(1));
    }
}
