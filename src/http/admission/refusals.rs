//! Refusals that are held back. Whoever is refused and asks again at once costs as much as one that is served: where
//! a caller is refused again and again, its answers come later, and so do its questions.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::domain::CallerId;

/// Refusals of one caller in a second that are answered at once.
const AT_ONCE: NonZeroU32 = NonZeroU32::new(50).expect("not zero");
/// What comes beyond them is held back for so long.
const PAUSE: Duration = Duration::from_millis(500);
/// Answers that are held back at the same time; what comes beyond them is not, so that they cost no more memory.
const MOST: usize = 4_096;
/// Entries after which those are dropped that say nothing any more.
const ROOM: usize = 1_024;

/// How often callers were refused lately, and the places for answers that are held back.
#[derive(Debug)]
pub(crate) struct Refusals {
    rates: DefaultKeyedRateLimiter<CallerId>,
    places: Arc<Semaphore>,
}

/// An answer that is to be held back.
#[derive(Debug)]
pub(crate) struct HeldBack(OwnedSemaphorePermit);

impl Default for Refusals {
    fn default() -> Self {
        let rates = RateLimiter::keyed(Quota::per_second(AT_ONCE));
        Self { rates, places: Arc::new(Semaphore::new(MOST)) }
    }
}

impl Refusals {
    /// Takes note of a refusal, and says whether it is to be held back.
    pub(crate) fn note(&self, caller: CallerId) -> Option<HeldBack> {
        if self.rates.len().is_multiple_of(ROOM) {
            self.rates.retain_recent();
        }
        self.rates.check_key(&caller).err()?;
        Arc::clone(&self.places).try_acquire_owned().ok().map(HeldBack)
    }
}

impl HeldBack {
    /// Holds it back, no longer than until a shutdown begins.
    pub(crate) async fn wait(self, draining: &CancellationToken) {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = draining.cancelled() => {}
        }
        drop(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: u32) -> CallerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        CallerId(id)
    }

    #[test]
    fn who_is_refused_again_and_again_is_held_back_and_others_are_not() {
        let refusals = Refusals::default();
        let held_back = |n| (0..1_000).filter_map(|_| refusals.note(caller(n))).count();
        // The rate goes by the clock of the machine.
        assert!((800..=950).contains(&held_back(1)));
        assert!(refusals.note(caller(2)).is_none());
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let refusals = Refusals::default();
        let held: Vec<_> = (0..3 * MOST).filter_map(|_| refusals.note(caller(1))).collect();
        assert_eq!(held.len(), MOST);
        drop(held);
        assert!((0..1_000).any(|_| refusals.note(caller(1)).is_some()));
    }

    #[test]
    fn those_that_were_refused_once_are_forgotten() {
        let refusals = Refusals::default();
        let mut before = 0;
        for n in 0.. {
            refusals.note(caller(n));
            let now = refusals.rates.len();
            if now < before {
                return;
            }
            before = now;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_held_back_for_a_while_and_no_longer_than_until_a_shutdown() {
        let refusals = Refusals::default();
        let next = || (0..1_000).find_map(|_| refusals.note(caller(1))).expect("held back");
        let (draining, begun) = (CancellationToken::new(), tokio::time::Instant::now());
        next().wait(&draining).await;
        assert_eq!(begun.elapsed(), PAUSE);
        draining.cancel();
        next().wait(&draining).await;
        assert_eq!(begun.elapsed(), PAUSE);
        assert_eq!(refusals.places.available_permits(), MOST);
    }
}
