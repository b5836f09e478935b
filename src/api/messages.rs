//! `/queues/{queue}/messages`: sending, looking, settling. Receiving stands in `receive`.

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Page, Peek, SettleTarget},
    domain::{
        Bounded, Delay, JsonObject, Limited, MAX_BATCH, MsgId, NewMessage, PageSize, RawJson,
        Timestamp, Visibility, VisibilityTimeout, without_own_headers,
    },
    http::{
        BasePath, Caller, QueuePermit, UNRESERVED, any_room, json, json_of_done, right, room_for,
        short_json,
    },
};

use super::{
    extract::{Json, NoBody, NoParameters, OnceJson, OneMessage, Query, mark, parsed},
    extract::{PreferHeader, Return, minimal},
    message_view::{MessagePage, MessageView},
    openapi::errors,
    problem::Problem,
    response::{json_answer, one_message},
    state::Api,
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

/// A message to send.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessage, example = json!({"message": {"order": 7}, "headers": {"trace": "abc"}}))]
pub(super) struct NewMessageBody {
    /// Any JSON value. It is stored as it is: no digit is lost.
    #[schema(value_type = serde_json::Value)]
    message: RawJson,
    /// A JSON object to go with it.
    #[schema(value_type = Option<Object>)]
    headers: Option<RawJson>,
    /// Seconds before it can be delivered; as the queue's settings say if not given.
    #[schema(inline)]
    delay: Option<Delay>,
    /// In place of `delay`: the moment from which it can be delivered, at most 315360000 seconds from
    /// now. One in the past means at once.
    #[schema(inline)]
    visible_at: Option<Timestamp>,
}

impl NewMessageBody {
    /// What is to be stored, if its sender may.
    pub(super) async fn check(self, caller: Caller) -> Result<NewMessage, Problem> {
        caller.on_text(self.bytes(), move |caller| self.into_new("", &caller)).await
    }

    fn bytes(&self) -> u64 {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.get().len());
        (self.message.get().len() + headers) as u64
    }

    fn into_new(self, at: &str, caller: &Caller) -> Result<NewMessage, Problem> {
        caller.authorize_origin_headers(self.headers.as_ref(), at)?;
        let visible = match (self.delay, self.visible_at) {
            (Some(_), Some(_)) => {
                let detail = format!("`{at}delay` and `{at}visible_at` exclude each other");
                return Err(Problem::invalid(detail));
            }
            (delay, None) => delay.map(Visibility::After),
            (None, Some(moment)) => Some(Visibility::at(moment.0)),
        };
        let Self { message, headers, .. } = self;
        let headers = headers.map(without_own_headers);
        Ok(NewMessage { message, sql_null: false, headers, visible })
    }
}

/// The id of a stored message.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"msg_id": 42}))]
struct Sent {
    /// Its number within the queue.
    #[schema(example = 42)]
    msg_id: i64,
}

