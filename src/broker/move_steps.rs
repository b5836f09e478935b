//! Moving messages step by step, and what is told of it when a step fails.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::{
    domain::QueueName,
    store::{Moved, Rejection, Step, Unreturnable},
};

use super::{Error, Result, moves::MovedSome, row_budget::RowBudget};

/// The most messages that are moved in one transaction.
pub(super) const STEP: i32 = 500;

/// Moving messages in transactions of a bounded size, until there are no more, the limit is reached,
/// or the time is over: then it says where to go on.
#[derive(Debug)]
pub(super) struct MoveSteps {
    /// How many were moved so far.
    pub(super) moved: i64,
    /// Why the first one stayed that was to be moved.
    stayed: Option<Stayed>,
    /// Whether one stayed that was locked, or whose destination was.
    is_any_locked: bool,
    /// Why the first one that was passed over can go nowhere.
    unreturnable: Option<Unreturnable>,
    /// What ended it before its time, after it had moved some.
    broken_off: Option<Error>,
    limit: Option<i64>,
    /// The most messages of a step; no bound where they are only counted.
    most: Option<RowBudget>,
    from: i64,
    after: i64,
    /// What comes later than the first step is none of theirs.
    up_to: Option<i64>,
    /// Whether the last one has been looked at.
    is_through: bool,
    is_over: bool,
    /// What is to be told in place of a number.
    failed: Option<Error>,
    /// Where not every message is to be moved.
    rows: Option<RowBudget>,
    began: Instant,
    deadline: Instant,
}

/// What moving dead letters came to.
#[derive(Debug)]
pub(super) struct Redriven {
    /// How many were moved.
    pub(super) moved: i64,
    /// Whether all have been looked at, and none was locked.
    pub(super) is_through: bool,
    /// The id behind which to go on, where the time was up.
    pub(super) next: Option<i64>,
    /// Why one stayed.
    pub(super) kept: Option<Error>,
    /// Why one can go nowhere.
    pub(super) unreturnable: Option<Unreturnable>,
}

/// Why a message stayed that was to be moved.
#[derive(Debug)]
enum Stayed {
    Locked,
    /// Why, and to which queue it was to go.
    Rejected(Rejection, Option<String>),
}

impl MoveSteps {
    pub(super) fn new(limit: Option<i64>, after: Option<i64>, time: Duration) -> Self {
        // PGMQ's ids begin at 1, and those of other people's rows anywhere.
        let (from, now) = (after.unwrap_or(i64::MIN), Instant::now());
        Self {
            moved: 0,
            stayed: None,
            is_any_locked: false,
            unreturnable: None,
            broken_off: None,
            limit,
            most: Some(RowBudget::of_changes(STEP)),
            from,
            after: from,
            up_to: None,
            is_through: false,
            is_over: false,
            failed: None,
            rows: None,
            began: now,
            deadline: now + time,
        }
    }

    /// For those that may have to pass over many to find one.
    pub(super) fn searching(self, is_search: bool) -> Self {
        Self { rows: is_search.then(RowBudget::of_search), ..self }
    }

    /// For those that move none.
    pub(super) fn counting(self) -> Self {
        Self { most: None, ..self }
    }

    /// The same later on, from where it has come to. Behind the last one it begins anew, for those that were locked.
    pub(super) fn resume(&mut self, limit: i64, time: Duration) {
        if self.is_through {
            (self.after, self.stayed, self.is_any_locked) = (i64::MIN, None, false);
            self.unreturnable = None;
        }
        self.broken_off = None;
        (self.moved, self.limit, self.from) = (0, Some(limit), self.after);
        (self.is_through, self.is_over, self.failed, self.up_to) = (false, false, None, None);
        self.deadline = Instant::now() + time;
    }

    /// The next step, if there is one.
    pub(super) fn next(&mut self) -> Option<Step> {
        let wanted = self.wanted();
        if wanted <= 0 || self.is_through || self.is_over {
            return None;
        }
        self.began = Instant::now();
        let limit = i32::try_from(wanted).unwrap_or(i32::MAX);
        let rows = self.rows.map(RowBudget::rows);
        Some(Step { after: self.after, up_to: self.up_to, limit, rows })
    }

    /// The most messages of the next step.
    pub(super) fn wanted(&self) -> i64 {
        let most = self.most.map_or(i64::MAX, |most| most.rows().into());
        self.limit.map_or(most, |limit| (limit - self.moved).min(most))
    }

