//! `POST /transactions`: several operations across queues, all or none.

use axum::{
    Json as JsonResponse,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{self, MAX_OPERATIONS, RequestedOperation},
    domain::{
        Delay, GivenMsgId, JsonObject, Limited, NewMessage, QueueName, RawJson, Right, Timestamp,
        Visibility, VisibilityTimeout, without_own_headers,
    },
    http::{MultiQueuePermit, Rejection},
};

use super::{
    extract::{NoParameters, OnceJson, Query, mark},
    messages::{IdempotencyKey, visibility},
    openapi::errors,
    problem::Problem,
    settle::target,
    state::Api,
};

const TAG: &str = "Transactions";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(transact))
}

/// Operations that are done in order, in one transaction.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"operations": [
    {"delete": {"queue": "orders", "msg_id": 42}},
    {"send": {"queue": "invoices", "message": {"order": 7}}}
]}))]
struct Transaction {
    /// 1 to 100 operations.
    #[schema(inline)]
    operations: Operations,
}

type Operations = Limited<JsonObject<Operation>, 1, MAX_OPERATIONS>;

/// One of the four.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Operation {
    /// Stores a message.
    #[schema(value_type = Option<Send>)]
    send: Option<JsonObject<Send>>,
    /// Deletes a message.
    #[schema(value_type = Option<End>)]
    delete: Option<JsonObject<End>>,
    /// Moves a message into the archive of its queue.
    #[schema(value_type = Option<End>)]
    archive: Option<JsonObject<End>>,
    /// Sets when a message may be delivered again.
    #[schema(value_type = Option<SetVt>)]
    set_vt: Option<JsonObject<SetVt>>,
}

/// A message to send, and where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SendOperation)]
struct Send {
    /// The queue.
    #[schema(inline)]
    queue: QueueName,
    /// Any JSON value.
    #[schema(value_type = serde_json::Value)]
    message: RawJson,
    /// A JSON object to go with it.
    #[schema(value_type = Option<Object>)]
    headers: Option<RawJson>,
    /// Seconds before it can be delivered.
    #[schema(inline)]
    delay: Option<Delay>,
    /// In place of `delay`: the moment from which it can be delivered.
    #[schema(inline)]
    visible_at: Option<Timestamp>,
}

/// A message to end, by its id or a receipt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndOperation)]
struct End {
    /// The queue.
    #[schema(inline)]
    queue: QueueName,
    /// The message.
    #[schema(inline)]
    msg_id: Option<GivenMsgId>,
    /// What stands for its delivery.
    receipt: Option<String>,
}

/// A message to hide, by its id or a receipt, and until when.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SetVtOperation)]
struct SetVt {
    /// The queue.
    #[schema(inline)]
    queue: QueueName,
    /// The message.
    #[schema(inline)]
    msg_id: Option<GivenMsgId>,
    /// What stands for its delivery.
    receipt: Option<String>,
    /// Seconds from now.
    #[schema(inline)]
    vt: Option<VisibilityTimeout>,
    /// In place of `vt`: a moment.
    #[schema(inline)]
    visible_at: Option<Timestamp>,
}

impl Transaction {
    /// What is to be done, if headers say nothing that the caller may not.
    fn into_requested(
        self,
        across: MultiQueuePermit,
    ) -> Result<(MultiQueuePermit, Vec<RequestedOperation>), Problem> {
        let requested = |(index, operation): (usize, JsonObject<Operation>)| {
            if let Some(JsonObject(new)) = &operation.0.send {
                let at = format!("operations[{index}].send.");
                across.caller.authorize_origin_headers(new.headers.as_ref(), &at)?;
            }
            operation.0.into_requested(index)
        };
        let requested = self.operations.0.into_iter().enumerate().map(requested);
        let requested = requested.collect::<Result<Vec<_>, _>>()?;
        Ok((across, requested))
    }
}

impl Operation {
    /// Bytes of text that have to be looked at.
    fn bytes(&self) -> u64 {
        self.send.as_ref().map_or(0, |JsonObject(new)| {
            let headers = new.headers.as_ref().map_or(0, |headers| headers.get().len());
            (new.message.get().len() + headers) as u64
        })
    }

