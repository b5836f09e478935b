//! The database's clock, which decides about everything in the database; ours may be wrong.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use chrono::{DateTime, TimeDelta, Utc};

/// How far the database's clock is ahead of ours.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    /// In microseconds.
    ahead: AtomicI64,
    observing: Mutex<()>,
}

impl DatabaseClock {
    /// What a clock may lose between two observations without being set.
    const SLACK: TimeDelta = TimeDelta::milliseconds(50);

    /// Takes note of what the database said, between a question and its answer. What fits what is known
    /// changes nothing: a slow answer sets no clock.
    pub(super) fn observe(
        &self,
        asked: DateTime<Utc>,
        said: DateTime<Utc>,
        answered: DateTime<Utc>,
    ) {
        let _turn = self.observing.lock().unwrap_or_else(PoisonError::into_inner);
        let (least, most) = (said - answered, said - asked);
        let known = TimeDelta::microseconds(self.ahead.load(Relaxed));
        if known < least - Self::SLACK || known > most + Self::SLACK {
            let ahead = least + (most - least) / 2;
            self.ahead.store(ahead.num_microseconds().unwrap_or(0), Relaxed);
        }
    }

    /// What time it is there.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now().checked_add_signed(self.ahead()).unwrap_or_else(Utc::now)
    }

    /// When a moment of the database's clock is by ours.
    pub(super) fn by_ours(&self, moment: DateTime<Utc>) -> DateTime<Utc> {
        moment.checked_sub_signed(self.ahead()).unwrap_or(moment)
    }

    fn ahead(&self) -> TimeDelta {
        TimeDelta::microseconds(self.ahead.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_000_000_000_000 + millis).expect("a time")
    }

    fn ahead(clock: &DatabaseClock) -> i64 {
        clock.ahead().num_milliseconds()
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_a_slow_answer_is_not_taken_for_it() {
        let clock = DatabaseClock::default();
        clock.observe(at(0), at(1), at(2));
        assert_eq!(ahead(&clock), 0, "within what it takes to ask");
        clock.observe(at(0), at(600_001), at(2));
        assert_eq!(ahead(&clock), 600_000);
        clock.observe(at(0), at(600_010), at(3_000));
        assert_eq!(ahead(&clock), 600_000, "it took long to answer");
        clock.observe(at(0), at(602_990), at(3_000));
        assert_eq!(ahead(&clock), 600_000, "it took long to ask");
        clock.observe(at(0), at(-600_000), at(0));
        assert_eq!(ahead(&clock), -600_000);
        assert_eq!(clock.by_ours(at(-600_000)), at(0));
    }

    #[test]
    fn times_that_cannot_be_are_survived() {
        let clock = DatabaseClock::default();
        let (first, last) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        clock.observe(first, last, first);
        let _ = (clock.now(), clock.by_ours(first));
        clock.observe(last, first, last);
        let _ = (clock.now(), clock.by_ours(last));
    }
}
