//! The bytes that requests hold while they are served: bounded, so that memory is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

use crate::domain::Share;

use super::caller_usage::{CallerUsage, add, add_alone};

/// Bytes of a body or an answer that are not counted: what is small is bounded by the number of
/// requests, and is served however much others hold.
const FREE: usize = 16 << 10;
/// Bytes that are taken from the budget at a time.
const STEP: usize = 64 << 10;

/// Bytes that all requests together may hold. A clone is the same budget.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget {
    held: Arc<AtomicUsize>,
    most: usize,
    /// What one caller may hold.
    of_caller: usize,
}

/// Bytes that one request holds.
#[derive(Debug)]
pub(crate) struct MemoryPermit {
    budget: MemoryBudget,
    caller: Option<Arc<CallerUsage>>,
    bytes: usize,
}

/// Adds to a count up to a bound, or says that it does not fit.
type Add = fn(&AtomicUsize, usize, usize) -> bool;

/// There is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// For anybody.
    ForAll,
    /// For this caller, who may hold so many.
    ForCaller(usize),
}

impl MemoryBudget {
    /// So many bytes, and so many for one caller, but at least what one request may need.
    pub(crate) fn new(most: u64, share: Share, of_request: u64) -> Self {
        let [most, of_request] =
            [most, of_request].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        // As they are taken: what may be held, may be held to its last byte.
        let [most, of_caller] = [most, share.of(most).max(of_request)]
            .map(|bytes| bytes.checked_next_multiple_of(STEP).unwrap_or(usize::MAX));
        Self { held: Arc::default(), most, of_caller }
    }

    /// Nothing yet.
    pub(crate) fn hold(&self, caller: Option<Arc<CallerUsage>>) -> MemoryPermit {
        MemoryPermit { budget: self.clone(), caller, bytes: 0 }
    }

    /// Whether no more is held than may be, by anybody and by this caller.
    pub(crate) fn has_room(&self, caller: Option<&CallerUsage>) -> bool {
        let of_caller = caller.map_or(0, |caller| caller.bytes.load(Relaxed));
        self.held() <= self.most && of_caller <= self.of_caller
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

impl MemoryPermit {
    /// Holds so many bytes, if there are any left.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.grow(bytes, add)
    }

    /// The same for what has no parts, and has to fit at some time: at the latest when nothing else is
    /// held.
    pub(crate) fn grow_to_whole(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.grow(bytes, add_alone)
    }

    /// Holds so many bytes from now on, be it more than may be held: of what cannot be given back. Whoever comes
    /// next finds that there is no room.
    pub(crate) fn set_to(&mut self, bytes: usize) {
        let wanted = rounded(bytes);
        let counts = [Some(&*self.budget.held), self.caller.as_ref().map(|caller| &caller.bytes)];
        for count in counts.into_iter().flatten() {
            count.fetch_add(wanted, Relaxed);
            count.fetch_sub(self.bytes, Relaxed);
        }
        self.bytes = wanted;
    }

    fn grow(&mut self, bytes: usize, add: Add) -> Result<(), Exhausted> {
        let wanted = rounded(bytes);
        if wanted > self.bytes {
            self.take(wanted - self.bytes, add)?;
            self.bytes = wanted;
        }
        Ok(())
    }

    /// It turned out whose they are, after they were counted as another's.
    pub(crate) fn moves_to(&mut self, caller: Arc<CallerUsage>) -> Result<(), Exhausted> {
        let most = self.budget.of_caller;
        if !add(&caller.bytes, self.bytes, most) {
            return Err(Exhausted::ForCaller(most));
        }
        if let Some(before) = self.caller.replace(caller) {
            before.bytes.fetch_sub(self.bytes, Relaxed);
        }
        Ok(())
    }

    /// How many are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(&self, bytes: usize, add: Add) -> Result<(), Exhausted> {
        let MemoryBudget { held, most, of_caller } = &self.budget;
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

    /// Bytes that say what was done: they are on their way whatever others hold, and count for as long.
    pub(crate) fn keep_all(mut self, bytes: Vec<u8>) -> Bytes {
        self.set_to(bytes.len());
        self.keep(bytes)
    }

    /// Bytes that are on their way, and held for as long.
    pub(crate) fn keep(self, bytes: Vec<u8>) -> Bytes {
        if self.bytes == 0 { bytes.into() } else { Bytes::from_owner(Kept { bytes, _held: self }) }
    }
}

/// As bytes are counted.
fn rounded(bytes: usize) -> usize {
    if bytes <= FREE { 0 } else { bytes.next_multiple_of(STEP) }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Relaxed);
        if let Some(caller) = &self.caller {
            caller.bytes.fetch_sub(self.bytes, Relaxed);
        }
    }
}

