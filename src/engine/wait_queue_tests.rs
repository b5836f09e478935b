//! The line, step by step.

use super::*;

fn replies<M>(served: &[Served<&'static str, M>]) -> Vec<&'static str> {
    served.iter().map(|served| served.reply).collect()
}

#[test]
fn one_look_serves_all_who_stand_there() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    wait_queue.join(3, true, "b");
    wait_queue.join(1, true, "c");
    let look = wait_queue.begin_look(2, 100).expect("due");
    assert_eq!((look.wants, look.long_poll), (5, true));
    assert_eq!(wait_queue.begin_look(2, 100), None, "everyone has been looked for");
    let (served, rest) = wait_queue.end_look(&look, vec![1, 2, 3]);
    assert_eq!(replies(&served), ["a", "b"]);
    assert_eq!(served[0].messages, [1]);
    assert_eq!(served[1].messages, [2, 3]);
    assert!(rest.is_empty());
    assert_eq!(wait_queue.begin_look(2, 100), None, "c waits for news");
    wait_queue.notify();
    assert_eq!(wait_queue.begin_look(2, 100).expect("due").wants, 1);
}

#[test]
fn who_does_not_wait_is_sent_away_after_a_look_of_its_own() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "early");
    let look = wait_queue.begin_look(1, 100).expect("due");
    wait_queue.join(1, false, "late");
    let (served, _) = wait_queue.end_look::<()>(&look, Vec::new());
    assert_eq!(replies(&served), ["early"]);
    let look = wait_queue.begin_look(1, 100).expect("the late one has not been looked for");
    let (served, _) = wait_queue.end_look::<()>(&look, Vec::new());
    assert_eq!(replies(&served), ["late"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn news_during_a_look_is_not_missed() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, true, "a");
    let look = wait_queue.begin_look(1, 100).expect("due");
    wait_queue.notify();
    assert_eq!(wait_queue.begin_look(1, 100), None, "one at a time");
    wait_queue.end_look::<()>(&look, Vec::new());
    assert!(wait_queue.begin_look(1, 100).is_some(), "the news came after that look began");
}

