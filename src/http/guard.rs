//! The innermost layer: refuses what no handler takes, and turns a panic of one into an answer.

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    context::{RequestContext, context},
    rejection::Rejection,
    unwanted::{may_have_body, put_aside, refuse_unasked},
};
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
use tower::{Layer, Service};

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
            let (request, unasked) = match check(request) {
                Ok(checked) => checked,
                Err(rejection) => return Ok(rejection.into_response()),
            };
            let method = request.method().clone();
            let response = caught(inner.call(request)).await?;
            let Some(context) = unasked else { return Ok(response) };
            // A refusal says more than that.
            let refused = refuse_unasked(&method, &context).err();
            let refused = refused.filter(|_| response.status().is_success());
            Ok(refused.map_or(response, IntoResponse::into_response))
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

/// Refuses a body that nobody would read, or that nobody would decode. What may be one that nobody would read is put
/// aside, into the context.
fn check(request: Request) -> Result<(Request, Option<Arc<RequestContext>>), Rejection> {
    check_encoding(request.headers())?;
    if may_have_body(request.method()) {
        return Ok((request, None));
    }
    let (parts, body) = request.into_parts();
    let context = context(&parts);
    put_aside(&parts.method, &context, body)?;
    Ok((Request::from_parts(parts, Body::empty()), Some(context)))
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
}
