//! REST: one file a resource, each with its routes, bodies and documentation.

mod archive;
mod body;
mod context;
mod docs;
mod edge;
mod idempotency;
mod leased_body;
mod messages;
mod operations;
mod path;
mod problem;
mod query;
mod queues;
mod receive;
mod settle;
mod topics;
mod transactions;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{Router, middleware, routing::head};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{broker::Broker, telemetry::Metrics};

pub use docs::openapi;

/// What the handlers share. A clone is the same, and costs next to nothing: every request makes some.
#[derive(Clone, Debug)]
pub struct Api(Arc<ApiParts>);

/// What the handlers need.
#[derive(Debug)]
pub struct ApiParts {
    /// The operations.
    pub broker: Broker,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Bytes in the body of a request.
    pub max_body_bytes: u64,
    /// Time for a client to send the body of a request.
    pub body_timeout: Duration,
    /// Cancelled when a shutdown begins.
    pub draining: CancellationToken,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for Api {
    type Target = ApiParts;

    fn deref(&self) -> &ApiParts {
        &self.0
    }
}

/// Every route with its documentation; what is registered here is in both.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(queues::routes())
        .merge(messages::routes())
        .merge(receive::routes())
        .merge(settle::routes())
        .merge(transactions::routes())
        .merge(archive::routes())
        .merge(topics::routes())
        .merge(operations::routes())
}

/// The service: routes, documentation, and what every request passes on its way in and out.
pub fn router(api: Api) -> Router {
    let (router, document) = routes().split_for_parts();
    serve_documents(router, docs::complete(document))
        .route(receive::PATH, head(receive::refuse_head))
        .fallback(edge::route_not_found)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(edge::catch_panic())
        .layer(middleware::from_fn_with_state(api.clone(), edge::edge))
        .with_state(api)
}

fn serve_documents(router: Router<Api>, document: OpenApi) -> Router<Api> {
    router.merge(docs::document_route(document)).merge(docs::browser())
}
