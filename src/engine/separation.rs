//! For how long a queue has statements of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// Where its part of a shared statement was put off: it was locked, say.
pub(super) const RETRY_SEPARATE: Duration = Duration::from_secs(1);
/// Where it was refused, as its table is none that can share, or holds others up.
pub(super) const SEPARATE: Duration = Duration::from_secs(60);

/// Until when that is so.
#[derive(Debug, Default)]
pub(super) struct Separation(Option<Instant>);

impl Separation {
    /// From now on for so long, or for longer if that was said before.
    pub(super) fn begin(&mut self, time: Duration) {
        self.0 = self.0.max(Some(Instant::now() + time));
    }

    /// Whether it is so now.
    pub(super) fn holds(&self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }
}

/// The same for several who look at it.
#[derive(Debug, Default)]
pub(super) struct SharedSeparation(Mutex<Separation>);

impl SharedSeparation {
    /// As [`Separation::begin`].
    pub(super) fn begin(&self, time: Duration) {
        self.lock().begin(time);
    }

    /// As [`Separation::holds`].
    pub(super) fn holds(&self) -> bool {
        self.lock().holds()
    }

    fn lock(&self) -> MutexGuard<'_, Separation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longer_time_holds() {
        let mut separation = Separation::default();
        assert!(!separation.holds());
        separation.begin(SEPARATE);
        separation.begin(RETRY_SEPARATE);
        advance(SEPARATE / 2).await;
        assert!(separation.holds());
        advance(SEPARATE / 2).await;
        assert!(!separation.holds());
    }
}
