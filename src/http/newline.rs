//! A line end behind JSON for curl, after which a terminal's prompt begins on a line of its own.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// Whether a request comes from a program that shows answers as they are.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"curl/"))
}

/// Adds it to an answer that is JSON.
pub(super) fn add(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json =
        kind.is_some_and(|kind| kind.starts_with("application/") && kind.ends_with("json"));
    if !is_json || response.body().is_end_stream() {
        return response;
    }
    response.map(|body| Body::new(WithLineEnd { body, ended: false }))
}

/// A body with a line end behind it.
struct WithLineEnd {
    body: Body,
    ended: bool,
}

impl HttpBody for WithLineEnd {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.or_else(|| {
            self.ended = true;
            Some(Ok(Frame::data(Bytes::from_static(b"\n"))))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.body.size_hint();
        let more = u64::from(!self.ended);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + more);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + more);
        }
        hint
    }
}
