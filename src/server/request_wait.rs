//! How long a connection of HTTP/1 may be without a request, and a request without all of its headers.
//!
//! hyper has one time for both. A connection between two requests may be kept for long; headers that have begun
//! to come may not take long, or a few slow clients would have all connections.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::deadline::past;

/// What is waited for, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first byte of a request.
    Idle(Instant),
    /// The rest of its headers.
    Headers(Instant),
    /// Nothing: a request is being served.
    Serving,
    /// Nothing yet: an answer is on its way.
    Answering,
}

/// The wait for the next request on one connection.
#[derive(Debug)]
pub(super) struct RequestWait {
    header_timeout: Duration,
    keep_alive_timeout: Duration,
    state: Mutex<State>,
}

/// Which time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No request came.
    Idle,
    /// A request has begun, and its headers are not complete.
    Headers,
}

impl RequestWait {
    /// For a connection whose first byte has come.
    pub(super) fn new(header_timeout: Duration, keep_alive_timeout: Duration) -> Self {
        let state = Mutex::new(State::Headers(Instant::now() + header_timeout));
        Self { header_timeout, keep_alive_timeout, state }
    }

    /// A request is there.
    pub(super) fn serving(&self) {
        *self.state() = State::Serving;
    }

    /// It has an answer, which waits to be written.
    pub(super) fn answering(&self) {
        *self.state() = State::Answering;
    }

    /// What there was is written. Behind an answer the wait for another request begins.
    pub(super) fn written(&self) {
        let mut state = self.state();
        if *state == State::Answering {
            *state = State::Idle(Instant::now() + self.keep_alive_timeout);
        }
    }

    /// Something has come: if it is the first of a request, its headers have so much time.
    pub(super) fn received(&self) {
        let mut state = self.state();
        if matches!(*state, State::Idle(_)) {
            *state = State::Headers(Instant::now() + self.header_timeout);
        }
    }

    /// Waits until one of the times is up, and says which.
    pub(super) async fn expired(&self) -> Expired {
        // No deadline that is set meanwhile is nearer than this.
        let least = self.header_timeout.min(self.keep_alive_timeout);
        past(least, || match *self.state() {
            State::Idle(deadline) | State::Headers(deadline) => Some(deadline),
            State::Serving | State::Answering => None,
        })
        .await;
        match *self.state() {
            State::Idle(_) => Expired::Idle,
            _ => Expired::Headers,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const HEADERS: Duration = Duration::from_secs(15);
    const KEEP_ALIVE: Duration = Duration::from_secs(75);
    const BEFORE_ITS_END: Duration = Duration::from_secs(74);

    fn answer(wait: &RequestWait) {
        wait.serving();
        wait.answering();
        wait.received();
        wait.written();
    }

    #[tokio::test(start_paused = true)]
    async fn headers_have_their_own_time_from_their_first_byte() {
        let wait = RequestWait::new(HEADERS, KEEP_ALIVE);
        let started = Instant::now();
        assert_eq!(wait.expired().await, Expired::Headers);
        assert_eq!(started.elapsed(), HEADERS);
        answer(&wait);
        let begun = Instant::now();
        let dripping = async {
            for _ in 0..20 {
                sleep(BEFORE_ITS_END).await;
                wait.received();
            }
        };
        tokio::select! {
            expired = wait.expired() => assert_eq!(expired, Expired::Headers),
            () = dripping => panic!("it is too slow"),
        }
        assert_eq!(begun.elapsed(), BEFORE_ITS_END + HEADERS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_without_a_request_and_a_request_has_all_time() {
        let wait = RequestWait::new(HEADERS, KEEP_ALIVE);
        wait.serving();
        let working = tokio::time::timeout(KEEP_ALIVE * 10, wait.expired()).await;
        working.expect_err("it is being served");
        answer(&wait);
        let begun = Instant::now();
        assert_eq!(wait.expired().await, Expired::Idle);
        assert_eq!(begun.elapsed(), KEEP_ALIVE);
    }
}
