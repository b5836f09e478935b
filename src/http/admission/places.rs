//! Places that are taken for long, such as those of pages that are kept up to date: bounded, and each caller has a
//! share of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::domain::Share;

use super::{
    caller_usage::{CallerUsage, add},
    memory::Exhausted,
};

/// So many places.
#[derive(Debug)]
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
    /// What one caller may have.
    of_caller: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<AtomicUsize>,
    caller: Option<Arc<CallerUsage>>,
}

impl Places {
    /// So many, and this part of them for one caller.
    pub(crate) fn new(most: usize, share: Share) -> Self {
        Self { taken: Arc::default(), most, of_caller: share.of(most) }
    }

    /// Takes one, if there is one left; for somebody, where callers are told apart.
    pub(crate) fn take(&self, caller: Option<Arc<CallerUsage>>) -> Result<Place, Exhausted> {
        let count = caller.as_ref().map(|caller| &caller.places);
        if count.is_some_and(|count| !add(count, 1, self.of_caller)) {
            return Err(Exhausted::ForCaller(self.of_caller));
        }
        if !add(&self.taken, 1, self.most) {
            if let Some(count) = count {
                count.fetch_sub(1, Relaxed);
            }
            return Err(Exhausted::ForAll);
        }
        Ok(Place { taken: Arc::clone(&self.taken), caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Relaxed);
        if let Some(caller) = &self.caller {
            caller.places.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_a_share_and_leaves_the_rest() {
        let places = Places::new(3, Share(70));
        let [a, b] = [Arc::<CallerUsage>::default(), Arc::default()];
        let take = |caller: &Arc<CallerUsage>| places.take(Some(Arc::clone(caller)));
        let (first, _second) = (take(&a).expect("free"), take(&a).expect("free"));
        assert_eq!(take(&a).err(), Some(Exhausted::ForCaller(2)));
        let third = take(&b).expect("free");
        assert_eq!(take(&b).err(), Some(Exhausted::ForAll));
        assert_eq!(places.take(None).err(), Some(Exhausted::ForAll));
        drop((first, third));
        let (_again, _last) = (take(&a).expect("free again"), take(&b).expect("free again"));
        assert_eq!(take(&b).err(), Some(Exhausted::ForAll), "what was refused was not counted");
    }
}
