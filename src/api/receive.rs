//! `GET /queues/{queue}/messages` and `pop`: the two ways of being given messages.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::Receive,
    domain::{FifoMode, Message, Quantity, VisibilityTimeout, Wait},
};

use super::{
    Api,
    body::NoBody,
    context::Stats,
    leased_body::LeasedBody,
    messages::{MessageList, TAG},
    path::InQueue,
    problem::{Code, Problem},
    query::{Filter, Query, parsed},
};

/// Where messages are received.
pub(super) const PATH: &str = "/queues/{queue}/messages";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(receive)).routes(routes!(pop))
}

/// What to receive.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReceiveParameters {
    /// The most messages to return, 1 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    qty: Option<Quantity>,
    /// Seconds that they stay hidden from others; as the queue's settings say if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 0, maximum = 43_200)]
    vt: Option<VisibilityTimeout>,
    /// Seconds to wait for a first message, 0 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 0, maximum = 20)]
    wait: Option<Wait>,
    /// A JSON object that a message must contain.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>, example = "{\"type\":\"invoice\"}")]
    filter: Option<Filter>,
    /// Reads in groups, by the header `x-pgmq-group`: of each group its messages in order, up to the
    /// first that is hidden. `grouped` takes as many as possible of the oldest group first,
    /// `round_robin` one of each group in turn, `head` the first of each group.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<FifoSchema>)]
    fifo: Option<FifoMode>,
}

/// How to read in groups.
#[derive(ToSchema)]
#[schema(as = FifoMode, rename_all = "snake_case")]
#[expect(dead_code, reason = "describes domain::FifoMode, which knows no OpenAPI")]
enum FifoSchema {
    Grouped,
    RoundRobin,
    Head,
}

/// Leases messages: they are hidden from others for `vt` seconds, and come back unless they are
/// deleted or archived by then. With `wait`, the answer comes as soon as there is a message.
///
/// A client that goes away while it waits leaves nothing leased.
#[utoipa::path(
    get, path = PATH, tag = TAG, operation_id = "receive_messages",
    params(("queue" = String, Path), ReceiveParameters),
    responses((status = 200, description = "The messages; none if there were none in time",
               body = MessageList<'_>))
)]
async fn receive(
    State(api): State<Api>,
    Stats(stats): Stats,
    InQueue(queue): InQueue,
    Query(parameters): Query<ReceiveParameters>,
) -> Result<Response, Problem> {
    let what = Receive {
        queue,
        qty: parameters.qty.unwrap_or(Quantity::saturating(1)),
        vt: parameters.vt,
        wait: parameters.wait.unwrap_or(Wait::saturating(0)),
        filter: parameters.filter.map(|filter| filter.0),
        fifo: parameters.fifo,
    };
    let delivery = api.broker.receive(&stats, what).await?;
    let bytes = to_json(&delivery.messages)?;
    Ok(json_answer(Body::new(LeasedBody::new(bytes, delivery.lease))))
}

/// How much to pop.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PopParameters {
    /// The most messages to return, 1 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    qty: Option<Quantity>,
}

/// Reads messages and deletes them at once. If the answer is lost on its way, so are they.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/pop", tag = TAG, operation_id = "pop_messages",
    params(("queue" = String, Path), PopParameters),
    responses((status = 200, description = "The messages; none if there were none",
               body = MessageList<'_>))
)]
async fn pop(
    State(api): State<Api>,
    Stats(stats): Stats,
    InQueue(queue): InQueue,
    Query(parameters): Query<PopParameters>,
    _: NoBody,
) -> Result<Response, Problem> {
    let qty = parameters.qty.unwrap_or(Quantity::saturating(1));
    let messages = api.broker.pop(&stats, queue, qty).await?;
    Ok(json_answer(Body::from(to_json(&messages)?)))
}

/// `HEAD` has no body, so it must not lease: what it leased nobody would see.
pub(super) async fn refuse_head() -> Response {
    let detail = "receiving is GET; HEAD has no body to carry messages";
    let mut response = Problem::new(Code::MethodNotAllowed, detail).into_response();
    let allow = HeaderValue::from_static("GET,POST");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

fn to_json(messages: &[Message]) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(&MessageList { messages }).map_err(|error| Problem {
        source: Some(error.into()),
        ..Problem::new(Code::InternalError, "the messages could not be written as JSON")
    })
}

fn json_answer(body: Body) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
