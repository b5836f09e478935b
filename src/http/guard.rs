//! The innermost layer: refuses what no handler takes, and turns a panic of one into an answer.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{context::context, rejection::Rejection};
use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, CatchUnwind, Either, Map},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::{Layer, Service};

/// Time for the first byte of a body that should not be there, where nothing says beforehand whether it
/// is. One that does not come by then counts as there: whoever has no body says so at once.
const FIRST_BYTE: Duration = Duration::from_secs(1);

/// The layer.
#[derive(Clone)]
pub(super) struct Guard(Arc<Served>);

/// The methods that each route takes.
#[derive(Default)]
pub(crate) struct Served(pub(crate) HashMap<String, Vec<Method>>);

impl Guard {
    /// For routes that take these methods.
    pub(super) fn new(served: Served) -> Self {
        Self(Arc::new(served))
    }
}

impl Served {
    /// Whether a request is one that a handler gets; what is not is told that first. A route that is not
    /// listed takes any.
    fn takes(&self, request: &Request) -> bool {
        let Some(path) = request.extensions().get::<MatchedPath>() else { return false };
        self.0.get(path.as_str()).is_none_or(|methods| methods.contains(request.method()))
    }
}

impl<S> Layer<S> for Guard {
    type Service = GuardService<S>;

    fn layer(&self, inner: S) -> GuardService<S> {
        GuardService { served: Arc::clone(&self.0), inner }
    }
}

/// What the layer makes of a service.
#[derive(Clone)]
pub(super) struct GuardService<S> {
    served: Arc<Served>,
    inner: S,
}

/// What came of a request, or of a panic.
type Outcome = Result<Response, Infallible>;
type Panic = Box<dyn Any + Send>;
type Caught<F> = Map<CatchUnwind<AssertUnwindSafe<F>>, fn(Result<Outcome, Panic>) -> Outcome>;

impl<S> Service<Request> for GuardService<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Caught<S::Future>, BoxFuture<'static, Outcome>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if is_plain(&request) || !self.served.takes(&request) {
            return Either::Left(caught(self.inner.call(request)));
        }
        let other = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, other);
        Either::Right(Box::pin(async move {
            match check(request).await {
                Ok(request) => caught(inner.call(request)).await,
                Err(rejection) => Ok(rejection.into_response()),
            }
        }))
    }
}

/// Whether there is nothing to check about the body.
fn is_plain(request: &Request) -> bool {
    let headers = request.headers();
    let has_encoding = headers.contains_key(header::CONTENT_ENCODING)
        || headers.get(header::TRANSFER_ENCODING).is_some_and(|value| value != "chunked");
    !has_encoding && (may_have_body(request.method()) || request.body().is_end_stream())
}

/// Whether a method is one whose handlers read the body, if there is one.
fn may_have_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Refuses a body that nobody would read, or that nobody would decode.
async fn check(request: Request) -> Result<Request, Rejection> {
    check_encoding(request.headers())?;
    if may_have_body(request.method()) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let has_content = timeout(FIRST_BYTE, has_content(body)).await.unwrap_or(true);
    if has_content {
        let method = parts.method;
        return Err(Rejection::Malformed(
            format!("{method} takes no body: parameters stand behind the `?` of the URL").into(),
        ));
    }
    context(&parts).has_no_body();
    Ok(Request::from_parts(parts, Body::empty()))
}

/// Whether there is a byte in a body, without waiting for one that is announced.
async fn has_content(mut body: Body) -> bool {
    if body.size_hint().lower() > 0 {
        return true;
    }
    while let Some(frame) = body.frame().await {
        // One that breaks off had not come to its end.
        if frame.map_or(true, |frame| frame.data_ref().is_some_and(|data| !data.is_empty())) {
            return true;
        }
    }
    false
}

/// A body is JSON as it stands: what it was coded with on its way, other than in chunks, nobody would undo either.
fn check_encoding(headers: &HeaderMap) -> Result<(), Rejection> {
    for (name, called, taken) in [
        (header::CONTENT_ENCODING, "Content-Encoding", "identity"),
        (header::TRANSFER_ENCODING, "Transfer-Encoding", "chunked"),
    ] {
        for value in headers.get_all(name) {
            let text = String::from_utf8_lossy(value.as_bytes());
            let mut codings = text.split(',').map(str::trim).filter(|coding| !coding.is_empty());
            if let Some(coding) = codings.find(|coding| !coding.eq_ignore_ascii_case(taken)) {
                return Err(Rejection::UnsupportedEncoding(format!("{called}: {coding}")));
            }
        }
    }
    Ok(())
}

fn caught<F: Future<Output = Outcome>>(answer: F) -> Caught<F> {
    let answer_panic = |outcome: Result<Outcome, Panic>| {
        outcome.unwrap_or_else(|panic| Ok(rejection_for_panic(&*panic).into_response()))
    };
    AssertUnwindSafe(answer).catch_unwind().map(answer_panic)
}

fn rejection_for_panic(panic: &(dyn Any + Send)) -> Rejection {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let source = format!("panic: {}", text.unwrap_or_default());
    let detail = "an unexpected error; the log of the gateway tells more";
    Rejection::Internal { detail, source: source.into() }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, StatusCode};

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_and_its_words_are_for_the_log() {
        let panics = tower::service_fn(async |_: Request| -> Outcome { panic!("secret") });
        let mut response =
            Guard(Arc::default()).layer(panics).call(Request::default()).await.expect("answered");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let rejection = Rejection::take_from(&mut response).expect("a rejection");
        let Rejection::Internal { detail, source } = rejection else { panic!("{rejection:?}") };
        assert!(!detail.contains("secret"));
        assert_eq!(source.to_string(), "panic: secret");
    }

    #[test]
    fn only_a_body_as_it_stands_is_taken() {
        for (values, taken) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity, identity"], true),
            (&[""], true),
            (&["gzip"], false),
            (&["identity, br"], false),
            (&["identity", "zstd"], false),
            (&["\u{e9}"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
                headers.append(header::CONTENT_ENCODING, value);
            }
            assert_eq!(check_encoding(&headers).is_ok(), taken, "{values:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_there_when_its_first_byte_is_or_does_not_come() {
        let frames = |parts: &[&'static [u8]]| {
            let parts: Vec<Result<_, Infallible>> = parts.iter().map(|part| Ok(*part)).collect();
            Body::from_stream(futures_util::stream::iter(parts))
        };
        let never = Body::from_stream(futures_util::stream::pending::<Result<&[u8], Infallible>>());
        for (body, taken) in [
            (frames(&[]), true),
            (frames(&[b"", b""]), true),
            (frames(&[b"", b" "]), false),
            (Body::from("{}"), false),
            (never, false),
        ] {
            let request = Request::get("/").body(body).expect("a request");
            assert_eq!(check(request).await.is_ok(), taken);
        }
    }
}
