//! `/bindings` and `/topics`: messages that go to every queue whose patterns match.

use axum::{
    Json as JsonResponse,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{self, MAX_BINDINGS, Topic, TopicDelivery},
    domain::{Call, Scope, Timestamp},
    http::{QueuePermit, ScopePermit, any_room, json, json_of_done, right, room_for_bytes},
};

use super::{
    extract::{Json, NoBody, NoParameters, OnceJson, Query, RoutingKey, check_text, mark},
    messages::{Batch, IdempotencyKey, NewMessageBody},
    openapi::errors,
    problem::Problem,
    response::json_answer,
    state::Api,
};

const TAG: &str = "Topics";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(queue_bindings, bind, unbind))
        .routes(routes!(publish))
        .routes(routes!(publish_batch))
        .routes(routes!(route))
}

/// What a binding looks like.
fn binding_example() -> serde_json::Value {
    serde_json::json!({
        "pattern": "orders.#", "queue": "invoices", "bound_at": "2026-01-01T12:00:00.000000Z"
    })
}

/// A queue that is bound to a pattern.
#[derive(Serialize, ToSchema)]
#[schema(example = binding_example)]
struct Binding {
    /// Words between dots; `*` stands for one word, `#` for any number.
    #[schema(example = "orders.#")]
    pattern: String,
    /// The queue.
    #[schema(example = "invoices")]
    queue: String,
    /// When it was bound.
    #[schema(inline)]
    bound_at: Timestamp,
}

impl From<broker::Binding> for Binding {
    fn from(binding: broker::Binding) -> Self {
        let broker::Binding { pattern, queue, bound_at } = binding;
        Self { pattern, queue, bound_at: Timestamp(bound_at) }
    }
}

/// Bindings.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"bindings": [binding_example()]}))]
struct Bindings {
    /// By pattern, then by queue.
    bindings: Vec<Binding>,
}

/// Bytes of a binding in JSON beside its pattern and its queue.
const BINDING_BYTES: usize = 80;

/// All of them, or an error: no part is to look like all.
fn listed(
    api: &Api,
    call: &Call,
    found: broker::Bindings,
    instead: &str,
) -> Result<Response, Problem> {
    if found.is_cut {
        let detail = format!(
            "there are more than {MAX_BINDINGS} bindings, the most that are listed at once{instead}"
        );
        return Err(Problem::invalid(detail));
    }
    let bytes =
        |binding: &broker::Binding| BINDING_BYTES + binding.pattern.len() + binding.queue.len();
    let held = room_for_bytes(api, call, found.listed.iter().map(bytes).sum())?;
    let bindings = found.listed.into_iter().map(Binding::from).collect();
    Ok(json_answer(json(held, &Bindings { bindings })?.into()))
}

/// Lists the bindings of all queues.
///
/// Where there are more than 10000, those of each queue are to be asked for.
#[utoipa::path(
    get, path = "/bindings", tag = TAG, operation_id = "list_bindings",
    responses(
        (status = 200, description = "The bindings", body = Bindings),
        errors::InternalError, errors::NotSupported,
    )
)]
async fn list(
    State(api): State<Api>,
    ScopePermit { broker, call, scope, .. }: ScopePermit<right::Any>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let found = broker.bindings(&call, None, scope).await?;
    listed(&api, &call, found, ": ask for those of one queue with `GET /queues/{queue}/bindings`")
}

/// Lists the bindings of a queue.
#[utoipa::path(
    get, path = "/queues/{queue}/bindings", tag = TAG, operation_id = "queue_bindings",
    params(("queue" = String, Path)),
    responses(
        (status = 200, description = "The bindings", body = Bindings),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::NotSupported,
    )
)]
async fn queue_bindings(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Any>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let found = broker.bindings(&call, Some(queue), Scope::ALL).await?;
    listed(&api, &call, found, "")
}

/// A pattern to bind to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"pattern": "orders.#"}))]
struct Bind {
    /// 1 to 255 characters: words of `a-z A-Z 0-9 _ -` between dots; `*` stands for one word, `#`
    /// for any number.
    #[schema(min_length = 1, max_length = 255)]
    pattern: String,
}

/// Binds a queue to a pattern; asking again is fine.
#[utoipa::path(
    post, path = "/queues/{queue}/bindings", tag = TAG, operation_id = "bind",
    params(("queue" = String, Path)), request_body(content = Bind),
    responses(
        (status = 201, description = "It is bound now", body = Binding),
        (status = 200, description = "It was bound already", body = Binding),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::OfBody, errors::MessageRejected,
        errors::NotSupported,
    )
)]
async fn bind(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Manage>,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<Bind>,
) -> Result<(StatusCode, JsonResponse<Binding>), Problem> {
    check_text("pattern", &body.pattern)?;
    let (new, binding) = broker.bind(&call, queue, body.pattern).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, JsonResponse(binding.into())))
}

