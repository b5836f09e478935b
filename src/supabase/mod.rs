//! Supabase Queues: the six functions of `pgmq_public`, asked for and answered as PostgREST does, so that
//! supabase-js and supabase-py work unchanged.

mod arguments;
mod call;
mod credential;
mod failure;
mod function;
mod options;
mod pop;
mod record;
mod reply;
mod state;

use std::collections::HashMap;

use axum::{
    Router,
    extract::Request,
    http::{Method, StatusCode},
    routing::any,
};

use crate::http::{FrontEnd, GatedBroker, Served, layered};

use failure::Failure;
use state::Supabase;

/// What all paths begin with.
const ROOT: &str = "/rest/v1/";
/// Where functions are called.
const CALL: &str = "/rest/v1/rpc/{function}";

/// This front end, as the shared layers need to know it.
const FRONT_END: FrontEnd = FrontEnd {
    reject: Failure::rejected,
    // Nothing is read by GET: every function writes.
    guarded_reads: &[],
    media_types: &["application/json"],
    foreign_form: "a request from another site must have `Content-Type: application/json`",
    line_ends: false,
    is_for_operations: false,
    no_store: &["/rest/v1"],
    request_headers: &[
        "apikey",
        "authorization",
        "content-type",
        "x-client-info",
        "content-profile",
        "accept-profile",
        "prefer",
        "x-retry-count",
        "accept",
        "traceparent",
        "tracestate",
        "baggage",
    ],
    response_headers: &["content-range", "content-profile"],
};

/// The service below `/rest/v1`.
pub fn router(gated: GatedBroker) -> Router {
    let origins = gated.origins.clone();
    let methods = vec![Method::GET, Method::HEAD, Method::POST];
    let served = Served(HashMap::from([(CALL.to_owned(), methods)]));
    let router = Router::new()
        .route(CALL, any(call::call))
        .route(ROOT, any(nothing_there))
        .route("/rest/v1/{*path}", any(nothing_there));
    layered(router, &gated, FRONT_END, &origins, served).with_state(Supabase(gated))
}

/// A table, of which none is served, or no path of PostgREST's at all.
async fn nothing_there(request: Request) -> Failure {
    let path = request.uri().path();
    let table = path.strip_prefix(ROOT).filter(|rest| !rest.is_empty() && !rest.contains('/'));
    let Some(table) = table else {
        let message = "Invalid path specified in request URL";
        return Failure::new(StatusCode::NOT_FOUND, "PGRST125", message);
    };
    let message = format!("Could not find the table 'pgmq_public.{table}' in the schema cache");
    Failure::new(StatusCode::NOT_FOUND, "PGRST205", message)
        .hint("Queues are used by functions: POST /rest/v1/rpc/send, for one")
}
