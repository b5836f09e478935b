//! Moving messages step by step, and what is told of it when a step fails.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::{
    domain::QueueName,
    store::{Moved, Rejection, Step},
};

use super::{Error, Result, archives::MovedSome, row_budget::RowBudget};

/// Messages that are moved in one transaction.
const STEP: i64 = 500;

/// Moving messages in transactions of a bounded size, until there are no more, the limit is reached,
/// or the time is over: then it says where to go on.
pub(super) struct MoveSteps {
    /// How many were moved so far.
    pub(super) moved: i64,
    /// Why the first one stayed that was to be moved.
    stayed: Option<Stayed>,
    limit: Option<i64>,
    /// The most messages of a step.
    most: i64,
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
    /// Why one stayed that no queue takes.
    pub(super) rejected: Option<Error>,
}

/// Why a message stayed that was to be moved.
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
            limit,
            most: STEP,
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
        Self { rows: is_search.then(RowBudget::new), ..self }
    }

    /// For those that move none.
    pub(super) fn counting(self) -> Self {
        Self { most: i64::MAX, ..self }
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
        self.limit.map_or(self.most, |limit| (limit - self.moved).min(self.most))
    }

    /// What moving dead letters came to: an error if somebody has locked what none of them could go past.
    pub(super) fn redriven(self, from: &QueueName, to: Option<&QueueName>) -> Result<Redriven> {
        let (moved, next) = (self.moved, self.next_id());
        if let Some(error) = self.failed {
            return Err(error);
        }
        let what = || match to {
            Some(to) => format!("queue `{to}`"),
            None => format!("a queue to which messages of `{from}` go back"),
        };
        let (is_through, rejected) = match self.stayed {
            Some(Stayed::Locked) if moved == 0 => return Err(Error::Locked(what())),
            Some(Stayed::Locked) => (false, None),
            Some(Stayed::Rejected(rejection, destination)) => {
                let error = refused_by(from, destination.as_deref(), &rejection);
                (self.is_through, Some(error))
            }
            None => (self.is_through, None),
        };
        Ok(Redriven { moved, is_through, next, rejected })
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
                }
            }
        }
    }

    fn add(&mut self, step: Moved) {
        let wanted = self.wanted();
        if let Some(rows) = &mut self.rows {
            rows.note(self.began.elapsed(), step.count + step.failed >= wanted);
        }
        self.moved += step.count;
        if step.failed > 0 {
            let rejected = |why| Stayed::Rejected(why, step.destination);
            self.stayed.get_or_insert(step.rejection.map_or(Stayed::Locked, rejected));
        }
        self.is_through = step.last_id.is_none();
        self.up_to = step.up_to;
        self.after = step.last_id.unwrap_or(self.after);
        self.is_over = Instant::now() >= self.deadline;
    }

    /// Whether to try a step again that took too long, with fewer rows.
    fn narrow(&mut self) -> bool {
        // Whoever asks again has more time for it.
        let is_late = Instant::now() >= self.deadline && self.is_begun();
        !is_late && self.rows.as_mut().is_some_and(RowBudget::shrink)
    }

    fn is_begun(&self) -> bool {
        self.moved > 0 || self.after > self.from
    }

    /// Where to go on that it did not come to.
    fn next_id(&self) -> Option<i64> {
        (!self.is_through && self.wanted() > 0).then_some(self.after)
    }

    /// How many were moved. If none was, as `to` took none, that is the answer.
    pub(super) fn finish(self, to: &QueueName) -> Result<MovedSome> {
        let next = self.next_id();
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.stayed {
            Some(Stayed::Rejected(rejection, _)) if self.moved == 0 => {
                Err(Error::rejected(to.as_str(), &rejection))
            }
            Some(Stayed::Locked) if self.moved == 0 => Err(Error::Locked(format!("queue `{to}`"))),
            _ => Ok(MovedSome { count: self.moved, next }),
        }
    }
}

/// Whether the failure of a step is the answer, and not what those before it did: they did nothing, or the step may
/// have done something, too.
pub(super) fn hides(done: i64, failure: &Error) -> bool {
    done == 0 || matches!(failure, Error::OutcomeUnknown(_))
}

