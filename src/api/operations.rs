//! What an operator or an orchestrator asks for.

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, header},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{broker::HealthState, telemetry::Metrics};

use super::{
    extract::{NoParameters, Operator, Query},
    openapi::errors,
    problem::{Code, Problem},
    state::Api,
};

const TAG: &str = "Operations";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(livez)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// The process runs.
#[utoipa::path(
    get, path = "/livez", tag = TAG,
    responses((status = 200, description = "It does", body = String, content_type = "text/plain",
               example = "ok"))
)]
async fn livez(Query(NoParameters {}): Query<NoParameters>) -> &'static str {
    "ok\n"
}

/// The database answers, the schema is current, and no shutdown has begun.
#[utoipa::path(
    get, path = "/readyz", tag = TAG,
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain",
         example = "ok"),
        errors::NotReady,
    )
)]
async fn readyz(
    State(api): State<Api>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<&'static str, Problem> {
    if api.draining.is_cancelled() {
        return Err(Problem::new(Code::Overloaded, "the gateway is shutting down"));
    }
    let reason = match api.check_health().await {
        HealthState::Ready => return Ok("ok\n"),
        HealthState::SchemaMissing => {
            "PGMQ or schema pgmq_gateway is missing or old; restart the gateway, or run \
             pgmq-gateway migrate"
        }
        HealthState::ReadOnly => {
            "the database takes no changes: it is a standby, or default_transaction_read_only is on"
        }
        HealthState::Stalled => {
            "the database answers, but nothing gets done: statements wait for locks, or commits for \
             a standby that does not answer"
        }
        HealthState::Down => "the database does not answer",
    };
    Err(Problem::new(Code::DatabaseUnavailable, reason))
}

/// Metrics for Prometheus. Asking never queries the database.
#[utoipa::path(
    get, path = "/metrics", tag = TAG,
    responses((status = 200, description = "Prometheus text format", body = String,
         content_type = "text/plain",
               example = "pgmq_gateway_messages_sent_total{queue=\"orders\"} 3"))
)]
async fn metrics(
    _: Operator,
    State(api): State<Api>,
    Query(NoParameters {}): Query<NoParameters>,
) -> ([(HeaderName, HeaderValue); 1], String) {
    api.metrics.in_flight(api.concurrency.len(), api.memory.held());
    let kind = HeaderValue::from_static(Metrics::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], api.metrics.render())
}
