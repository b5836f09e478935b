//! What callers share, so that none of them has it all.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{CallerId, QueueName};

/// Entries that are kept before those are looked for that nobody uses.
const ROOM: usize = 64;

/// The same number of slots for each key.
#[derive(Debug)]
pub struct KeyedSlots<K> {
    each: usize,
    used: Mutex<HashMap<K, Weak<Semaphore>>>,
}

impl<K: Clone + Eq + Hash> KeyedSlots<K> {
    /// So many for each.
    pub fn new(each: usize) -> Self {
        Self { each: each.max(1), used: Mutex::default() }
    }

    /// Waits for a slot, in order of arrival among those with the same key.
    pub async fn acquire(&self, key: &K) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.of(key).acquire_owned().await.ok()
    }

    /// A slot, if one is free.
    pub fn try_acquire(&self, key: &K) -> Option<OwnedSemaphorePermit> {
        self.of(key).try_acquire_owned().ok()
    }

    fn of(&self, key: &K) -> Arc<Semaphore> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = used.get(key).and_then(Weak::upgrade) {
            return slots;
        }
        if used.len() >= ROOM && used.len() == used.capacity() {
            used.retain(|_, slots| slots.strong_count() > 0);
        }
        // Whoever has a slot, or waits for one, keeps them.
        let slots = Arc::new(Semaphore::new(self.each));
        used.insert(key.clone(), Arc::downgrade(&slots));
        slots
    }
}

/// Slots for all, of which one caller has a share at most.
#[derive(Debug)]
pub struct FairSlots {
    all: Arc<Semaphore>,
    callers: KeyedSlots<CallerId>,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub struct FairSlot {
    _of_caller: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl FairSlots {
    /// So many, and so many for each caller.
    pub fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all.max(1))), callers: KeyedSlots::new(each) }
    }

    /// Waits for a slot. Of one caller's requests no more stand in line with those of others than may have
    /// one.
    pub async fn acquire(&self, caller: Option<CallerId>) -> FairSlot {
        let of_caller = match caller {
            Some(caller) => self.callers.acquire(&caller).await,
            None => None,
        };
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok();
        FairSlot { _of_caller: of_caller, _of_all: of_all }
    }

    /// A slot, if one is free.
    pub fn try_acquire(&self, caller: Option<CallerId>) -> Option<FairSlot> {
        let of_caller = match caller {
            Some(caller) => Some(self.callers.try_acquire(&caller)?),
            None => None,
        };
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(FairSlot { _of_caller: of_caller, _of_all: Some(of_all) })
    }
}

/// Permits for reads that may take long: few at a time, one at a time of a queue.
#[derive(Debug)]
pub struct DearReads {
    slots: FairSlots,
    queues: KeyedSlots<QueueName>,
}

/// A permit for one such read, until it is dropped.
#[derive(Debug)]
pub struct DearRead {
    _of_queue: Option<OwnedSemaphorePermit>,
    _slot: FairSlot,
}

impl DearReads {
    /// So many, and so many for each caller.
    pub fn new(all: usize, each: usize) -> Self {
        Self { slots: FairSlots::new(all, each), queues: KeyedSlots::new(1) }
    }

    /// Waits for a permit to read a queue, or what is about no queue in particular.
    pub async fn acquire(&self, caller: Option<CallerId>, queue: Option<&QueueName>) -> DearRead {
        let FairSlots { all, callers } = &self.slots;
        let of_caller = match caller {
            Some(caller) => callers.acquire(&caller).await,
            None => None,
        };
        // Before one of those for all: who waits for a queue keeps nobody from another.
        let of_queue = match queue {
            Some(queue) => self.queues.acquire(queue).await,
            None => None,
        };
        let of_all = Arc::clone(all).acquire_owned().await.ok();
        DearRead { _of_queue: of_queue, _slot: FairSlot { _of_caller: of_caller, _of_all: of_all } }
    }
}

/// How many there are of each key.
#[derive(Debug)]
pub(super) struct KeyedCounts<K: Clone + Eq + Hash>(Arc<Mutex<HashMap<K, usize>>>);

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub struct Counted<K: Clone + Eq + Hash> {
    counts: KeyedCounts<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Clone for KeyedCounts<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> Default for KeyedCounts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> KeyedCounts<K> {
    /// Counts one more, unless there are as many as may be.
    pub(super) fn enter(&self, key: K, most: usize) -> Option<Counted<K>> {
        {
            let mut counts = self.lock();
            if counts.get(&key).copied().unwrap_or(0) >= most {
                return None;
            }
            *counts.entry(key.clone()).or_default() += 1;
        }
        Some(Counted { counts: self.clone(), key })
    }

    /// How many there are.
    pub(super) fn of(&self, key: &K) -> usize {
        self.lock().get(key).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    const A: Option<CallerId> = Some(CallerId([1; 32]));
    const B: Option<CallerId> = Some(CallerId([2; 32]));

    #[tokio::test]
    async fn one_caller_has_a_share_and_leaves_the_rest() {
        let slots = FairSlots::new(4, 2);
        let first = slots.acquire(A).await;
        let _second = slots.acquire(A).await;
        assert!(slots.try_acquire(A).is_none());
        assert!(slots.acquire(A).now_or_never().is_none());
        let _third = slots.acquire(B).now_or_never().expect("free");
        drop(first);
        let _again = slots.acquire(A).now_or_never().expect("free again");
        let _nobodys = slots.acquire(None).now_or_never().expect("the last");
        assert!(slots.try_acquire(B).is_none() && slots.try_acquire(None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn those_in_line_with_one_caller_are_not_in_the_way_of_another() {
        let slots = Arc::new(FairSlots::new(2, 1));
        let held = slots.acquire(A).await;
        for _ in 0..100 {
            let slots = Arc::clone(&slots);
            tokio::spawn(async move { slots.acquire(A).await });
        }
        tokio::task::yield_now().await;
        let other = timeout(Duration::from_secs(1), slots.acquire(B)).await;
        other.expect("none of those stand in line for it");
        drop(held);
    }

    #[tokio::test]
    async fn one_dear_read_at_a_time_of_a_queue() {
        let [q, r] = ["q", "r"].map(|name| QueueName::parse(name).expect("valid"));
        let reads = DearReads::new(3, 2);
        let first = reads.acquire(A, Some(&q)).await;
        assert!(reads.acquire(B, Some(&q)).now_or_never().is_none());
        let _second = reads.acquire(A, Some(&r)).now_or_never().expect("another queue");
        assert!(reads.acquire(A, None).now_or_never().is_none(), "the caller has two");
        drop(first);
        let _third = reads.acquire(B, Some(&q)).now_or_never().expect("free again");
    }

    #[tokio::test]
    async fn what_nobody_uses_is_forgotten() {
        let slots = KeyedSlots::new(1);
        let kept = slots.acquire(&0).await;
        for n in 1..10_000 {
            drop(slots.acquire(&n).await);
        }
        assert!(slots.used.lock().expect("whole").len() < 1_000);
        assert!(slots.try_acquire(&0).is_none());
        drop(kept);
        assert!(slots.try_acquire(&0).is_some());
    }

    #[test]
    fn as_many_as_may_be_are_counted() {
        let counts = KeyedCounts::default();
        let first = counts.enter("a", 2).expect("room");
        let second = counts.enter("a", 2).expect("room");
        assert!(counts.enter("a", 2).is_none());
        let other = counts.enter("b", 1).expect("room");
        drop(first);
        assert!(counts.enter("a", 2).is_some());
        drop((second, other));
        assert!(counts.lock().is_empty());
    }
}
