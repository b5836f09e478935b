//! REST: one file a resource, each with its routes, bodies and documentation.

mod archive;
mod error_text;
mod extract;
mod message_view;
mod messages;
mod near_miss;
mod openapi;
mod operations;
mod problem;
mod queue_view;
mod queues;
mod receive;
mod receive_settling;
mod response;
mod schemas;
mod settings_view;
mod settle;
mod settled;
mod state;
mod topics;
mod transactions;

use axum::{Extension, Router, extract::Request, http::Method, routing::head};
use utoipa::openapi::{OpenApi, PathItem};
use utoipa_axum::router::OpenApiRouter;

use crate::http::{FrontEnd, GatedBroker, OriginPolicy, Served, layered};

use extract::ForOperations;
use problem::Problem;
use state::Api;

/// REST, as the shared layers need to know it.
const FRONT_END: FrontEnd = FrontEnd {
    reject: Problem::rejected,
    guarded_reads: &[receive::PATH],
    media_types: &["application/json"],
    foreign_form: "a request from another site must have `Content-Type: application/json`",
    no_store: &["/queues", "/topics"],
    request_headers: &[
        "authorization",
        "content-type",
        "idempotency-key",
        "prefer",
        "x-request-id",
    ],
    response_headers: &["location", "retry-after", "idempotency-replayed", "x-request-id"],
    line_ends: true,
    is_for_operations: false,
};

/// Which listener serves what is for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// That of the clients.
    Here,
    /// One of its own, with [`operations_router`].
    Elsewhere,
}

/// Every route with its documentation; what is registered here is in both.
fn routes() -> OpenApiRouter<Api> {
    client_routes().merge(operations::routes())
}

fn client_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(queues::routes())
        .merge(messages::routes())
        .merge(receive::routes())
        .merge(receive_settling::routes())
        .merge(settle::routes())
        .merge(transactions::routes())
        .merge(archive::routes())
        .merge(topics::routes())
}

/// The OpenAPI document.
pub fn openapi() -> OpenApi {
    openapi::complete(routes().into_openapi())
}

/// The service: routes and documentation. `has_dashboard` says whether browsers are led there.
pub fn router(gated: GatedBroker, operations: Operations, has_dashboard: bool) -> Router {
    let routes = if operations == Operations::Here { routes() } else { client_routes() };
    let (router, document) = routes.split_for_parts();
    let document = openapi::complete(document);
    let router = router.merge(openapi::document_route(&document));
    let router = router.merge(openapi::browser()).merge(openapi::start_page(has_dashboard));
    let router = router.route(receive::PATH, head(receive::refuse_head));
    let origins = gated.origins.clone();
    finish(router, gated, FRONT_END, &origins, &document)
}

/// What an operator or an orchestrator asks for, where that has a listener of its own, with names of its
/// own.
pub fn operations_router(gated: GatedBroker, origins: &OriginPolicy) -> Router {
    let (router, document) = operations::routes().split_for_parts();
    let front_end = FrontEnd { is_for_operations: true, ..FRONT_END };
    finish(router, gated, front_end, origins, &document).layer(Extension(ForOperations))
}

/// What every request passes on its way in and out.
fn finish(
    router: Router<Api>,
    gated: GatedBroker,
    front_end: FrontEnd,
    origins: &OriginPolicy,
    document: &OpenApi,
) -> Router {
    let paths = near_miss::Paths::new(document);
    let router = router
        .fallback(async move |request: Request| paths.not_found(request.uri().path()))
        .method_not_allowed_fallback(receive::refuse_method);
    layered(router, &gated, front_end, origins, served(document)).with_state(Api(gated))
}

/// The methods that each path of a document takes. Pages have no place in it.
fn served(document: &OpenApi) -> Served {
    let paths = document.paths.paths.iter();
    Served(paths.map(|(path, item)| (path.clone(), methods(item))).collect())
}

fn methods(item: &PathItem) -> Vec<Method> {
    let all = [
        (item.get.is_some(), Method::GET),
        (item.get.is_some(), Method::HEAD),
        (item.put.is_some(), Method::PUT),
        (item.post.is_some(), Method::POST),
        (item.patch.is_some(), Method::PATCH),
        (item.delete.is_some(), Method::DELETE),
    ];
    all.into_iter().filter(|(taken, _)| *taken).map(|(_, method)| method).collect()
}
