//! The line at random: everything that can happen to it, in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Outcome = Result<(), TestCaseError>;

const LOOKS: usize = 2;
/// Looks that are held up, at most.
const HELD_UP: usize = 2;
const ROWS: usize = 7;

/// A queue, a line, and what is between them.
struct World {
    wait_queue: WaitQueue<usize>,
    queue: Vec<usize>,
    sent: usize,
    clients: usize,
    standing: BTreeMap<usize, Ticket>,
    impatient: BTreeSet<Ticket>,
    /// Those that are under way, with what they found once they were sent.
    looks: Vec<(Look, Option<Vec<usize>>)>,
    delivered: BTreeSet<usize>,
}

impl World {
    fn new(exclusive: bool) -> Self {
        Self {
            wait_queue: WaitQueue::new(0, exclusive),
            queue: Vec::new(),
            sent: 0,
            clients: 0,
            standing: BTreeMap::new(),
            impatient: BTreeSet::new(),
            looks: Vec::new(),
            delivered: BTreeSet::new(),
        }
    }

    fn join(&mut self, wants: usize, long_poll: bool) {
        let ticket = self.wait_queue.join(wants, long_poll, self.clients);
        self.standing.insert(self.clients, ticket);
        self.clients += 1;
        if !long_poll {
            self.impatient.insert(ticket);
        }
    }

    fn remove(&mut self, n: usize, gives_up: bool) {
        let Some((client, ticket)) = self.standing.iter().nth(n).map(|(c, t)| (*c, *t)) else {
            return;
        };
        if gives_up && !self.wait_queue.give_up(ticket) {
            self.impatient.insert(ticket);
            return;
        }
        self.wait_queue.remove(ticket);
        self.standing.remove(&client);
    }

    fn send(&mut self, count: usize) {
        self.queue.extend(self.sent..self.sent + count);
        self.sent += count;
        self.wait_queue.notify();
    }

    /// What came back is there again.
    fn put_back(&mut self, messages: Vec<usize>) {
        self.queue.extend(messages);
        self.queue.sort_unstable();
    }

    fn find(&mut self, wants: usize) -> Vec<usize> {
        self.queue.drain(..wants.min(self.queue.len())).collect()
    }

    fn begin(&mut self) -> bool {
        let look = self.wait_queue.begin_look(LOOKS, ROWS);
        let has_begun = look.is_some();
        self.looks.extend(look.map(|look| (look, None)));
        has_begun
    }

    /// Sends a look. What was tried before met a lock, and found nothing after all.
    fn look(&mut self, n: usize) -> Outcome {
        if n >= self.looks.len() {
            return Ok(());
        }
        let (mut look, found) = self.looks.remove(n);
        self.put_back(found.unwrap_or_default());
        self.wait_queue.extend(&mut look, ROWS);
        prop_assert!(look.wants <= ROWS);
        let found = self.find(look.wants);
        self.looks.insert(n, (look, Some(found)));
        Ok(())
    }

    fn hold_up(&mut self, n: usize) -> Outcome {
        let Some((look, _)) = self.looks.get(n) else { return Ok(()) };
        if self.wait_queue.held_up.len() >= HELD_UP {
            return Ok(());
        }
        for client in self.wait_queue.hold_up(look) {
            let ticket = self.standing.remove(&client).expect("stands there");
            prop_assert!(self.impatient.contains(&ticket), "who waits was sent away");
        }
        Ok(())
    }

    fn fail(&mut self, n: usize) -> Outcome {
        let (look, found) = self.looks.remove(n);
        for client in self.wait_queue.fail_look(&look) {
            let ticket = self.standing.remove(&client);
            prop_assert!(ticket.is_some_and(|ticket| ticket < look.before));
        }
        self.put_back(found.unwrap_or_default());
        Ok(())
    }

