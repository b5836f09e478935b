//! The line, step by step.

use super::*;

fn replies<M>(served: &[Served<&'static str, M>]) -> Vec<&'static str> {
    served.iter().map(|served| served.reply).collect()
}

#[test]
fn one_look_serves_all_who_stand_there() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    line.join(3, true, "b");
    line.join(1, true, "c");
    let look = line.begin_look(2, 100).expect("due");
    assert_eq!((look.wants, look.patient), (5, true));
    assert_eq!(line.begin_look(2, 100), None, "everyone has been looked for");
    let (served, rest) = line.end_look(&look, vec![1, 2, 3]);
    assert_eq!(replies(&served), ["a", "b"]);
    assert_eq!(served[0].messages, [1]);
    assert_eq!(served[1].messages, [2, 3]);
    assert!(rest.is_empty());
    assert_eq!(line.begin_look(2, 100), None, "c waits for news");
    line.news();
    assert_eq!(line.begin_look(2, 100).expect("due").wants, 1);
}

#[test]
fn who_does_not_wait_is_sent_away_after_a_look_of_its_own() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "early");
    let look = line.begin_look(1, 100).expect("due");
    line.join(1, false, "late");
    let (served, _) = line.end_look::<()>(&look, Vec::new());
    assert_eq!(replies(&served), ["early"]);
    let look = line.begin_look(1, 100).expect("the late one has not been looked for");
    let (served, _) = line.end_look::<()>(&look, Vec::new());
    assert_eq!(replies(&served), ["late"]);
    assert!(line.is_idle());
}

#[test]
fn news_during_a_look_is_not_missed() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, true, "a");
    let look = line.begin_look(1, 100).expect("due");
    line.news();
    assert_eq!(line.begin_look(1, 100), None, "one at a time");
    line.end_look::<()>(&look, Vec::new());
    assert!(line.begin_look(1, 100).is_some(), "the news came after that look began");
}

#[test]
fn nobody_waits_for_a_look_that_is_held_up() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    let slow = line.begin_look(2, 100).expect("due");
    line.join(1, false, "b");
    assert_eq!(line.begin_look(2, 100), None, "one of two is enough");
    line.hold_up(&slow);
    let look = line.begin_look(2, 100).expect("for both");
    assert_eq!((look.wants, line.begin_look(2, 100)), (2, None));
    let (served, _) = line.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["a", "b"], "there is nothing for the second one");
    assert!(!line.is_idle());
    line.join(1, false, "c");
    let look = line.begin_look(2, 100).expect("due");
    assert_eq!(look.wants, 1, "what the slow one was sent for is not to be expected");
    assert_eq!(line.fail_look(&slow), Vec::<&str>::new());
    let (served, _) = line.end_look(&look, vec![2]);
    assert_eq!(replies(&served), ["c"]);
    assert!(line.is_idle());
}

#[test]
fn who_has_a_look_that_is_held_up_is_not_sent_away() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    let ticket = line.join(1, true, "b");
    let slow = line.begin_look(2, 100).expect("due");
    line.hold_up(&slow);
    line.join(1, false, "c");
    let look = line.begin_look(2, 100).expect("due");
    let (served, _) = line.end_look::<i32>(&look, Vec::new());
    assert_eq!(replies(&served), ["c"], "the slow one has nothing for it");
    assert!(!line.give_up(ticket), "the slow one may have");
    let (served, rest) = line.end_look(&slow, vec![1]);
    assert_eq!((replies(&served), rest), (vec!["a", "b"], vec![]));
    assert_eq!(served[1].messages, [] as [i32; 0]);
    assert!(line.is_idle());
}

#[test]
fn who_does_not_wait_is_answered_though_every_look_takes_long() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    let first = line.begin_look(2, 100).expect("due");
    line.hold_up(&first);
    let second = line.begin_look(2, 100).expect("for a, too");
    let (served, _) = line.end_look::<()>(&first, Vec::new());
    assert_eq!(replies(&served), ["a"]);
    assert!(!line.is_worth_sending(), "for whom?");
    line.hold_up(&second);
    assert_eq!(line.begin_look(2, 100), None);
    line.end_look::<()>(&second, Vec::new());
    assert!(line.is_idle());
}

