//! Moving messages that were chosen one by one, step by step.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Moved, Rejection};

use super::{
    Error, Result,
    move_steps::{STEP, hides},
    moves::RedrivenThese,
    row_budget::RowBudget,
};

/// Those that are left, and what became of the others.
#[derive(Debug)]
pub(super) struct TheseSteps {
    ids: Vec<i64>,
    /// How many of them were tried.
    tried: usize,
    most: RowBudget,
    is_over: bool,
    outcome: RedrivenThese,
    began: Instant,
    deadline: Instant,
}

impl TheseSteps {
    pub(super) fn new(ids: Vec<i64>, time: Duration) -> Self {
        let (most, outcome) = (RowBudget::of_changes(STEP), RedrivenThese::default());
        let began = Instant::now();
        Self { ids, tried: 0, most, is_over: false, outcome, began, deadline: began + time }
    }

    /// The ids of the next step, if there is one.
    pub(super) fn next(&mut self) -> Option<&[i64]> {
        self.began = Instant::now();
        let ids = &self.ids[self.tried..self.end()];
        (!self.is_over && !ids.is_empty()).then_some(ids)
    }

    fn end(&self) -> usize {
        let most = usize::try_from(self.most.rows()).unwrap_or(1);
        self.ids.len().min(self.tried + most)
    }

    /// Takes a step into account; an error if that is all there is to tell. `refused` says why a letter was that was to
    /// go there.
    pub(super) fn done(
        &mut self,
        step: Result<Moved>,
        refused: impl Fn(&Rejection, Option<&str>) -> Error,
    ) -> Result<()> {
        let is_late = Instant::now() >= self.deadline;
        let is_begun = self.tried > 0;
        match step {
            Ok(step) => {
                let tried = self.end() - self.tried;
                self.tried = self.end();
                self.most.note_change(self.began.elapsed(), i64::try_from(tried).unwrap_or(0));
                self.outcome.moved += step.count;
                self.outcome.failed += step.failed;
                if let (None, Some(why)) = (&self.outcome.why, &step.rejection) {
                    self.outcome.why = Some(refused(why, step.destination.as_deref()).to_string());
                }
                self.is_over = is_late;
                Ok(())
            }
            Err(Error::TookTooLong(_)) if self.most.shrink() && !(is_late && is_begun) => Ok(()),
            Err(error) if !is_begun || hides(1, &error) => Err(error),
            Err(_) => {
                self.is_over = true;
                Ok(())
            }
        }
    }

    pub(super) fn outcome(mut self) -> RedrivenThese {
        self.outcome.left = i64::try_from(self.ids.len() - self.tried).unwrap_or(0);
        self.outcome
    }
}