#[test]
fn nobody_waits_for_a_look_that_is_held_up() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    let slow = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.join(1, false, "b");
    assert_eq!(wait_queue.begin_look(2, 100), None, "one of two is enough");
    wait_queue.hold_up(&slow);
    let look = wait_queue.begin_look(2, 100).expect("for both");
    assert_eq!((look.wants, wait_queue.begin_look(2, 100)), (2, None));
    let (served, _) = wait_queue.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["a", "b"], "there is nothing for the second one");
    assert!(!wait_queue.is_idle());
    wait_queue.join(1, false, "c");
    let look = wait_queue.begin_look(2, 100).expect("due");
    assert_eq!(look.wants, 1, "what the slow one was sent for is not to be expected");
    assert_eq!(wait_queue.fail_look(&slow), Vec::<&str>::new());
    let (served, _) = wait_queue.end_look(&look, vec![2]);
    assert_eq!(replies(&served), ["c"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_has_a_look_that_is_held_up_is_not_sent_away() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    let ticket = wait_queue.join(1, true, "b");
    let slow = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.hold_up(&slow);
    wait_queue.join(1, false, "c");
    let look = wait_queue.begin_look(2, 100).expect("due");
    let (served, _) = wait_queue.end_look::<i32>(&look, Vec::new());
    assert_eq!(replies(&served), ["c"], "the slow one has nothing for it");
    assert!(!wait_queue.give_up(ticket), "the slow one may have");
    let (served, rest) = wait_queue.end_look(&slow, vec![1]);
    assert_eq!((replies(&served), rest), (vec!["a", "b"], vec![]));
    assert_eq!(served[1].messages, [] as [i32; 0]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_does_not_wait_is_answered_though_every_look_takes_long() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    let first = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.hold_up(&first);
    let second = wait_queue.begin_look(2, 100).expect("for a, too");
    let (served, _) = wait_queue.end_look::<()>(&first, Vec::new());
    assert_eq!(replies(&served), ["a"]);
    assert!(!wait_queue.is_worth_sending(), "for whom?");
    wait_queue.hold_up(&second);
    assert_eq!(wait_queue.begin_look(2, 100), None);
    wait_queue.end_look::<()>(&second, Vec::new());
    assert!(wait_queue.is_idle());
}

#[test]
fn for_who_waits_looks_that_take_long_come_to_an_end() {
    let mut wait_queue = WaitQueue::new(0, false);
    let ticket = wait_queue.join(1, true, "a");
    let first = wait_queue.begin_look(4, 100).expect("due");
    wait_queue.hold_up(&first);
    let second = wait_queue.begin_look(4, 100).expect("the first may be at one bad row");
    wait_queue.hold_up(&second);
    let third = wait_queue.begin_look(4, 100).expect("the second may be at another one");
    wait_queue.end_look::<()>(&first, Vec::new());
    assert!(!wait_queue.is_worth_sending(), "it is known that there is nothing");
    wait_queue.hold_up(&third);
    assert_eq!(wait_queue.begin_look(4, 100), None, "there is no news");
    wait_queue.notify();
    let fourth = wait_queue.begin_look(4, 100).expect("there is news");
    for look in [third, second, fourth] {
        wait_queue.end_look::<()>(&look, Vec::new());
    }
    assert_eq!(wait_queue.begin_look(4, 100), None);
    assert!(wait_queue.give_up(ticket));
    assert!(wait_queue.is_idle());
}

#[test]
fn who_has_a_look_that_took_long_does_not_wait_for_one_that_is_stuck() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    let stuck = wait_queue.begin_look(3, 100).expect("due");
    wait_queue.hold_up(&stuck);
    wait_queue.join(1, false, "b");
    let slow = wait_queue.begin_look(3, 100).expect("due");
    wait_queue.hold_up(&slow);
    wait_queue.join(1, false, "c");
    let third = wait_queue.begin_look(3, 100).expect("due");
    let (served, _) = wait_queue.end_look::<()>(&slow, Vec::new());
    assert_eq!(replies(&served), ["b"], "a may be given what the stuck one finds");
    let (served, _) = wait_queue.end_look::<()>(&third, Vec::new());
    assert_eq!(replies(&served), ["c"]);
    let (served, _) = wait_queue.end_look(&stuck, vec![1]);
    assert_eq!(replies(&served), ["a"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_waits_for_an_earlier_look_does_not_once_that_takes_long() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(100, false, "a");
    let first = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.join(100, false, "b");
    let second = wait_queue.begin_look(2, 100).expect("worth another");
    assert!(wait_queue.end_look::<()>(&second, Vec::new()).0.is_empty());
    assert_eq!(wait_queue.hold_up(&first), ["b"]);
    let (served, _) = wait_queue.end_look(&first, (0..100).collect());
    assert_eq!(replies(&served), ["a"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_waits_for_an_earlier_look_is_looked_for_again_when_that_fails() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(100, false, "a");
    let first = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.join(100, false, "b");
    let second = wait_queue.begin_look(2, 100).expect("worth another");
    assert!(wait_queue.end_look::<()>(&second, Vec::new()).0.is_empty());
    assert_eq!(wait_queue.fail_look(&first), ["a"]);
    let third =
        wait_queue.begin_look(2, 100).expect("what the first had taken hold of is there again");
    let (served, _) = wait_queue.end_look(&third, vec![1]);
    assert_eq!(replies(&served), ["b"]);
}

#[test]
fn who_found_nothing_beside_a_look_that_was_held_up_is_looked_for_again_when_that_fails() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(2, true, "a");
    let slow = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.hold_up(&slow);
    wait_queue.join(1, true, "b");
    let look = wait_queue.begin_look(2, 100).expect("due");
    assert!(wait_queue.end_look::<()>(&look, Vec::new()).0.is_empty());
    assert_eq!(wait_queue.begin_look(2, 100), None, "there is no news");
    assert_eq!(wait_queue.fail_look(&slow), ["a"]);
    let look =
        wait_queue.begin_look(2, 100).expect("what the slow one had taken hold of is there again");
    let (served, _) = wait_queue.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["b"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_joins_those_that_wait_in_vain_is_looked_for_when_the_look_before_it_fails() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, true, "a");
    let look = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.end_look::<()>(&look, Vec::new());
    wait_queue.notify();
    let look = wait_queue.begin_look(2, 100).expect("there is news");
    wait_queue.join(1, true, "b");
    assert_eq!(wait_queue.begin_look(2, 100), None, "it waits with a");
    assert_eq!(wait_queue.fail_look(&look), ["a"]);
    assert!(wait_queue.begin_look(2, 100).is_some(), "what that had taken hold of is there again");
}

#[test]
fn a_look_that_was_held_up_and_is_sent_again_is_under_way_again() {
    for exclusive in [false, true] {
        let mut wait_queue = WaitQueue::new(0, exclusive);
        wait_queue.join(1, true, "a");
        let mut first = wait_queue.begin_look(2, 100).expect("due");
        wait_queue.hold_up(&first);
        let second = wait_queue.begin_look(2, 100).expect("for a, too");
        wait_queue.join(1, true, "b");
        wait_queue.extend(&mut first, 100);
        assert_eq!(wait_queue.begin_look(2, 100), None, "two are enough");
        for look in [first, second] {
            wait_queue.end_look::<()>(&look, Vec::new());
        }
        wait_queue.notify();
        let look = wait_queue.begin_look(2, 100).expect("there is news");
        assert_eq!(look.wants, if exclusive { 1 } else { 2 });
    }
}

#[test]
fn in_an_exclusive_line_nobody_waits_for_a_look_that_is_held_up() {
    let mut wait_queue = WaitQueue::new(0, true);
    wait_queue.join(2, true, "a");
    wait_queue.join(3, true, "b");
    let slow = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.hold_up(&slow);
    let look = wait_queue.begin_look(2, 100).expect("another group may have something");
    assert_eq!((look.wants, wait_queue.begin_look(2, 100)), (2, None));
    let (served, _) = wait_queue.end_look(&look, vec![1, 2]);
    assert_eq!(replies(&served), ["a"]);
    let look = wait_queue.begin_look(2, 100).expect("there may be more");
    assert!(!wait_queue.is_due(2), "one at a time");
    wait_queue.hold_up(&look);
    assert!(wait_queue.is_due(2), "each may be at a row of its own");
}

#[test]
fn looks_that_are_held_up_leave_room_for_one_however_many_they_are() {
    for exclusive in [false, true] {
        let mut wait_queue = WaitQueue::new(0, exclusive);
        wait_queue.join(1, true, "a");
        for _ in 0..5 {
            let slow =
                wait_queue.begin_look(2, 100).expect("none waits for those that are held up");
            assert!(!wait_queue.is_due(2), "one at a time");
            wait_queue.hold_up(&slow);
            assert!(wait_queue.is_due(2));
        }
        let look = wait_queue.begin_look(2, 100).expect("due");
        wait_queue.join(200, true, "b");
        assert_eq!(
            wait_queue.begin_look(2, 100),
            None,
            "they have taken the place of the second one"
        );
        let (served, _) = wait_queue.end_look(&look, vec![1]);
        assert_eq!(replies(&served), ["a"]);
    }
}

#[test]
fn a_full_look_is_followed_by_another() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(10, true, "a");
    wait_queue.join(10, true, "b");
    let look = wait_queue.begin_look(1, 10).expect("due");
    assert_eq!(look.wants, 10);
    let (served, _) = wait_queue.end_look(&look, (0..10).collect());
    assert_eq!(replies(&served), ["a"]);
    assert!(wait_queue.begin_look(1, 10).is_some(), "there may be more");
}

#[test]
fn who_joins_those_that_wait_in_vain_needs_no_look_of_its_own() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, true, "a");
    let look = wait_queue.begin_look(1, 10).expect("due");
    wait_queue.end_look::<()>(&look, Vec::new());
    let ticket = wait_queue.join(1, true, "b");
    assert_eq!(wait_queue.begin_look(1, 10), None, "there is nothing, and no news");
    wait_queue.notify();
    let look = wait_queue.begin_look(1, 10).expect("due");
    assert_eq!(look.wants, 2);
    wait_queue.end_look::<()>(&look, Vec::new());
    assert!(wait_queue.give_up(ticket));
    wait_queue.join(1, false, "c");
    assert!(wait_queue.begin_look(1, 10).is_some(), "one that does not wait has a look of its own");
}

#[test]
fn who_comes_before_a_look_is_sent_joins_it() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "a");
    let mut look = wait_queue.begin_look(2, 3).expect("due");
    wait_queue.join(1, true, "b");
    wait_queue.join(2, false, "c");
    wait_queue.extend(&mut look, 3);
    assert_eq!((look.wants, look.long_poll), (3, true), "as many as it may ask for");
    let (served, _) = wait_queue.end_look(&look, vec![1, 2, 3]);
    assert_eq!(replies(&served), ["a", "b", "c"], "c is given what there is");
    assert!(wait_queue.is_idle());

    let mut exclusive = WaitQueue::new(0, true);
    exclusive.join(1, false, "a");
    let mut look = exclusive.begin_look(1, 3).expect("due");
    exclusive.join(1, false, "b");
    exclusive.extend(&mut look, 3);
    assert_eq!(look.wants, 1, "what it finds is for a alone");
}