#[test]
fn for_who_waits_looks_that_take_long_come_to_an_end() {
    let mut line = WaitQueue::new(0, false);
    let ticket = line.join(1, true, "a");
    let first = line.begin_look(4, 100).expect("due");
    line.hold_up(&first);
    let second = line.begin_look(4, 100).expect("the first may be at one bad row");
    line.hold_up(&second);
    let third = line.begin_look(4, 100).expect("the second may be at another one");
    line.end_look::<()>(&first, Vec::new());
    assert!(!line.is_worth_sending(), "it is known that there is nothing");
    line.hold_up(&third);
    assert_eq!(line.begin_look(4, 100), None, "there is no news");
    line.news();
    let fourth = line.begin_look(4, 100).expect("there is news");
    for look in [third, second, fourth] {
        line.end_look::<()>(&look, Vec::new());
    }
    assert_eq!(line.begin_look(4, 100), None);
    assert!(line.give_up(ticket));
    assert!(line.is_idle());
}

#[test]
fn who_has_a_look_that_took_long_does_not_wait_for_one_that_is_stuck() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    let stuck = line.begin_look(3, 100).expect("due");
    line.hold_up(&stuck);
    line.join(1, false, "b");
    let slow = line.begin_look(3, 100).expect("due");
    line.hold_up(&slow);
    line.join(1, false, "c");
    let third = line.begin_look(3, 100).expect("due");
    let (served, _) = line.end_look::<()>(&slow, Vec::new());
    assert_eq!(replies(&served), ["b"], "a may be given what the stuck one finds");
    let (served, _) = line.end_look::<()>(&third, Vec::new());
    assert_eq!(replies(&served), ["c"]);
    let (served, _) = line.end_look(&stuck, vec![1]);
    assert_eq!(replies(&served), ["a"]);
    assert!(line.is_idle());
}

#[test]
fn who_waits_for_an_earlier_look_does_not_once_that_takes_long() {
    let mut line = WaitQueue::new(0, false);
    line.join(100, false, "a");
    let first = line.begin_look(2, 100).expect("due");
    line.join(100, false, "b");
    let second = line.begin_look(2, 100).expect("worth another");
    assert!(line.end_look::<()>(&second, Vec::new()).0.is_empty());
    assert_eq!(line.hold_up(&first), ["b"]);
    let (served, _) = line.end_look(&first, (0..100).collect());
    assert_eq!(replies(&served), ["a"]);
    assert!(line.is_idle());
}

#[test]
fn who_waits_for_an_earlier_look_is_looked_for_again_when_that_fails() {
    let mut line = WaitQueue::new(0, false);
    line.join(100, false, "a");
    let first = line.begin_look(2, 100).expect("due");
    line.join(100, false, "b");
    let second = line.begin_look(2, 100).expect("worth another");
    assert!(line.end_look::<()>(&second, Vec::new()).0.is_empty());
    assert_eq!(line.fail_look(&first), ["a"]);
    let third = line.begin_look(2, 100).expect("what the first had taken hold of is there again");
    let (served, _) = line.end_look(&third, vec![1]);
    assert_eq!(replies(&served), ["b"]);
}

#[test]
fn who_found_nothing_beside_a_look_that_was_held_up_is_looked_for_again_when_that_fails() {
    let mut line = WaitQueue::new(0, false);
    line.join(2, true, "a");
    let slow = line.begin_look(2, 100).expect("due");
    line.hold_up(&slow);
    line.join(1, true, "b");
    let look = line.begin_look(2, 100).expect("due");
    assert!(line.end_look::<()>(&look, Vec::new()).0.is_empty());
    assert_eq!(line.begin_look(2, 100), None, "there is no news");
    assert_eq!(line.fail_look(&slow), ["a"]);
    let look = line.begin_look(2, 100).expect("what the slow one had taken hold of is there again");
    let (served, _) = line.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["b"]);
    assert!(line.is_idle());
}

