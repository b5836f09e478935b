//! `/queues/{queue}/archive` and dead letters: looking at what is over, and taking it back.

use axum::{Json as JsonResponse, extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Archived, Browse, MovedSome, Page, Redrive, Replay},
    domain::{Bounded, Filter, Limited, MsgId, PageSize, QueueName, RawJson, Right, Timestamp},
    http::{Caller, QueuePermit, json, right, room_for},
};

use super::{
    extract::{NoParameters, OptionalJson, Query, parsed},
    message_view::ArchivePage,
    openapi::errors,
    problem::Problem,
    response::json_answer,
    state::Api,
};

const TAG: &str = "Archive and dead letters";
/// The most ids that one replay may name.
const MAX_IDS: usize = 1_000;

/// How many messages are to be moved at most.
type Limit = Bounded<1, 1_000_000_000>;
/// The ids that a replay names.
type Ids = Limited<MsgId, 0, MAX_IDS>;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(browse)).routes(routes!(replay)).routes(routes!(redrive))
}

/// Which archived messages to look at.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BrowseParameters {
    /// The most messages to return, 10 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    limit: Option<PageSize>,
    /// The `next` of the page before: a `msg_id`.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    after: Option<Bounded<0, { i64::MAX }>>,
    /// Archived then or later.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    since: Option<Timestamp>,
    /// Archived before.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    until: Option<Timestamp>,
    /// A JSON object that a message must contain: at most 4096 bytes, and 16 array elements in all its arrays
    /// together.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>)]
    filter: Option<Filter>,
}

/// Looks at archived messages in order of `msg_id`. A page can be short, or empty, and have a `next`, where it takes
/// long to find what is meant.
#[utoipa::path(
    get, path = "/queues/{queue}/archive", tag = TAG, operation_id = "browse_archive",
    params(("queue" = String, Path), BrowseParameters),
    responses(
        (status = 200, description = "A page of messages", body = ArchivePage<'_>),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict,
    )
)]
async fn browse(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    Query(parameters): Query<BrowseParameters>,
) -> Result<Response, Problem> {
    let limit = parameters.limit.unwrap_or(PageSize::saturating(10));
    let which = Archived {
        since: parameters.since.map(known_to_postgresql),
        until: parameters.until.map(known_to_postgresql),
        filter: parameters.filter,
        msg_ids: None,
    };
    let after = parameters.after.map_or(0, Bounded::get);
    let what = Browse { queue, after, limit, which };
    let Page { messages, more, last_id, .. } = broker.browse_archive(&call, what).await?;
    let next = last_id.filter(|_| more).map(|last| last.to_string());
    let held = room_for(&api, &call, messages.iter().map(|archived| &archived.message))?;
    Ok(json_answer(json(held, &ArchivePage::new(&messages, next))?.into()))
}

/// Which archived messages to deliver once more: those that fit everything that is said.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    /// The queue to put them into; the one they were archived from if not given.
    #[schema(inline)]
    to: Option<QueueName>,
    /// Their ids, at most 1000.
    #[schema(inline)]
    msg_ids: Option<Ids>,
    /// Archived then or later.
    #[schema(inline)]
    since: Option<Timestamp>,
    /// Archived before.
    #[schema(inline)]
    until: Option<Timestamp>,
    /// A JSON object that a message must contain: at most 4096 bytes, and 16 array elements in all its arrays
    /// together.
    #[schema(value_type = Option<Object>)]
    filter: Option<RawJson>,
    /// The most messages to move, the oldest first; all if not given.
    #[schema(inline)]
    limit: Option<Limit>,
    /// The `next` of the answer before: the `msg_id` behind which to begin.
    #[schema(inline)]
    after: Option<MsgId>,
    /// Whether to count them only.
    #[serde(default)]
    dry_run: bool,
}

/// Nothing was archived before 1970, and PostgreSQL's calendar begins later than ours.
fn known_to_postgresql(moment: Timestamp) -> DateTime<Utc> {
    moment.0.max(DateTime::UNIX_EPOCH)
}