/// Which binding to end.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UnbindParameters {
    /// Its pattern.
    #[param(example = "orders.#")]
    pattern: String,
}

/// Ends a binding.
#[utoipa::path(
    delete, path = "/queues/{queue}/bindings", tag = TAG, operation_id = "unbind",
    params(("queue" = String, Path), UnbindParameters),
    responses(
        (status = 204, description = "It is gone"),
        errors::InternalError, errors::BindingNotFound, errors::QueueConflict, errors::RequestTimeout,
        errors::NotSupported,
    )
)]
async fn unbind(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Manage>,
    Query(parameters): Query<UnbindParameters>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    check_text("pattern", &parameters.pattern)?;
    broker.unbind(&call, queue, parameters.pattern).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where messages were stored.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"deliveries": [{"queue": "invoices", "msg_id": 42}]}))]
struct Deliveries {
    /// One for each message and queue; empty if no binding matches.
    deliveries: Vec<Delivery>,
}

/// A message in a queue.
#[derive(Serialize, ToSchema)]
struct Delivery {
    /// The queue.
    #[schema(example = "invoices")]
    queue: String,
    /// The message's number within it.
    #[schema(example = 42)]
    msg_id: i64,
    /// True where the message was sent there before with the same `x-deduplication-id`, and not stored again; left out
    /// otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
}

fn deliveries(
    api: &Api,
    call: &Call,
    published: broker::Replayable<Vec<TopicDelivery>>,
) -> Result<Response, Problem> {
    let delivery = |delivery: TopicDelivery| {
        let TopicDelivery { queue, msg_id, duplicate } = delivery;
        Delivery { queue, msg_id, duplicate }
    };
    let deliveries = published.result.into_iter().map(delivery).collect();
    let json = json_of_done(any_room(api, call), &Deliveries { deliveries })?;
    let answer = (StatusCode::CREATED, json_answer(json.into()));
    Ok(mark(published.replayed, answer.into_response()))
}

/// Stores a message in every queue with a pattern that the routing key matches, once in each, in one
/// transaction.
#[utoipa::path(
    post, path = "/topics/{routing_key}/messages", tag = TAG, operation_id = "publish",
    params(("routing_key" = String, Path, example = "orders.eu"), IdempotencyKey),
    request_body(content = NewMessageBody),
    responses(
        (status = 201, description = "Where it was stored", body = Deliveries),
        errors::InternalError, errors::QueueNotFound, errors::SendConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn publish(
    State(api): State<Api>,
    ScopePermit { broker, call, scope, caller, .. }: ScopePermit<right::Send>,
    RoutingKey(routing_key): RoutingKey,
    Query(NoParameters {}): Query<NoParameters>,
    OnceJson(body, once): OnceJson<NewMessageBody>,
) -> Result<Response, Problem> {
    let (new, topic) = (body.check(caller).await?, Topic { routing_key, within: scope });
    deliveries(&api, &call, broker.publish(&call, topic, new, once).await?)
}

/// As for one message, for 1 to 1000 of them.
#[utoipa::path(
    post, path = "/topics/{routing_key}/messages/batch", tag = TAG,
    operation_id = "publish_batch",
    params(("routing_key" = String, Path, example = "orders.eu"), IdempotencyKey),
    request_body(content = Batch),
    responses(
        (status = 201, description = "Where they were stored", body = Deliveries),
        errors::InternalError, errors::QueueNotFound, errors::SendConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn publish_batch(
    State(api): State<Api>,
    ScopePermit { broker, call, scope, caller, .. }: ScopePermit<right::Send>,
    RoutingKey(routing_key): RoutingKey,
    Query(NoParameters {}): Query<NoParameters>,
    OnceJson(body, once): OnceJson<Batch>,
) -> Result<Response, Problem> {
    let (batch, topic) = (body.check(caller).await?, Topic { routing_key, within: scope });
    deliveries(&api, &call, broker.publish_batch(&call, topic, batch, once).await?)
}

/// Queues that a message would go to.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"queues": ["invoices"]}))]
struct Route {
    /// Their names.
    #[schema(example = json!(["invoices"]))]
    queues: Vec<String>,
}

/// Tells where a message with a routing key would go.
#[utoipa::path(
    get, path = "/topics/{routing_key}/queues", tag = TAG, operation_id = "route",
    params(("routing_key" = String, Path, example = "orders.eu")),
    responses(
        (status = 200, description = "The queues", body = Route),
        errors::InternalError, errors::NotSupported,
    )
)]
async fn route(
    State(api): State<Api>,
    ScopePermit { broker, call, scope, .. }: ScopePermit<right::Any>,
    RoutingKey(routing_key): RoutingKey,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let queues = broker.routed_to(&call, routing_key, scope).await?;
    let held = room_for_bytes(&api, &call, queues.iter().map(|queue| queue.len() + 3).sum())?;
    Ok(json_answer(json(held, &Route { queues })?.into()))
}