struct Kept {
    bytes: Vec<u8>,
    _held: MemoryPermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Share = Share(50);

    fn budget(most: usize) -> MemoryBudget {
        MemoryBudget::new(most as u64, HALF, 0)
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
        let [a, b] = [Arc::<CallerUsage>::default(), Arc::default()];
        let hold = |caller: &Arc<CallerUsage>| budget.hold(Some(Arc::clone(caller)));
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
        let budget = MemoryBudget::new(4 * STEP as u64, HALF, 3 * STEP as u64);
        budget.hold(Some(a)).grow_to(3 * STEP).expect("room");
    }

    #[test]
    fn what_cannot_be_given_back_counts_beyond_the_bound() {
        let budget = budget(4 * STEP);
        let caller = Arc::<CallerUsage>::default();
        let mut held = budget.hold(Some(Arc::clone(&caller)));
        held.grow_to(2 * STEP).expect("room");
        assert!(budget.has_room(Some(&caller)), "it has what it may have");
        held.set_to(3 * STEP);
        assert!(!budget.has_room(Some(&caller)) && budget.has_room(None));
        held.set_to(5 * STEP);
        assert!(!budget.has_room(None));
        assert!(budget.hold(None).grow_to(STEP).is_err());
        held.set_to(STEP);
        assert!(budget.has_room(Some(&caller)));
        held.set_to(1);
        assert_eq!((caller.bytes.load(Relaxed), budget.held()), (0, 0));
    }

    #[test]
    fn bytes_count_as_their_owners_once_that_is_known() {
        let budget = budget(2 * STEP);
        let [seeming, owner] = [Arc::<CallerUsage>::default(), Arc::default()];
        let mut held = budget.hold(Some(Arc::clone(&seeming)));
        held.grow_to(STEP).expect("room");
        held.moves_to(Arc::clone(&owner)).expect("room");
        assert_eq!((seeming.bytes.load(Relaxed), owner.bytes.load(Relaxed)), (0, STEP));
        let mut more = budget.hold(Some(Arc::clone(&seeming)));
        more.grow_to(STEP).expect("room");
        assert_eq!(more.moves_to(Arc::clone(&owner)), Err(Exhausted::ForCaller(STEP)));
        drop((held, more));
        let left = (seeming.bytes.load(Relaxed), owner.bytes.load(Relaxed), budget.held());
        assert_eq!(left, (0, 0, 0));
    }

    #[test]
    fn what_may_be_held_may_be_held_to_its_last_byte() {
        let caller = Arc::<CallerUsage>::default();
        let budget = MemoryBudget::new(2_000_000, HALF, 2_000_000);
        budget.hold(Some(Arc::clone(&caller))).grow_to(2_000_000).expect("room");
        let budget = MemoryBudget::new(4_000_000, HALF, 10);
        budget.hold(Some(caller)).grow_to(2_000_000).expect("room");
    }

    #[test]
    fn what_has_no_parts_is_taken_when_there_is_nothing_else() {
        let budget = budget(4 * STEP);
        let [a, b] = [Arc::<CallerUsage>::default(), Arc::default()];
        let hold = |caller: &Arc<CallerUsage>| budget.hold(Some(Arc::clone(caller)));
        hold(&a).grow_to(9 * STEP).expect_err("it has parts");
        let mut small = hold(&b);
        small.grow_to(STEP).expect("room");
        assert_eq!(hold(&a).grow_to_whole(9 * STEP), Err(Exhausted::ForAll));
        // More than its share, but not than there is.
        let mut large = hold(&a);
        large.grow_to_whole(3 * STEP).expect("it has nothing else");
        assert_eq!(hold(&a).grow_to_whole(STEP), Err(Exhausted::ForCaller(2 * STEP)));
        drop((small, large));
        let mut huge = hold(&a);
        huge.grow_to_whole(9 * STEP).expect("there is nothing else");
        assert_eq!(hold(&b).grow_to(STEP), Err(Exhausted::ForAll));
        drop(huge);
        assert_eq!((a.bytes.load(Relaxed), b.bytes.load(Relaxed), budget.held()), (0, 0, 0));
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
}