/// A dead letter of a queue that the table of another one did not take.
pub(super) fn refused_by(
    from: &QueueName,
    destination: Option<&str>,
    rejection: &Rejection,
) -> Error {
    match destination {
        Some(queue) => Error::rejected(queue, rejection),
        None => Error::rejected_by_origin(from, rejection),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use crate::store;

    use super::*;

    fn step(count: i64, last_id: Option<i64>) -> Moved {
        let (rejection, destination) = (None, None);
        Moved { count, failed: 0, rejection, destination, last_id, up_to: Some(1_000) }
    }

    fn steps() -> MoveSteps {
        MoveSteps::new(None, None, Duration::from_secs(15)).searching(true)
    }

    fn too_long() -> Error {
        Error::TookTooLong(store::Error::Timeout)
    }

    fn queue() -> QueueName {
        QueueName::parse("q").expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_time_is_up_it_says_where_to_go_on() {
        let mut steps = steps();
        assert_eq!(steps.next().expect("one").after, i64::MIN);
        steps.done(Ok(step(3, Some(500))));
        let next = steps.next().expect("another");
        assert_eq!((next.after, next.up_to), (500, Some(1_000)));
        advance(Duration::from_secs(20)).await;
        steps.done(Ok(step(0, Some(800))));
        assert!(steps.next().is_none());
        let moved = steps.finish(&queue()).expect("moved");
        assert_eq!(moved, MovedSome { count: 3, next: Some(800) });
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_through_or_has_enough_says_nothing_of_the_kind() {
        let mut steps = steps();
        steps.done(Ok(step(3, None)));
        assert!(steps.next().is_none());
        let moved = steps.finish(&queue()).expect("moved");
        assert_eq!(moved, MovedSome { count: 3, next: None });
        let mut steps = MoveSteps::new(Some(3), Some(7), Duration::from_secs(15));
        assert_eq!(steps.next().expect("one").after, 7);
        steps.done(Ok(step(3, Some(9))));
        assert!(steps.next().is_none());
        assert_eq!(steps.finish(&queue()).expect("moved").next, None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_too_long_is_tried_with_fewer_rows() {
        let mut steps = steps();
        let rows = steps.next().expect("one").rows;
        steps.done(Err(too_long()));
        assert!(steps.next().expect("one").rows < rows);
        while steps.rows.as_mut().is_some_and(RowBudget::shrink) {}
        let mut other = self::steps();
        while other.rows.as_mut().is_some_and(RowBudget::shrink) {}
        other.done(Err(too_long()));
        assert!(other.next().is_none());
        assert!(
            matches!(other.finish(&queue()), Err(Error::TookTooLong(_))),
            "nothing was looked at"
        );
        steps.done(Ok(step(0, Some(40))));
        while steps.rows.as_mut().is_some_and(RowBudget::shrink) {}
        steps.done(Err(too_long()));
        let moved = steps.finish(&queue()).expect("looked at");
        assert_eq!(moved, MovedSome { count: 0, next: Some(40) });
    }

    #[test]
    fn what_was_moved_is_the_answer_whatever_keeps_the_next_step_from_beginning() {
        for error in [
            store::Error::Overloaded.into(),
            store::Error::Unavailable(None).into(),
            Error::Locked("a queue".to_owned()),
        ] {
            let mut steps = self::steps();
            steps.done(Ok(step(500, Some(500))));
            steps.done(Err(error));
            assert!(steps.next().is_none(), "it is the end");
            assert_eq!(steps.finish(&queue()).expect("a number").count, 500);
        }
        let mut steps = self::steps();
        steps.done(Err(store::Error::Overloaded.into()));
        assert!(matches!(steps.finish(&queue()), Err(Error::Overloaded(_))));
    }

    #[test]
    fn what_was_moved_for_certain_is_known_though_the_answer_is_that_it_is_not() {
        let mut steps = self::steps();
        steps.done(Ok(step(500, Some(500))));
        steps.done(Err(store::Error::OutcomeUnknown(None).into()));
        assert!(steps.next().is_none(), "it is the end");
        assert_eq!(steps.moved, 500);
        let redriven = steps.redriven(&queue(), None);
        assert!(matches!(redriven, Err(Error::OutcomeUnknown(_))), "{redriven:?}");
    }
}
