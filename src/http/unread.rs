//! What is left of a body when its request is answered.
//!
//! A client may send all of it before it listens, and it may not hear an answer on a connection that
//! closes meanwhile: over HTTP/1 the system throws an answer away when something stands unread, and a
//! proxy takes the connection for one that is as good as before. So it is read and thrown away, within
//! bounds; where it is more than that, the answer says that the connection closes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, Version, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at any rate, and how much more than a body may have.
const MIN_BYTES: u64 = 16 << 20;
const OF_LIMIT: u64 = 4;
/// Time for them to come before the request is answered.
const TIME: Duration = Duration::from_secs(1);
/// Time for the rest of them, where the answer does not depend on it.
const TIME_BEHIND: Duration = Duration::from_secs(30);

/// What becomes of a body, which is left here by whoever does not read it to its end.
#[derive(Debug)]
pub(super) struct Unread {
    left: Option<Arc<Mutex<Left>>>,
    version: Version,
    /// Whether the client sends nothing before it is told to go on.
    waits: bool,
}

#[derive(Debug, Default)]
struct Left {
    /// Whether somebody began to read, which tells a client to go on.
    begun: bool,
    /// Whether what came is no body, so that nobody knows where the next request begins.
    failed: bool,
    body: Option<Body>,
}

impl Unread {
    /// Of a request's body.
    pub(super) fn watch(request: &mut Request) -> Self {
        let version = request.version();
        if request.body().is_end_stream() {
            return Self { left: None, version, waits: false };
        }
        let waits = version == Version::HTTP_11 && request.headers().contains_key(header::EXPECT);
        let left = Arc::default();
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Watched { body, left: Arc::clone(&left) });
        Self { left: Some(left), version, waits }
    }

    /// What is left of it, if there is something.
    pub(super) fn rest(self) -> Option<Rest> {
        let left = self.left?;
        let left = std::mem::take(&mut *left.lock().unwrap_or_else(PoisonError::into_inner));
        let waits = self.waits && !left.begun;
        let has_body = left.body.is_some();
        let rest = Rest {
            body: left.body.unwrap_or_default(),
            version: self.version,
            waits,
            failed: left.failed,
        };
        (has_body || rest.failed).then_some(rest)
    }
}

/// What is left of a body.
pub(super) struct Rest {
    body: Body,
    version: Version,
    waits: bool,
    failed: bool,
}

impl Rest {
    /// Sees to it that a client gets this answer. Of a body that is over `limit`, much is read all the
    /// same.
    pub(super) async fn settle(
        mut self,
        response: &mut Response,
        limit: u64,
        draining: &CancellationToken,
    ) {
        let mut most = limit.saturating_mul(OF_LIMIT).max(MIN_BYTES);
        // One that failed, or did not come in time, is not waited for once more.
        let is_late = response.status() == StatusCode::REQUEST_TIMEOUT;
        let is_over = is_late || self.failed;
        let is_worth_it = !is_over && !self.waits && self.body.size_hint().lower() <= most;
        if is_worth_it && timeout(TIME, discard(&mut self.body, &mut most)).await == Ok(true) {
            return;
        }
        if self.version <= Version::HTTP_11 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        } else if !is_over {
            // Here an answer stands for itself, and only a client that goes on sending may miss it.
            let draining = draining.clone();
            tokio::spawn(async move {
                let reading = timeout(TIME_BEHIND, discard(&mut self.body, &mut most));
                let _ = draining.run_until_cancelled(reading).await;
            });
        }
    }
}

/// Reads a body, but not more than `most` of it; true if that was all.
async fn discard(body: &mut Body, most: &mut u64) -> bool {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(rest) = most.checked_sub(bytes) else { return false };
        *most = rest;
    }
    true
}

/// A body that is not lost when it is dropped.
struct Watched {
    body: Body,
    left: Arc<Mutex<Left>>,
}

impl Watched {
    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.left().begun = true;
        let came = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(came, Poll::Ready(Some(Err(_)))) {
            self.left().failed = true;
        }
        came
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            self.left().body = Some(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::Method;
    use futures_util::{StreamExt, stream};
    use tokio::time::Instant;

    use super::*;

    /// The answer to a request whose body nobody reads, and how long that took.
    async fn answer(version: Version, expects: bool, body: Body) -> (bool, Duration) {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = version;
        if expects {
            let value = HeaderValue::from_static("100-continue");
            request.headers_mut().insert(header::EXPECT, value);
        }
        let unread = Unread::watch(&mut request);
        drop(request);
        let mut response = Response::default();
        let started = Instant::now();
        if let Some(rest) = unread.rest() {
            rest.settle(&mut response, 1000, &CancellationToken::new()).await;
        }
        (response.headers().contains_key(header::CONNECTION), started.elapsed())
    }

    fn parts(count: usize) -> Body {
        let part = Ok::<_, Infallible>(Bytes::from(vec![7; 1 << 20]));
        Body::from_stream(stream::iter(vec![part; count]))
    }

    fn endless() -> Body {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from("a"))]);
        Body::from_stream(first.chain(stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_in_time_leaves_the_connection_as_it_was() {
        let version = Version::HTTP_11;
        for (body, closes, time) in [
            (Body::empty(), false, Duration::ZERO),
            (Body::from("x"), false, Duration::ZERO),
            (parts(16), false, Duration::ZERO),
            (parts(17), true, Duration::ZERO),
            (Body::from(vec![0; 17 << 20]), true, Duration::ZERO),
            (endless(), true, TIME),
        ] {
            assert_eq!(answer(version, false, body).await, (closes, time));
        }
        assert_eq!(answer(Version::HTTP_2, false, endless()).await, (false, TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_a_body_failed_closes() {
        let parts = [Ok(Bytes::from("a")), Err(std::io::Error::other("no chunk"))];
        let mut request = Request::new(Body::from_stream(stream::iter(parts)));
        let unread = Unread::watch(&mut request);
        request.into_body().collect().await.expect_err("it fails");
        let mut response = Response::default();
        let rest = unread.rest().expect("something is to be said");
        rest.settle(&mut response, 1000, &CancellationToken::new()).await;
        assert_eq!(response.headers()[header::CONNECTION], "close");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_to_be_told_is_not_waited_for() {
        let answered = answer(Version::HTTP_11, true, endless()).await;
        assert_eq!(answered, (true, Duration::ZERO));
        // That of another version does not wait.
        let answered = answer(Version::HTTP_2, true, endless()).await;
        assert_eq!(answered, (false, TIME));
    }
}