#[test]
fn in_an_exclusive_line_each_look_is_for_one() {
    let mut wait_queue = WaitQueue::new(0, true);
    wait_queue.join(2, true, "a");
    wait_queue.join(3, true, "b");
    let look = wait_queue.begin_look(2, 100).expect("due");
    assert_eq!((look.wants, wait_queue.begin_look(2, 100)), (2, None));
    let (served, rest) = wait_queue.end_look(&look, vec![1, 2]);
    assert_eq!((replies(&served), rest), (vec!["a"], vec![]));
    let look = wait_queue.begin_look(2, 100).expect("there may be more");
    assert_eq!(look.wants, 3);
    wait_queue.join(1, true, "c");
    wait_queue.remove(1);
    let (served, rest) = wait_queue.end_look(&look, vec![3, 4]);
    assert!(served.is_empty(), "c wants one alone");
    assert_eq!(rest, [3, 4]);
}

#[test]
fn who_another_look_may_serve_is_not_sent_away() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(100, false, "a");
    let first = wait_queue.begin_look(2, 100).expect("due");
    wait_queue.join(100, false, "b");
    let second = wait_queue.begin_look(2, 100).expect("worth another");
    // The first one has locked everything: the second finds nothing.
    let (served, _) = wait_queue.end_look::<i32>(&second, Vec::new());
    assert!(served.is_empty());
    let (served, _) = wait_queue.end_look(&first, (0..100).collect());
    assert_eq!(replies(&served), ["a"]);
    let look = wait_queue.begin_look(2, 100).expect("there may be more");
    let (served, _) = wait_queue.end_look::<i32>(&look, Vec::new());
    assert_eq!(replies(&served), ["b"]);
    assert!(wait_queue.is_idle());
}