#[test]
fn who_joins_those_that_wait_in_vain_is_looked_for_when_the_look_before_it_fails() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, true, "a");
    let look = line.begin_look(2, 100).expect("due");
    line.end_look::<()>(&look, Vec::new());
    line.news();
    let look = line.begin_look(2, 100).expect("there is news");
    line.join(1, true, "b");
    assert_eq!(line.begin_look(2, 100), None, "it waits with a");
    assert_eq!(line.fail_look(&look), ["a"]);
    assert!(line.begin_look(2, 100).is_some(), "what that had taken hold of is there again");
}

#[test]
fn a_look_that_was_held_up_and_is_sent_again_is_under_way_again() {
    for exclusive in [false, true] {
        let mut line = WaitQueue::new(0, exclusive);
        line.join(1, true, "a");
        let mut first = line.begin_look(2, 100).expect("due");
        line.hold_up(&first);
        let second = line.begin_look(2, 100).expect("for a, too");
        line.join(1, true, "b");
        line.extend(&mut first, 100);
        assert_eq!(line.begin_look(2, 100), None, "two are enough");
        for look in [first, second] {
            line.end_look::<()>(&look, Vec::new());
        }
        line.news();
        let look = line.begin_look(2, 100).expect("there is news");
        assert_eq!(look.wants, if exclusive { 1 } else { 2 });
    }
}

#[test]
fn in_an_exclusive_line_nobody_waits_for_a_look_that_is_held_up() {
    let mut line = WaitQueue::new(0, true);
    line.join(2, true, "a");
    line.join(3, true, "b");
    let slow = line.begin_look(2, 100).expect("due");
    line.hold_up(&slow);
    let look = line.begin_look(2, 100).expect("another group may have something");
    assert_eq!((look.wants, line.begin_look(2, 100)), (2, None));
    let (served, _) = line.end_look(&look, vec![1, 2]);
    assert_eq!(replies(&served), ["a"]);
    let look = line.begin_look(2, 100).expect("there may be more");
    assert!(!line.is_due(2), "one at a time");
    line.hold_up(&look);
    assert!(line.is_due(2), "each may be at a row of its own");
}

#[test]
fn looks_that_are_held_up_leave_room_for_one_however_many_they_are() {
    for exclusive in [false, true] {
        let mut line = WaitQueue::new(0, exclusive);
        line.join(1, true, "a");
        for _ in 0..5 {
            let slow = line.begin_look(2, 100).expect("none waits for those that are held up");
            assert!(!line.is_due(2), "one at a time");
            line.hold_up(&slow);
            assert!(line.is_due(2));
        }
        let look = line.begin_look(2, 100).expect("due");
        line.join(200, true, "b");
        assert_eq!(line.begin_look(2, 100), None, "they have taken the place of the second one");
        let (served, _) = line.end_look(&look, vec![1]);
        assert_eq!(replies(&served), ["a"]);
    }
}

#[test]
fn a_full_look_is_followed_by_another() {
    let mut line = WaitQueue::new(0, false);
    line.join(10, true, "a");
    line.join(10, true, "b");
    let look = line.begin_look(1, 10).expect("due");
    assert_eq!(look.wants, 10);
    let (served, _) = line.end_look(&look, (0..10).collect());
    assert_eq!(replies(&served), ["a"]);
    assert!(line.begin_look(1, 10).is_some(), "there may be more");
}

#[test]
fn who_joins_those_that_wait_in_vain_needs_no_look_of_its_own() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, true, "a");
    let look = line.begin_look(1, 10).expect("due");
    line.end_look::<()>(&look, Vec::new());
    let ticket = line.join(1, true, "b");
    assert_eq!(line.begin_look(1, 10), None, "there is nothing, and no news");
    line.news();
    let look = line.begin_look(1, 10).expect("due");
    assert_eq!(look.wants, 2);
    line.end_look::<()>(&look, Vec::new());
    assert!(line.give_up(ticket));
    line.join(1, false, "c");
    assert!(line.begin_look(1, 10).is_some(), "one that does not wait has a look of its own");
}

