//! Requests that met a lock, and when each is tried again. Pure: no I/O, no clock.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Requests that wait for a lock; those that were tried last stand behind.
#[derive(Debug)]
pub(super) struct LockedRequests<R>(VecDeque<(Instant, R)>);

impl<R> LockedRequests<R> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Adds one that is to be tried at a moment.
    pub(super) fn push(&mut self, due: Instant, request: R) {
        self.0.push_back((due, request));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next one is to be tried.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.iter().map(|(due, _)| *due).min()
    }

    /// Takes those that are due by then, or all, for as long as they fit; at least one if there is one.
    pub(super) fn take_due(
        &mut self,
        by: Option<Instant>,
        mut fits: impl FnMut(&R) -> bool,
    ) -> Vec<R> {
        let (mut taken, mut is_full) = (Vec::new(), false);
        for (due, request) in std::mem::take(&mut self.0) {
            if is_full || by.is_some_and(|by| due > by) {
                self.0.push_back((due, request));
            } else if fits(&request) || taken.is_empty() {
                taken.push(request);
            } else {
                is_full = true;
                self.0.push_back((due, request));
            }
        }
        taken
    }

    /// Takes out those of which `is_gone` says so.
    pub(super) fn remove(&mut self, is_gone: impl Fn(&R) -> bool) -> Vec<R> {
        let all = std::mem::take(&mut self.0);
        let (gone, here): (VecDeque<_>, _) = all.into_iter().partition(|(_, one)| is_gone(one));
        self.0 = here;
        gone.into_iter().map(|(_, one)| one).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_is_tried_when_it_is_due() {
        let (mut locked, now) = (LockedRequests::new(), Instant::now());
        assert_eq!(locked.next_due(), None);
        locked.push(now + SECOND * 2, "late");
        locked.push(now + SECOND, "early");
        assert_eq!(locked.next_due(), Some(now + SECOND));
        assert!(locked.take_due(Some(now), |_| true).is_empty());
        assert_eq!(locked.take_due(Some(now + SECOND), |_| true), ["early"]);
        assert_eq!(locked.take_due(None, |_| true), ["late"]);
        assert!(locked.is_empty());
    }

    #[test]
    fn what_does_not_fit_has_its_turn_and_nobody_starves() {
        let (mut locked, now) = (LockedRequests::new(), Instant::now());
        for name in ["a", "b", "c", "d", "e"] {
            locked.push(now, name);
        }
        let mut seen = String::new();
        for _ in 0..5 {
            let mut room = 2;
            let taken = locked.take_due(Some(now), |_| {
                room -= 1;
                room >= 0
            });
            for name in taken {
                seen += name;
                locked.push(now, name);
            }
        }
        assert_eq!(seen, "abcdeabcde");
    }

    #[test]
    fn one_that_is_too_large_is_tried_all_the_same() {
        let (mut locked, now) = (LockedRequests::new(), Instant::now());
        locked.push(now, "large");
        locked.push(now, "larger");
        assert_eq!(locked.take_due(Some(now), |_| false), ["large"]);
        assert_eq!(locked.take_due(Some(now), |_| false), ["larger"]);
    }

    #[test]
    fn who_has_gone_is_taken_out() {
        let (mut locked, now) = (LockedRequests::new(), Instant::now());
        locked.push(now, "here");
        locked.push(now, "gone");
        assert_eq!(locked.remove(|request| *request == "gone"), ["gone"]);
        assert_eq!(locked.take_due(None, |_| true), ["here"]);
    }
}