    /// What moving dead letters came to: an error if somebody has locked what none of them could go past, and there are
    /// no others behind.
    pub(super) fn redriven(
        &mut self,
        from: &QueueName,
        to: Option<&QueueName>,
    ) -> Result<Redriven> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let what = || match to {
            Some(to) => format!("queue `{to}`"),
            None => format!("a queue to which messages of `{from}` go back"),
        };
        let (moved, next) = (self.moved, self.next_id());
        let kept = match &self.stayed {
            Some(Stayed::Locked) if moved == 0 && next.is_none() => {
                return Err(Error::Locked(what()));
            }
            Some(Stayed::Locked) if moved == 0 => Some(Error::Locked(what())),
            Some(Stayed::Rejected(rejection, destination)) => {
                Some(refused_by(from, destination.as_deref(), rejection))
            }
            Some(Stayed::Locked) | None => self.broken_off.take(),
        };
        let (is_through, unreturnable) =
            (self.is_through && !self.is_any_locked, self.unreturnable);
        Ok(Redriven { moved, is_through, next, kept, unreturnable })
    }

    /// Takes a step into account. One that took too long is tried with fewer rows. One that failed is the end, whether it
    /// was begun or not; what those before it moved is moved. Where it is not known whether it failed, it is not known
    /// either how many were moved.
    pub(super) fn done(&mut self, step: Result<Moved>) {
        match step {
            Ok(step) => self.add(step),
            Err(Error::TookTooLong(_)) if self.narrow() => {}
            Err(error) => {
                self.is_over = true;
                let is_some_looked_at = matches!(error, Error::TookTooLong(_)) && self.is_begun();
                if hides(self.moved, &error) && !is_some_looked_at {
                    self.failed = Some(error);
                } else {
                    debug!(%error, moved = self.moved, "moving messages broke off");
                    // That the time was up is what asking again is for.
                    self.broken_off = Some(error).filter(|e| !matches!(e, Error::TookTooLong(_)));
                }
            }
        }
    }

    /// Whether a step has as many messages as one can have.
    pub(super) fn is_widest(&self) -> bool {
        self.most.is_none_or(|most| most.rows() >= STEP)
    }

    fn add(&mut self, step: Moved) {
        let is_locked = step.count == 0 && step.failed > 0 && step.rejection.is_none();
        if is_locked && step.last_id.is_some() && self.most.as_mut().is_some_and(RowBudget::extend)
        {
            // Of those behind some may not be.
            self.up_to = step.up_to;
            return;
        }
        let (wanted, found) = (self.wanted(), step.count + step.failed);
        if let Some(rows) = &mut self.rows {
            rows.note_search(self.began.elapsed(), found >= wanted);
        }
        if let Some(most) = &mut self.most {
            most.note_change(self.began.elapsed(), found);
        }
        self.moved += step.count;
        self.unreturnable = self.unreturnable.or(step.unreturnable);
        if step.failed > 0 {
            self.is_any_locked |= step.rejection.is_none();
            let rejected = |why| Stayed::Rejected(why, step.destination);
            self.stayed.get_or_insert(step.rejection.map_or(Stayed::Locked, rejected));
        }
        self.is_through = step.last_id.is_none();
        self.up_to = step.up_to;
        self.after = step.last_id.unwrap_or(self.after);
        self.is_over = Instant::now() >= self.deadline;
    }

    /// Has the next step move fewer messages, and look at fewer rows, after one that took too long; false if that is not
    /// worth a try, or not yet.
    fn narrow(&mut self) -> bool {
        let is_fewer = self.most.as_mut().is_some_and(RowBudget::shrink)
            | self.rows.as_mut().is_some_and(RowBudget::shrink);
        // Whoever asks again has more time for it.
        let is_late = Instant::now() >= self.deadline && self.is_begun();
        is_fewer && !is_late
    }

    fn is_begun(&self) -> bool {
        self.moved > 0 || self.after > self.from
    }

    /// Where to go on that it did not come to.
    fn next_id(&self) -> Option<i64> {
        (!self.is_through && self.wanted() > 0).then_some(self.after)
    }

    /// How many were moved from the archive of `from`. If none was, as `to` took none, that is the answer, unless there
    /// are others behind.
    pub(super) fn finish(self, from: &QueueName, to: &QueueName) -> Result<MovedSome> {
        let (count, next) = (self.moved, self.next_id());
        if let Some(error) = self.failed {
            return Err(error);
        }
        let kept = match self.stayed {
            Some(Stayed::Rejected(Rejection::KeptBySource, _)) => {
                Some(Error::SourceKept(format!("the archive of queue `{from}`")))
            }
            Some(Stayed::Rejected(rejection, _)) => Some(Error::rejected(to.as_str(), &rejection)),
            Some(Stayed::Locked) if count == 0 => Some(Error::Locked(format!("queue `{to}`"))),
            Some(Stayed::Locked) | None => self.broken_off,
        };
        MovedSome::new(count, next, kept)
    }
}

/// Whether the failure of a step is the answer, and not what those before it did: they did nothing, or the step may
/// have done something, too.
pub(super) fn hides(done: i64, failure: &Error) -> bool {
    done == 0 || matches!(failure, Error::OutcomeUnknown(_))
}

/// A dead letter of a queue that the table of another one did not take, or its own one did not give.
pub(super) fn refused_by(
    from: &QueueName,
    destination: Option<&str>,
    rejection: &Rejection,
) -> Error {
    match destination {
        _ if *rejection == Rejection::KeptBySource => {
            Error::SourceKept(format!("the table of queue `{from}`"))
        }
        Some(queue) => Error::rejected(queue, rejection),
        None => Error::rejected_by_origin(from, rejection),
    }
}

#[cfg(test)]
mod tests;
