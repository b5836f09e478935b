//! Bodies of requests that take none: `GET` and `HEAD`.
//!
//! What is announced with a length is refused for that. Otherwise a body is there when its first byte is, and
//! that may take a while: whoever is waited for is first let in, so that it counts as theirs.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Method, request::Parts},
};
use futures_util::FutureExt;
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{context::RequestContext, rejection::Rejection};

/// Time for the first byte of a body that should not be there, where nothing says beforehand whether it
/// is. One that does not come by then counts as there: whoever has no body says so at once.
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// Whether a method is one whose handlers read the body, if there is one.
pub(super) fn may_have_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Refuses a body that is announced, and puts any other aside.
pub(super) fn put_aside(
    method: &Method,
    context: &RequestContext,
    body: Body,
) -> Result<(), Rejection> {
    if body.size_hint().lower() > 0 {
        return Err(takes_none(method));
    }
    context.put_aside(body);
    Ok(())
}

/// Refuses a request that takes no body and has one, once it is known whose it is: that may have to be waited for.
pub(super) async fn refuse(parts: &Parts, context: &RequestContext) -> Result<(), Rejection> {
    if may_have_body(&parts.method) || !context.has_body() {
        return Ok(());
    }
    let Some(body) = context.take_unasked() else { return Ok(()) };
    let has_content = Box::pin(timeout(FIRST_BYTE, has_content(body)));
    if has_content.await.unwrap_or(true) {
        return Err(takes_none(&parts.method));
    }
    context.has_no_body();
    Ok(())
}

/// Refuses what has come of a body where nobody has looked, as it is all the same whose it is.
pub(super) fn refuse_unasked(method: &Method, context: &RequestContext) -> Result<(), Rejection> {
    let came = context.take_unasked().and_then(|body| has_content(body).now_or_never());
    if came == Some(true) { Err(takes_none(method)) } else { Ok(()) }
}

fn takes_none(method: &Method) -> Rejection {
    Rejection::Malformed(
        format!("{method} takes no body: parameters stand behind the `?` of the URL").into(),
    )
}

/// Whether there is a byte in a body.
async fn has_content(mut body: Body) -> bool {
    while let Some(frame) = body.frame().await {
        // One that breaks off had not come to its end.
        if frame.map_or(true, |frame| frame.data_ref().is_some_and(|data| !data.is_empty())) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::{extract::Request, http::HeaderValue};

    use super::*;

    fn frames(parts: &[&'static [u8]]) -> Body {
        let parts: Vec<Result<_, Infallible>> = parts.iter().map(|part| Ok(*part)).collect();
        Body::from_stream(futures_util::stream::iter(parts))
    }

    fn never() -> Body {
        Body::from_stream(futures_util::stream::pending::<Result<&[u8], Infallible>>())
    }

    fn context() -> RequestContext {
        RequestContext::counted(None, true, HeaderValue::from_static("id"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_there_when_its_first_byte_is_or_does_not_come() {
        for (body, taken) in [
            (frames(&[]), true),
            (frames(&[b"", b""]), true),
            (frames(&[b"", b" "]), false),
            (Body::from("{}"), false),
            (never(), false),
        ] {
            let (parts, ()) = Request::<()>::default().into_parts();
            let context = context();
            let put = put_aside(&parts.method, &context, body);
            let refused = put.is_err() || refuse(&parts, &context).await.is_err();
            assert_eq!((!refused, !context.has_body()), (taken, taken));
        }
    }

    #[tokio::test]
    async fn nobody_is_waited_for_where_anybody_is_served() {
        for (body, taken) in [(frames(&[b""]), true), (frames(&[b"a"]), false), (never(), true)] {
            let context = context();
            put_aside(&Method::GET, &context, body).expect("no length");
            assert_eq!(refuse_unasked(&Method::GET, &context).is_ok(), taken);
            refuse_unasked(&Method::GET, &context).expect("it is gone");
        }
    }
}
