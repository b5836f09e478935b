//! What every request passes on its way in and out: its id, its log line, its metrics, and the
//! rendering of whatever went wrong.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, CatchUnwind, Map},
};
use tower::{Layer, Service};
use tracing::{Level, event};
use uuid::Uuid;

use crate::telemetry::Request as Answered;

use super::{
    Api,
    context::RequestContext,
    foreign::EdgeRules,
    hold::{Counted, Full},
    problem::{Code, Problem},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a caller's request id that are taken over.
const MAX_REQUEST_ID: usize = 128;
/// Routes whose every request would only fill the log.
const QUIET: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// Routes that are served however many requests are in hand.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// Marks a request that came in by the listener for operations, where nobody is asked for a key, and
/// which answers to names of its own.
#[derive(Clone)]
pub(super) struct ForOperations(pub(super) Arc<EdgeRules>);

/// Whether a request is marked so.
pub(super) fn is_for_operations(extensions: &Extensions) -> bool {
    extensions.get::<ForOperations>().is_some()
}

fn rules_for<'a>(api: &'a Api, extensions: &'a Extensions) -> &'a EdgeRules {
    extensions.get::<ForOperations>().map_or(&api.rules, |operations| &operations.0)
}

/// The outermost layer.
#[derive(Clone)]
pub(super) struct Edge(pub(super) Api);

impl<S> Layer<S> for Edge {
    type Service = EdgeService<S>;

    fn layer(&self, inner: S) -> EdgeService<S> {
        EdgeService { api: self.0.clone(), inner }
    }
}

/// What the outermost layer makes of a service.
#[derive(Clone)]
pub(super) struct EdgeService<S> {
    api: Api,
    inner: S,
}

impl<S> Service<Request> for EdgeService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let api = self.api.clone();
        let (edged, refused) = Edged::begin(&api, &mut request);
        let answer = match refused {
            Some(problem) => Err(problem),
            None => Ok(self.inner.call(request)),
        };
        Box::pin(async move {
            let response = match answer {
                Ok(answer) => answer.await?,
                Err(problem) => problem.into_response(),
            };
            Ok(edged.end(&api, response))
        })
    }
}

/// A request on its way, as far as its answer and its log line need it.
struct Edged {
    started: Instant,
    request_id: HeaderValue,
    method: Method,
    route: Option<MatchedPath>,
    no_store: bool,
    context: Arc<RequestContext>,
}

impl Edged {
    /// Lets a request in, or says why not.
    fn begin(api: &Api, request: &mut Request) -> (Self, Option<Problem>) {
        let started = Instant::now();
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let no_store = ["/queues", "/topics"].iter().any(|p| request.uri().path().starts_with(p));
        // An orchestrator is answered however many others ask.
        let is_probe = PROBES.contains(&name_of(route.as_ref()));
        let entered = if is_probe { Ok(None) } else { enter(api).map(Some) };
        let (counted, refused) = match entered {
            Ok(counted) => (counted, rules_for(api, request.extensions()).check(request).err()),
            Err(problem) => (None, Some(problem)),
        };
        let context = Arc::new(RequestContext::counted(counted));
        request.extensions_mut().insert(Arc::clone(&context));
        (Self { started, request_id, method, route, no_store, context }, refused)
    }

