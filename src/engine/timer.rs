//! The moment at which it makes sense to look again.

use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Rings once, at the earliest of the moments that it was set to.
#[derive(Debug, Default)]
pub(super) struct Timer {
    next: Option<(Instant, AbortHandle)>,
}

impl Timer {
    /// Has `ring` called at a moment, unless the alarm rings before that anyway. What rings says so by
    /// [`Timer::has_rung`].
    pub(super) fn set(&mut self, at: Instant, ring: impl FnOnce() + Send + 'static) {
        if let Some((earlier, handle)) = &self.next {
            if *earlier <= at && !handle.is_finished() {
                return;
            }
            handle.abort();
        }
        let ringing = tokio::spawn(async move {
            sleep_until(at).await;
            ring();
        });
        self.next = Some((at, ringing.abort_handle()));
    }

    /// From now on it can be set to any moment.
    pub(super) fn has_rung(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An alarm, and the seconds after its beginning at which it rang.
    #[derive(Clone)]
    struct Clock {
        began: Instant,
        timer: Arc<Mutex<Timer>>,
        rang: Arc<Mutex<Vec<u64>>>,
    }

    impl Clock {
        fn new() -> Self {
            Self { began: Instant::now(), timer: Arc::default(), rang: Arc::default() }
        }

        fn set(&self, seconds: u64) {
            let clock = self.clone();
            let ring = move || {
                clock.timer.lock().expect("whole").has_rung();
                clock.rang.lock().expect("whole").push(clock.began.elapsed().as_secs());
            };
            let at = self.began + SECOND * u32::try_from(seconds).expect("few");
            self.timer.lock().expect("whole").set(at, ring);
        }

        async fn rang_in_the_end(&self) -> Vec<u64> {
            sleep(SECOND * 100).await;
            self.rang.lock().expect("whole").clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_moment_counts() {
        for moments in [[3, 5, 9], [9, 5, 3], [5, 3, 9]] {
            let clock = Clock::new();
            for seconds in moments {
                clock.set(seconds);
            }
            assert_eq!(clock.rang_in_the_end().await, [3], "{moments:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_it_has_rung_it_can_be_set_again() {
        let clock = Clock::new();
        clock.set(3);
        sleep(SECOND * 4).await;
        clock.set(5);
        clock.set(7);
        assert_eq!(clock.rang_in_the_end().await, [3, 5]);
        clock.set(1);
        assert_eq!(clock.rang_in_the_end().await, [3, 5, 104], "what is past is now");
    }
}
