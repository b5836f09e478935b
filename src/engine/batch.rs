//! What gathers while a batch is being committed becomes the next one. Pure: no I/O, no clock.

use std::collections::VecDeque;

/// Rows that are worth a statement beside those under way.
pub(super) const WORTH_ANOTHER: usize = 96;

/// How much of something there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Rows of a statement.
    pub(super) rows: usize,
    /// Bytes of a statement.
    pub(super) bytes: usize,
}

/// Requests in line, with the bounds on a batch and on the line.
#[derive(Debug)]
pub(super) struct Gathering<U> {
    line: VecDeque<(U, Size)>,
    held: Size,
    /// What counts as pending and stands elsewhere.
    aside: Size,
    batch: Size,
    capacity: Size,
}

/// The line is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl<U> Gathering<U> {
    pub(super) fn new(batch: Size, capacity: Size) -> Self {
        let none = Size { rows: 0, bytes: 0 };
        Self { line: VecDeque::new(), held: none, aside: none, batch, capacity }
    }

    /// Puts a request in line. One is always let in when nobody stands there, however large.
    pub(super) fn push(&mut self, unit: U, size: Size) -> Result<(), Full> {
        let held = self.held.plus(size);
        let is_first = self.line.is_empty() && self.aside.rows == 0;
        if !is_first && !held.plus(self.aside).fits(self.capacity) {
            return Err(Full);
        }
        self.held = held;
        self.line.push_back((unit, size));
        Ok(())
    }

    /// Puts a request in line that was let in before.
    pub(super) fn push_again(&mut self, unit: U, size: Size) {
        self.held = self.held.plus(size);
        self.line.push_back((unit, size));
    }

    /// Takes the next batch, in order of arrival: as many as fit, and at least one if there is one.
    pub(super) fn take(&mut self) -> Vec<U> {
        let (mut taken, mut batch) = (Vec::new(), Size { rows: 0, bytes: 0 });
        while let Some((_, size)) = self.line.front() {
            let with = batch.plus(*size);
            if !taken.is_empty() && !with.fits(self.batch) {
                break;
            }
            let Some((unit, size)) = self.line.pop_front() else { break };
            self.held = self.held.minus(size);
            batch = with;
            taken.push(unit);
        }
        taken
    }

    /// Takes the first alone.
    pub(super) fn take_first(&mut self) -> Option<U> {
        let (unit, size) = self.line.pop_front()?;
        self.held = self.held.minus(size);
        Some(unit)
    }

    /// Who is next, and what it weighs.
    pub(super) fn front(&self) -> Option<(&U, Size)> {
        self.line.front().map(|(unit, size)| (unit, *size))
    }

    /// Takes a part of a batch, in order of arrival: as many as fit into it, up to the first that `is_fit`
    /// does not hold of; none if the first one is too large.
    pub(super) fn take_part(&mut self, most: Size, is_fit: impl Fn(&U) -> bool) -> Vec<U> {
        let (mut taken, mut part) = (Vec::new(), Size { rows: 0, bytes: 0 });
        while let Some((_, size)) = self.line.front().filter(|(unit, _)| is_fit(unit)) {
            part = part.plus(*size);
            if !part.fits(most) {
                break;
            }
            let Some((unit, size)) = self.line.pop_front() else { break };
            self.held = self.held.minus(size);
            taken.push(unit);
        }
        taken
    }

    /// Counts what was taken as pending again, as it could not be done yet.
    pub(super) fn set_aside(&mut self, size: Size) {
        self.aside = self.aside.plus(size);
    }

    /// Ends that.
    pub(super) fn take_back(&mut self, size: Size) {
        self.aside = self.aside.minus(size);
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
        self.line.is_empty()
    }
}

impl Size {
    pub(super) fn plus(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self { rows: self.rows - other.rows, bytes: self.bytes - other.bytes }
    }