/// Stores a message. It is answered once it is committed.
#[utoipa::path(
    post, path = "/queues/{queue}/messages", tag = TAG, operation_id = "send_message",
    params(("queue" = String, Path), IdempotencyKey), request_body(content = NewMessageBody),
    responses(
        (status = 201, description = "It is stored", body = Sent,
         headers(("Location" = String, description = "Where it can be looked at"))),
        errors::InternalError, errors::QueueNotFound, errors::SendConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn send(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Send>,
    BasePath(base): BasePath,
    Query(NoParameters {}): Query<NoParameters>,
    OnceJson(body, once): OnceJson<NewMessageBody>,
) -> Result<Response, Problem> {
    let new = body.check(caller).await?;
    let mut location = base + "/queues/";
    location.extend(utf8_percent_encode(queue.as_str(), UNRESERVED));
    let sent = broker.send(&call, queue, new, once).await?;
    let msg_id = sent.result;
    location.push_str("/messages/");
    location.push_str(&msg_id.to_string());
    let mut response = json_answer(short_json(&Sent { msg_id })?.into());
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(mark(sent.replayed, response))
}

/// Messages to send, all or none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"messages": [{"message": "a"}, {"message": "b", "delay": 5}]}))]
pub(super) struct Batch {
    /// 1 to 1000 messages.
    #[schema(inline)]
    messages: NewMessages,
}

type NewMessages = Limited<JsonObject<NewMessageBody>, 1, MAX_BATCH>;

impl Batch {
    /// What is to be stored, if its sender may.
    pub(super) async fn check(self, caller: Caller) -> Result<Vec<NewMessage>, Problem> {
        let bytes = self.messages.0.iter().map(|message| message.0.bytes()).sum();
        let all = move |caller: Caller| {
            let new = |(index, message): (usize, JsonObject<NewMessageBody>)| {
                message.0.into_new(&format!("messages[{index}]."), &caller)
            };
            self.messages.0.into_iter().enumerate().map(new).collect()
        };
        caller.on_text(bytes, all).await
    }
}

/// The key under which a request is done once.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header")]
pub(super) struct IdempotencyKey {
    /// 1 to 255 characters. For 24 hours the same key with the same body gives the first answer
    /// again, with `Idempotency-Replayed: true`; with another body it is refused.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255)]
    idempotency_key: Option<String>,
}

/// The ids of stored messages.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"msg_ids": [42, 43]}))]
struct SentBatch {
    /// In the order of the messages.
    #[schema(example = json!([42, 43]))]
    msg_ids: Vec<i64>,
    /// Those of them whose messages were sent before with the same `x-deduplication-id`, and not stored again;
    /// left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    duplicates: Vec<i64>,
}

/// Stores messages in one transaction: all, or none if one of them is refused.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/batch", tag = TAG, operation_id = "send_batch",
    params(("queue" = String, Path), IdempotencyKey), request_body(content = Batch),
    responses(
        (status = 201, description = "They are stored", body = SentBatch),
        errors::InternalError, errors::QueueNotFound, errors::SendConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn send_batch(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Send>,
    Query(NoParameters {}): Query<NoParameters>,
    OnceJson(body, once): OnceJson<Batch>,
) -> Result<Response, Problem> {
    let sent = broker.send_batch(&call, queue, body.check(caller).await?, once).await?;
    let msg_ids = sent.result.iter().map(|sent| sent.msg_id).collect();
    let duplicates = sent.result.iter().filter(|sent| sent.is_duplicate);
    let duplicates = duplicates.map(|sent| sent.msg_id).collect();
    let json = json_of_done(any_room(&api, &call), &SentBatch { msg_ids, duplicates })?;
    let answer = (StatusCode::CREATED, json_answer(json.into()));
    Ok(mark(sent.replayed, answer.into_response()))
}

/// Which messages to look at.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PeekParameters {
    /// The most messages to return, 10 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    limit: Option<PageSize>,
    /// The `next` of the page before: a `msg_id`.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    after: Option<Bounded<0, { i64::MAX }>>,
}

/// Looks at messages in order of `msg_id`, leased and delayed ones too, and leases none.
#[utoipa::path(
    get, path = "/queues/{queue}/peek", tag = TAG, operation_id = "peek",
    params(("queue" = String, Path), PeekParameters),
    responses(
        (status = 200, description = "A page of messages", body = MessagePage<'_>),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict,
    )
)]
async fn peek(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    Query(parameters): Query<PeekParameters>,
) -> Result<Response, Problem> {
    let limit = parameters.limit.unwrap_or(PageSize::saturating(10));
    let after = parameters.after.map_or(0, Bounded::get);
    let what = Peek { queue, after, limit };
    let Page { messages, more, last_id, .. } = broker.peek(&call, what).await?;
    let next = last_id.filter(|_| more).map(|last| last.to_string());
    let held = room_for(&api, &call, messages.iter())?;
    Ok(json_answer(json(held, &MessagePage::new(&messages, next))?.into()))
}

