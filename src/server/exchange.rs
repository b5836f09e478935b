//! What the two ends of a connection of HTTP/1, its stream and its service, have to know of each other.
//!
//! hyper stands between them and does not tell everything: it reads nothing while there is something in
//! its buffer, and so does not see that the client has left; and it answers what it cannot read by
//! itself, with a status and nothing else.

use std::{
    future::poll_fn,
    sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    task::Poll,
    time::Duration,
};

use axum::http::StatusCode;

use super::{deadline::WriteDeadline, request_wait::RequestWait};

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Answers on their way.
    pub(super) unwritten: WriteDeadline,
    /// The wait for the next request.
    pub(super) request_wait: RequestWait,
    /// Whether a request is being served.
    in_flight: AtomicBool,
    /// Whether hyper waits for more from the client, and so notices its end.
    read_blocked: AtomicBool,
    check: AtomicU8,
    /// The status with which hyper refused what it could not read; 0 if it did not.
    refused: AtomicU16,
    /// Whether the last answer went out before all of its request had come.
    unread: AtomicBool,
}

/// Whether the service wants to know that the client is still there.
mod check {
    pub(super) const NONE: u8 = 0;
    pub(super) const REQUESTED: u8 = 1;
    pub(super) const DONE: u8 = 2;
}

/// More than there is in an answer that hyper makes by itself.
const MOST_OF_REFUSAL: usize = 256;

impl Exchange {
    /// One whose answers have so much time, and more by their size.
    pub(super) fn new(write_timeout: Duration, request_wait: RequestWait) -> Self {
        Self {
            unwritten: WriteDeadline::new(write_timeout),
            request_wait,
            in_flight: AtomicBool::new(false),
            read_blocked: AtomicBool::new(false),
            check: AtomicU8::new(check::NONE),
            refused: AtomicU16::new(0),
            unread: AtomicBool::new(false),
        }
    }

    /// A request has come.
    pub(super) fn begin(&self) {
        self.in_flight.store(true, Relaxed);
        self.request_wait.serving();
    }

    /// It is answered; `unread` is whether some of it may not have come yet.
    pub(super) fn end(&self, unread: bool) {
        self.in_flight.store(false, Relaxed);
        self.unread.store(unread, Relaxed);
        self.request_wait.answering();
    }

    /// Whether the last answer went out before all of its request had come.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// What came of a read.
    pub(super) fn set_read_blocked(&self, blocked: bool) {
        self.read_blocked.store(blocked, Relaxed);
    }

    /// Whether a request is being served whose client hyper would not see leave.
    pub(super) fn is_unwatched(&self) -> bool {
        self.in_flight.load(Relaxed) && !self.read_blocked.load(Relaxed)
    }

    /// Waits until the stream has looked whether the client is still there, where hyper does not: what
    /// an answer hands over is lost with a client that has left. Never ends if it has; the connection does.
    pub(super) async fn confirm_client(&self) {
        if !self.is_unwatched() {
            return;
        }
        self.check.store(check::REQUESTED, Release);
        // hyper has the stream flushed each time after it has asked the service, and wakes it from there.
        poll_fn(|_| {
            let swapped = self.check.compare_exchange(check::DONE, check::NONE, AcqRel, Acquire);
            if swapped.is_ok() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the service waits to be told that the client is there.
    pub(super) fn is_check_requested(&self) -> bool {
        self.check.load(Acquire) == check::REQUESTED
    }

    /// The client is there. The service has to be woken.
    pub(super) fn confirm(&self) {
        self.check.store(check::DONE, Release);
    }

    /// Whether these bytes are an answer of hyper's own, which then is not to be written: there is a
    /// better one. It has no body and nothing of what every answer of the service has, and comes when
    /// none of those is on its way.
    pub(super) fn takes_refusal(&self, bytes: &[u8]) -> bool {
        let status = bytes.starts_with(b"HTTP/1.").then(|| bytes.get(9..12)).flatten();
        let Some(status @ [b'4', ..]) = status else { return false };
        let Ok(status) = StatusCode::from_bytes(status) else { return false };
        let is_head = bytes.len() < MOST_OF_REFUSAL && bytes.ends_with(b"\r\n\r\n");
        let is_answer =
            || bytes.windows(13).any(|part| part.eq_ignore_ascii_case(b"x-request-id:"));
        if !is_head || !self.unwritten.is_clear() || is_answer() {
            return false;
        }
        self.refused.store(status.as_u16(), Relaxed);
        true
    }

    /// The status with which hyper refused what it could not read.
    pub(super) fn refused(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.refused.load(Relaxed)).ok()
    }
}

#[cfg(test)]
mod tests {
    use axum::response::Response;

    use super::*;

    fn exchange() -> Exchange {
        let second = Duration::from_secs(1);
        Exchange::new(second, RequestWait::new(second, second))
    }

    const REFUSAL: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn only_an_answer_of_hypers_own_is_taken() {
        let exchange = exchange();
        for other in [
            &b""[..],
            b"HTTP/1.1 4",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\nX-Request-Id: 1\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\nand more",
        ] {
            assert!(!exchange.takes_refusal(other), "{}", String::from_utf8_lossy(other));
        }
        exchange.unwritten.add(&Response::default());
        assert!(!exchange.takes_refusal(REFUSAL), "it is the end of an answer");
        exchange.unwritten.clear();
        assert_eq!(exchange.refused(), None);
        assert!(exchange.takes_refusal(REFUSAL));
        assert_eq!(exchange.refused(), Some(StatusCode::BAD_REQUEST));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_the_look_at_its_client() {
        let exchange = exchange();
        exchange.begin();
        exchange.set_read_blocked(true);
        exchange.confirm_client().await;
        exchange.set_read_blocked(false);
        let looking = async {
            tokio::task::yield_now().await;
            assert!(exchange.is_check_requested());
            exchange.confirm();
        };
        // `join!` asks both again when one has gone on.
        tokio::join!(exchange.confirm_client(), looking);
        assert!(!exchange.is_check_requested());
    }
}
