//! The line of clients that want messages, and who is given what. Pure: no I/O, no clock.

use std::{collections::BTreeMap, ops::Range};

use super::batch::WORTH_ANOTHER;

/// A place in the line; later ones are larger.
pub(super) type Ticket = u64;

/// Clients in order of arrival that could all be served by the same read.
#[derive(Debug)]
pub(super) struct WaitQueue<R> {
    waiters: BTreeMap<Ticket, Waiter<R>>,
    next: Ticket,
    /// Tickets from here on have not been looked for since there was news.
    unlooked: Ticket,
    /// Messages that are wanted by all who stand there.
    wanted: usize,
    /// Looks that are under way, without those that are held up.
    looks: usize,
    held_up: usize,
    /// Who came before this has a look that is held up, which may have found something for it.
    held_before: Ticket,
    /// Messages that the looks under way have been sent for.
    sent_for: usize,
    /// Whether what a look finds is for one client alone.
    exclusive: bool,
    /// Who came before this was looked for in vain, by a look that ended while others were under way:
    /// those may hold what that one did not get to see.
    dry_before: Ticket,
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
    /// Whether there is more than it brought.
    pub(super) cut_short: bool,
    /// Whether nobody waits for it any more.
    held_up: bool,
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

impl<R> WaitQueue<R> {
    /// A line whose first ticket is `first`: where a line stood before, one that it did not give
    /// out, so that who leaves late leaves nobody else's place. In an `exclusive` one, what a look
    /// finds is for one client.
    pub(super) fn new(first: Ticket, exclusive: bool) -> Self {
        let waiters = BTreeMap::new();
        let (unlooked, wanted, looks, held_up, sent_for, dry_before) = (0, 0, 0, 0, 0, 0);
        Self {
            waiters,
            next: first,
            unlooked,
            wanted,
            looks,
            held_up,
            held_before: 0,
            sent_for,
            exclusive,
            dry_before,
        }
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
        let wants = if self.exclusive {
            let (_, first) = self.waiters.first_key_value()?;
            first.wants.saturating_sub(self.sent_for).min(max_messages)
        } else {
            self.wanted.saturating_sub(self.sent_for).min(max_messages)
        };
        let max_looks = if self.exclusive { 1 } else { max_looks };
        let worth_it = self.looks == 0 || wants >= WORTH_ANOTHER.min(max_messages);
        let has_room = self.looks + self.held_up < max_looks;
        if *last < self.unlooked || !has_room || wants == 0 || !worth_it {
            return None;
        }
        self.unlooked = self.next;
        self.looks += 1;
        self.sent_for += wants;
        let patient = self.waiters.values().any(|waiter| waiter.patient);
        Some(Look { wants, patient, cut_short: false, held_up: false, before: self.next })
    }

    /// A look takes long: others are to find what it has not taken hold of, for all who stand there.
    pub(super) fn hold_up(&mut self, look: &mut Look) {
        if !std::mem::replace(&mut look.held_up, true) {
            self.looks -= 1;
            self.sent_for -= look.wants;
            self.held_up += 1;
            self.held_before = self.held_before.max(look.before);
            self.news();
        }
    }

    /// A look is no longer under way.
    fn is_over(&mut self, look: &Look) {
        if look.held_up {
            self.held_up -= 1;
            if self.held_up == 0 {
                self.held_before = 0;
            }
        } else {
            self.looks -= 1;
            self.sent_for -= look.wants;
        }
    }

    /// Has a look that was not sent yet ask for what has been wanted since it was begun, too, up to
    /// `max_messages` in all.
    pub(super) fn extend(&mut self, look: &mut Look, max_messages: usize) {
        if self.exclusive {
            return;
        }
        let more = self.wanted.saturating_sub(self.sent_for);
        let more = more.min(max_messages.saturating_sub(look.wants));
        look.wants += more;
        self.sent_for += more;
        look.patient |= self.waiters.values().any(|waiter| waiter.patient);
        (look.before, self.unlooked) = (self.next, self.next);
    }

    /// Ends a look: deals out what it found in order of arrival, as much to each as it wants or, where
    /// the line is exclusive, all to one. The last look that ends sends those away that did not want to
    /// wait. Returns who is served, and what nobody wants.
    pub(super) fn end_look<M>(
        &mut self,
        look: &Look,
        found: Vec<M>,
    ) -> (Vec<Served<R, M>>, Vec<M>) {
        self.is_over(look);
        let dry = found.len() < look.wants && !look.cut_short;
        let (mut served, rest) =
            if self.exclusive { self.serve_one(found) } else { self.serve_in_order(found) };
        let first = self.held_before.min(look.before);
        for (_, waiter) in self.waiters.range_mut(first..look.before) {
            waiter.looked_for = true;
        }
        if dry {
            self.dry_before = self.dry_before.max(look.before);
        } else {
            self.dry_before = 0;
            self.news();
        }
        if self.looks == 0 {
            let before = std::mem::take(&mut self.dry_before);
            let first = self.held_before.min(before);
            served.extend(self.dismiss(first..before, |waiter| !waiter.patient));
        }
        (served, rest)
    }

    fn serve_in_order<M>(&mut self, found: Vec<M>) -> (Vec<Served<R, M>>, Vec<M>) {
        let mut served = Vec::new();
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let Some((_, waiter)) = self.waiters.pop_first() else { break };
            self.wanted -= waiter.wants;
            let messages = found.by_ref().take(waiter.wants).collect();
            served.push(Served { reply: waiter.reply, messages });
        }
        (served, found.collect())
    }

    fn serve_one<M>(&mut self, found: Vec<M>) -> (Vec<Served<R, M>>, Vec<M>) {
        if found.is_empty() {
            return (Vec::new(), found);
        }
        match self.pass_on(found) {
            Ok(served) => (vec![served], Vec::new()),
            Err(rest) => (Vec::new(), rest),
        }
    }

    /// Ends a look that failed: returns everyone whom it was for.
    pub(super) fn fail_look(&mut self, look: &Look) -> Vec<R> {
        self.is_over(look);
        let failed = self.dismiss::<()>(0..look.before, |_| true);
        failed.into_iter().map(|served| served.reply).collect()
    }

    /// Sends those away that came before this ticket and did not want to wait.
    pub(super) fn dismiss_impatient(&mut self, before: Ticket) -> Vec<R> {
        let dismissed = self.dismiss::<()>(0..before, |waiter| !waiter.patient);
        dismissed.into_iter().map(|served| served.reply).collect()
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

    /// Whether somebody stands there who has not been looked for since there was news, and nobody looks.
    pub(super) fn is_due(&self) -> bool {
        let last = self.waiters.last_key_value();
        self.looks == 0 && last.is_some_and(|(last, _)| *last >= self.unlooked)
    }

    /// Who came first of those who stand there.
    pub(super) fn first(&self) -> Option<&R> {
        self.waiters.first_key_value().map(|(_, waiter)| &waiter.reply)
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
        self.waiters.is_empty() && self.looks + self.held_up == 0
    }

    fn dismiss<M>(
        &mut self,
        tickets: Range<Ticket>,
        who: impl Fn(&Waiter<R>) -> bool,
    ) -> Vec<Served<R, M>> {
        let tickets: Vec<Ticket> = self
            .waiters
            .range(tickets)
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
#[path = "wait_queue_tests.rs"]
mod tests;
