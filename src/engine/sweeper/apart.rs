//! Queues that are looked at apart from the others, and which of them is next. Pure: no I/O, and the time is told.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::QueueName;

/// What a look at one queue may take before it is known to be slow: as a rule it takes a fiftieth of that.
pub(super) const SHORT: Duration = Duration::from_millis(50);
/// What it may take in the end.
const LONGEST: Duration = Duration::from_secs(1);
/// Time after which those who wait look for themselves where that is not enough.
const LOOK_FOR_THEMSELVES: Duration = Duration::from_secs(5);
/// Time for which a queue is known to be slow while nobody waits there.
const IDLE: Duration = Duration::from_secs(60);

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Apart {
    queues: HashMap<QueueName, Trouble>,
    /// Whether the next turn is that of the slow one whose last one is longest ago.
    is_in_turn: bool,
}

#[derive(Debug)]
struct Trouble {
    waits: bool,
    waited_on: Instant,
    /// Known to be slow once a look took too long.
    slow: Option<Slow>,
    /// When those who wait were last told to look for themselves.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Slow {
    /// What the next look may take: twice what was not enough, as that may have been by mistake.
    limit: Duration,
    looked: Instant,
}

/// What a look at a queue in trouble came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// It is in none any more.
    Well,
    /// It was looked at, and would hold the others up.
    Slowly,
    InVain,
    TooLong,
}

