//! What gathers while a batch is being committed becomes the next one. Pure: no I/O, no clock.

use std::collections::VecDeque;

use crate::domain::CallerId;

use super::{
    pending::{Bounds, Full, Pending},
    size::Size,
};

/// Rows that are worth a statement beside those under way.
pub(super) const WORTH_ANOTHER: usize = 96;

/// Requests in line, with the bounds on a batch and on all.
#[derive(Debug)]
pub(super) struct Gathering<U> {
    requests: VecDeque<(U, Weight)>,
    held: Size,
    /// That, and what stands elsewhere and counts as if it were in line.
    pending: Pending<CallerId>,
    batch: Size,
}

/// What a request weighs, and on whose account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub(super) size: Size,
    pub(super) caller: Option<CallerId>,
}

impl<U> Gathering<U> {
    pub(super) fn new(batch: Size, bounds: Bounds) -> Self {
        let (requests, held, pending) = (VecDeque::new(), Size::default(), Pending::new(bounds));
        Self { requests, held, pending, batch }
    }

    /// Puts a request in line. One is always let in when nobody stands there, however large.
    pub(super) fn push(&mut self, unit: U, weight: Weight) -> Result<(), Full> {
        self.pending.check(weight.caller, weight.size)?;
        self.push_again(unit, weight);
        Ok(())
    }

    /// Puts a request in line that was let in before.
    pub(super) fn push_again(&mut self, unit: U, weight: Weight) {
        self.set_aside(weight);
        self.held = self.held.plus(weight.size);
        self.requests.push_back((unit, weight));
    }

    /// Takes the next batch, in order of arrival: as many as fit, and at least one if there is one.
    pub(super) fn take(&mut self) -> Vec<U> {
        let (mut taken, mut batch) = (Vec::new(), Size::default());
        while let Some((_, weight)) = self.requests.front() {
            let with = batch.plus(weight.size);
            if !taken.is_empty() && !with.fits(self.batch) {
                break;
            }
            batch = with;
            taken.extend(self.take_first());
        }
        taken
    }

    /// Takes the first alone.
    pub(super) fn take_first(&mut self) -> Option<U> {
        let (unit, weight) = self.requests.pop_front()?;
        self.held = self.held.minus(weight.size);
        self.take_back(weight);
        Some(unit)
    }

    /// Who is next, and what it weighs.
    pub(super) fn front(&self) -> Option<(&U, Size)> {
        self.requests.front().map(|(unit, weight)| (unit, weight.size))
    }

    /// Takes a part of a batch, in order of arrival: as many as fit into it, up to the first that `is_fit`
    /// does not hold of; none if the first one is too large.
    pub(super) fn take_part(&mut self, most: Size, is_fit: impl Fn(&U) -> bool) -> Vec<U> {
        let (mut taken, mut part) = (Vec::new(), Size::default());
        while let Some((_, weight)) = self.requests.front().filter(|(unit, _)| is_fit(unit)) {
            part = part.plus(weight.size);
            if !part.fits(most) {
                break;
            }
            taken.extend(self.take_first());
        }
        taken
    }

    /// Counts what was taken as pending again, as it could not be done yet.
    pub(super) fn set_aside(&mut self, weight: Weight) {
        self.pending.add(weight.caller, weight.size);
    }

    /// Ends that.
    pub(super) fn take_back(&mut self, weight: Weight) {
        self.pending.remove(weight.caller, weight.size);
    }

    /// Whether so much has gathered that it is worth a statement beside those under way, which takes so many rows:
    /// many small statements cost more than a few large ones.
    pub(super) fn is_worth_another(&self, rows: usize) -> bool {
        self.held.rows >= rows.min(self.batch.rows) || self.held.bytes >= self.batch.bytes / 2
    }

    /// Rows of those in line.
    pub(super) fn rows(&self) -> usize {
        self.held.rows
    }