    fn into_requested(self, index: usize) -> Result<RequestedOperation, Problem> {
        let at = |action: &str| format!("operations[{index}].{action}");
        let end = |action: &str, end: End| {
            let target = target(end.msg_id.map(GivenMsgId::get), end.receipt, &|| at(action))?;
            Ok::<_, Problem>((end.queue, target))
        };
        match self {
            Self { send: Some(JsonObject(new)), delete: None, archive: None, set_vt: None } => {
                let visible = match (new.delay, new.visible_at) {
                    (Some(_), Some(_)) => Err(Problem::invalid(format!(
                        "`{0}.delay` and `{0}.visible_at` exclude each other",
                        at("send")
                    ))),
                    (delay, None) => Ok(delay.map(Visibility::After)),
                    (None, Some(moment)) => Ok(Some(Visibility::at(moment.0))),
                }?;
                let (message, headers) = (new.message, new.headers);
                let headers = headers.map(without_own_headers);
                let message = NewMessage { message, sql_null: false, headers, visible };
                Ok(RequestedOperation::Send(new.queue, message))
            }
            Self { send: None, delete: Some(JsonObject(old)), archive: None, set_vt: None } => {
                end("delete", old).map(|(queue, target)| RequestedOperation::Delete(queue, target))
            }
            Self { send: None, delete: None, archive: Some(JsonObject(old)), set_vt: None } => {
                end("archive", old)
                    .map(|(queue, target)| RequestedOperation::Archive(queue, target))
            }
            Self { send: None, delete: None, archive: None, set_vt: Some(JsonObject(change)) } => {
                let visible =
                    visibility(change.vt, change.visible_at, &format!("`{}`", at("set_vt")))?;
                let target =
                    target(change.msg_id.map(GivenMsgId::get), change.receipt, &|| at("set_vt"))?;
                Ok(RequestedOperation::SetVisibility(change.queue, target, visible))
            }
            _ => Err(Problem::invalid(format!(
                "`operations[{index}]` must be one of `send`, `delete`, `archive` and `set_vt`"
            ))),
        }
    }
}

/// What an operation takes.
fn needed(requested: &RequestedOperation) -> (Right, &QueueName) {
    match requested {
        RequestedOperation::Send(queue, _) => (Right::Send, queue),
        RequestedOperation::Delete(queue, _)
        | RequestedOperation::Archive(queue, _)
        | RequestedOperation::SetVisibility(queue, ..) => (Right::Receive, queue),
    }
}

/// What the operations came to.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"results": [{"msg_id": 42}, {"msg_id": 1}]}))]
struct Results {
    /// In the order of the operations.
    results: Vec<OperationResult>,
}

/// What an operation came to.
#[derive(Serialize, ToSchema)]
struct OperationResult {
    /// The message that was stored, ended or hidden.
    #[schema(required, example = 42)]
    msg_id: Option<i64>,
    /// Of `send`: true where the message was sent before with the same `x-deduplication-id`, and not stored again; left
    /// out otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    duplicate: bool,
    /// Of `set_vt`: the moment from which it may be delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    vt: Option<String>,
}

impl From<broker::OperationResult> for OperationResult {
    fn from(outcome: broker::OperationResult) -> Self {
        let msg_id = outcome.msg_id.or_else(|| outcome.msg_ids.first().copied());
        Self { msg_id, duplicate: outcome.duplicate, vt: outcome.vt }
    }
}

/// Does 1 to 100 operations in one transaction: all, or none if one of them fails. So a worker can
/// finish one message and send the next step in one commit.
#[utoipa::path(
    post, path = "/transactions", tag = TAG, operation_id = "transact",
    params(IdempotencyKey), request_body(content = Transaction),
    responses(
        (status = 200, description = "All is done", body = Results),
        errors::InternalError, errors::MessageNotFound, errors::TransactionConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn transact(
    across: MultiQueuePermit,
    Query(NoParameters {}): Query<NoParameters>,
    OnceJson(body, once): OnceJson<Transaction>,
) -> Result<Response, Problem> {
    let bytes = body.operations.0.iter().map(|operation| operation.0.bytes()).sum();
    let (across, requested) = across.on_text(bytes, |across| body.into_requested(across)).await?;
    let (broker, call) = across.for_all(requested.iter().map(needed)).map_err(refused)?;
    let done = broker.transact(&call, requested, once).await?;
    let results = done.result.into_iter().map(OperationResult::from).collect();
    Ok(mark(done.replayed, JsonResponse(Results { results }).into_response()))
}

/// What is refused for the sake of one operation.
fn refused((index, rejection): (usize, Rejection)) -> Problem {
    let problem = Problem::from(rejection);
    let detail = format!("`operations[{index}]`: {}; nothing was done", problem.detail);
    Problem { detail: detail.into(), operation: Some(index), ..problem }
}
