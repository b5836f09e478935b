//! REST: one file a resource, each with its routes, bodies and documentation.

mod access;
mod answer;
mod archive;
mod base_path;
mod body;
mod bounded_list;
mod caller_usage;
mod context;
mod docs;
mod edge;
mod foreign;
mod guard;
mod hold;
mod host;
mod idempotency;
mod leased_body;
mod messages;
mod not_json;
mod operations;
mod path;
mod prefer;
mod problem;
mod query;
mod queue_schemas;
mod queues;
mod receive;
mod receive_settling;
mod request_log;
mod schemas;
mod settle;
mod topics;
mod transactions;
mod unread;

use std::sync::Arc;

use axum::{Extension, Router, routing::head};
use tower::util::option_layer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use access::{Api, ApiParts};
pub use docs::openapi;
pub use foreign::EdgeRules;
pub use host::Hosts;

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

/// The service: routes and documentation.
pub fn router(api: Api) -> Router {
    let routes = if api.operations_apart { client_routes() } else { routes() };
    let (router, document) = routes.split_for_parts();
    let document = docs::complete(document);
    let router = serve_documents(router, &document);
    let router = router.route(receive::PATH, head(receive::refuse_head));
    finish(router, api, &document)
}

/// What an operator or an orchestrator asks for, where that has a listener of its own.
pub fn operations_router(api: Api, rules: EdgeRules) -> Router {
    let (router, document) = operations::routes().split_for_parts();
    let router = finish(router, api, &document);
    router.layer(Extension(edge::ForOperations(Arc::new(rules))))
}

/// What every request passes on its way in and out.
fn finish(router: Router<Api>, api: Api, document: &OpenApi) -> Router {
    // In one layer: each one by itself would copy all that is below it for every request.
    let layers =
        (edge::Edge(api.clone()), option_layer(api.rules.cors()), guard::Guard::new(document));
    router
        .fallback(edge::route_not_found)
        .method_not_allowed_fallback(receive::refuse_method)
        .layer(layers)
        .with_state(api)
}

fn serve_documents(router: Router<Api>, document: &OpenApi) -> Router<Api> {
    router.merge(docs::document_route(document)).merge(docs::browser())
}
