//! What stands in line, in all and of each caller, so that none of them takes all the room. Pure: no I/O, no clock.

use std::{collections::HashMap, hash::Hash};

use crate::domain::Share;

use super::size::Size;

/// The bounds on what stands in line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    all: Size,
    /// Of one caller.
    share: Size,
}

/// What stands in line.
#[derive(Debug)]
pub(super) struct Pending<C> {
    all: Counted,
    callers: HashMap<C, Counted>,
    bounds: Bounds,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// For anybody.
    ForAll,
    /// For this caller.
    ForCaller,
}

/// Requests, and what they come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    count: usize,
    size: Size,
}

impl Bounds {
    /// So much, of which one caller may have a share.
    pub(super) fn new(all: Size, share: Share) -> Self {
        Self { all, share: Size { rows: share.of(all.rows), bytes: share.of(all.bytes) } }
    }
}

impl Full {
    /// The limit, as it is counted.
    pub(super) fn limit(self) -> &'static str {
        match self {
            Self::ForAll => "max_pending",
            Self::ForCaller => "key_max_pending",
        }
    }
}

impl<C: Copy + Eq + Hash> Pending<C> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { all: Counted::default(), callers: HashMap::new(), bounds }
    }

    /// Whether there is room for a request. For one there always is when nobody stands there, and for one of a caller
    /// that has none there, if there is room at all.
    pub(super) fn check(&self, caller: Option<C>, size: Size) -> Result<(), Full> {
        if !self.all.fits_with(size, self.bounds.all) {
            return Err(Full::ForAll);
        }
        let own = caller.and_then(|caller| self.callers.get(&caller));
        match own {
            Some(own) if !own.fits_with(size, self.bounds.share) => Err(Full::ForCaller),
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, caller: Option<C>, size: Size) {
        self.all.add(size);
        if let Some(caller) = caller {
            self.callers.entry(caller).or_default().add(size);
        }
    }

    pub(super) fn remove(&mut self, caller: Option<C>, size: Size) {
        self.all.remove(size);
        if let Some(caller) = caller
            && let Some(own) = self.callers.get_mut(&caller)
        {
            own.remove(size);
            if own.count == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

impl Counted {
    fn fits_with(&self, size: Size, bound: Size) -> bool {
        self.count == 0 || self.size.plus(size).fits(bound)
    }

    fn add(&mut self, size: Size) {
        self.count += 1;
        self.size = self.size.plus(size);
    }

    fn remove(&mut self, size: Size) {
        self.count -= 1;
        self.size = self.size.minus(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: usize, bytes: usize) -> Size {
        Size { rows, bytes }
    }

    fn pending(percent: u32) -> Pending<char> {
        Pending::new(Bounds::new(size(100, 1_000), Share(percent)))
    }

    #[test]
    fn one_caller_leaves_room_to_others() {
        let mut pending = pending(50);
        pending.add(Some('a'), size(40, 1));
        assert_eq!(pending.check(Some('a'), size(10, 1)), Ok(()));
        assert_eq!(pending.check(Some('a'), size(11, 1)), Err(Full::ForCaller));
        assert_eq!(pending.check(Some('a'), size(1, 500)), Err(Full::ForCaller), "in bytes, too");
        assert_eq!(pending.check(Some('b'), size(60, 1)), Ok(()), "its first one");
        pending.add(Some('b'), size(60, 1));
        assert_eq!(pending.check(Some('c'), size(1, 1)), Err(Full::ForAll));
        pending.remove(Some('a'), size(40, 1));
        assert_eq!(pending.check(Some('c'), size(1, 1)), Ok(()));
        pending.remove(Some('b'), size(60, 1));
        assert!(pending.callers.is_empty() && pending.all == Counted::default());
    }

    #[test]
    fn who_may_have_it_all_may_as_may_those_without_a_key() {
        for (mut pending, caller) in [(pending(100), Some('a')), (pending(50), None)] {
            pending.add(caller, size(99, 1));
            assert_eq!(pending.check(caller, size(1, 1)), Ok(()));
            assert_eq!(pending.check(caller, size(2, 1)), Err(Full::ForAll));
        }
    }

    #[test]
    fn one_is_let_in_when_nobody_stands_there_however_large() {
        let mut pending = pending(50);
        assert_eq!(pending.check(Some('a'), size(999, 9_999)), Ok(()));
        pending.add(Some('a'), size(999, 9_999));
        assert_eq!(pending.check(Some('b'), size(1, 1)), Err(Full::ForAll));
    }
}
