//! The clients that want messages of one queue, and who is given what. Pure: no I/O, no clock.

use std::{collections::BTreeMap, ops::Range};

use super::batch::WORTH_ANOTHER;

/// A place in the queue; later ones are larger.
pub(super) type Ticket = u64;
/// That of a look; those that are sent later have larger ones.
type Number = u64;

/// Clients in order of arrival that could all be served by the same read.
#[derive(Debug)]
pub(super) struct WaitQueue<R> {
    waiters: BTreeMap<Ticket, Waiter<R>>,
    next: Ticket,
    /// Tickets from here on have not been looked for since there was news.
    unlooked: Ticket,
    /// Those before this have a look that is held up, and are to have another one beside it.
    again_before: Ticket,
    /// Those before this have been looked for in vain since there was news.
    vain_before: Ticket,
    /// How often there was news.
    news: u64,
    /// Messages that are wanted by all who stand there.
    wanted: usize,
    next_number: Number,
    /// Those that are under way, and how many messages they have been sent for; without those that are held up.
    active: BTreeMap<Number, usize>,
    /// Those that are held up. Who came before that may be given what it finds.
    held_up: BTreeMap<Number, Ticket>,
    /// Those that ended in vain while an earlier one was under way, which may hold what that one did not get to
    /// see; and before whom.
    in_vain: BTreeMap<Number, Ticket>,
    /// Whether what a look finds is for one client alone.
    exclusive: bool,
}

#[derive(Debug)]
struct Waiter<R> {
    wants: usize,
    long_poll: bool,
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
    pub(super) long_poll: bool,
    /// Whether there is more than it brought.
    pub(super) cut_short: bool,
    number: Number,
    /// Who came later has not been looked for.
    before: Ticket,
    /// The news that it is to find.
    news: u64,
}

/// What a client is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served<R, M> {
    pub(super) reply: R,
    /// Nothing, for one that did not want to wait.
    pub(super) messages: Vec<M>,
}

impl<R> WaitQueue<R> {
    /// A queue whose first ticket is `first`: where one stood before, one that it did not give
    /// out, so that who leaves late leaves nobody else's place. In an `exclusive` one, what a look
    /// finds is for one client.
    pub(super) fn new(first: Ticket, exclusive: bool) -> Self {
        Self {
            waiters: BTreeMap::new(),
            next: first,
            unlooked: 0,
            again_before: 0,
            vain_before: 0,
            news: 0,
            wanted: 0,
            next_number: 0,
            active: BTreeMap::new(),
            held_up: BTreeMap::new(),
            in_vain: BTreeMap::new(),
            exclusive,
        }
    }

    /// Joins the queue. One that is no long poll is answered after one look; one that is, and finds
    /// others waiting in vain, has nothing to look for before there is news.
    pub(super) fn join(&mut self, wants: usize, long_poll: bool, reply: R) -> Ticket {
        let ticket = self.next;
        let in_vain = long_poll && self.waits_in_vain();
        self.next += 1;
        self.wanted += wants;
        self.waiters.insert(ticket, Waiter { wants, long_poll, looked_for: in_vain, reply });
        if in_vain {
            self.unlooked = self.next;
        }
        ticket
    }

    /// Whether everyone who stands there has been looked for, and somebody without success.
    fn waits_in_vain(&self) -> bool {
        let last = self.waiters.last_key_value();
        last.is_some_and(|(last, _)| *last < self.unlooked)
            && self.waiters.values().any(|waiter| waiter.long_poll && waiter.looked_for)
    }