    /// Bytes of those in line.
    pub(super) fn bytes(&self) -> usize {
        self.held.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::domain::Share;

    use super::*;

    const BATCH: Size = Size { rows: 10, bytes: 100 };
    const CAPACITY: Size = Size { rows: 30, bytes: 300 };

    fn gathering<U>() -> Gathering<U> {
        Gathering::new(BATCH, Bounds::new(CAPACITY, Share(50)))
    }

    fn size(rows: usize, bytes: usize) -> Size {
        Size { rows, bytes }
    }

    /// Of nobody in particular.
    fn weight(rows: usize, bytes: usize) -> Weight {
        Weight { size: size(rows, bytes), caller: None }
    }

    #[test]
    fn a_lone_request_is_a_batch_however_large() {
        let mut gathering = gathering();
        assert_eq!(gathering.push("large", weight(1_000, 1_000)), Ok(()));
        assert_eq!(gathering.push("next", weight(1, 1)), Err(Full::ForAll));
        assert_eq!(gathering.take(), ["large"]);
        assert_eq!(gathering.push("next", weight(1, 1)), Ok(()));
    }

    #[test]
    fn a_batch_is_bounded_in_rows_and_in_bytes() {
        let mut gathering = gathering();
        for (name, rows, bytes) in [("a", 6, 1), ("b", 4, 1), ("c", 1, 60), ("d", 1, 41)] {
            gathering.push(name, weight(rows, bytes)).expect("room");
        }
        assert_eq!(gathering.take(), ["a", "b"]);
        assert_eq!(gathering.take(), ["c"]);
        assert_eq!(gathering.take(), ["d"]);
        assert!(gathering.take().is_empty() && gathering.is_empty());
    }

    #[test]
    fn the_first_is_taken_alone() {
        let mut gathering = gathering();
        for name in ["a", "b"] {
            gathering.push(name, weight(1, 1)).expect("room");
        }
        assert_eq!((gathering.take_first(), gathering.rows()), (Some("a"), 1));
        assert_eq!((gathering.take_first(), gathering.take_first()), (Some("b"), None));
    }

    #[test]
    fn a_part_is_what_fits_and_no_more() {
        let mut gathering = gathering();
        for (name, rows, bytes) in
            [("a", 2, 1), ("b", 1, 1), ("c", 1, 1), ("large", 3, 1), ("d", 1, 1)]
        {
            gathering.push(name, weight(rows, bytes)).expect("room");
        }
        assert_eq!(gathering.front().map(|(name, size)| (*name, size.rows)), Some(("a", 2)));
        assert_eq!(gathering.take_part(size(3, 100), |_| true), ["a", "b"]);
        assert_eq!(gathering.take_part(size(3, 100), |name| *name != "large"), ["c"]);
        assert!(
            gathering.take_part(size(2, 100), |_| true).is_empty(),
            "the first one is too large"
        );
        assert!(gathering.take_part(size(3, 0), |_| true).is_empty(), "in bytes, too");
        assert_eq!(gathering.take_part(size(9, 9), |_| true), ["large", "d"]);
        assert!(
            gathering.is_empty() && gathering.held == size(0, 0) && gathering.front().is_none()
        );
    }

    #[test]
    fn what_is_set_aside_counts_as_pending() {
        let mut gathering = gathering();
        gathering.set_aside(weight(25, 1));
        assert_eq!(gathering.push("small", weight(5, 1)), Ok(()));
        assert_eq!(gathering.push("next", weight(1, 1)), Err(Full::ForAll));
        assert_eq!(gathering.take(), ["small"]);
        gathering.set_aside(weight(5, 1));
        assert_eq!(
            gathering.push("another", weight(1, 1)),
            Err(Full::ForAll),
            "though nobody stands in line"
        );
        gathering.take_back(weight(25, 1));
        assert_eq!(gathering.push("another", weight(25, 1)), Ok(()));
    }

    #[test]
    fn a_caller_that_stands_there_with_its_share_leaves_the_rest_to_others() {
        let [a, b] = [1, 2].map(|n| Some(CallerId([n; 32])));
        let of = |caller, rows| Weight { size: size(rows, 1), caller };
        let mut gathering = gathering();
        assert_eq!(gathering.push(1, of(a, 10)), Ok(()));
        gathering.set_aside(of(a, 5));
        assert_eq!(gathering.push(2, of(a, 1)), Err(Full::ForCaller), "what is set aside counts");
        assert_eq!(gathering.push(3, of(b, 1)), Ok(()));
        assert_eq!(gathering.take(), [1]);
        assert_eq!(gathering.push(4, of(a, 10)), Ok(()), "what was taken does not");
        assert_eq!((gathering.take(), gathering.take()), (vec![3], vec![4]));
        assert_eq!(gathering.held, size(0, 0));
    }

    proptest! {
        /// Nobody is forgotten, nobody is taken twice, and the order is kept.
        #[test]
        fn everyone_is_taken_once_in_order(steps in prop::collection::vec((0u8..3, 1usize..8, 1usize..80), 1..200)) {
            let mut gathering = gathering();
            let (mut admitted, mut taken) = (Vec::new(), Vec::new());
            for (number, (step, rows, bytes)) in steps.into_iter().enumerate() {
                if step == 0 {
                    let batch = gathering.take();
                    prop_assert!(gathering.is_empty() || !batch.is_empty());
                    taken.extend(batch);
                } else if gathering.push(number, weight(rows, bytes)).is_ok() {
                    admitted.push(number);
                }
                prop_assert!(gathering.held.fits(CAPACITY) || gathering.requests.len() <= 1);
            }
            while !gathering.is_empty() {
                taken.extend(gathering.take());
            }
            prop_assert_eq!(taken, admitted);
            prop_assert_eq!(gathering.held, size(0, 0));
        }
    }
}
