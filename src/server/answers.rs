//! The answers of one HTTP/2 connection: a client that takes none of them still answers pings.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    response::Response,
};
use http_body::{Frame, SizeHint};
use tokio::time::sleep;

/// Bytes that are handed over at once: what a client has no room for stays with us, and is seen.
const PIECE: usize = 16 << 10;

/// What is known of them. Over HTTP/1 this does nothing: there a write that waits says it all.
#[derive(Debug, Default)]
pub(super) struct Answers {
    http2: AtomicBool,
    /// Answers of which a piece waits for room at the client.
    waiting: AtomicUsize,
    /// Pieces so far.
    pieces: AtomicUsize,
}

impl Answers {
    /// The client has turned out to speak HTTP/2.
    pub(super) fn begin_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    /// Follows an answer on its way.
    pub(super) fn follow(self: &Arc<Self>, response: Response) -> Response {
        if !self.http2.load(Relaxed) {
            return response;
        }
        let follow = |body| {
            let answers = Arc::clone(self);
            Body::new(Followed { body, rest: Bytes::new(), waits: false, answers })
        };
        response.map(follow)
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

/// A body in pieces.
struct Followed {
    body: Body,
    /// What is left of the part that came last.
    rest: Bytes,
    /// Whether a piece was handed over that has not been taken, as far as we know.
    waits: bool,
    answers: Arc<Answers>,
}

impl Followed {
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        self.waits = true;
        self.answers.waiting.fetch_add(1, Relaxed);
        self.answers.pieces.fetch_add(1, Relaxed);
        Frame::data(piece)
    }

    /// Whoever asks for more has passed on what there was.
    fn taken(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.answers.waiting.fetch_sub(1, Relaxed);
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
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;
    use tokio::time::{Instant, timeout};

    use super::*;

    const TIME: Duration = Duration::from_secs(30);

    fn follow(answers: &Arc<Answers>, bytes: usize) -> Body {
        answers.follow(Response::new(Body::from(vec![7; bytes]))).into_body()
    }

    fn http2() -> Arc<Answers> {
        let answers = Arc::new(Answers::default());
        answers.begin_http2();
        answers
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_a_stall() {
        let answers = http2();
        let mut body = follow(&answers, 100_000);
        body.frame().await.expect("a piece").expect("no error");
        let started = Instant::now();
        answers.stall(TIME).await;
        assert_eq!(started.elapsed(), TIME);
        drop(body);
        timeout(TIME * 10, answers.stall(TIME)).await.expect_err("nothing waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_none() {
        let answers = http2();
        let mut slow = follow(&answers, 1_000_000);
        let taking = async {
            let mut bytes = 0;
            while let Some(frame) = slow.frame().await {
                bytes += frame.expect("no error").into_data().expect("data").len();
                sleep(TIME * 9 / 10).await;
            }
            bytes
        };
        tokio::select! {
            bytes = taking => assert_eq!(bytes, 1_000_000),
            () = answers.stall(TIME) => panic!("it was taken all the time"),
        }
    }

    #[tokio::test]
    async fn pieces_are_small_and_the_whole_is_the_same() {
        let answers = http2();
        let mut body = follow(&answers, 40_000);
        let mut left = 40_000;
        for piece in [PIECE, PIECE, 40_000 - 2 * PIECE] {
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            assert!(!body.is_end_stream());
            let frame = body.frame().await.expect("a piece").expect("no error");
            assert_eq!(frame.into_data().expect("data").len(), piece);
            left -= piece;
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
        let plain = Arc::new(Answers::default());
        let mut whole = follow(&plain, 40_000);
        let frame = whole.frame().await.expect("a piece").expect("no error");
        assert_eq!(frame.into_data().expect("data").len(), 40_000, "HTTP/1 is left alone");
    }
}
