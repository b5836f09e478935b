//! How many rows a statement looks at that searches for few among many.

use std::time::Duration;

/// Rows that are looked at at first.
const FIRST: i32 = 20_000;
/// The most and the fewest of them.
const MOST: i32 = 1_000_000;
const FEWEST: i32 = 10;
/// How many fewer there are after a statement that took too long. There is no time for a third one that does.
const SHRINK: i32 = 40;
/// A statement that takes less than this may look at twice as many.
const QUICK: Duration = Duration::from_millis(100);

/// Rows for the next statement of a search, going by how the ones before went.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBudget(i32);

impl RowBudget {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    pub(super) fn rows(self) -> i32 {
        self.0
    }

    /// A statement is done. Where it found all that it was to find, it looked at fewer rows than it might have.
    pub(super) fn note(&mut self, took: Duration, found_all: bool) {
        if found_all {
            self.0 = self.0.min(FIRST);
        } else if took < QUICK {
            self.0 = (self.0 * 2).min(MOST);
        }
    }

    /// A statement took too long; false if it is not worth a try with fewer rows.
    pub(super) fn shrink(&mut self) -> bool {
        let before = self.0;
        self.0 = (before / SHRINK).max(FEWEST);
        self.0 < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_statements_are_quick_and_shrinks_when_one_takes_too_long() {
        let mut budget = RowBudget::new();
        budget.note(QUICK, false);
        assert_eq!(budget.rows(), FIRST);
        for _ in 0..40 {
            budget.note(QUICK / 2, false);
        }
        assert_eq!(budget.rows(), MOST);
        budget.note(QUICK / 2, true);
        assert_eq!(budget.rows(), FIRST);
        let mut tries = 0;
        while budget.shrink() {
            tries += 1;
        }
        assert_eq!((budget.rows(), tries), (FEWEST, 3));
    }
}
