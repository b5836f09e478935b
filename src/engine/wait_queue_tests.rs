//! The line, step by step and at random.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

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
    let mut slow = line.begin_look(2, 100).expect("due");
    line.join(1, false, "b");
    assert_eq!(line.begin_look(2, 100), None, "one of two is enough");
    line.hold_up(&mut slow);
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
    let mut slow = line.begin_look(2, 100).expect("due");
    line.hold_up(&mut slow);
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

proptest! {
    /// A queue, a line, and everything that can happen between them in any order: nobody is
    /// forgotten, nobody is served twice, no message is dropped or given to two, order is kept.
    #[test]
    fn everyone_is_served_or_waits_for_good_reason(
        steps in prop::collection::vec((0u8..8, 1usize..5, any::<bool>()), 1..300)
    ) {
        let mut line = WaitQueue::new(0, false);
        let mut queue: Vec<usize> = Vec::new();
        let (mut sent, mut client) = (0, 0);
        let mut standing: BTreeMap<usize, Ticket> = BTreeMap::new();
        // Those that are under way, with what they found once they were sent.
        let mut looks: Vec<(Look, Option<Vec<usize>>)> = Vec::new();
        let mut delivered: BTreeSet<usize> = BTreeSet::new();
        for (step, n, flag) in steps {
            match step {
                0 => {
                    standing.insert(client, line.join(n, flag, client));
                    client += 1;
                }
                1 => if let Some(leaver) = standing.keys().nth(n).copied() {
                    line.leave(standing.remove(&leaver).expect("stands there"));
                },
                2 => {
                    queue.extend(sent..sent + n);
                    sent += n;
                    line.news();
                }
                3 => if let Some(look) = line.begin_look(2, 7) {
                    looks.push((look, None));
                },
                4 => if let Some((look, found @ None)) = looks.get_mut(n % 2) {
                    line.extend(look, 7);
                    prop_assert!(look.wants <= 7);
                    *found = Some(queue.drain(..look.wants.min(queue.len())).collect());
                },
                5 => if let Some((look, Some(_))) = looks.get_mut(n % 2) {
                    line.hold_up(look);
                },
                _ => if !looks.is_empty() {
                    let (look, found) = looks.remove(n % looks.len());
                    let found = found.unwrap_or_else(|| {
                        queue.drain(..look.wants.min(queue.len())).collect()
                    });
                    let (served, rest) = line.end_look(&look, found);
                    for served in served {
                        prop_assert!(standing.remove(&served.reply).is_some(), "served twice");
                        prop_assert!(served.messages.is_sorted(), "order");
                        for message in served.messages {
                            prop_assert!(delivered.insert(message), "given to two");
                        }
                    }
                    if !rest.is_empty() {
                        queue.extend(rest);
                        queue.sort_unstable();
                        line.news();
                    }
                },
            }
            prop_assert_eq!(line.len(), standing.len());
        }
        // Let everything come to rest.
        loop {
            while let Some((look, found)) = looks.pop() {
                let found = found.unwrap_or_else(|| {
                    queue.drain(..look.wants.min(queue.len())).collect()
                });
                let (served, rest) = line.end_look(&look, found);
                for served in served {
                    prop_assert!(standing.remove(&served.reply).is_some());
                    delivered.extend(served.messages);
                }
                if !rest.is_empty() {
                    queue.extend(rest);
                    queue.sort_unstable();
                    line.news();
                }
            }
            let Some(look) = line.begin_look(2, 7) else { break };
            looks.push((look, None));
        }
        prop_assert!(queue.is_empty() || standing.is_empty(), "one waits beside a message");
        prop_assert_eq!(delivered.len() + queue.len(), sent, "a message was dropped");
        prop_assert!(line.waiters.values().all(|waiter| waiter.patient), "one was forgotten");
        prop_assert_eq!((line.sent_for, line.looks, line.held_up), (0, 0, 0));
        prop_assert_eq!(line.wanted, line.waiters.values().map(|w| w.wants).sum::<usize>());
    }
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
