//! Rows that make no sense and of which that was said: they are met again and again.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// What was said.
#[derive(Debug)]
pub(super) struct Reports(Mutex<BTreeSet<String>>);

impl Reports {
    /// More would be no slip of a pen: they are not said.
    const MOST: usize = 100;

    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Whether this is said for the first time.
    pub(super) fn is_new(&self, what: &str) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < Self::MOST && said.insert(what.to_owned())
    }

    /// Takes the rows that make no sense now, and returns those to speak of. A row that was put right
    /// meanwhile is forgotten.
    pub(super) fn news(&self, bad: BTreeSet<String>) -> Vec<String> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|row| bad.contains(row));
        let room = Self::MOST - said.len();
        let new: Vec<_> = bad.into_iter().filter(|row| !said.contains(row)).take(room).collect();
        said.extend(new.iter().cloned());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
        ids.into_iter().map(|id| format!("{id:03}")).collect()
    }

    #[test]
    fn a_row_is_spoken_of_once_until_it_is_put_right() {
        let reports = Reports::new();
        assert_eq!(reports.news(ids([1, 2])), ["001", "002"]);
        assert!(reports.news(ids([1, 2])).is_empty());
        assert_eq!(reports.news(ids([2, 3])), ["003"]);
        assert_eq!(reports.news(ids([1, 2, 3])), ["001"], "wrong once more");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let reports = Reports::new();
        assert_eq!(reports.news(ids(0..500)).len(), Reports::MOST);
        assert!(reports.news(ids(0..500)).is_empty());
    }
}