#[test]
fn what_nobody_wants_any_more_is_returned() {
    let mut wait_queue = WaitQueue::new(0, false);
    let ticket = wait_queue.join(2, true, "a");
    let look = wait_queue.begin_look(1, 10).expect("due");
    wait_queue.remove(ticket);
    wait_queue.remove(ticket);
    let (served, rest) = wait_queue.end_look(&look, vec![1, 2]);
    assert!(served.is_empty());
    assert_eq!(rest, [1, 2]);
    assert!(wait_queue.is_idle());
}

#[test]
fn who_gives_up_before_it_was_looked_for_is_answered_all_the_same() {
    let mut wait_queue = WaitQueue::new(0, false);
    let ticket = wait_queue.join(1, true, "a");
    let look = wait_queue.begin_look(1, 10).expect("due");
    assert!(!wait_queue.give_up(ticket), "the look may find something");
    let (served, _) = wait_queue.end_look(&look, vec![1]);
    assert_eq!(replies(&served), ["a"]);

    let ticket = wait_queue.join(1, true, "b");
    let look = wait_queue.begin_look(1, 10).expect("due");
    wait_queue.end_look::<()>(&look, Vec::new());
    assert!(wait_queue.give_up(ticket));
    assert!(wait_queue.is_idle());
}

#[test]
fn a_failed_look_fails_for_whom_it_was() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, true, "a");
    let look = wait_queue.begin_look(1, 10).expect("due");
    wait_queue.join(1, true, "b");
    assert_eq!(wait_queue.fail_look(&look), ["a"]);
    assert_eq!(wait_queue.len(), 1);
    assert!(wait_queue.begin_look(1, 10).is_some());
}

#[test]
fn who_was_looked_for_in_a_look_that_was_cut_short_stays() {
    let mut wait_queue = WaitQueue::new(0, false);
    wait_queue.join(1, false, "first");
    wait_queue.join(1, false, "second");
    let mut look = wait_queue.begin_look(1, 100).expect("a look");
    look.cut_short = true;
    let (served, _) = wait_queue.end_look(&look, vec![1]);
    assert_eq!(served, [Served { reply: "first", messages: vec![1] }]);
    let look = wait_queue.begin_look(1, 100).expect("another look");
    let (served, _) = wait_queue.end_look(&look, vec![2]);
    assert_eq!(served, [Served { reply: "second", messages: vec![2] }]);
}
