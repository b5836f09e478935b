//! The line of clients that want messages, and who is given what. Pure: no I/O, no clock.

use std::collections::BTreeMap;

use super::batch::WORTH_ANOTHER;

/// A place in the line; later ones are larger.
pub(super) type Ticket = u64;

/// Clients in order of arrival that could all be served by the same read.
#[derive(Debug)]
pub(super) struct Line<R> {
    waiters: BTreeMap<Ticket, Waiter<R>>,
    next: Ticket,
    /// Tickets from here on have not been looked for since there was news.
    unlooked: Ticket,
    /// Messages that are wanted by all who stand there.
    wanted: usize,
    looks: usize,
    /// Messages that the looks under way have been sent for.
    sent_for: usize,
}

#[derive(Debug)]
struct Waiter<R> {
    wants: usize,
    patient: bool,
    /// A look that began after it came has ended.
    looked_for: bool,
    reply: R,
}

/// A look at the queue that is under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// How many messages to ask for.
    pub(super) wants: usize,
    /// Whether somebody would wait for what is not there yet.
    pub(super) patient: bool,
    /// Who came later has not been looked for.
    before: Ticket,
}

/// What a client is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served<R, M> {
    pub(super) reply: R,
    /// Nothing, for one that did not want to wait.
    pub(super) messages: Vec<M>,
}

impl<R> Line<R> {
    /// A line whose first ticket is `first`: where a line stood before, one that it did not give
    /// out, so that who leaves late leaves nobody else's place.
    pub(super) fn new(first: Ticket) -> Self {
        let waiters = BTreeMap::new();
        Self { waiters, next: first, unlooked: 0, wanted: 0, looks: 0, sent_for: 0 }
    }

    /// Joins the line. One that is not patient is answered after one look; one that is, and finds
    /// others waiting in vain, has nothing to look for before there is news.
    pub(super) fn join(&mut self, wants: usize, patient: bool, reply: R) -> Ticket {
        let ticket = self.next;
        let in_vain = patient && self.waits_in_vain();
        self.next += 1;
        self.wanted += wants;
        self.waiters.insert(ticket, Waiter { wants, patient, looked_for: in_vain, reply });
        if in_vain {
            self.unlooked = self.next;
        }
        ticket
    }

    /// Whether everyone who stands there has been looked for, and somebody without success.
    fn waits_in_vain(&self) -> bool {
        let last = self.waiters.last_key_value();
        last.is_some_and(|(last, _)| *last < self.unlooked)
            && self.waiters.values().any(|waiter| waiter.patient && waiter.looked_for)
    }