impl Apart {
    /// A queue in which somebody waits is to be looked at apart.
    pub(super) fn add(&mut self, queue: &QueueName, now: Instant) {
        let trouble = Trouble { waits: true, waited_on: now, slow: None, told: None };
        self.queues.insert(queue.clone(), trouble);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(super) fn contains(&self, queue: &QueueName) -> bool {
        self.queues.contains_key(queue)
    }

    /// Tells where somebody waits. Elsewhere nothing is looked at; whoever comes back soon finds what is slow as
    /// it was.
    pub(super) fn keep(&mut self, waits: impl Fn(&QueueName) -> bool, now: Instant) {
        self.queues.retain(|queue, trouble| {
            trouble.waits = waits(queue);
            if trouble.waits {
                trouble.waited_on = now;
            }
            trouble.waits
                || (trouble.slow.is_some() && now.duration_since(trouble.waited_on) < IDLE)
        });
    }

    /// Those that are not known to be slow: each may have [`SHORT`].
    pub(super) fn not_slow(&self) -> Vec<QueueName> {
        let is_due = |trouble: &Trouble| trouble.waits && trouble.slow.is_none();
        let due = self.queues.iter().filter(|(_, trouble)| is_due(trouble));
        due.map(|(queue, _)| queue.clone()).collect()
    }

    /// The slow one that is next, and what a look at it may take. By turns that is who had the least time, so that one
    /// that is slow by mistake does not wait for those that are, and who waits for the longest time.
    pub(super) fn next_slow(&mut self) -> Option<(QueueName, Duration)> {
        let waited_on = self.queues.iter().filter(|(_, trouble)| trouble.waits);
        let slow = waited_on.filter_map(|(queue, trouble)| Some((queue, trouble.slow.as_ref()?)));
        let in_turn = self.is_in_turn;
        let order = |slow: &Slow| {
            let limit = if in_turn { Duration::ZERO } else { slow.limit };
            (limit, slow.looked)
        };
        let next = slow.min_by_key(|(_, slow)| order(slow));
        let next = next.map(|(queue, slow)| (queue.clone(), slow.limit));
        self.is_in_turn = !in_turn;
        next
    }

    /// Takes note of what a look came to.
    pub(super) fn note(&mut self, queue: &QueueName, looked: Looked, now: Instant) {
        if looked == Looked::Well {
            self.queues.remove(queue);
            return;
        }
        let Some(trouble) = self.queues.get_mut(queue) else { return };
        let limit = trouble.slow.as_ref().map(|slow| slow.limit);
        let limit = match (looked, limit) {
            (Looked::Slowly, limit) => limit.unwrap_or(SHORT),
            // One that is locked, too, is behind those whose turn it was with it.
            (_, Some(limit)) => (limit * 2).min(LONGEST),
            (Looked::TooLong, None) => SHORT * 2,
            (_, None) => return,
        };
        trouble.slow = Some(Slow { limit, looked: now });
    }

    /// The slow queue in which those who wait are to look for themselves now, if one is due.
    pub(super) fn next_to_tell(&mut self, now: Instant) -> Option<QueueName> {
        let is_due = |trouble: &Trouble| {
            let lately =
                trouble.told.is_some_and(|told| now.duration_since(told) < LOOK_FOR_THEMSELVES);
            trouble.waits && trouble.slow.is_some() && !lately
        };
        let due = self.queues.iter_mut().filter(|(_, trouble)| is_due(trouble));
        let (queue, trouble) = due.min_by_key(|(_, trouble)| trouble.told)?;
        trouble.told = Some(now);
        Some(queue.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: usize) -> Vec<QueueName> {
        (0..count).map(|n| QueueName::parse(&format!("q{n:02}")).expect("valid")).collect()
    }

    fn slow(count: usize, now: Instant) -> (Apart, Vec<QueueName>) {
        let (mut apart, queues) = (Apart::default(), queues(count));
        for (queue, n) in queues.iter().zip(0..) {
            apart.add(queue, now);
            apart.note(queue, Looked::TooLong, now + Duration::from_millis(n));
        }
        (apart, queues)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_to_be_slow_stays_so_until_it_takes_too_long() {
        let (mut apart, queues, now) = (Apart::default(), queues(2), Instant::now());
        for queue in &queues {
            apart.add(queue, now);
        }
        apart.note(&queues[0], Looked::InVain, now);
        assert_eq!((apart.not_slow().len(), apart.next_slow()), (2, None));
        apart.note(&queues[0], Looked::TooLong, now);
        assert_eq!(apart.not_slow(), queues[1..]);
        assert_eq!(apart.next_slow(), Some((queues[0].clone(), SHORT * 2)));
        for queue in &queues {
            apart.note(queue, Looked::Well, now);
        }
        assert!(apart.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_has_its_turn_and_twice_the_time_up_to_the_longest() {
        let mut now = Instant::now();
        let (mut apart, queues) = slow(3, now);
        for millis in [100, 200, 400, 800, 1_000, 1_000] {
            for queue in &queues {
                now += Duration::from_secs(1);
                let limit = Duration::from_millis(millis);
                assert_eq!(apart.next_slow(), Some((queue.clone(), limit)));
                apart.note(queue, Looked::TooLong, now);
            }
        }
        // One that was locked, or was looked at, has had its turn, too.
        for (queue, looked) in queues.iter().zip([Looked::InVain, Looked::Slowly]) {
            now += Duration::from_secs(1);
            assert_eq!(apart.next_slow(), Some((queue.clone(), LONGEST)));
            apart.note(queue, looked, now);
        }
        assert_eq!(apart.next_slow(), Some((queues[2].clone(), LONGEST)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_little_time_again_and_again_does_not_keep_the_others_from_their_turns()
    {
        let now = Instant::now();
        let (mut apart, queues) = slow(2, now);
        for _ in 0..5 {
            apart.note(&queues[1], Looked::TooLong, now);
        }
        let mut turns = Vec::new();
        for second in 1..8 {
            let (queue, _) = apart.next_slow().expect("both are slow");
            apart.note(&queue, Looked::Slowly, now + Duration::from_secs(second));
            turns.push(queue);
        }
        assert!(turns.iter().filter(|queue| **queue == queues[1]).count() >= 3, "{turns:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_looked_at_slowly_is_known_to_be_slow() {
        let now = Instant::now();
        let (mut apart, queues) = slow(1, now);
        apart.note(&queues[0], Looked::Slowly, now);
        assert_eq!(apart.next_slow(), Some((queues[0].clone(), SHORT * 2)));
        apart.note(&queues[0], Looked::Well, now);
        assert!(apart.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_had_little_time_does_not_wait_for_those_who_had_much() {
        let now = Instant::now();
        let (mut apart, queues) = slow(12, now);
        for queue in queues.iter().cycle().take(5 * queues.len()) {
            apart.note(queue, Looked::TooLong, now);
        }
        let new = QueueName::parse("new").expect("valid");
        let later = now + Duration::from_secs(9);
        apart.add(&new, later);
        apart.note(&new, Looked::TooLong, later);
        assert_eq!(apart.next_slow(), Some((new, SHORT * 2)));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_at_slow_ones_are_told_in_turn_and_not_too_often() {
        let (mut now, mut told) = (Instant::now(), Vec::new());
        let (mut apart, queues) = slow(3, now);
        apart.add(&QueueName::parse("locked").expect("valid"), now);
        for _ in 0..2 {
            for _ in &queues {
                told.extend(apart.next_to_tell(now));
                now += Duration::from_millis(100);
            }
            assert_eq!(apart.next_to_tell(now), None);
            now += LOOK_FOR_THEMSELVES;
        }
        assert_eq!(told[..3], told[3..]);
        told.sort_unstable();
        told.dedup();
        assert_eq!(told, queues);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_is_known_for_a_while_when_nobody_waits() {
        let now = Instant::now();
        let (mut apart, queues) = slow(1, now);
        apart.add(&QueueName::parse("locked").expect("valid"), now);
        apart.keep(|_| false, now);
        assert_eq!(
            (apart.not_slow(), apart.next_slow(), apart.next_to_tell(now)),
            (vec![], None, None)
        );
        apart.keep(|_| true, now + IDLE / 2);
        assert_eq!(apart.next_slow(), Some((queues[0].clone(), SHORT * 2)));
        assert!(apart.not_slow().is_empty(), "the other one is forgotten");
        apart.keep(|_| false, now + IDLE);
        assert!(!apart.is_empty());
        apart.keep(|_| false, now + IDLE * 2);
        assert!(apart.is_empty());
    }
}
