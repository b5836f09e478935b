//! Who goes into the next statement for several queues. Pure: no I/O, no clock.

use std::collections::VecDeque;

/// Statements of single queues that are under way before the next queue goes with others.
const OWN_STATEMENTS: usize = 2;
/// Members that are worth another statement beside those under way: many small statements cost more than a few
/// large ones.
const WORTH_ANOTHER: usize = 16;

/// Members that are ready for a statement, in the order in which they became so: whoever has more to do than fits
/// is put behind the others again.
#[derive(Debug)]
pub(super) struct Schedule<M> {
    ready: VecDeque<M>,
    /// Statements for several queues that are under way, or about to be.
    running: usize,
    /// Those that take long, beside whom others may run.
    slow: usize,
    /// Workers of single queues.
    own: usize,
    max_running: usize,
    max_members: usize,
}

impl<M> Schedule<M> {
    /// With so many statements at the same time, each for so many members.
    pub(super) fn new(max_running: usize, max_members: usize) -> Self {
        let (ready, max_running) = (VecDeque::new(), max_running.max(1));
        Self { ready, running: 0, slow: 0, own: 0, max_running, max_members: max_members.max(1) }
    }

    /// Whether there is so much under way that it pays to go with others.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0 || self.own >= OWN_STATEMENTS
    }

    /// A worker of a single queue has begun.
    pub(super) fn own_began(&mut self) {
        self.own += 1;
    }

    /// One has ended.
    pub(super) fn own_ended(&mut self) {
        self.own = self.own.saturating_sub(1);
    }

    /// Adds a member. Whether somebody is to begin a statement, which counts from now on.
    pub(super) fn add(&mut self, member: M) -> bool {
        self.ready.push_back(member);
        let worth_it = self.running == 0 || self.ready.len() >= WORTH_ANOTHER;
        let begins = worth_it && self.running < self.max_running;
        self.running += usize::from(begins);
        begins
    }

    /// A statement takes long, so that another one may be under way in its place: of those there are as many as of
    /// others. Whether somebody is to begin that one; nothing if it still counts.
    pub(super) fn leave_slow(&mut self) -> Option<bool> {
        if self.slow >= self.max_running {
            return None;
        }
        self.slow += 1;
        self.running = self.running.saturating_sub(1);
        let begins = !self.ready.is_empty() && self.running == 0;
        self.running += usize::from(begins);
        Some(begins)
    }

    /// One that took long has ended, and so has whoever ran it.
    pub(super) fn slow_ended(&mut self) {
        self.slow = self.slow.saturating_sub(1);
    }

    /// Those of the next statement. Without any, whoever asks has ended.
    pub(super) fn take(&mut self) -> Vec<M> {
        let members: Vec<M> = self.ready.drain(..self.ready.len().min(self.max_members)).collect();
        if members.is_empty() {
            self.running = self.running.saturating_sub(1);
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_queue_goes_with_others_when_enough_is_under_way() {
        let mut schedule = Schedule::<&str>::new(2, 8);
        assert!(!schedule.is_busy(), "a lone queue goes at once, by itself");
        schedule.own_began();
        assert!(!schedule.is_busy());
        schedule.own_began();
        assert!(schedule.is_busy());
        schedule.own_ended();
        assert!(!schedule.is_busy());
        assert!(schedule.add("a"), "nobody is at it");
        assert!(schedule.is_busy(), "there is company");
        assert_eq!(schedule.take(), ["a"]);
        assert!(schedule.is_busy(), "until that statement is over");
        assert!(schedule.take().is_empty());
        assert!(!schedule.is_busy());
    }

    #[test]
    fn another_statement_begins_when_many_are_ready() {
        let mut schedule = Schedule::new(2, 100);
        assert!(schedule.add(0));
        let begun: Vec<usize> = (1..50).filter(|n| schedule.add(*n)).collect();
        assert_eq!(begun, [WORTH_ANOTHER - 1], "once, as there may be two");
        assert_eq!(schedule.take().len(), 50);
        assert!(schedule.take().is_empty() && schedule.take().is_empty());
        assert!(schedule.add(0), "all have ended");
    }

    #[test]
    fn a_statement_that_takes_long_is_waited_for_by_nobody() {
        let mut schedule = Schedule::new(1, 2);
        assert!(schedule.add("a"));
        assert_eq!(schedule.take(), ["a"]);
        assert!(!schedule.add("b"), "it goes with the next statement");
        assert_eq!(schedule.leave_slow(), Some(true), "which begins now");
        assert_eq!(schedule.take(), ["b"]);
        assert!(!schedule.add("c"));
        assert_eq!(schedule.leave_slow(), None, "there are as many as may be");
        schedule.slow_ended();
        assert_eq!(schedule.leave_slow(), Some(true));
        assert_eq!(schedule.take(), ["c"]);
        assert!(schedule.take().is_empty());
        schedule.slow_ended();
        assert!(!schedule.is_busy() && schedule.add("d"));
    }

    #[test]
    fn who_has_much_to_do_takes_turns_with_who_has_little() {
        let mut schedule = Schedule::new(1, 2);
        assert!(schedule.add("large"));
        let mut served = Vec::new();
        for small in ["a", "b", "c"] {
            assert!(!schedule.add(small));
        }
        while let members @ [_, ..] = &*schedule.take() {
            served.extend_from_slice(members);
            // It has more, up to here.
            if members.contains(&"large") && served.len() < 6 {
                assert!(!schedule.add("large"));
            }
        }
        assert_eq!(served, ["large", "a", "b", "c", "large", "large"]);
    }

    proptest! {
        /// Everyone is taken once, in order, no more at a time than may be, and whoever is ready is taken by
        /// somebody.
        #[test]
        fn everyone_is_taken_once_in_order(steps in prop::collection::vec(0u8..3, 1..300)) {
            let mut schedule = Schedule::new(2, 5);
            let (mut added, mut taken, mut workers) = (0, Vec::new(), 0);
            for step in steps {
                if step > 0 {
                    workers += usize::from(schedule.add(added));
                    added += 1;
                } else if workers > 0 {
                    let members = schedule.take();
                    workers -= usize::from(members.is_empty());
                    prop_assert!(members.len() <= 5);
                    taken.extend(members);
                }
                prop_assert!(workers <= 2 && schedule.running == workers);
                prop_assert!(schedule.ready.is_empty() || workers > 0);
            }
            while workers > 0 {
                let members = schedule.take();
                workers -= usize::from(members.is_empty());
                taken.extend(members);
            }
            prop_assert_eq!(taken, (0..added).collect::<Vec<_>>());
        }
    }
}
