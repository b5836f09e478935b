//! Requests of several callers in line, of which none has the queue for itself. Pure: no I/O, no clock.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use super::{
    pending::{Bounds, Full, Pending},
    size::Size,
};

/// Requests in line, taken from each caller in turn, with the bounds on a batch and on all.
#[derive(Debug)]
pub(super) struct FairQueue<C, U> {
    /// Those without a key are one.
    callers: HashMap<Option<C>, VecDeque<(U, Size)>>,
    /// Whose turn it is; each stands here once that has something in line.
    turns: VecDeque<Option<C>>,
    count: usize,
    held: Size,
    pending: Pending<C>,
    batch: Size,
}

impl<C: Copy + Eq + Hash, U> FairQueue<C, U> {
    pub(super) fn new(batch: Size, bounds: Bounds) -> Self {
        let (callers, turns) = (HashMap::new(), VecDeque::new());
        let (held, pending) = (Size::default(), Pending::new(bounds));
        Self { callers, turns, count: 0, held, pending, batch }
    }

    /// Puts a request in line. One is always let in when nobody stands there, however large.
    pub(super) fn push(&mut self, caller: Option<C>, unit: U, size: Size) -> Result<(), Full> {
        self.pending.check(caller, size)?;
        self.pending.add(caller, size);
        let requests = self.callers.entry(caller).or_default();
        if requests.is_empty() {
            self.turns.push_back(caller);
        }
        requests.push_back((unit, size));
        self.held = self.held.plus(size);
        self.count += 1;
        Ok(())
    }

    /// Takes the next batch, the next one of each caller in turn: as many as fit, and at least one if there is
    /// one.
    pub(super) fn take(&mut self) -> Vec<U> {
        let (mut taken, mut batch) = (Vec::new(), Size::default());
        while let Some((unit, size)) = self.next_within(batch, taken.is_empty()) {
            batch = batch.plus(size);
            taken.push(unit);
        }
        taken
    }

    /// The one whose turn it is, if it fits beside `batch`.
    fn next_within(&mut self, batch: Size, is_first: bool) -> Option<(U, Size)> {
        let requests = self.callers.get_mut(self.turns.front()?)?;
        let fits = batch.plus(requests.front()?.1).fits(self.batch);
        if !is_first && !fits {
            return None;
        }
        let next = requests.pop_front()?;
        let is_last = requests.is_empty();
        let caller = self.turns.pop_front()?;
        if is_last {
            self.callers.remove(&caller);
        } else {
            self.turns.push_back(caller);
        }
        self.held = self.held.minus(next.1);
        self.pending.remove(caller, next.1);
        self.count -= 1;
        Some(next)
    }

    /// Requests in line.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What they come to.
    pub(super) fn held(&self) -> Size {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::Share;

    use super::*;

    const BATCH: Size = Size { rows: 4, bytes: 100 };
    const CAPACITY: Size = Size { rows: 10, bytes: 300 };

    fn queue(units: &[(char, u32, usize)]) -> FairQueue<char, u32> {
        let mut queue = FairQueue::new(BATCH, Bounds::new(CAPACITY, Share(80)));
        for (caller, unit, rows) in units {
            queue.push(Some(*caller), *unit, Size { rows: *rows, bytes: 1 }).expect("room");
        }
        queue
    }

    #[test]
    fn a_caller_with_many_requests_leaves_the_others_their_turn() {
        let mut queue =
            queue(&[('a', 1, 1), ('a', 2, 1), ('a', 3, 1), ('a', 4, 1), ('b', 5, 1), ('c', 6, 1)]);
        assert_eq!(queue.take(), [1, 5, 6, 2]);
        assert_eq!(queue.take(), [3, 4]);
        assert!(queue.take().is_empty() && queue.len() == 0);
        assert!(queue.callers.is_empty() && queue.turns.is_empty());
        assert_eq!(queue.held(), Size { rows: 0, bytes: 0 });
    }

    #[test]
    fn a_batch_is_bounded_and_one_that_is_larger_goes_alone() {
        let mut queue = queue(&[('a', 1, 3), ('b', 2, 2), ('a', 3, 5)]);
        assert_eq!(queue.take(), [1]);
        assert_eq!(queue.take(), [2]);
        assert_eq!(queue.take(), [3]);
    }

    #[test]
    fn a_caller_does_not_fill_the_line() {
        let mut queue = queue(&[('a', 1, 7)]);
        let small = |rows| Size { rows, bytes: 1 };
        assert_eq!(queue.push(Some('a'), 2, small(2)), Err(Full::ForCaller));
        assert_eq!(queue.push(Some('b'), 3, small(2)), Ok(()));
        assert_eq!(queue.take(), [1]);
        assert_eq!(queue.push(Some('a'), 4, small(2)), Ok(()));
    }

    #[test]
    fn the_line_is_bounded_unless_nobody_stands_there() {
        let mut queue = queue(&[('a', 1, 9)]);
        let (small, large) = (Size { rows: 1, bytes: 1 }, Size { rows: 99, bytes: 999 });
        assert_eq!(queue.push(Some('b'), 2, small), Ok(()));
        assert_eq!(queue.push(Some('c'), 3, small), Err(Full::ForAll));
        while !queue.take().is_empty() {}
        assert_eq!(queue.push(Some('c'), 3, large), Ok(()));
        assert_eq!(queue.push(Some('c'), 4, small), Err(Full::ForAll));
        assert_eq!(queue.take(), [3]);
    }
}
