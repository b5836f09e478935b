//! From which `vt` on a queue has to be read. Pure: no I/O, and the time is told.
//!
//! A look shows what was committed by then. What it does not show is stored by transactions that were under
//! way, or that began later. The `vt` of a message is the time at which it is stored, delayed or given back, or
//! later: so it is not below the time at which its transaction began. The floor is the lowest of what the look
//! showed and of those times; and once a transaction has been under way for long, it is passed over until it
//! has ended. Then the floor goes back to where it began. What sets a `vt` to a time that was past by then, as
//! SQL clients can, is found by the looks from the beginning alone.

use std::collections::{BTreeMap, VecDeque};

use crate::store::VisibleLook;

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// Time that may pass between the moment that a message's `vt` is and the beginning of its transaction, which
/// is what PostgreSQL numbers by: a transaction gets its number when it stores the first row.
const MARGIN: i64 = SECOND / 20;
/// Age from which on a transaction is passed over.
const LATE: i64 = SECOND;
/// Time for which it is remembered when transactions began.
const REMEMBERED: i64 = 2 * SECOND;
/// What is before every `vt`.
const BEGINNING: i64 = i64::MIN;
/// Transactions that are passed over; with more, reads begin at the beginning.
const MOST_LATE: usize = 1_000;

/// A `vt` below which no message is visible, as far as looks told.
#[derive(Debug, Default)]
pub(super) struct ScanFloor {
    floor: Option<i64>,
    marks: VecDeque<Mark>,
    /// Transactions that were passed over, and where reads begin once they have ended.
    late: BTreeMap<i64, i64>,
}

/// Transactions above this one began after this moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    xid: i64,
    at: i64,
}

impl ScanFloor {
    /// From where on to read, in microseconds since 1970; from the beginning while that is not known.
    pub(super) fn get(&self) -> Option<i64> {
        self.floor
    }

    /// Takes in what a look from [`ScanFloor::get`] on, or from the beginning, showed. True if there is a reason
    /// to look again at once.
    pub(super) fn take(&mut self, look: &VisibleLook) -> bool {
        if self.marks.back().is_some_and(|last| look.xid <= last.xid || look.looked_at < last.at) {
            // Another server, or its clock was set back: nothing that was learned holds.
            *self = Self::default();
        }
        let Some(last) = self.marks.back().copied() else {
            self.marks.push_back(Mark { xid: look.xid, at: look.looked_at });
            return true;
        };
        let reopened = self.reopened(look);
        let begun = self.pass_over(look);
        // What is before 1970 is not told any closer.
        let lowest = look.lowest.map(|lowest| if lowest == 0 { BEGINNING } else { lowest });
        let floor =
            [lowest, reopened, begun].into_iter().flatten().fold(last.at - MARGIN, i64::min);
        self.floor = (floor > BEGINNING).then_some(floor);
        if self.late.len() > MOST_LATE {
            (self.floor, self.late) = (None, BTreeMap::new());
        }
        self.mark(look);
        reopened.is_some()
    }

    /// Forgets the transactions that were passed over and have ended. Says where what they stored begins.
    fn reopened(&mut self, look: &VisibleLook) -> Option<i64> {
        let has_ended = |xid: &i64| *xid < look.xmax && !look.running.contains(xid);
        let ended: Vec<i64> = self.late.keys().copied().filter(has_ended).collect();
        ended.iter().filter_map(|xid| self.late.remove(xid)).min()
    }

    /// Where that begins which transactions may have stored, or have locked, that are under way. Those that have
    /// been for long are passed over.
    fn pass_over(&mut self, look: &VisibleLook) -> Option<i64> {
        let mut lowest: Option<i64> = None;
        let mut hold = |at: i64| lowest = Some(lowest.map_or(at, |lowest| lowest.min(at)));
        for xid in &look.running {
            let began = self.marks.iter().rev().find(|mark| mark.xid < *xid).map(|mark| mark.at);
            match began {
                Some(began) if look.looked_at - began <= LATE => hold(began - MARGIN),
                began => {
                    let from = began.map_or(BEGINNING, |began| began - MARGIN);
                    self.late.entry(*xid).or_insert(from);
                }
            }
        }
        for (vt, xid) in &look.locked {
            match self.late.get_mut(xid) {
                Some(from) => *from = (*vt).min(*from),
                None => hold(*vt),
            }
        }
        lowest
    }

