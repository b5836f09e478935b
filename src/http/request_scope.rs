//! What every request passes on its way in and out: its id, its log line, its metrics, and the
//! rendering of whatever went wrong, as its front end does it.

use std::{
    convert::Infallible,
    future::ready,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use http_body::Body as _;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;
use tracing::{Instrument, debug_span};
use uuid::Uuid;

use crate::telemetry::{Request as Answered, is_request_id};

use super::{
    access::too_many,
    admission::{HeldBack, InFlightGuard},
    context::RequestContext,
    front_end::FrontEnd,
    gate::Gate,
    host, newline,
    origin::OriginPolicy,
    rejection::Rejection,
    request_log::log,
    unread::Unread,
    untaken::{self, Kept},
    wire_error::{WireError, error_of},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The status of a request whose client left before it was answered, as proxies log it.
const CLIENT_LEFT: u16 = 499;
/// Routes that are served however many requests are in flight.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// The outermost layer.
#[derive(Clone)]
pub(super) struct RequestLayer {
    gate: Gate,
    rules: Arc<Rules>,
}

/// What a front end's requests are held to.
struct Rules {
    front_end: FrontEnd,
    origins: OriginPolicy,
    /// What tells browsers which pages may read a refusal.
    cors: Option<CorsLayer>,
}

impl RequestLayer {
    pub(super) fn new(gate: Gate, front_end: FrontEnd, origins: OriginPolicy) -> Self {
        let cors = origins.cors(&front_end);
        Self { gate, rules: Arc::new(Rules { front_end, origins, cors }) }
    }
}

impl Rules {
    /// Refuses what is not to be served, whatever it is about. A probe is answered under any name: nobody
    /// learns anything from it, and an orchestrator may know the address alone.
    fn check(&self, request: &Request, is_probe: bool) -> Result<(), Rejection> {
        host::check_header(request)?;
        if is_probe { Ok(()) } else { self.origins.check(request, &self.front_end) }
    }

    /// What went wrong, also where the framework said so by itself.
    fn error_in(&self, response: &mut Response) -> Option<Arc<dyn WireError>> {
        if let Some(error) = error_of(response) {
            return Some(error);
        }
        if let Some(rejection) = Rejection::take_from(response) {
            return Some((self.front_end.reject)(rejection));
        }
        // No handler of ours makes these; the framework might.
        let status = response.status();
        let is_error = status.is_client_error() || status.is_server_error();
        is_error.then(|| (self.front_end.reject)(Rejection::Unserved(status)))
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> RequestService<S> {
        RequestService { layer: self.clone(), inner }
    }
}

/// What the outermost layer makes of a service.
#[derive(Clone)]
pub(super) struct RequestService<S> {
    layer: RequestLayer,
    inner: S,
}

impl<S> Service<Request> for RequestService<S>
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
        let (scope, refused) = RequestScope::begin(self.layer.clone(), &mut request);
        let unread = Unread::watch(&mut request);
        let gate = self.layer.gate.clone();
        let answer = match refused {
            Some(rejection) => Err(Box::new((request, rejection))),
            None => Ok(self.inner.call(request)),
        };
        Box::pin(async move {
            let span = scope.context.call.span();
            let response = match answer {
                Ok(answer) => answer.instrument(span).await?,
                Err(refused) => {
                    let (request, rejection) = *refused;
                    let cors = scope.layer.rules.cors.clone();
                    Box::pin(refuse(cors, request, rejection)).await
                }
            };
            let (mut response, held_back) = scope.end(response);
            if let Some(held_back) = held_back {
                Box::pin(held_back.wait(&gate.draining)).await;
            }
            if let Some(rest) = unread.rest() {
                Box::pin(rest.settle(&mut response, gate.max_body_bytes, &gate.draining)).await;
            }
            Ok(response)
        })
    }
}

/// A request on its way, as far as its answer and its log line need it. Dropped before it has an answer,
/// it is one whose client has left.
struct RequestScope {
    layer: RequestLayer,
    started: Instant,
    request_id: HeaderValue,
    method: Method,
    route: Option<MatchedPath>,
    no_store: bool,
    /// Whether JSON is to end a line.
    newline: bool,
    /// Whether its answer counts until its client has taken it.
    kept: Kept,
    context: Arc<RequestContext>,
    answered: bool,
}

impl RequestScope {
    /// Lets a request in, or says why not.
    fn begin(layer: RequestLayer, request: &mut Request) -> (Self, Option<Rejection>) {
        let started = Instant::now();
        let request_id = request_id(request.headers());
        let method = request.method().clone();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let no_store = layer.rules.front_end.no_store;
        let no_store = no_store.iter().any(|start| request.uri().path().starts_with(start));
        // An orchestrator is answered however many others ask, and so is an operator apart from clients.
        let is_probe = PROBES.contains(&name_of(route.as_ref()));
        let is_apart = is_probe || layer.rules.front_end.is_for_operations;
        let entered = if is_apart { Ok(None) } else { enter(&layer.gate).map(Some) };
        let (counted, refused) = match entered {
            Ok(counted) => (counted, layer.rules.check(request, is_probe).err()),
            Err(rejection) => (None, Some(rejection)),
        };
        let newline = layer.rules.front_end.line_ends && newline::is_wanted(request.headers());
        let has_body = !request.body().is_end_stream();
        let kept =
            match request.version() {
                // Operators are few, and answered whatever clients do.
                Version::HTTP_2 if !layer.rules.front_end.is_for_operations => {
                    if counted.is_some() { Kept::InItsPlace } else { Kept::Aside }
                }
                _ => Kept::Not,
            };
        let context = Arc::new(RequestContext::counted(counted, has_body, request_id.clone()));
        if request.version() == Version::HTTP_2 {
            context.call.set_asked_early();
        }
        let (name, id) = (name_of(route.as_ref()), context.request_id());
        let span = debug_span!("request", method = known(&method), route = name, request_id = id);
        context.call.set_span(span);
        request.extensions_mut().insert(Arc::clone(&context));
        let answered = false;
        let scope = Self {
            layer,
            started,
            request_id,
            method,
            route,
            no_store,
            newline,
            kept,
            context,
            answered,
        };
        (scope, refused)
    }

    /// Renders what went wrong, if anything did, and counts and logs the request. Says whether the answer is to be
    /// held back.
    fn end(mut self, mut response: Response) -> (Response, Option<HeldBack>) {
        let place = self.leave(&mut response);
        let error = self.layer.rules.error_in(&mut response);
        if let Some(error) = &error {
            let before = std::mem::replace(&mut response, error.render(self.id()));
            let kept = before.headers().iter().filter(|(name, _)| stays(name));
            let kept: Vec<_> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            response.headers_mut().extend(kept);
        }
        self.record(response.status().as_u16(), error.as_deref());
        let status = response.status();
        let is_for_now =
            matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
                || error.is_some_and(|error| error.is_for_now());
        let held_back = if is_for_now { self.hold_back(place.as_ref()) } else { None };
        if self.newline {
            response = newline::add(response);
        }
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.request_id.clone());
        // What a page of another site takes for a script or a style, say, is none.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.no_store {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if self.layer.gate.draining.is_cancelled() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let response =
            if self.kept == Kept::Not { response } else { untaken::keep(response, place) };
        (response, held_back)
    }

    /// Whether a refusal for now is to be held back: one of many that its caller got lately. It does not take
    /// a place meanwhile that all callers share.
    fn hold_back(&self, place: Option<&InFlightGuard>) -> Option<HeldBack> {
        if place.is_some_and(InFlightGuard::stands_aside) {
            return None;
        }
        self.layer.gate.refusals.note(self.context.counts_as()?)
    }

    /// It is answered, and leaves its place, to its answer where that counts. Where there is none for it, it is
    /// refused.
    fn leave(&self, response: &mut Response) -> Option<InFlightGuard> {
        if self.kept == Kept::Not {
            self.context.let_go();
            return None;
        }
        let gate = &self.layer.gate;
        untaken::place(gate, &self.context, self.kept).unwrap_or_else(|refused| {
            *response = refused.into_response();
            gate.concurrency.stand_aside()
        })
    }

    /// Counts and logs what came of it, once.
    fn record(&mut self, status: u16, error: Option<&dyn WireError>) {
        self.answered = true;
        let waited = self.context.call.waited();
        let answered = Answered {
            method: known(&self.method),
            route: name_of(self.route.as_ref()),
            status,
            worked: self.started.elapsed().saturating_sub(waited),
            waited,
        };
        self.layer.gate.metrics.request(&answered);
        let _span = self.context.call.span().entered();
        log(&self.layer.gate, &answered, &self.context, self.id(), error);
    }

    fn id(&self) -> &str {
        self.context.request_id()
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        if !self.answered {
            self.record(CLIENT_LEFT, None);
        }
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

/// A refusal, as those pages may read it that may use the gateway.
async fn refuse(cors: Option<CorsLayer>, request: Request, rejection: Rejection) -> Response {
    // A preflight is answered without asking anybody, and that may be if it only comes too soon.
    let is_overload = matches!(rejection, Rejection::Overloaded(_));
    let may_pass = is_overload || *request.method() != Method::OPTIONS;
    let Some(cors) = cors.filter(|_| may_pass) else { return rejection.into_response() };
    let mut rejection = Some(rejection);
    let refusal = service_fn(move |_: Request| {
        let response = rejection.take().map(IntoResponse::into_response);
        ready(Ok::<_, Infallible>(response.unwrap_or_default()))
    });
    let Ok(response) = cors.layer(refusal).oneshot(request).await;
    response
}

/// Counts a request in, if there is room for it.
fn enter(gate: &Gate) -> Result<InFlightGuard, Rejection> {
    gate.concurrency.enter().map_err(|full| too_many(gate, full))
}

/// The caller's id, if it is one that can stand in a log, or a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |id: &&HeaderValue| is_request_id(id.as_bytes());
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