#[test]
fn who_comes_before_a_look_is_sent_joins_it() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "a");
    let mut look = line.begin_look(2, 3).expect("due");
    line.join(1, true, "b");
    line.join(2, false, "c");
    line.extend(&mut look, 3);
    assert_eq!((look.wants, look.patient), (3, true), "as many as it may ask for");
    let (served, _) = line.end_look(&look, vec![1, 2, 3]);
    assert_eq!(replies(&served), ["a", "b", "c"], "c is given what there is");
    assert!(line.is_idle());

    let mut exclusive = WaitQueue::new(0, true);
    exclusive.join(1, false, "a");
    let mut look = exclusive.begin_look(1, 3).expect("due");
    exclusive.join(1, false, "b");
    exclusive.extend(&mut look, 3);
    assert_eq!(look.wants, 1, "what it finds is for a alone");
}

#[test]
fn in_an_exclusive_line_each_look_is_for_one() {
    let mut line = WaitQueue::new(0, true);
    line.join(2, true, "a");
    line.join(3, true, "b");
    let look = line.begin_look(2, 100).expect("due");
    assert_eq!((look.wants, line.begin_look(2, 100)), (2, None));
    let (served, rest) = line.end_look(&look, vec![1, 2]);
    assert_eq!((replies(&served), rest), (vec!["a"], vec![]));
    let look = line.begin_look(2, 100).expect("there may be more");
    assert_eq!(look.wants, 3);
    line.join(1, true, "c");
    line.leave(1);
    let (served, rest) = line.end_look(&look, vec![3, 4]);
    assert!(served.is_empty(), "c wants one alone");
    assert_eq!(rest, [3, 4]);
}

#[test]
fn who_another_look_may_serve_is_not_sent_away() {
    let mut line = WaitQueue::new(0, false);
    line.join(100, false, "a");
    let first = line.begin_look(2, 100).expect("due");
    line.join(100, false, "b");
    let second = line.begin_look(2, 100).expect("worth another");
    // The first one has locked everything: the second finds nothing.
    let (served, _) = line.end_look::<i32>(&second, Vec::new());
    assert!(served.is_empty());
    let (served, _) = line.end_look(&first, (0..100).collect());
    assert_eq!(replies(&served), ["a"]);
    let look = line.begin_look(2, 100).expect("there may be more");
    let (served, _) = line.end_look::<i32>(&look, Vec::new());
    assert_eq!(replies(&served), ["b"]);
    assert!(line.is_idle());
}

#[test]
fn what_nobody_wants_any_more_is_returned() {
    let mut line = WaitQueue::new(0, false);
    let ticket = line.join(2, true, "a");
    let look = line.begin_look(1, 10).expect("due");
    line.leave(ticket);
    line.leave(ticket);
    let (served, rest) = line.end_look(&look, vec![1, 2]);
    assert!(served.is_empty());
    assert_eq!(rest, [1, 2]);
    assert!(line.is_idle());
}

#[test]
fn who_gives_up_before_it_was_looked_for_is_answered_all_the_same() {
    let mut line = WaitQueue::new(0, false);
    let ticket = line.join(1, true, "a");
    let look = line.begin_look(1, 10).expect("due");
    assert!(!line.give_up(ticket), "the look may find something");
    let (served, _) = line.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["a"]);

    let ticket = line.join(1, true, "b");
    let look = line.begin_look(1, 10).expect("due");
    line.end_look::<()>(&look, Vec::new());
    assert!(line.give_up(ticket));
    assert!(line.is_idle());
}

#[test]
fn a_failed_look_fails_for_whom_it_was() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, true, "a");
    let look = line.begin_look(1, 10).expect("due");
    line.join(1, true, "b");
    assert_eq!(line.fail_look(&look), ["a"]);
    assert_eq!(line.len(), 1);
    assert!(line.begin_look(1, 10).is_some());
}

#[test]
fn who_was_looked_for_in_a_look_that_was_cut_short_stays() {
    let mut line = WaitQueue::new(0, false);
    line.join(1, false, "first");
    line.join(1, false, "second");
    let mut look = line.begin_look(1, 100).expect("a look");
    look.cut_short = true;
    let (served, _) = line.end_look(&look, vec![1]);
    assert_eq!(served, [Served { reply: "first", messages: vec![1] }]);
    let look = line.begin_look(1, 100).expect("another look");
    let (served, _) = line.end_look(&look, vec![2]);
    assert_eq!(served, [Served { reply: "second", messages: vec![2] }]);
}
