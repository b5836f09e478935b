//! Time for an answer, by its size.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::response::Response;
use http_body::Body;
use tokio::time::{Instant, sleep_until};

/// Bytes for which an answer has another second.
const BYTES_A_SECOND: u64 = 64 << 10;

/// The time that an answer has because of its size.
pub(super) fn time_for(response: &Response) -> Duration {
    let size = response.body().size_hint();
    let size = size.upper().unwrap_or(size.lower());
    Duration::from_secs(size.div_ceil(BYTES_A_SECOND))
}

/// Waits until the earliest deadline is past. One that is set meanwhile is at least `time` away.
pub(super) async fn past(time: Duration, earliest: impl Fn() -> Option<Instant>) {
    loop {
        let (now, first) = (Instant::now(), earliest());
        if first.is_some_and(|deadline| deadline <= now) {
            return;
        }
        let next = now + time;
        sleep_until(first.map_or(next, |deadline| deadline.min(next))).await;
    }
}

/// What waits to be written to a client of HTTP/1, where answers go out one after the other.
#[derive(Debug)]
pub(super) struct WriteDeadline {
    /// When all of it must have been written.
    deadline: Mutex<Option<Instant>>,
    time: Duration,
}

impl WriteDeadline {
    /// Nothing yet. What comes has so much time, and more by its size.
    pub(super) fn new(time: Duration) -> Self {
        Self { deadline: Mutex::default(), time }
    }

    /// There is another answer. Behind what is not yet written it has no time but for its size.
    pub(super) fn add(&self, response: &Response) {
        let mut deadline = self.deadline();
        let begins = deadline.unwrap_or_else(|| Instant::now() + self.time);
        *deadline = Some(begins + time_for(response));
    }

    /// Everything so far was written.
    pub(super) fn clear(&self) {
        *self.deadline() = None;
    }

    /// Whether everything so far was written.
    pub(super) fn is_clear(&self) -> bool {
        self.deadline().is_none()
    }

    /// Waits until the time is up.
    pub(super) async fn late(&self) {
        past(self.time, || *self.deadline()).await;
    }

    fn deadline(&self) -> MutexGuard<'_, Option<Instant>> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::time::timeout;

    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_waits_has_time_until_it_is_written() {
        let unwritten = WriteDeadline::new(TIME);
        let started = Instant::now();
        for _ in 0..2 {
            unwritten.add(&Response::new(Body::from(vec![7; 64 << 10])));
        }
        unwritten.late().await;
        assert_eq!(started.elapsed(), TIME + Duration::from_secs(2));
        unwritten.clear();
        timeout(TIME * 10, unwritten.late()).await.expect_err("nothing waits any more");
    }
}
