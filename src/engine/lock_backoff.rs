//! The pauses between tries at something that somebody else has locked.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// Time for which something is tried that is locked: whoever waits for it is told soon.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// The shortest pause.
pub(super) const SHORTEST: Duration = Duration::from_millis(20);
/// The longest pause.
pub(super) const LONGEST: Duration = Duration::from_millis(400);

/// Pauses that grow, up to a bound, until the time is up.
#[derive(Debug)]
pub struct LockBackoff {
    pause: Duration,
    until: Instant,
}

impl LockBackoff {
    /// From now on.
    pub fn new() -> Self {
        Self { pause: SHORTEST, until: Instant::now() + PATIENCE }
    }

    /// From now on, for no longer than until a moment that is known.
    pub(super) fn ending(until: Instant) -> Self {
        Self { pause: SHORTEST, until }
    }

    /// The pause before the next try, give or take a quarter; nothing once the time is up.
    pub fn next_pause(&mut self) -> Option<Duration> {
        (Instant::now() < self.until).then(|| self.next_pause_of_many())
    }

    /// The same for who tries on behalf of several that each have a time of their own.
    pub(super) fn next_pause_of_many(&mut self) -> Duration {
        let pause = self.pause.mul_f64(rand::rng().random_range(0.75..1.25));
        self.pause = (self.pause * 2).min(LONGEST);
        pause
    }

    /// When the time is up.
    pub fn until(&self) -> Instant {
        self.until
    }
}

impl Default for LockBackoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_tries_often_at_first_and_gives_up_soon() {
        let (mut backoff, began) = (LockBackoff::new(), Instant::now());
        let mut pauses = Vec::new();
        while let Some(pause) = backoff.next_pause() {
            sleep(pause).await;
            pauses.push(pause);
        }
        assert!(pauses[0] <= SHORTEST.mul_f64(1.25), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST.mul_f64(1.25)), "{pauses:?}");
        let took = began.elapsed();
        assert!(took >= PATIENCE && took <= PATIENCE + LONGEST * 2, "{took:?}");
    }
}