/// How many messages will be delivered once more.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"replayed": 3}))]
struct Replayed {
    /// The number of messages.
    #[serde(rename = "replayed")]
    count: i64,
    /// There if the time for a request was up before all had been looked at: what to pass as `after` to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 4711)]
    next: Option<i64>,
    /// There if messages stayed that were to be moved: why the first of them did, or what ended it before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Moves archived messages back, as new ones that have not been delivered yet. Many are moved in
/// several transactions: if the request takes too long, its answer has a `next`, and asking again with that as
/// `after` goes on from there.
#[utoipa::path(
    post, path = "/queues/{queue}/archive/replay", tag = TAG, operation_id = "replay_archive",
    params(("queue" = String, Path)),
    request_body(content = inline(Option<ReplayBody>), content_type = "application/json",
                 example = json!({"limit": 100, "dry_run": true})),
    responses(
        (status = 200, description = "How many were moved, or would be", body = Replayed),
        errors::InternalError, errors::QueueNotFound, errors::MessageConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn replay(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Manage>,
    Query(NoParameters {}): Query<NoParameters>,
    OptionalJson(body): OptionalJson<ReplayBody>,
) -> Result<JsonResponse<Replayed>, Problem> {
    let filter = body.filter.map(|filter| filter.get().parse::<Filter>());
    let filter = filter.transpose().map_err(|e| Problem::invalid(format!("`filter` {e}")))?;
    let which = Archived {
        since: body.since.map(known_to_postgresql),
        until: body.until.map(known_to_postgresql),
        filter,
        msg_ids: body.msg_ids.map(|ids| ids.0.into_iter().map(Bounded::get).collect()),
    };
    let (to, limit) = (body.to, body.limit.map(Bounded::get));
    may_send(&caller, to.as_ref().unwrap_or(&queue))?;
    may_take(&caller, &queue)?;
    let after = body.after.map(Bounded::get);
    let what = Replay { queue, to, which, limit, after, dry_run: body.dry_run };
    let MovedSome { count, next, reason } = broker.replay(&call, what).await?;
    Ok(JsonResponse(Replayed { count, next, reason }))
}

/// Which dead letters to deliver once more.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RedriveBody {
    /// The queue to put them into; each into the one that it came from if not given.
    #[schema(inline)]
    to: Option<QueueName>,
    /// The most messages to move, the oldest first; all if not given.
    #[schema(inline)]
    limit: Option<Limit>,
    /// The `next` of the answer before: the `msg_id` behind which to begin.
    #[schema(inline)]
    after: Option<MsgId>,
}

/// Messages that are taken back are sent once more.
fn may_send(caller: &Caller, to: &QueueName) -> Result<(), Problem> {
    Ok(caller.require(Some(Right::Send), to)?)
}

/// Messages that are moved elsewhere can be read there, and whoever chooses by what is in them learns it.
fn may_take(caller: &Caller, from: &QueueName) -> Result<(), Problem> {
    Ok(caller.require(Some(Right::Receive), from)?)
}

/// How many messages were moved.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"moved": 3}))]
struct Moved {
    /// The number of messages.
    #[serde(rename = "moved")]
    count: i64,
    /// There if the time for a request was up before all had been looked at: what to pass as `after` to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 4711)]
    next: Option<i64>,
    /// There if messages stay that a consumer does not have in hand: why one does, or what ended it before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Moves dead letters back to where they came from, as new messages. Those that a consumer has in
/// hand stay, and those whose queue is not known, is not there, or is none that the key may send to: then there is a
/// `reason`. As for a replay, asking again goes on.
#[utoipa::path(
    post, path = "/queues/{queue}/redrive", tag = TAG, operation_id = "redrive",
    params(("queue" = String, Path)),
    request_body(content = inline(Option<RedriveBody>), content_type = "application/json",
                 example = json!({"limit": 100})),
    responses(
        (status = 200, description = "How many were moved", body = Moved),
        errors::InternalError, errors::QueueNotFound, errors::MessageConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn redrive(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Manage>,
    Query(NoParameters {}): Query<NoParameters>,
    OptionalJson(body): OptionalJson<RedriveBody>,
) -> Result<JsonResponse<Moved>, Problem> {
    let (to, limit, after) = (body.to, body.limit.map(Bounded::get), body.after.map(Bounded::get));
    may_take(&caller, &queue)?;
    if let Some(to) = &to {
        may_send(&caller, to)?;
    }
    let within = caller.scope(Some(Right::Send));
    let what = Redrive { queue, to, within, limit, after };
    let MovedSome { count, next, reason } = broker.redrive(&call, what).await?;
    Ok(JsonResponse(Moved { count, next, reason }))
}