/// Looks at a message without leasing it.
#[utoipa::path(
    get, path = "/queues/{queue}/messages/{msg_id}", tag = TAG, operation_id = "show_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "The message", body = MessageView<'_>),
        errors::InternalError, errors::MessageNotFound, errors::QueueConflict, errors::MessageUnreadable,
    )
)]
async fn show(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    OneMessage(id): OneMessage,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let message = broker.message(&call, queue, id).await?;
    one_message(&api, &call, &message)
}

/// For which delivery a consumer speaks.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReceiptParameter {
    /// The `receipt` of the delivery. The request is refused if the message has been delivered again
    /// since; without it, it is about whatever delivery there was.
    receipt: Option<String>,
}

impl ReceiptParameter {
    fn of(self, id: MsgId) -> SettleTarget {
        SettleTarget { msg_id: Some(id.get()), receipt: self.receipt }
    }
}

/// Deletes a message: it has been dealt with.
#[utoipa::path(
    delete, path = "/queues/{queue}/messages/{msg_id}", tag = TAG,
    operation_id = "delete_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1), ReceiptParameter),
    responses(
        (status = 204, description = "It is gone"),
        errors::InternalError, errors::MessageNotFound, errors::ReceiptStale, errors::RequestTimeout,
        errors::MessageUnreadable, errors::NotSupported,
    )
)]
async fn delete(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    OneMessage(id): OneMessage,
    Query(receipt): Query<ReceiptParameter>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    broker.delete(&call, queue, receipt.of(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// When a message may be delivered again: one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"vt": 60}))]
struct SetVisibility {
    /// Seconds from now; 0 gives it back at once.
    #[schema(inline)]
    vt: Option<VisibilityTimeout>,
    /// A moment, at most 315360000 seconds from now. One in the past means at once.
    #[schema(inline)]
    visible_at: Option<Timestamp>,
}

/// Changes when a message may be delivered again: sooner, or later for more time to work on it.
#[utoipa::path(
    patch, path = "/queues/{queue}/messages/{msg_id}", tag = TAG,
    operation_id = "set_visibility",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1), ReceiptParameter, PreferHeader),
    request_body(content = SetVisibility),
    responses(
        (status = 200, description = "The message as it is now", body = MessageView<'_>),
        (status = 204, description = "It is done, and the message is not wanted"),
        errors::InternalError, errors::MessageNotFound, errors::ReceiptStale, errors::OfBody,
        errors::MessageUnreadable, errors::NotSupported,
    )
)]
async fn set_visibility(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    OneMessage(id): OneMessage,
    Query(receipt): Query<ReceiptParameter>,
    wanted: Return,
    Json(body): Json<SetVisibility>,
) -> Result<Response, Problem> {
    let visible = visibility(body.vt, body.visible_at, "the body")?;
    if wanted == Return::Minimal {
        broker.hide(&call, queue, receipt.of(id), visible).await?;
        return Ok(minimal());
    }
    let message = broker.set_visibility(&call, queue, receipt.of(id), visible).await?;
    // Who is refused the answer may ask again: it comes to the same.
    one_message(&api, &call, &message)
}

/// The one of the two that is given.
pub(super) fn visibility(
    vt: Option<VisibilityTimeout>,
    visible_at: Option<Timestamp>,
    whose: &str,
) -> Result<Visibility, Problem> {
    match (vt, visible_at) {
        (Some(vt), None) => Ok(Visibility::After(Delay::saturating(vt.get()))),
        (None, Some(moment)) => Ok(Visibility::at(moment.0)),
        _ => Err(Problem::invalid(format!("{whose} must have either `vt` or `visible_at`"))),
    }
}

/// Moves a message into the queue's archive.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/{msg_id}/archive", tag = TAG,
    operation_id = "archive_message",
    params(("queue" = String, Path), ("msg_id" = i64, Path, minimum = 1), ReceiptParameter),
    responses(
        (status = 204, description = "It is in the archive"),
        errors::InternalError, errors::MessageNotFound, errors::ArchiveConflict, errors::RequestTimeout,
        errors::MessageUnreadable, errors::NotSupported,
    )
)]
async fn archive(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    OneMessage(id): OneMessage,
    Query(receipt): Query<ReceiptParameter>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    broker.archive(&call, queue, receipt.of(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
