//! How many rows a statement of several looks at, or changes: few at first where each may take long, more while that is
//! quick, and fewer after one that took too long.

use std::time::Duration;

/// How many fewer there are after a statement that took too long. There is no time for a third one that does.
const SHRINK: i32 = 40;
/// A statement that takes less than this may have twice as many.
const QUICK: Duration = Duration::from_millis(100);
/// Rows that are changed at first: a trigger, or a foreign key without an index, may take as long as it likes for each.
const FIRST_CHANGED: i32 = 50;

/// Rows for the next statement, going by how the ones before went.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBudget {
    rows: i32,
    first: i32,
    fewest: i32,
    most: i32,
}

impl RowBudget {
    /// For statements that search for few among many.
    pub(super) fn of_search() -> Self {
        Self { rows: 20_000, first: 20_000, fewest: 10, most: 1_000_000 }
    }

    /// For statements that change rows, at most so many.
    pub(super) fn of_changes(most: i32) -> Self {
        let first = FIRST_CHANGED.min(most);
        Self { rows: first, first, fewest: 1, most }
    }

    pub(super) fn rows(self) -> i32 {
        self.rows
    }

    /// A search is done. Where it found all that it was to find, it looked at fewer rows than it might have.
    pub(super) fn note_search(&mut self, took: Duration, found_all: bool) {
        if found_all {
            self.rows = self.rows.min(self.first);
        } else {
            self.grow(took);
        }
    }

    /// A change is done. One that had fewer rows than it might have says nothing of more.
    pub(super) fn note_change(&mut self, took: Duration, rows: i64) {
        if rows >= self.rows.into() {
            self.grow(took);
        }
    }

    fn grow(&mut self, took: Duration) {
        if took < QUICK {
            self.extend();
        }
    }

    /// Has the next statement go further, whatever it takes: false if it cannot.
    pub(super) fn extend(&mut self) -> bool {
        let before = self.rows;
        self.rows = (before * 2).min(self.most);
        self.rows > before
    }

    /// A statement took too long; false if it is not worth a try with fewer rows.
    pub(super) fn shrink(&mut self) -> bool {
        let before = self.rows;
        self.rows = (before / SHRINK).max(self.fewest);
        self.rows < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_statements_are_quick_and_shrinks_when_one_takes_too_long() {
        let mut budget = RowBudget::of_search();
        let first = budget.rows();
        budget.note_search(QUICK, false);
        assert_eq!(budget.rows(), first);
        for _ in 0..40 {
            budget.note_search(QUICK / 2, false);
        }
        assert_eq!(budget.rows(), 1_000_000);
        budget.note_search(QUICK / 2, true);
        assert_eq!(budget.rows(), first);
        let mut tries = 0;
        while budget.shrink() {
            tries += 1;
        }
        assert_eq!((budget.rows(), tries), (10, 3));
    }

    #[test]
    fn changes_begin_with_few_rows_and_come_down_to_one() {
        let mut budget = RowBudget::of_changes(500);
        assert_eq!(budget.rows(), FIRST_CHANGED);
        budget.note_change(QUICK, FIRST_CHANGED.into());
        assert_eq!(budget.rows(), FIRST_CHANGED, "it was not quick");
        budget.note_change(QUICK / 2, 3);
        assert_eq!(budget.rows(), FIRST_CHANGED, "it was not all");
        budget.note_change(QUICK / 2, FIRST_CHANGED.into());
        assert_eq!(budget.rows(), 2 * FIRST_CHANGED);
        for _ in 0..10 {
            budget.note_change(QUICK / 2, 500);
        }
        assert_eq!(budget.rows(), 500);
        while budget.shrink() {}
        assert_eq!(budget.rows(), 1);
        assert_eq!(RowBudget::of_changes(7).rows(), 7);
    }
}