    /// Renders what went wrong, if anything did, and counts and logs the request.
    fn end(self, api: &Api, mut response: Response) -> Response {
        let Self { started, request_id, method, route, no_store, context } = self;
        context.let_go();
        // It was made of what can be read.
        let id = request_id.to_str().unwrap_or_default();
        let problem = problem_of(&response);
        if let Some(problem) = &problem {
            let before = std::mem::replace(&mut response, problem.render(id));
            let kept = before.headers().iter().filter(|(name, _)| stays(name));
            let kept: Vec<_> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            response.headers_mut().extend(kept);
        }
        let waited = context.stats.waited();
        let answered = Answered {
            method: known(&method),
            route: name_of(route.as_ref()),
            status: response.status().as_u16(),
            worked: started.elapsed().saturating_sub(waited),
            waited,
        };
        api.metrics.request(&answered);
        log(&answered, &context, id, problem.as_deref());
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, request_id);
        if no_store {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if api.draining.is_cancelled() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The pattern of a route, as logs and metrics have it.
fn name_of(route: Option<&MatchedPath>) -> &str {
    route.map_or("unmatched", MatchedPath::as_str)
}

/// Whether a header of an answer that is rendered anew stays: what says what would be allowed.
fn stays(name: &HeaderName) -> bool {
    *name == header::ALLOW || *name == header::VARY || name.as_str().starts_with("access-control-")
}

/// Counts a request in, if there is room for it.
fn enter(api: &Api) -> Result<Counted, Problem> {
    api.in_hand.enter().map_err(|Full| {
        api.metrics.refused("max_requests");
        let detail = "as many requests are served as this gateway takes; try again in a moment";
        Problem::new(Code::Overloaded, detail)
    })
}

/// The one line of a request. Never a body, a query or a credential.
fn log(answered: &Answered<'_>, context: &RequestContext, id: &str, problem: Option<&Problem>) {
    let queue = context.queue.get().map(String::as_str);
    let key = context.caller.get().map(|caller| caller.identity().name());
    let code = problem.map(|problem| problem.code.as_str());
    let error = problem.and_then(|problem| problem.source.as_deref()).map(causes);
    let error = error.filter(|_| answered.status >= 500);
    let round_trips = context.stats.round_trips();
    let (duration_ms, waited_ms) = (milliseconds(answered.worked), milliseconds(answered.waited));
    let Answered { method, route, status, .. } = *answered;
    macro_rules! line {
        ($level:expr) => {
            event!(
                $level,
                method,
                route,
                queue,
                key,
                status,
                code,
                duration_ms,
                waited_ms,
                round_trips,
                request_id = id,
                error,
                "request"
            )
        };
    }
    match status {
        _ if QUIET.contains(&route) => line!(Level::DEBUG),
        501 | 503 => line!(Level::WARN),
        500.. => line!(Level::ERROR),
        _ => line!(Level::INFO),
    }
}

/// An error with what caused it, each said once.
fn causes(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The caller's id, if it is one that can stand in a log, or a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| {
        let id = id.as_bytes();
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(fits) {
        return id.clone();
    }
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = Uuid::now_v7().hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("none"))
}

/// A method as a label: a client may invent as many as it likes.
fn known(method: &Method) -> &str {
    let method = method.as_str();
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if known.contains(&method) { method } else { "OTHER" }
}

/// What went wrong, also where the framework said so by itself.
fn problem_of(response: &Response) -> Option<Arc<Problem>> {
    if let Some(problem) = response.extensions().get::<Arc<Problem>>() {
        return Some(Arc::clone(problem));
    }
    // No handler of ours makes these; the framework might.
    let code = match response.status() {
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::MessageTooLarge,
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
        StatusCode::NOT_FOUND => Code::RouteNotFound,
        status if status.is_client_error() => Code::InvalidRequest,
        status if status.is_server_error() => Code::InternalError,
        _ => return None,
    };
    Some(Arc::new(Problem::new(code, "the request could not be served")))
}

/// Nothing is served at this path.
pub(super) async fn route_not_found(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(Code::RouteNotFound, format!("there is no {path}; /docs shows what there is"))
}

/// The path is served, but not for this method.
pub(super) async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} does not take {method}; the header Allow says what it takes");
    Problem::new(Code::MethodNotAllowed, detail)
}

/// The layer that turns a panic of a handler into an answer.
#[derive(Clone)]
pub(super) struct CatchPanic;

impl<S> Layer<S> for CatchPanic {
    type Service = CatchPanicService<S>;

    fn layer(&self, inner: S) -> CatchPanicService<S> {
        CatchPanicService(inner)
    }
}

/// A service that answers where it would panic.
#[derive(Clone)]
pub(super) struct CatchPanicService<S>(S);

/// What came of a request, or of a panic.
type Outcome = Result<Response, Infallible>;
type Panic = Box<dyn Any + Send>;

impl<S> Service<Request> for CatchPanicService<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future =
        Map<CatchUnwind<AssertUnwindSafe<S::Future>>, fn(Result<Outcome, Panic>) -> Outcome>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let answer_panic = |outcome: Result<Outcome, Panic>| {
            outcome.unwrap_or_else(|panic| Ok(problem_for_panic(&*panic).into_response()))
        };
        AssertUnwindSafe(self.0.call(request)).catch_unwind().map(answer_panic)
    }
}

fn problem_for_panic(panic: &(dyn Any + Send)) -> Problem {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let source = format!("panic: {}", text.unwrap_or_default());
    let detail = "an unexpected error; the log of the gateway tells more";
    Problem { source: Some(source.into()), ..Problem::new(Code::InternalError, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("valid"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_sane_request_id_is_taken_over() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1")])), "abc-1");
        for wrong in ["", "a b", &"x".repeat(129)] {
            assert_ne!(request_id(&headers(&[("x-request-id", wrong)])), wrong);
        }
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_its_words_are_for_the_log() {
        let panics = tower::service_fn(async |_: Request| -> Outcome { panic!("secret") });
        let response = CatchPanic.layer(panics).call(Request::default()).await.expect("answered");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let problem = problem_of(&response).expect("a problem");
        assert!(!problem.detail.contains("secret"));
        assert_eq!(problem.source.as_deref().map(causes).as_deref(), Some("panic: secret"));
    }
}
