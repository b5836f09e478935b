//! Moving messages step by step, and what is told of it when a step fails.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::{
    domain::QueueName,
    store::{Moved, Rejection, Step},
};

use super::{Error, Result};

/// Messages that are moved in one transaction.
const STEP: i64 = 500;

/// Moving messages in transactions of a bounded size, until there are no more, the limit is reached,
/// or the time is over. Whoever asks again goes on from there.
pub(super) struct MoveSteps {
    /// How many were moved so far.
    pub(super) moved: i64,
    /// Why the first one stayed that was to be moved.
    stayed: Option<Stayed>,
    limit: Option<i64>,
    after: Option<i64>,
    /// What comes later than the first step is none of theirs.
    up_to: Option<i64>,
    /// Whether the last one has been looked at.
    is_through: bool,
    /// What is to be told in place of a number.
    failed: Option<Error>,
    deadline: Instant,
}

/// What moving dead letters came to.
#[derive(Debug)]
pub(super) struct Redriven {
    /// How many were moved.
    pub(super) moved: i64,
    /// Whether all have been looked at, and none was locked.
    pub(super) is_through: bool,
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
    pub(super) fn new(limit: Option<i64>, time: Duration) -> Self {
        Self {
            moved: 0,
            stayed: None,
            limit,
            // PGMQ's ids begin at 1, and those of other people's rows anywhere.
            after: Some(i64::MIN),
            up_to: None,
            is_through: false,
            failed: None,
            deadline: Instant::now() + time,
        }
    }

    /// The next step, if there is one.
    pub(super) fn next(&self) -> Option<Step> {
        let wanted = self.limit.map_or(STEP, |limit| (limit - self.moved).min(STEP));
        let after = self.after.filter(|_| wanted > 0)?;
        Some(Step { after, up_to: self.up_to, limit: i32::try_from(wanted).unwrap_or(1) })
    }

    /// What moving dead letters came to: an error if somebody has locked what none of them could go past.
    pub(super) fn redriven(self, from: &QueueName, to: Option<&QueueName>) -> Result<Redriven> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let what = || match to {
            Some(to) => format!("queue `{to}`"),
            None => format!("a queue to which messages of `{from}` go back"),
        };
        let (moved, is_through) = (self.moved, self.is_through);
        let rejected = match self.stayed {
            Some(Stayed::Locked) if moved == 0 => return Err(Error::Locked(what())),
            Some(Stayed::Locked) => {
                return Ok(Redriven { moved, is_through: false, rejected: None });
            }
            Some(Stayed::Rejected(rejection, destination)) => {
                Some(refused_by(from, destination.as_deref(), &rejection))
            }
            None => None,
        };
        Ok(Redriven { moved, is_through, rejected })
    }

    /// Takes a step into account. One that failed is the end, whether it was begun or not; what those before it
    /// moved is moved. Where it is not known whether it failed, it is not known either how many were moved.
    pub(super) fn done(&mut self, step: Result<Moved>) {
        match step {
            Ok(step) => {
                self.moved += step.count;
                if step.failed > 0 {
                    let rejected = |why| Stayed::Rejected(why, step.destination);
                    self.stayed.get_or_insert(step.rejection.map_or(Stayed::Locked, rejected));
                }
                self.is_through = step.last_id.is_none();
                self.up_to = step.up_to;
                self.after = step.last_id.filter(|_| Instant::now() < self.deadline);
            }
            Err(error) => {
                self.after = None;
                if hides(self.moved, &error) {
                    self.failed = Some(error);
                } else {
                    debug!(%error, moved = self.moved, "moving messages broke off");
                }
            }
        }
    }

    /// How many were moved. If none was, as `to` took none, that is the answer.
    pub(super) fn finish(self, to: &QueueName) -> Result<i64> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.stayed {
            Some(Stayed::Rejected(rejection, _)) if self.moved == 0 => {
                Err(Error::rejected(to.as_str(), &rejection))
            }
            Some(Stayed::Locked) if self.moved == 0 => Err(Error::Locked(format!("queue `{to}`"))),
            _ => Ok(self.moved),
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
    use crate::store;

    use super::*;

    fn moved(count: i64) -> Moved {
        let last_id = Some(count);
        Moved { count, failed: 0, rejection: None, destination: None, last_id, up_to: None }
    }

    fn steps() -> MoveSteps {
        MoveSteps::new(None, Duration::from_secs(60))
    }

    #[test]
    fn what_was_moved_is_the_answer_whatever_keeps_the_next_step_from_beginning() {
        let queue = QueueName::parse("q").expect("a name");
        for error in [
            store::Error::Overloaded.into(),
            store::Error::Unavailable(None).into(),
            Error::Locked("a queue".to_owned()),
        ] {
            let mut steps = steps();
            steps.done(Ok(moved(500)));
            steps.done(Err(error));
            assert!(steps.next().is_none(), "it is the end");
            assert_eq!(steps.finish(&queue).expect("a number"), 500);
        }
        let mut steps = steps();
        steps.done(Err(store::Error::Overloaded.into()));
        assert!(matches!(steps.finish(&queue), Err(Error::Overloaded(_))));
    }

    #[test]
    fn what_was_moved_for_certain_is_known_though_the_answer_is_that_it_is_not() {
        let queue = QueueName::parse("q").expect("a name");
        let mut steps = steps();
        steps.done(Ok(moved(500)));
        steps.done(Err(store::Error::OutcomeUnknown(None).into()));
        assert!(steps.next().is_none(), "it is the end");
        assert_eq!(steps.moved, 500);
        let redriven = steps.redriven(&queue, None);
        assert!(matches!(redriven, Err(Error::OutcomeUnknown(_))), "{redriven:?}");
    }
}