    pub(super) fn fits(self, bound: Self) -> bool {
        self.rows <= bound.rows && self.bytes <= bound.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BATCH: Size = Size { rows: 10, bytes: 100 };
    const CAPACITY: Size = Size { rows: 30, bytes: 300 };

    fn size(rows: usize, bytes: usize) -> Size {
        Size { rows, bytes }
    }

    #[test]
    fn a_lone_request_is_a_batch_however_large() {
        let mut line = Gathering::new(BATCH, CAPACITY);
        assert_eq!(line.push("large", size(1_000, 1_000)), Ok(()));
        assert_eq!(line.push("next", size(1, 1)), Err(Full));
        assert_eq!(line.take(), ["large"]);
        assert_eq!(line.push("next", size(1, 1)), Ok(()));
    }

    #[test]
    fn a_batch_is_bounded_in_rows_and_in_bytes() {
        let mut line = Gathering::new(BATCH, CAPACITY);
        for (name, rows, bytes) in [("a", 6, 1), ("b", 4, 1), ("c", 1, 60), ("d", 1, 41)] {
            line.push(name, size(rows, bytes)).expect("room");
        }
        assert_eq!(line.take(), ["a", "b"]);
        assert_eq!(line.take(), ["c"]);
        assert_eq!(line.take(), ["d"]);
        assert!(line.take().is_empty() && line.is_empty());
    }

    #[test]
    fn the_first_is_taken_alone() {
        let mut line = Gathering::new(BATCH, CAPACITY);
        for name in ["a", "b"] {
            line.push(name, size(1, 1)).expect("room");
        }
        assert_eq!((line.take_first(), line.rows()), (Some("a"), 1));
        assert_eq!((line.take_first(), line.take_first()), (Some("b"), None));
    }

    #[test]
    fn a_part_is_what_fits_and_no_more() {
        let mut line = Gathering::new(BATCH, CAPACITY);
        for (name, rows, bytes) in
            [("a", 2, 1), ("b", 1, 1), ("c", 1, 1), ("large", 3, 1), ("d", 1, 1)]
        {
            line.push(name, size(rows, bytes)).expect("room");
        }
        assert_eq!(line.front().map(|(name, size)| (*name, size.rows)), Some(("a", 2)));
        assert_eq!(line.take_part(size(3, 100), |_| true), ["a", "b"]);
        assert_eq!(line.take_part(size(3, 100), |name| *name != "large"), ["c"]);
        assert!(line.take_part(size(2, 100), |_| true).is_empty(), "the first one is too large");
        assert!(line.take_part(size(3, 0), |_| true).is_empty(), "in bytes, too");
        assert_eq!(line.take_part(size(9, 9), |_| true), ["large", "d"]);
        assert!(line.is_empty() && line.held == size(0, 0) && line.front().is_none());
    }

    #[test]
    fn what_is_set_aside_counts_as_pending() {
        let mut line = Gathering::new(BATCH, CAPACITY);
        line.set_aside(size(25, 1));
        assert_eq!(line.push("small", size(5, 1)), Ok(()));
        assert_eq!(line.push("next", size(1, 1)), Err(Full));
        assert_eq!(line.take(), ["small"]);
        line.set_aside(size(5, 1));
        assert_eq!(line.push("another", size(1, 1)), Err(Full), "though nobody stands in line");
        line.take_back(size(25, 1));
        assert_eq!(line.push("another", size(25, 1)), Ok(()));
    }

    proptest! {
        /// Nobody is forgotten, nobody is taken twice, and the order is kept.
        #[test]
        fn everyone_is_taken_once_in_order(steps in prop::collection::vec((0u8..3, 1usize..8, 1usize..80), 1..200)) {
            let mut line = Gathering::new(BATCH, CAPACITY);
            let (mut admitted, mut taken) = (Vec::new(), Vec::new());
            for (number, (step, rows, bytes)) in steps.into_iter().enumerate() {
                if step == 0 {
                    let batch = line.take();
                    prop_assert!(line.is_empty() || !batch.is_empty());
                    taken.extend(batch);
                } else if line.push(number, size(rows, bytes)).is_ok() {
                    admitted.push(number);
                }
                prop_assert!(line.held.fits(CAPACITY) || line.line.len() <= 1);
            }
            while !line.is_empty() {
                taken.extend(line.take());
            }
            prop_assert_eq!(taken, admitted);
            prop_assert_eq!(line.held, size(0, 0));
        }
    }
}
