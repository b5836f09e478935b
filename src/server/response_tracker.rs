//! The answers of one connection of HTTP/2: a client that takes none of them, or takes them too
//! slowly, still answers pings, and takes a little of them now and then.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

use super::deadline::{past, time_for};

/// Bytes that are handed over at once: what a client has no room for stays with us, and is seen.
const PIECE: usize = 16 << 10;

/// Requests at the same time that are more than most clients make.
const CROWD: usize = 16;

/// What is known of them.
#[derive(Debug)]
pub(super) struct ResponseTracker {
    /// Answers of which a piece waits for room at the client.
    waiting: AtomicUsize,
    /// Pieces so far.
    pieces: AtomicUsize,
    /// Time for an answer, beside that for its size.
    time: Duration,
    in_flight: Mutex<InFlight>,
}

/// Requests that are not yet answered in full.
#[derive(Debug)]
struct InFlight {
    requests: usize,
    /// Since when there are none, if there are none.
    since: Instant,
    /// When answers must have been taken in full, and their numbers.
    deadlines: BTreeSet<(Instant, usize)>,
    answers: usize,
}

impl ResponseTracker {
    /// Those of a connection that begins. Each has so much time, and more by its size.
    pub(super) fn new(time: Duration) -> Self {
        let in_flight =
            InFlight { requests: 0, since: Instant::now(), deadlines: BTreeSet::new(), answers: 0 };
        Self {
            waiting: AtomicUsize::new(0),
            pieces: AtomicUsize::new(0),
            time,
            in_flight: Mutex::new(in_flight),
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request until its answer, or what this returns, is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Request {
        self.in_flight().requests += 1;
        Request { answers: Arc::clone(self), deadline: None }
    }

    /// Whether there are many requests in hand.
    pub(super) fn is_crowded(&self) -> bool {
        self.in_flight().requests > CROWD
    }

    /// Waits until there has been no request in hand for so long, from now on.
    pub(super) async fn idle(&self, time: Duration) {
        let begun = Instant::now();
        loop {
            let (requests, since) = {
                let in_flight = self.in_flight();
                (in_flight.requests, in_flight.since)
            };
            let end = since.max(begun) + time;
            if requests > 0 {
                sleep(time).await;
            } else if Instant::now() >= end {
                return;
            } else {
                sleep_until(end).await;
            }
        }
    }

    /// Waits until the time of an answer is up.
    pub(super) async fn late(&self) {
        let first = || self.in_flight().deadlines.first().map(|(deadline, _)| *deadline);
        past(self.time, first).await;
    }

    /// Waits until an answer has waited for so long without any piece of any answer being taken.
    pub(super) async fn stall(&self, time: Duration) {
        loop {
            let (waiting, pieces) = (self.waiting.load(Relaxed), self.pieces.load(Relaxed));
            sleep(time).await;
            let moved = self.pieces.load(Relaxed) != pieces;
            if waiting > 0 && !moved && self.waiting.load(Relaxed) > 0 {
                return;
            }
        }
    }
}

/// A request in hand.
#[derive(Debug)]
pub(super) struct Request {
    answers: Arc<ResponseTracker>,
    deadline: Option<(Instant, usize)>,
}

impl Request {
    /// Follows its answer on the way.
    pub(super) fn answer(mut self, response: Response) -> Response {
        // A stream may go on for days: each of its pieces has a time instead.
        let is_stream = response.body().size_hint().upper().is_none();
        if !is_stream {
            self.begin_time(time_for(&response));
        }
        response.map(|body| {
            let rest = Bytes::new();
            Body::new(Followed { body, rest, is_stream, waits: false, request: self })
        })
    }

    /// From now on it has so much time, and more.
    fn begin_time(&mut self, more: Duration) {
        self.end_time();
        let mut in_flight = self.answers.in_flight();
        in_flight.answers += 1;
        let deadline = (Instant::now() + self.answers.time + more, in_flight.answers);
        in_flight.deadlines.insert(deadline);
        drop(in_flight);
        self.deadline = Some(deadline);
    }

    /// It is not waited for.
    fn end_time(&mut self) {
        if let Some(deadline) = self.deadline.take() {
            self.answers.in_flight().deadlines.remove(&deadline);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut in_flight = self.answers.in_flight();
        in_flight.requests -= 1;
        if in_flight.requests == 0 {
            in_flight.since = Instant::now();
        }
        if let Some(deadline) = &self.deadline {
            in_flight.deadlines.remove(deadline);
        }
    }
}

/// A body in pieces.
struct Followed {
    body: Body,
    /// What is left of the part that came last.
    rest: Bytes,
    /// Whether nobody knows where it ends.
    is_stream: bool,
    /// Whether a piece was handed over that has not been taken, as far as we know.
    waits: bool,
    request: Request,
}

impl Followed {
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        self.waits = true;
        if self.is_stream {
            self.request.begin_time(Duration::ZERO);
        }
        self.request.answers.waiting.fetch_add(1, Relaxed);
        self.request.answers.pieces.fetch_add(1, Relaxed);
        Frame::data(piece)
    }

    /// Whoever asks for more has passed on what there was.
    fn taken(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.request.answers.waiting.fetch_sub(1, Relaxed);
            if self.is_stream {
                self.request.end_time();
            }
        }
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.taken();
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(self.piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.taken();
    }
}

#[cfg(test)]
#[path = "response_tracker_tests.rs"]
mod tests;
