//! What every request passes on its way in and out: its id, its log line, its metrics, and the
//! rendering of whatever went wrong.

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};
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
pub(super) struct Apart(pub(super) Arc<EdgeRules>);

/// Whether a request is marked so.
pub(super) fn is_apart(extensions: &Extensions) -> bool {
    extensions.get::<Apart>().is_some()
}

fn rules_for<'a>(api: &'a Api, extensions: &'a Extensions) -> &'a EdgeRules {
    extensions.get::<Apart>().map_or(&api.rules, |apart| &apart.0)
}

/// The outermost layer.
pub(super) async fn edge(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let no_store = ["/queues", "/topics"].iter().any(|p| request.uri().path().starts_with(p));
    // An orchestrator is answered however many others ask.
    let entered = if PROBES.contains(&route) { Ok(None) } else { enter(&api).map(Some) };
    let (counted, refused) = match entered {
        Ok(counted) => (counted, rules_for(&api, request.extensions()).check(&request).err()),
        Err(problem) => (None, Some(problem)),
    };
    let context = Arc::new(RequestContext::counted(counted));
    request.extensions_mut().insert(Arc::clone(&context));

    let mut response = match refused {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    };
    context.let_go();
    let problem = problem_of(&response);
    if let Some(problem) = &problem {
        let before = std::mem::replace(&mut response, problem.render(&request_id));
        let kept = before.headers().iter().filter(|(name, _)| stays(name));
        let kept: Vec<_> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        response.headers_mut().extend(kept);
    }
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if no_store {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if api.draining.is_cancelled() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    let waited = context.stats.waited();
    let answered = Answered {
        method: known(&method),
        route,
        status: status.as_u16(),
        worked: started.elapsed().saturating_sub(waited),
        waited,
    };
    api.metrics.request(&answered);
    log(&answered, &context, &request_id, problem.as_deref());
    response
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
    let key = context.caller.get().map(|caller| caller.name());
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
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let fits = |id: &&str| {
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
    };
    match given.filter(fits) {
        Some(id) => id.to_owned(),
        None => Uuid::now_v7().to_string(),
    }
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

/// Turns a panic of a handler into an answer.
pub(super) fn catch_panic() -> CatchPanicLayer<PanicProblem> {
    CatchPanicLayer::custom(PanicProblem)
}

/// The answer to a request whose handler panicked.
#[derive(Clone, Copy)]
pub(super) struct PanicProblem;

impl ResponseForPanic for PanicProblem {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send>) -> Response {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let source = format!("panic: {}", text.unwrap_or_default());
        Problem {
            source: Some(source.into()),
            ..Problem::new(
                Code::InternalError,
                "an unexpected error; the log of the gateway tells more",
            )
        }
        .into_response()
    }
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
}