    fn mark(&mut self, look: &VisibleLook) {
        let is_old = |mark: &Mark| look.looked_at - mark.at > REMEMBERED;
        while self.marks.get(1).is_some_and(is_old) {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark { xid: look.xid, at: look.looked_at });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at a second; nobody else is at work.
    fn look(second: i64, xid: i64) -> VisibleLook {
        VisibleLook { looked_at: second * SECOND, xid, xmax: xid, ..VisibleLook::default() }
    }

    fn floor_after(looks: &[VisibleLook]) -> ScanFloor {
        let mut floor = ScanFloor::default();
        for look in looks {
            floor.take(look);
        }
        floor
    }

    #[test]
    fn it_is_the_lowest_of_what_is_there_and_of_the_look_before() {
        let mut floor = ScanFloor::default();
        assert!(floor.take(&look(100, 10)), "one look tells nothing");
        assert_eq!(floor.get(), None);
        assert!(!floor.take(&look(101, 20)));
        assert_eq!(floor.get(), Some(100 * SECOND - MARGIN));
        floor.take(&VisibleLook { lowest: Some(7 * SECOND), ..look(102, 30) });
        assert_eq!(floor.get(), Some(7 * SECOND));
        floor.take(&VisibleLook { lowest: Some(0), ..look(103, 40) });
        assert_eq!(floor.get(), None, "before 1970");
    }

    #[test]
    fn a_transaction_under_way_holds_it_where_that_began() {
        let mut floor = floor_after(&[look(100, 10), look(101, 20)]);
        floor.take(&VisibleLook { running: vec![15], ..look(101, 30) });
        assert_eq!(floor.get(), Some(100 * SECOND - MARGIN));
        floor.take(&VisibleLook { running: vec![25], ..look(102, 40) });
        assert_eq!(floor.get(), Some(101 * SECOND - MARGIN));
    }

    #[test]
    fn one_that_is_under_way_for_long_is_passed_over_until_it_has_ended() {
        let mut floor = floor_after(&[look(100, 10), look(101, 20)]);
        for second in 102..200 {
            let running = VisibleLook { running: vec![15], ..look(second, second * 10) };
            assert!(!floor.take(&running));
        }
        assert_eq!(floor.get(), Some(198 * SECOND - MARGIN));
        assert!(floor.take(&look(200, 2000)), "what it stored is below");
        assert_eq!(floor.get(), Some(100 * SECOND - MARGIN));
        assert!(!floor.take(&look(201, 2010)), "it was not much");
        assert_eq!(floor.get(), Some(200 * SECOND - MARGIN));
    }

    #[test]
    fn of_one_that_was_there_before_it_is_not_known_where_it_began() {
        let mut floor = ScanFloor::default();
        for second in 100..110 {
            floor.take(&VisibleLook { running: vec![3], ..look(second, second * 10) });
        }
        assert_eq!(floor.get(), Some(108 * SECOND - MARGIN));
        assert!(floor.take(&look(110, 1100)));
        assert_eq!(floor.get(), None);
    }

    #[test]
    fn what_is_locked_for_long_is_passed_over_until_it_is_not() {
        let mut floor = floor_after(&[look(100, 10), look(101, 20)]);
        let locked = |second: i64| VisibleLook {
            running: vec![15],
            locked: vec![(50 * SECOND, 15)],
            ..look(second, second * 10)
        };
        floor.take(&locked(101));
        assert_eq!(floor.get(), Some(50 * SECOND), "it may come back any moment");
        floor.take(&locked(105));
        assert_eq!(floor.get(), Some(101 * SECOND - MARGIN));
        assert!(floor.take(&look(106, 1060)));
        assert_eq!(floor.get(), Some(50 * SECOND));
    }

    #[test]
    fn on_another_server_and_where_time_goes_back_it_is_learned_anew() {
        for other in [look(101, 15), look(90, 30)] {
            let mut floor = floor_after(&[look(100, 10), look(101, 20)]);
            assert!(floor.take(&other));
            assert_eq!(floor.get(), None);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut floor = ScanFloor::default();
        for n in 0..10_000 {
            floor.take(&VisibleLook { looked_at: n * SECOND / 40, ..look(0, n) });
        }
        assert!(floor.marks.len() <= 90, "{}", floor.marks.len());
        floor.take(&VisibleLook { running: (-2_000..0).collect(), ..look(1_000, 10_000) });
        assert_eq!((floor.get(), floor.late.len()), (None, 0));
    }
}
