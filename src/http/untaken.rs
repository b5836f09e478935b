//! Answers that a client of HTTP/2 has yet to take: each counts as its request did until its last byte is on its
//! way.
//!
//! One connection has hundreds of them, and its client says when it takes them. Over HTTP/1 there is one for each
//! connection, and the number of connections bounds them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes},
    http::{header, response::Parts},
    response::Response,
};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{
    access::too_many, admission::InFlightGuard, context::RequestContext, gate::Gate,
    rejection::Rejection,
};

/// How an answer counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Not at all.
    Not,
    /// In the place of its request.
    InItsPlace,
    /// Among those of which the request had none.
    Aside,
}

/// The place of an answer that counts. Whoever has not said who they are has a share with all others of whom that
/// is true, and is refused what is over it.
pub(super) fn place(
    gate: &Gate,
    context: &RequestContext,
    kept: Kept,
) -> Result<Option<InFlightGuard>, Rejection> {
    let caller = context.counts_as();
    match context.take_place() {
        Some(place) if place.has_caller() || !gate.access.is_required() => Ok(Some(place)),
        Some(mut place) => {
            let counts_as = caller.unwrap_or_else(|| RequestContext::nobody().caller_id());
            match place.belongs_to(gate.concurrency.usage(counts_as)) {
                Ok(()) => Ok(Some(place)),
                // They were refused for that.
                Err(_) if caller.is_some() => Ok(gate.concurrency.stand_aside()),
                Err(full) => Err(too_many(gate, full)),
            }
        }
        // It waited meanwhile.
        None if kept == Kept::InItsPlace => {
            let caller = caller.map(|caller| gate.concurrency.usage(caller));
            Ok(Some(gate.concurrency.enter_again(caller)))
        }
        None => Ok(gate.concurrency.stand_aside()),
    }
}

/// An answer that keeps its place until it is taken. Where there is none for it, its head says enough: a head waits
/// for no client.
pub(super) fn keep(response: Response, place: Option<InFlightGuard>) -> Response {
    // Of a stream nobody knows the end, and it has bounds of its own.
    let is_stream = response.body().size_hint().upper().is_none();
    if response.body().is_end_stream() || is_stream {
        return response;
    }
    match place {
        Some(place) => {
            let place = KeptPlace(Arc::new(place));
            let mut response = response.map(|body| place.hold(body));
            response.extensions_mut().insert(place);
            response
        }
        None => without_body(response),
    }
}

/// What is made of the body of an answer, in the place of that.
pub(crate) fn in_its_place(answer: &Parts, body: Body) -> Body {
    match answer.extensions.get::<KeptPlace>() {
        Some(place) => place.hold(body),
        None => body,
    }
}

/// The place of an answer, for whoever makes something else of it before it is sent.
#[derive(Clone)]
struct KeptPlace(Arc<InFlightGuard>);

impl KeptPlace {
    fn hold(&self, body: Body) -> Body {
        Body::new(Untaken { body, place: Some(Arc::clone(&self.0)) })
    }
}

/// The head alone.
fn without_body(mut response: Response) -> Response {
    *response.body_mut() = Body::empty();
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        response.headers_mut().remove(name);
    }
    response
}

/// A body of which every part holds the place of its request.
struct Untaken {
    body: Body,
    /// Gone with the last part.
    place: Option<Arc<InFlightGuard>>,
}

/// A part, until whoever sends it has let it go: not when it is asked for, which is long before it is on its way.
struct Part {
    bytes: Bytes,
    _place: Option<Arc<InFlightGuard>>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Untaken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let place = self.place.clone();
        if frame.is_none() || self.body.is_end_stream() {
            self.place = None;
        }
        let part = |bytes| Bytes::from_owner(Part { bytes, _place: place });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        domain::Share,
        http::admission::{ConcurrencyLimit, RequestLimits},
    };

    fn limit() -> ConcurrencyLimit {
        let (share, per_second) = (Share(50), None);
        ConcurrencyLimit::new(RequestLimits { served: 9, arriving: 9, share, per_second })
    }

    #[tokio::test]
    async fn an_answer_has_its_place_until_its_last_byte_is_gone() {
        let limit = limit();
        let place = || Some(limit.enter_again(None));
        let (parts, before) = keep(Response::new(Body::from("something")), place()).into_parts();
        let mut answer = Response::new(in_its_place(&parts, Body::from("an answer")));
        drop((parts, before));
        let mut bytes = answer.body_mut().frame().await.expect("a part").expect("no error");
        let bytes = bytes.data_mut().expect("data");
        let rest = bytes.split_off(2);
        drop(answer);
        assert_eq!(limit.len(), 1, "it is on its way");
        assert_eq!((&bytes[..], &rest[..]), (&b"an"[..], &b" answer"[..]));
        *bytes = Bytes::new();
        assert_eq!(limit.len(), 1, "a part of it is");
        drop(rest);
        assert_eq!(limit.len(), 0);
        for answer in [Response::default(), Response::new(stream())] {
            let answer = keep(answer, place());
            assert_eq!(limit.len(), 0);
            drop(answer);
        }
        drop(keep(Response::new(Body::from("never asked for")), place()));
        assert_eq!(limit.len(), 0);
    }

    fn stream() -> Body {
        Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>())
    }

    #[tokio::test]
    async fn an_answer_without_a_place_is_a_head() {
        let mut answer = Response::new(Body::from("words"));
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("a/b"));
        *answer.status_mut() = axum::http::StatusCode::NOT_FOUND;
        let answer = keep(answer, None);
        assert_eq!((answer.status().as_u16(), answer.headers().len()), (404, 0));
        assert!(answer.body().is_end_stream());
    }
}