    /// Leaves the line; harmless for one that was served.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if let Some(waiter) = self.waiters.remove(&ticket) {
            self.wanted -= waiter.wants;
        }
    }

    /// The time of one who waits is up. True if it left; one that has not been looked for yet stays
    /// until it has been, as nobody knows whether there is something for it.
    pub(super) fn give_up(&mut self, ticket: Ticket) -> bool {
        match self.waiters.get_mut(&ticket) {
            Some(waiter) if !waiter.looked_for => {
                waiter.patient = false;
                false
            }
            _ => {
                self.leave(ticket);
                true
            }
        }
    }

    /// There may be messages: everyone is to be looked for again.
    pub(super) fn news(&mut self) {
        self.unlooked = 0;
    }

    /// Begins a look, if one is due and fewer than `max_looks` are under way. It asks for what all
    /// want together and no other look was sent for, at most `max_messages`.
    pub(super) fn begin_look(&mut self, max_looks: usize, max_messages: usize) -> Option<Look> {
        let (last, _) = self.waiters.last_key_value()?;
        let wants = self.wanted.saturating_sub(self.sent_for).min(max_messages);
        let worth_it = self.looks == 0 || wants >= WORTH_ANOTHER.min(max_messages);
        if *last < self.unlooked || self.looks >= max_looks || wants == 0 || !worth_it {
            return None;
        }
        self.unlooked = self.next;
        self.looks += 1;
        self.sent_for += wants;
        let patient = self.waiters.values().any(|waiter| waiter.patient);
        Some(Look { wants, patient, before: self.next })
    }

    /// Ends a look: deals out what it found in order of arrival, as much to each as it wants, and
    /// sends those away that did not want to wait. Returns who is served, and what nobody wants.
    pub(super) fn end_look<M>(
        &mut self,
        look: &Look,
        found: Vec<M>,
    ) -> (Vec<Served<R, M>>, Vec<M>) {
        self.looks -= 1;
        self.sent_for -= look.wants;
        let dry = found.len() < look.wants;
        let mut served = Vec::new();
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let Some((_, waiter)) = self.waiters.pop_first() else { break };
            self.wanted -= waiter.wants;
            let messages = found.by_ref().take(waiter.wants).collect();
            served.push(Served { reply: waiter.reply, messages });
        }
        for (_, waiter) in self.waiters.range_mut(..look.before) {
            waiter.looked_for = true;
        }
        if dry {
            served.extend(self.dismiss(look.before, |waiter| !waiter.patient));
        } else {
            self.news();
        }
        (served, found.collect())
    }

    /// Ends a look that failed: returns everyone whom it was for.
    pub(super) fn fail_look(&mut self, look: &Look) -> Vec<R> {
        self.looks -= 1;
        self.sent_for -= look.wants;
        let failed = self.dismiss::<()>(look.before, |_| true);
        failed.into_iter().map(|served| served.reply).collect()
    }

    /// Puts messages to a client that was served but had gone to the next in line; returns what
    /// nobody takes.
    pub(super) fn pass_on<M>(&mut self, messages: Vec<M>) -> Result<Served<R, M>, Vec<M>> {
        let fits = |waiter: &Waiter<R>| waiter.wants >= messages.len();
        let Some((ticket, _)) = self.waiters.iter().find(|(_, waiter)| fits(waiter)) else {
            return Err(messages);
        };
        let ticket = *ticket;
        match self.waiters.remove(&ticket) {
            Some(waiter) => {
                self.wanted -= waiter.wants;
                Ok(Served { reply: waiter.reply, messages })
            }
            None => Err(messages),
        }
    }

    /// Whether anybody stands there who would wait.
    pub(super) fn has_patient(&self) -> bool {
        self.waiters.values().any(|waiter| waiter.patient)
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// The ticket that the next one gets.
    pub(super) fn next_ticket(&self) -> Ticket {
        self.next
    }

    /// Whether nobody stands there and nobody looks.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.looks == 0
    }

    fn dismiss<M>(
        &mut self,
        before: Ticket,
        who: impl Fn(&Waiter<R>) -> bool,
    ) -> Vec<Served<R, M>> {
        let tickets: Vec<Ticket> = self
            .waiters
            .range(..before)
            .filter(|(_, waiter)| who(waiter))
            .map(|(ticket, _)| *ticket)
            .collect();
        let mut dismissed = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            if let Some(waiter) = self.waiters.remove(&ticket) {
                self.wanted -= waiter.wants;
                dismissed.push(Served { reply: waiter.reply, messages: Vec::new() });
            }
        }
        dismissed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn replies<M>(served: &[Served<&'static str, M>]) -> Vec<&'static str> {
        served.iter().map(|served| served.reply).collect()
    }

    #[test]
    fn one_look_serves_all_who_stand_there() {
        let mut line = Line::new(0);
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
        let mut line = Line::new(0);
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
        let mut line = Line::new(0);
        line.join(1, true, "a");
        let look = line.begin_look(1, 100).expect("due");
        line.news();
        assert_eq!(line.begin_look(1, 100), None, "one at a time");
        line.end_look::<()>(&look, Vec::new());
        assert!(line.begin_look(1, 100).is_some(), "the news came after that look began");
    }

    #[test]
    fn a_full_look_is_followed_by_another() {
        let mut line = Line::new(0);
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
        let mut line = Line::new(0);
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
    fn what_nobody_wants_any_more_is_returned() {
        let mut line = Line::new(0);
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
        let mut line = Line::new(0);
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
        let mut line = Line::new(0);
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
            steps in prop::collection::vec((0u8..6, 1usize..5, any::<bool>()), 1..300)
        ) {
            let mut line = Line::new(0);
            let mut queue: Vec<usize> = Vec::new();
            let (mut sent, mut client) = (0, 0);
            let mut standing: BTreeMap<usize, Ticket> = BTreeMap::new();
            let mut looks: Vec<(Look, Vec<usize>)> = Vec::new();
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
                        let taken = queue.drain(..look.wants.min(queue.len())).collect();
                        looks.push((look, taken));
                    },
                    _ => if !looks.is_empty() {
                        let (look, found) = looks.remove(n % looks.len());
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
                let taken = queue.drain(..look.wants.min(queue.len())).collect();
                looks.push((look, taken));
            }
            prop_assert!(queue.is_empty() || standing.is_empty(), "one waits beside a message");
            prop_assert_eq!(delivered.len() + queue.len(), sent, "a message was dropped");
            prop_assert!(line.waiters.values().all(|waiter| waiter.patient), "one was forgotten");
            prop_assert_eq!((line.sent_for, line.looks), (0, 0));
            prop_assert_eq!(line.wanted, line.waiters.values().map(|w| w.wants).sum::<usize>());
        }
    }
}
