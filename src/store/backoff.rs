//! Pauses between attempts, and between lines about what fails.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// Pauses that grow from one attempt to the next, up to a bound. Up to half of each is left to
/// chance, so that those who failed together don't try again together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` up to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause begins with the shortest again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The pause before the next attempt.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// Time between two lines about trouble that lasts.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Trouble that is logged when it begins, now and then while it lasts, and when it is over.
#[derive(Debug, Default)]
pub struct Complaint(Option<Instant>);

impl Complaint {
    /// There is trouble: whether to say so now.
    pub fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }

    /// There is none: whether it was said that there is.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_bound_and_differ() {
        let pauses = || {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
            (0..8).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        let one = pauses();
        for (pause, most) in one.iter().zip([100, 200, 400, 800, 1000, 1000, 1000, 1000]) {
            let most = Duration::from_millis(most);
            assert!(*pause >= most / 2 && *pause <= most, "{one:?}");
        }
        assert_ne!(one, pauses(), "two that fail in step don't stay in step");
    }

    #[test]
    fn after_a_success_pauses_are_short_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for _ in 0..8 {
            backoff.pause();
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}
