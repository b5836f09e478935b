//! `/queues/{queue}/messages`: sending, looking, settling. Receiving stands in `receive`.

use axum::{
    Json as JsonAnswer,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::Peek,
    domain::{
        Bounded, Delay, Message, NewMessage, PageSize, RawJson, Visibility, VisibilityTimeout,
    },
};

use super::{
    Api,
    body::{Json, NoBody},
    context::Stats,
    path::{InQueue, OneMessage},
    problem::Problem,
    query::{NoParameters, Query, parsed},
};

pub(super) const TAG: &str = "Messages";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(send))
        .routes(routes!(send_batch))
        .routes(routes!(peek))
        .routes(routes!(show, delete, set_visibility))
        .routes(routes!(archive))
}

/// A message in a queue.
#[derive(ToSchema)]
#[schema(as = Message)]
#[expect(dead_code, reason = "describes domain::Message, which knows no OpenAPI")]
pub(super) struct MessageSchema {
    /// Its number within the queue.
    #[schema(example = 42)]
    msg_id: i64,
    /// How many times it has been delivered.
    #[schema(example = 1)]
    read_ct: i32,
    /// When it was stored.
    enqueued_at: DateTime<Utc>,
    /// When it was last delivered.
    #[schema(required)]
    last_read_at: Option<DateTime<Utc>>,
    /// The moment from which it may be delivered (again).
    vt: DateTime<Utc>,
    /// The JSON value that was sent.
    message: serde_json::Value,
    /// The headers that were sent with it.
    #[schema(required, value_type = Option<Object>)]
    headers: Option<serde_json::Value>,
}

/// Messages.
#[derive(Serialize, ToSchema)]
pub(super) struct MessageList<'a> {
    /// In the order they were sent.
    #[schema(value_type = Vec<MessageSchema>)]
    pub(super) messages: &'a [Message],
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
struct MessagePage {
    /// In order of `msg_id`.
    #[schema(value_type = Vec<MessageSchema>)]
    messages: Vec<Message>,
    /// What to pass as `after` for the next page; null on the last one.
    #[schema(required, example = "42")]
    next: Option<String>,
}

/// A message to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessage)]
struct NewMessageBody {
    /// Any JSON value. It is stored as it is: no digit is lost.
    #[schema(value_type = serde_json::Value)]
    message: RawJson,
    /// A JSON object to go with it.
    #[schema(value_type = Option<Object>)]
    headers: Option<RawJson>,
    /// Seconds before it can be delivered.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 604_800)]
    delay: Option<Delay>,
    /// In place of `delay`: the moment from which it can be delivered, at most 604800 seconds from
    /// now. One in the past means at once.
    visible_at: Option<DateTime<Utc>>,
}

impl NewMessageBody {
    fn into_new(self, at: &str) -> Result<NewMessage, Problem> {
        let visible = match (self.delay, self.visible_at) {
            (Some(_), Some(_)) => {
                let detail = format!("`{at}delay` and `{at}visible_at` exclude each other");
                return Err(Problem::invalid(detail));
            }
            (delay, None) => Visibility::After(delay.unwrap_or(Delay::saturating(0))),
            (None, Some(time)) => Visibility::at(time),
        };
        Ok(NewMessage { message: self.message, headers: self.headers, visible })
    }
}

/// The id of a stored message.
#[derive(Serialize, ToSchema)]
struct Sent {
    /// Its number within the queue.
    #[schema(example = 42)]
    msg_id: i64,
}

/// Stores a message. It is answered once it is committed.
#[utoipa::path(
    post, path = "/queues/{queue}/messages", tag = TAG, operation_id = "send_message",
    params(("queue" = String, Path)), request_body(content = NewMessageBody),
    responses((status = 201, description = "It is stored", body = Sent,
               headers(("Location" = String, description = "Where it can be looked at"))))
)]
async fn send(
    State(api): State<Api>,
    Stats(stats): Stats,
    InQueue(queue): InQueue,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<NewMessageBody>,
) -> Result<Response, Problem> {
    let location = utf8_percent_encode(queue.as_str(), NON_ALPHANUMERIC).to_string();
    let msg_id = api.broker.send(&stats, queue, body.into_new("")?).await?;
    let location = format!("/queues/{location}/messages/{msg_id}");
    let mut response = (StatusCode::CREATED, JsonAnswer(Sent { msg_id })).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Messages to send, all or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Batch {
    /// 1 to 1000 messages.
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<NewMessageBody>,
}

/// The ids of stored messages.
#[derive(Serialize, ToSchema)]
struct SentBatch {
    /// In the order of the messages.
    #[schema(example = json!([42, 43]))]
    msg_ids: Vec<i64>,
}

/// Stores messages in one transaction: all, or none if one of them is refused.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/batch", tag = TAG, operation_id = "send_batch",
    params(("queue" = String, Path)), request_body(content = Batch),
    responses((status = 201, description = "They are stored", body = SentBatch))
)]
async fn send_batch(
    State(api): State<Api>,
    Stats(stats): Stats,
    InQueue(queue): InQueue,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<Batch>,
) -> Result<(StatusCode, JsonAnswer<SentBatch>), Problem> {
    let new = |(index, message): (usize, NewMessageBody)| {
        message.into_new(&format!("messages[{index}]."))
    };
    let batch = body.messages.into_iter().enumerate().map(new).collect::<Result<_, _>>()?;
    let msg_ids = api.broker.send_batch(&stats, queue, batch).await?;
    Ok((StatusCode::CREATED, JsonAnswer(SentBatch { msg_ids })))
}

