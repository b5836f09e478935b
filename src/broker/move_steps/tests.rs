use tokio::time::advance;

use crate::store;

use super::*;

fn step(count: i64, last_id: Option<i64>) -> Moved {
    let (rejection, destination, unreturnable) = (None, None, None);
    Moved { count, failed: 0, rejection, destination, unreturnable, last_id, up_to: Some(1_000) }
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
    let moved = steps.finish(&queue(), &queue()).expect("moved");
    assert_eq!((moved.count, moved.next), (3, Some(800)));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_through_or_has_enough_says_nothing_of_the_kind() {
    let mut steps = steps();
    steps.done(Ok(step(3, None)));
    assert!(steps.next().is_none());
    let moved = steps.finish(&queue(), &queue()).expect("moved");
    assert_eq!((moved.count, moved.next), (3, None));
    let mut steps = MoveSteps::new(Some(3), Some(7), Duration::from_secs(15));
    assert_eq!(steps.next().expect("one").after, 7);
    steps.done(Ok(step(3, Some(9))));
    assert!(steps.next().is_none());
    assert_eq!(steps.finish(&queue(), &queue()).expect("moved").next, None);
}

fn shrink_all(steps: &mut MoveSteps) {
    while steps.narrow() {}
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_too_long_is_tried_with_fewer_messages_and_rows() {
    let mut steps = steps();
    let before = steps.next().expect("one");
    steps.done(Err(too_long()));
    let next = steps.next().expect("one");
    assert!(next.rows < before.rows && next.limit < before.limit, "{next:?}");
    shrink_all(&mut steps);
    assert_eq!(steps.next().expect("one").limit, 1);
    let mut other = self::steps();
    shrink_all(&mut other);
    other.done(Err(too_long()));
    assert!(other.next().is_none());
    assert!(
        matches!(other.finish(&queue(), &queue()), Err(Error::TookTooLong(_))),
        "nothing was looked at"
    );
    steps.done(Ok(step(0, Some(40))));
    shrink_all(&mut steps);
    steps.done(Err(too_long()));
    let moved = steps.finish(&queue(), &queue()).expect("looked at");
    assert_eq!((moved.count, moved.next), (0, Some(40)));
}

#[tokio::test(start_paused = true)]
async fn one_that_searches_for_nothing_is_narrowed_too_and_grows_again() {
    let mut steps = MoveSteps::new(None, None, Duration::from_secs(15));
    let first = steps.next().expect("one").limit;
    steps.done(Err(too_long()));
    let fewer = steps.next().expect("another");
    assert!(fewer.limit < first && fewer.rows.is_none(), "{fewer:?}");
    steps.done(Ok(step(fewer.limit.into(), Some(1))));
    assert_eq!(steps.next().expect("more").limit, 2 * fewer.limit);
}

#[tokio::test(start_paused = true)]
async fn those_behind_letters_that_stay_can_be_reached() {
    let refused = |last_id| {
        let rejection = Some(Rejection::NotStored);
        Ok(Moved { failed: 50, rejection, ..step(0, last_id) })
    };
    let mut steps = steps();
    advance(Duration::from_secs(20)).await;
    steps.done(refused(Some(500)));
    assert!(steps.next().is_none(), "the time is up");
    let redriven = steps.redriven(&queue(), None).expect("some are left");
    assert_eq!((redriven.moved, redriven.next, redriven.is_through), (0, Some(500), false));
    assert!(redriven.kept.is_some());
    steps.resume(10, Duration::from_secs(15));
    assert_eq!(steps.next().expect("goes on").after, 500);
    steps.done(Ok(step(3, None)));
    let redriven = steps.redriven(&queue(), None).expect("all were looked at");
    assert_eq!((redriven.moved, redriven.is_through), (3, true));
    assert!(redriven.kept.is_some(), "those before are not forgotten");
    let mut steps = self::steps();
    steps.done(refused(None));
    assert!(matches!(steps.finish(&queue(), &queue()), Err(Error::MessageRejected { .. })));
}

#[test]
fn few_that_are_locked_are_not_all() {
    let mut steps = steps();
    while !steps.is_widest() {
        steps.done(Ok(Moved { failed: 50, ..step(0, Some(50)) }));
        assert_eq!(steps.next().expect("from the same place").after, i64::MIN);
    }
    steps.done(Ok(Moved { failed: 500, ..step(0, Some(500)) }));
    assert_eq!(steps.next().expect("those behind").after, 500);
}

#[tokio::test(start_paused = true)]
async fn behind_the_last_it_begins_anew_for_those_that_were_locked() {
    let mut steps = steps();
    steps.done(Ok(Moved { failed: 1, ..step(7, None) }));
    let redriven = steps.redriven(&queue(), None).expect("some were moved");
    assert!(!redriven.is_through && redriven.next.is_none(), "{redriven:?}");
    steps.resume(10, Duration::from_secs(15));
    assert_eq!(steps.next().expect("anew").after, i64::MIN);
    steps.done(Ok(step(1, None)));
    assert!(steps.redriven(&queue(), None).expect("moved").is_through);
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
        let why = error_words(&error);
        steps.done(Err(error));
        assert!(steps.next().is_none(), "it is the end");
        let moved = steps.finish(&queue(), &queue()).expect("a number");
        assert_eq!((moved.count, moved.next), (500, Some(500)));
        let reason = moved.reason.expect("why there are no more");
        assert!(reason.starts_with(&why) && !reason.contains("nothing was done"), "{reason}");
    }
    let mut steps = self::steps();
    steps.done(Err(store::Error::Overloaded.into()));
    assert!(matches!(steps.finish(&queue(), &queue()), Err(Error::Overloaded(_))));
}

/// What it says before it says that nothing was done.
fn error_words(error: &Error) -> String {
    let text = error.to_string();
    text.split("; nothing").next().unwrap_or_default().to_owned()
}

#[test]
fn one_that_can_go_nowhere_is_remembered_until_it_begins_anew() {
    let mut steps = steps();
    steps.done(Ok(Moved { unreturnable: Some(Unreturnable::Gone), ..step(3, Some(9)) }));
    steps.done(Ok(Moved { unreturnable: Some(Unreturnable::Unknown), ..step(1, None) }));
    let redriven = steps.redriven(&queue(), None).expect("some were moved");
    assert_eq!((redriven.is_through, redriven.unreturnable), (true, Some(Unreturnable::Gone)));
    steps.resume(10, Duration::from_secs(15));
    steps.done(Ok(step(1, None)));
    assert_eq!(steps.redriven(&queue(), None).expect("moved").unreturnable, None);
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