    fn end(&mut self, n: usize) -> Outcome {
        let (look, found) = self.looks.remove(n);
        let found = found.unwrap_or_else(|| self.find(look.wants));
        let in_vain = found.len() < look.wants;
        let is_earliest = self.looks.iter().all(|(other, _)| other.number > look.number);
        let (served, rest) = self.wait_queue.end_look(&look, found);
        for Served { reply, messages } in served {
            let ticket = self.standing.remove(&reply);
            prop_assert!(ticket.is_some(), "served twice");
            let is_impatient = ticket.is_some_and(|ticket| self.impatient.contains(&ticket));
            prop_assert!(!messages.is_empty() || is_impatient);
            prop_assert!(messages.is_sorted(), "order");
            for message in messages {
                prop_assert!(self.delivered.insert(message), "given to two");
            }
        }
        if !rest.is_empty() {
            self.put_back(rest);
            self.wait_queue.notify();
        }
        if in_vain && is_earliest {
            let mut forgotten = self.standing.values().filter(|ticket| **ticket < look.before);
            prop_assert!(
                !forgotten.any(|ticket| self.impatient.contains(ticket)),
                "one has had a look of its own, and waits"
            );
        }
        Ok(())
    }

    fn step(&mut self, step: u8, n: usize, flag: bool) -> Outcome {
        let some = n % self.looks.len().max(1);
        match step {
            0 => self.join(n, flag),
            1 => self.remove(n, flag),
            2 => self.send(n),
            3 => drop(self.begin()),
            4 => self.look(some)?,
            5 => self.hold_up(some)?,
            6 if n == 1 && !self.looks.is_empty() => self.fail(0)?,
            _ if !self.looks.is_empty() => self.end(some)?,
            _ => {}
        }
        prop_assert_eq!(self.wait_queue.len(), self.standing.len());
        Ok(())
    }

    /// Lets everything come to rest. Where every look takes long, the next one begins before it ends.
    fn rest(&mut self, all_take_long: bool, order: &[usize]) -> Outcome {
        let most = 100 + 10 * (self.standing.len() + self.sent);
        for turn in 0..most {
            while self.begin() {
                let last = self.looks.len() - 1;
                self.look(last)?;
                if all_take_long {
                    self.hold_up(last)?;
                }
            }
            if self.looks.is_empty() {
                return Ok(());
            }
            if all_take_long {
                (0..self.looks.len()).try_for_each(|n| self.hold_up(n))?;
            }
            self.end(order[turn % order.len()] % self.looks.len())?;
        }
        prop_assert!(false, "it looks for ever");
        Ok(())
    }
}

proptest! {
    /// Nobody is forgotten, nobody is served twice, no message is dropped or given to two, order is kept, and
    /// looks come to an end.
    #[test]
    fn everyone_is_served_or_waits_for_good_reason(
        steps in prop::collection::vec((0u8..9, 1usize..5, any::<bool>()), 1..300),
        order in prop::collection::vec(0usize..LOOKS + HELD_UP, 1..5),
        (exclusive, all_take_long) in any::<(bool, bool)>(),
    ) {
        let mut world = World::new(exclusive);
        for (step, n, flag) in steps {
            world.step(step, n, flag)?;
        }
        world.rest(all_take_long, &order)?;
        let World { wait_queue, queue, standing, .. } = &world;
        if !exclusive {
            prop_assert!(queue.is_empty() || standing.is_empty(), "one waits beside a message");
        }
        prop_assert_eq!(world.delivered.len() + queue.len(), world.sent, "a message was dropped");
        prop_assert!(wait_queue.waiters.values().all(|waiter| waiter.long_poll), "one was forgotten");
        let under_way = (wait_queue.sent_for(), wait_queue.active.len(), wait_queue.held_up.len());
        prop_assert_eq!(under_way, (0, 0, 0));
        let wanted: usize = wait_queue.waiters.values().map(|waiter| waiter.wants).sum();
        prop_assert_eq!(wait_queue.wanted, wanted);
    }
}
