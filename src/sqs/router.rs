//! Routes requests of SQS, and hands on those of REST before either is routed.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::Request,
    routing::{any, future::RouteFuture},
};
use tower::Service;

use crate::http::{FrontEnd, GatedBroker, Rejection, Served, WireError, layered};

use super::{
    front::{self, Failure},
    protocol::{Protocol, protocol_of},
    state::{Sqs, SqsPlace},
};

const ROOT: &str = "/";
/// The path of a queue's URL.
const QUEUE: &str = "/{account}/{queue}";

const JSON: FrontEnd = FrontEnd {
    reject: rejected_as_json,
    media_types: &["application/x-amz-json-1.0"],
    foreign_form: "a request from another site must have `Content-Type: application/x-amz-json-1.0`",
    ..QUERY
};

const QUERY: FrontEnd = FrontEnd {
    reject: rejected_as_xml,
    guarded_reads: &[ROOT, QUEUE],
    media_types: &[],
    foreign_form: "a request from another site must be of the JSON protocol, or its origin one of http.cors_origins",
    line_ends: false,
    is_for_operations: false,
    no_store: &["/"],
    request_headers: &[
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "authorization",
        "content-type",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-target",
        "x-amz-user-agent",
        "x-amzn-query-mode",
        "x-request-id",
    ],
    response_headers: &["x-amzn-query-error", "x-amzn-requestid", "x-request-id"],
};

fn rejected_as_json(rejection: Rejection) -> Arc<dyn WireError> {
    Failure::rejected(rejection, Protocol::Json)
}

fn rejected_as_xml(rejection: Rejection) -> Arc<dyn WireError> {
    Failure::rejected(rejection, Protocol::Query)
}

/// SQS, and `rest` for whatever is none of it.
pub fn app(
    gated: &GatedBroker,
    place: SqsPlace,
    rest: Router,
) -> impl Fn(Request) -> RouteFuture<Infallible> + Send + Sync + 'static {
    let sqs = Sqs::new(gated.clone(), place);
    let layered = |router: Router<Sqs>, front_end| {
        layered(router, gated, front_end, &gated.origins, Served::default()).with_state(sqs.clone())
    };
    let json = Router::new()
        .route(ROOT, any(front::json))
        .route(QUEUE, any(front::json))
        .fallback(front::json);
    let query = Router::new()
        .route(ROOT, any(front::query))
        .route(QUEUE, any(front::query))
        .fallback(front::query);
    let (json, query) = (layered(json, JSON), layered(query, QUERY));
    move |request| {
        let router = match protocol_of(&request) {
            Some(Protocol::Json) => &json,
            Some(Protocol::Query) => &query,
            None => &rest,
        };
        router.clone().call(request)
    }
}
