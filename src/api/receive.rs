//! `GET /queues/{queue}/messages` and `pop`: the two ways of being given messages.

use std::{pin::pin, sync::Arc};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Delivery, Receive},
    domain::{FifoMode, Filter, Quantity, QueueName, VisibilityTimeout, Wait},
    http::{
        DeliveryCount, LeasedBody, QueuePermit, json, right, room_for, room_of_taken, room_to_take,
    },
};

use super::{
    extract::{NoBody, Query, parsed},
    message_view::MessageList,
    messages::TAG,
    near_miss::method_not_allowed,
    openapi::errors,
    problem::{Code, Problem},
    response::json_answer,
    state::Api,
};

/// Where messages are received.
pub(super) const PATH: &str = "/queues/{queue}/messages";
/// What is taken there.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET,POST");

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
    #[param(inline)]
    qty: Option<Quantity>,
    /// Seconds that they stay hidden from others; as the queue's settings say if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    vt: Option<VisibilityTimeout>,
    /// Seconds to wait for a first message, 0 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    wait: Option<Wait>,
    /// A JSON object that a message must contain: at most 4096 bytes, and 16 array elements in all its arrays
    /// together.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>)]
    filter: Option<Filter>,
    /// Reads in groups, by the header `x-pgmq-group`: of each group its messages in order, up to the
    /// first that is hidden. `grouped` takes as many as possible of the oldest group first,
    /// `round_robin` one of each group in turn, `head` the first of each group.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    fifo: Option<FifoMode>,
}

/// Leases messages: they are hidden from others for `vt` seconds, and come back unless they are
/// deleted or archived by then. With `wait`, the answer comes as soon as there is a message.
///
/// A client that goes away while it waits leaves nothing leased.
#[utoipa::path(
    get, path = PATH, tag = TAG, operation_id = "receive_messages",
    params(("queue" = String, Path), ReceiveParameters),
    responses(
        (status = 200, description = "The messages; none if there were none in time",
         body = MessageList<'_>),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict,
        errors::NotSupported,
    )
)]
async fn receive(
    State(api): State<Api>,
    leave: QueuePermit<right::Receive>,
    Query(parameters): Query<ReceiveParameters>,
) -> Result<Response, Problem> {
    let what = Receive {
        queue: leave.queue.clone(),
        qty: parameters.qty.unwrap_or(Quantity::saturating(1)),
        vt: parameters.vt,
        wait: parameters.wait.unwrap_or(Wait::saturating(0)),
        filter: parameters.filter,
        fifo: parameters.fifo,
    };
    let mut delivery = received(&leave, what).await?;
    // What is over it is given back.
    delivery.keep_within(api.max_answer_bytes);
    let messages = &*delivery.messages;
    let held = room_for(&api, &leave.call, messages.iter())?;
    let bytes = json(held, &MessageList::from(messages))?;
    let delivered = delivered(&api, leave.queue, messages.len());
    Ok(json_answer(Body::new(LeasedBody::new(bytes, delivery.lease, delivered, &leave.call))))
}

/// What can be delivered, for no longer than the credential is in force.
pub(super) async fn received(
    leave: &QueuePermit<right::Receive>,
    what: Receive,
) -> Result<Delivery, Problem> {
    let _place = (what.wait.get() > 0).then(|| leave.wait()).transpose()?;
    let work = pin!(leave.broker.receive(&leave.call, what));
    let received = leave.while_authorized(work).await?;
    Ok(received.transpose()?.unwrap_or_else(Delivery::empty))
}

/// What is counted when a client has it.
pub(super) fn delivered(api: &Api, queue: QueueName, messages: usize) -> DeliveryCount {
    DeliveryCount { metrics: Arc::clone(&api.metrics), queue, messages }
}

/// How much to pop.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PopParameters {
    /// The most messages to return, 1 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    qty: Option<Quantity>,
}

/// Reads messages and deletes them at once. If the answer is lost on its way, so are they.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/pop", tag = TAG, operation_id = "pop_messages",
    params(("queue" = String, Path), PopParameters),
    responses(
        (status = 200, description = "The messages; none if there were none",
         body = MessageList<'_>),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::RequestTimeout,
        errors::NotSupported,
    )
)]
async fn pop(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    Query(parameters): Query<PopParameters>,
    _: NoBody,
) -> Result<Response, Problem> {
    let qty = parameters.qty.unwrap_or(Quantity::saturating(1));
    let held = room_to_take(&api, &call, usize::try_from(qty.get()).unwrap_or(1))?;
    let messages = broker.pop(&call, queue.clone(), qty).await?;
    let held = room_of_taken(held, &messages);
    let bytes = json(held, &MessageList::from(&*messages))?;
    let delivered = delivered(&api, queue, messages.len());
    Ok(json_answer(Body::new(LeasedBody::without_lease(bytes, delivered))))
}

/// `HEAD` has no body, so it must not lease: what it leased nobody would see.
pub(super) async fn refuse_head() -> Response {
    let detail = "receiving is GET; HEAD has no body to carry messages";
    let mut response = Problem::new(Code::MethodNotAllowed, detail).into_response();
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    response
}

/// A method that a path does not take. Here the router would name `HEAD` among those that it does.
pub(super) async fn refuse_method(request: Request) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let is_here = path.is_some_and(|path| path.as_str() == PATH);
    let mut response = method_not_allowed(&request).into_response();
    if is_here {
        response.headers_mut().insert(header::ALLOW, ALLOWED);
    }
    response
}