/// Which messages to look at.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PeekParameters {
    /// The most messages to return, 10 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 100)]
    limit: Option<PageSize>,
    /// The `next` of the page before: a `msg_id`.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<i64>, minimum = 0)]
    after: Option<Bounded<0, { i64::MAX }>>,
}

/// Looks at messages in order of `msg_id`, leased and delayed ones too, and leases none.
#[utoipa::path(
    get, path = "/queues/{queue}/peek", tag = TAG, operation_id = "peek",
    params(("queue" = String, Path), PeekParameters),
    responses((status = 200, description = "A page of messages", body = MessagePage))
)]
async fn peek(
    State(api): State<Api>,
    Stats(stats): Stats,
    InQueue(queue): InQueue,
    Query(parameters): Query<PeekParameters>,
) -> Result<JsonAnswer<MessagePage>, Problem> {
    let limit = parameters.limit.unwrap_or(PageSize::saturating(10));
    let after = parameters.after.map_or(0, Bounded::get);
    let messages = api.broker.peek(&stats, Peek { queue, after, limit }).await?;
    // A full page may be the last: then the next one is empty.
    let full = i64::try_from(messages.len()).is_ok_and(|count| count == limit.get());
    let next = messages.last().filter(|_| full).map(|message| message.msg_id.to_string());
    Ok(JsonAnswer(MessagePage { messages, next }))
}

/// Looks at a message without leasing it.
#[utoipa::path(
    get, path = "/queues/{queue}/messages/{msg_id}", tag = TAG, operation_id = "show_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1)),
    responses((status = 200, description = "The message", body = MessageSchema))
)]
async fn show(
    State(api): State<Api>,
    Stats(stats): Stats,
    OneMessage(queue, id): OneMessage,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<JsonAnswer<Message>, Problem> {
    Ok(JsonAnswer(api.broker.message(&stats, queue, id).await?))
}

/// Deletes a message: it has been dealt with.
#[utoipa::path(
    delete, path = "/queues/{queue}/messages/{msg_id}", tag = TAG,
    operation_id = "delete_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1)),
    responses((status = 204, description = "It is gone"))
)]
async fn delete(
    State(api): State<Api>,
    Stats(stats): Stats,
    OneMessage(queue, id): OneMessage,
    Query(NoParameters {}): Query<NoParameters>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    api.broker.delete(&stats, queue, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When a message may be delivered again: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vt": 60}))]
struct SetVisibility {
    /// Seconds from now; 0 gives it back at once.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 43_200)]
    vt: Option<VisibilityTimeout>,
    /// A moment, at most 43200 seconds from now. One in the past means at once.
    visible_at: Option<DateTime<Utc>>,
}

/// Changes when a message may be delivered again: sooner, or later for more time to work on it.
#[utoipa::path(
    patch, path = "/queues/{queue}/messages/{msg_id}", tag = TAG,
    operation_id = "set_visibility",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1)),
    request_body(content = SetVisibility),
    responses((status = 200, description = "The message as it is now", body = MessageSchema))
)]
async fn set_visibility(
    State(api): State<Api>,
    Stats(stats): Stats,
    OneMessage(queue, id): OneMessage,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<SetVisibility>,
) -> Result<JsonAnswer<Message>, Problem> {
    let visible = match (body.vt, body.visible_at) {
        (Some(vt), None) => Visibility::After(Delay::saturating(vt.get())),
        (None, Some(time)) => Visibility::at(time),
        _ => {
            return Err(Problem::invalid("the body must have either `vt` or `visible_at`"));
        }
    };
    Ok(JsonAnswer(api.broker.set_visibility(&stats, queue, id, visible).await?))
}

/// Moves a message into the queue's archive.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/{msg_id}/archive", tag = TAG,
    operation_id = "archive_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1)),
    responses((status = 204, description = "It is in the archive"))
)]
async fn archive(
    State(api): State<Api>,
    Stats(stats): Stats,
    OneMessage(queue, id): OneMessage,
    Query(NoParameters {}): Query<NoParameters>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    api.broker.archive(&stats, queue, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
