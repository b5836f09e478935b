//! What is left of a body when its request is answered.
//!
//! HTTP/1 closes a connection on which something stands unread, and the system then may throw the
//! answer away before the client has it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{Version, header},
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::timeout;

/// Bytes that are read of it: more are dearer than a connection.
const MAX_BYTES: u64 = 256 << 10;
/// Time for them to come.
const TIME: Duration = Duration::from_secs(1);

/// Where a body is left by whoever does not read it to its end.
#[derive(Debug, Default)]
pub(super) struct Unread(Option<Arc<Mutex<Option<Body>>>>);

impl Unread {
    /// Of a request's body, if there can be something left of it that stands in the way.
    pub(super) fn watch(request: &mut Request) -> Self {
        // A client that waits to be told to go on sends nothing when it is told otherwise.
        let waits = request.headers().contains_key(header::EXPECT);
        let is_old = request.version() <= Version::HTTP_11;
        if request.body().is_end_stream() || waits || !is_old {
            return Self(None);
        }
        let left = Arc::default();
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Body::new(Watched { body, left: Arc::clone(&left) });
        Self(Some(left))
    }

    /// Reads what is left, if that is little and comes soon.
    pub(super) async fn read(self) {
        let Some(left) = self.0 else { return };
        let body = left.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = body.filter(|body| body.size_hint().lower() <= MAX_BYTES) {
            // Whoever is slower, or sends more, has the connection closed.
            let _ = timeout(TIME, read(body)).await;
        }
    }
}

async fn read(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > MAX_BYTES {
            return;
        }
    }
}

/// A body that is not lost when it is dropped.
struct Watched {
    body: Body,
    left: Arc<Mutex<Option<Body>>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