    /// Leaves the queue; harmless for one that was served.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        if let Some(waiter) = self.waiters.remove(&ticket) {
            self.wanted -= waiter.wants;
        }
    }

    /// The time of one who waits is up. True if it left; one that has not been looked for yet stays
    /// until it has been, as nobody knows whether there is something for it.
    pub(super) fn give_up(&mut self, ticket: Ticket) -> bool {
        match self.waiters.get_mut(&ticket) {
            Some(waiter) if !waiter.looked_for => {
                waiter.long_poll = false;
                false
            }
            _ => {
                self.remove(ticket);
                true
            }
        }
    }

    /// There may be messages: everyone is to be looked for again.
    pub(super) fn notify(&mut self) {
        (self.unlooked, self.vain_before) = (0, 0);
        self.news += 1;
    }

    /// Begins a look, if one is due and fewer than `max_looks` are under way. It asks for what all
    /// want together and no other look was sent for, at most `max_messages`. Each that is held up takes the
    /// place of one, and leaves room for one beside all of them: whoever holds them up bounds how many there are.
    pub(super) fn begin_look(&mut self, max_looks: usize, max_messages: usize) -> Option<Look> {
        let (_, first) = self.waiters.first_key_value()?;
        let wanted = if self.exclusive { first.wants } else { self.wanted };
        let wants = wanted.saturating_sub(self.sent_for()).min(max_messages);
        let worth_it = self.active.is_empty() || wants >= WORTH_ANOTHER.min(max_messages);
        if !self.has_unlooked() || !self.has_room(max_looks) || wants == 0 || !worth_it {
            return None;
        }
        (self.unlooked, self.again_before) = (self.next, 0);
        let number = self.activate(wants);
        let (long_poll, before, news) = (self.has_long_poll(), self.next, self.news);
        Some(Look { wants, long_poll, cut_short: false, number, before, news })
    }

    /// Whether somebody stands there who is to be looked for.
    fn has_unlooked(&self) -> bool {
        let (first, last) = (self.waiters.first_key_value(), self.waiters.last_key_value());
        last.is_some_and(|(last, _)| *last >= self.unlooked)
            || first.is_some_and(|(first, _)| *first < self.again_before)
    }

    fn has_room(&self, max_looks: usize) -> bool {
        let is_free = !self.exclusive || self.active.is_empty();
        is_free && self.active.len() < max_looks.saturating_sub(self.held_up.len()).max(1)
    }

    /// Messages that the looks under way have been sent for.
    fn sent_for(&self) -> usize {
        self.active.values().sum()
    }

    /// Whether a look that was not sent yet is worth it: somebody stands there, and not all of them have been
    /// looked for in vain meanwhile.
    pub(super) fn is_worth_sending(&self) -> bool {
        self.waiters.last_key_value().is_some_and(|(last, _)| *last >= self.vain_before)
    }

    /// A look takes long: another one is to find what it has not taken hold of, unless one has found by now that
    /// there is nothing. Returns those who have been looked for in vain by one that only waited for this one.
    pub(super) fn hold_up(&mut self, look: &Look) -> Vec<R> {
        if self.active.remove(&look.number).is_none() {
            return Vec::new();
        }
        self.held_up.insert(look.number, look.before);
        if look.before > self.vain_before {
            self.again_before = self.again_before.max(look.before);
        }
        let dismissed = self.dismiss_in_vain::<()>();
        dismissed.into_iter().map(|served| served.reply).collect()
    }

    /// A look is no longer under way.
    fn is_over(&mut self, look: &Look) {
        self.active.remove(&look.number);
        self.held_up.remove(&look.number);
    }

    /// The number of a look that is under way from now on.
    fn activate(&mut self, wants: usize) -> Number {
        let number = self.next_number;
        self.next_number += 1;
        self.active.insert(number, wants);
        number
    }

    /// Has a look that is about to be sent ask for what has been wanted since it was begun, too, up to
    /// `max_messages` in all. One that was held up, and is sent again, is under way like any other.
    pub(super) fn extend(&mut self, look: &mut Look, max_messages: usize) {
        // What it takes hold of, it takes from now on.
        self.is_over(look);
        look.number = self.activate(look.wants);
        if self.exclusive {
            return;
        }
        let more = self.wanted.saturating_sub(self.sent_for());
        look.wants += more.min(max_messages.saturating_sub(look.wants));
        self.active.insert(look.number, look.wants);
        look.long_poll |= self.has_long_poll();
        (look.before, look.news) = (self.next, self.news);
        (self.unlooked, self.again_before) = (self.next, 0);
    }

    /// Ends a look: deals out what it found in order of arrival, as much to each as it wants or, where
    /// the queue is exclusive, all to one. Those are sent away that did not want to wait, and that it found
    /// nothing for. Returns who is served, and what nobody wants.
    pub(super) fn end_look<M>(
        &mut self,
        look: &Look,
        found: Vec<M>,
    ) -> (Vec<Served<R, M>>, Vec<M>) {
        self.is_over(look);
        let in_vain = found.len() < look.wants && !look.cut_short;
        let (mut served, rest) =
            if self.exclusive { self.serve_one(found) } else { self.serve_in_order(found) };
        let tickets = self.all_had_by(look.number, look.before);
        for (_, waiter) in self.waiters.range_mut(tickets) {
            waiter.looked_for = true;
        }
        if in_vain {
            self.note_in_vain(look);
        } else {
            self.in_vain.clear();
            self.notify();
        }
        served.extend(self.dismiss_in_vain());
        (served, rest)
    }

    fn note_in_vain(&mut self, look: &Look) {
        self.in_vain.insert(look.number, look.before);
        if look.news == self.news {
            self.vain_before = self.vain_before.max(look.before);
        }
        if self.vain_before >= self.again_before {
            self.again_before = 0;
        }
    }

    /// Of those before a ticket, whom a look was for, those that have no earlier one that is held up: that may
    /// have found something for them.
    fn all_had_by(&self, number: Number, before: Ticket) -> Range<Ticket> {
        let first = self.held_up.range(..number).map(|(_, before)| *before).max();
        first.unwrap_or(0).min(before)..before
    }

    /// Sends those away that did not want to wait and were looked for in vain, unless an earlier look is under way.
    fn dismiss_in_vain<M>(&mut self) -> Vec<Served<R, M>> {
        let earliest = self.active.first_key_value().map_or(Number::MAX, |(number, _)| *number);
        let undecided = self.in_vain.split_off(&earliest);
        let mut dismissed = Vec::new();
        for (number, before) in std::mem::replace(&mut self.in_vain, undecided) {
            let tickets = self.all_had_by(number, before);
            dismissed.extend(self.dismiss(tickets, |waiter| !waiter.long_poll));
        }
        dismissed
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
        // What it had taken hold of is there again: for whoever came later, and found nothing beside it.
        self.in_vain.clear();
        self.notify();
        let failed = self.dismiss::<()>(0..look.before, |_| true);
        failed.into_iter().map(|served| served.reply).collect()
    }

    /// Sends those away that came before this ticket and did not want to wait.
    pub(super) fn dismiss_short_polls(&mut self, before: Ticket) -> Vec<R> {
        let dismissed = self.dismiss::<()>(0..before, |waiter| !waiter.long_poll);
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

    /// Whether somebody stands there who is to be looked for, nobody looks, and one more may.
    pub(super) fn is_due(&self, max_looks: usize) -> bool {
        self.active.is_empty() && self.has_unlooked() && self.has_room(max_looks)
    }

    /// Who came first of those who stand there.
    pub(super) fn first(&self) -> Option<&R> {
        self.waiters.first_key_value().map(|(_, waiter)| &waiter.reply)
    }

    /// Whether anybody stands there who would wait.
    pub(super) fn has_long_poll(&self) -> bool {
        self.waiters.values().any(|waiter| waiter.long_poll)
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
        self.waiters.is_empty() && self.active.is_empty() && self.held_up.is_empty()
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

#[cfg(test)]
#[path = "wait_queue_random_tests.rs"]
mod random_tests;
