//! `/queues`.

use std::str::FromStr;

use axum::{Json as JsonResponse, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Error, ListQueues, NewQueue, QueueChange},
    domain::{JsonObject, Partition, QueueKind, QueueName, QueuePageSize, SettingsChange},
    http::{Caller, QueuePermit, ScopePermit, long_json, right},
};

use super::{
    extract::{Json, NoBody, NoParameters, OptionalJson, Query, check_text, parsed},
    openapi::errors,
    problem::Problem,
    queue_view::{KindView, MetricsView, QueueView, queue_example},
    response::json_answer,
    settings_view::ChangeView,
    state::Api,
};

const TAG: &str = "Queues";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(create, show, change_settings, drop_queue))
        .routes(routes!(purge))
        .routes(routes!(metrics))
}

/// Body of `PUT /queues/{queue}`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateQueue {
    /// How PGMQ stores it; `standard` if not given.
    kind: Option<KindView>,
    /// For `partitioned` alone.
    #[schema(value_type = Option<PartitionBody>)]
    partition: Option<JsonObject<PartitionBody>>,
    /// Whether it gets the index by which it can be read in groups; false if not given.
    fifo: Option<bool>,
    /// Those that are to differ from their defaults.
    #[schema(value_type = Option<ChangeView>)]
    settings: Option<JsonObject<ChangeView>>,
}

/// Numbers of messages, or times: both the same.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionBody {
    /// What one partition holds; 10000 messages if not given.
    #[schema(example = "10000")]
    interval: Option<String>,
    /// What is kept; 100000 messages if not given.
    #[schema(example = "100000")]
    retention: Option<String>,
}

impl PartitionBody {
    fn into_partition(self) -> Result<Partition, Problem> {
        let default = Partition::default();
        let interval = self.interval.as_deref().unwrap_or(default.interval());
        let retention = self.retention.as_deref().unwrap_or(default.retention());
        Partition::new(interval, retention).map_err(Problem::invalid)
    }
}

/// How to make a queue.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CreateParameters {
    /// `update` has a queue that is there already, and is of this `kind`, changed: it gets the settings that
    /// are given, and `fifo` if that is. Otherwise one that is different is a conflict.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    on_conflict: Option<OnConflict>,
}

/// What to do about a queue that is different.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum OnConflict {
    Update,
}

impl FromStr for OnConflict {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text == "update" { Ok(Self::Update) } else { Err("must be `update`") }
    }
}

/// A yes or a no.
struct Flag(bool);

impl FromStr for Flag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "must be `true` or `false`")
    }
}

/// Makes a queue; asking again for the same is fine.
#[utoipa::path(
    put, path = "/queues/{queue}", tag = TAG, operation_id = "create_queue",
    params(("queue" = String, Path, description =
        "1 to 47 characters of `a-z 0-9 _ - .`, beginning with a letter or digit, without `--`"),
        CreateParameters),
    request_body(content = inline(Option<CreateQueue>), content_type = "application/json", example =
        json!({"kind": "standard"})),
    responses(
        (status = 201, description = "It is new", body = QueueView),
        (status = 200, description = "It was there already, and is alike now", body = QueueView),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn create(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Manage>,
    Query(parameters): Query<CreateParameters>,
    OptionalJson(body): OptionalJson<CreateQueue>,
) -> Result<(StatusCode, JsonResponse<QueueView>), Problem> {
    let partition = body.partition.map(|partition| partition.0.into_partition()).transpose()?;
    let kind = body.kind.map_or(QueueKind::Standard, QueueKind::from);
    let (fifo, settings) = (body.fifo, SettingsChange::from(body.settings.unwrap_or_default().0));
    caller.authorize_dead_letter_target(&queue, &settings)?;
    let new = NewQueue { queue, kind, partition, fifo, settings, beside: None };
    let created = match parameters.on_conflict {
        Some(OnConflict::Update) => broker.create_or_update_queue(&call, new).await?,
        None => broker.create_queue(&call, new).await?,
    };
    let status = if created.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, JsonResponse(created.queue.into())))
}

/// Which queues to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParameters {
    /// What the names begin with.
    prefix: Option<String>,
    /// The most queues to return, 100 if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(inline)]
    limit: Option<QueuePageSize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A page of queues.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"queues": [queue_example()], "next": "orders"}))]
struct QueueList {
    /// By name.
    queues: Vec<QueueView>,
    /// What to pass as `after` for the next page; null on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// Lists queues by name, whoever made them.
#[utoipa::path(
    get, path = "/queues", tag = TAG, operation_id = "list_queues", params(ListParameters),
    responses(
        (status = 200, description = "A page of queues", body = QueueList),
        errors::InternalError,
    )
)]
async fn list(
    State(api): State<Api>,
    ScopePermit { broker, call, scope, .. }: ScopePermit<right::Any>,
    Query(parameters): Query<ListParameters>,
) -> Result<Response, Problem> {
    for (name, text) in [("prefix", &parameters.prefix), ("after", &parameters.after)] {
        check_text(name, text.as_deref().unwrap_or_default())?;
    }
    let what = ListQueues {
        prefix: parameters.prefix.unwrap_or_default(),
        after: parameters.after,
        limit: parameters.limit.unwrap_or(QueuePageSize::saturating(100)),
        visible: scope,
    };
    let page = broker.list_queues(&call, what).await?;
    let queues = page.queues.into_iter().map(QueueView::from).collect();
    let list = QueueList { queues, next: page.next };
    Ok(json_answer(long_json(&api, &call, &list)?.into()))
}

/// Shows a queue.
#[utoipa::path(
    get, path = "/queues/{queue}", tag = TAG, operation_id = "show_queue",
    params(("queue" = String, Path)),
    responses(
        (status = 200, description = "The queue", body = QueueView),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict,
    )
)]
async fn show(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Any>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<JsonResponse<QueueView>, Problem> {
    Ok(JsonResponse(broker.show_queue(&call, queue).await?.into()))
}

/// Body of `PATCH /queues/{queue}`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"settings": {"visibility_timeout": 60, "max_receives": null}}))]
struct ChangeSettings {
    /// Those that are to change.
    #[schema(value_type = Option<ChangeView>)]
    settings: Option<JsonObject<ChangeView>>,
    /// Whether it has the index by which it can be read in groups. That is built, or dropped, beside running
    /// traffic.
    fifo: Option<bool>,
}

/// Changes settings of a queue: those that are given, to null for the default. They are in force
/// here at once, and at every other gateway within a second.
///
/// An index that takes longer to be built than a request may is built all the same: 503 `outcome_unknown` is
/// the answer then, and asking again tells when it is done.
#[utoipa::path(
    patch, path = "/queues/{queue}", tag = TAG, operation_id = "change_settings",
    params(("queue" = String, Path)), request_body(content = ChangeSettings),
    responses(
        (status = 200, description = "The queue as it is now", body = QueueView),
        errors::InternalError, errors::QueueNotFound, errors::IndexConflict, errors::OfBody,
        errors::MessageRejected, errors::NotSupported,
    )
)]
async fn change_settings(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Manage>,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<ChangeSettings>,
) -> Result<JsonResponse<QueueView>, Problem> {
    if body.settings.is_none() && body.fifo.is_none() {
        return Err(Problem::invalid("the body must have `settings` or `fifo`"));
    }
    let settings = SettingsChange::from(body.settings.unwrap_or_default().0);
    caller.authorize_dead_letter_target(&queue, &settings)?;
    let change = QueueChange { settings, fifo: body.fifo, beside: None };
    Ok(JsonResponse(broker.change_queue(&call, queue, change).await?.into()))
}

/// How to drop a queue.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DropParameters {
    /// Whether it is dropped although dead letters of other queues go there; false if not given.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<bool>)]
    force: Option<Flag>,
}

/// Drops a queue with its messages and its archive.
#[utoipa::path(
    delete, path = "/queues/{queue}", tag = TAG, operation_id = "drop_queue",
    params(("queue" = String, Path), DropParameters),
    responses(
        (status = 204, description = "It is gone"),
        errors::InternalError, errors::QueueNotFound, errors::QueueInUse, errors::RequestTimeout,
        errors::NotSupported,
    )
)]
async fn drop_queue(
    QueuePermit { broker, call, queue, caller, .. }: QueuePermit<right::Manage>,
    Query(parameters): Query<DropParameters>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    let forced = parameters.force.is_some_and(|force| force.0);
    match broker.drop_queue(&call, queue, forced).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(named(error, &caller)),
    }
}

/// What is in the way, with the names of the queues that the caller may know of.
fn named(error: Error, caller: &Caller) -> Problem {
    let visible = |name: &String| {
        QueueName::parse(name).is_ok_and(|queue| caller.require(None, &queue).is_ok())
    };
    let names = match &error {
        Error::QueueInUse { used_by, .. } => {
            let visible: Vec<String> = used_by
                .iter()
                .filter(|name| visible(name))
                .map(|name| format!("`{name}`"))
                .collect();
            visible.join(", ")
        }
        _ => String::new(),
    };
    let problem = Problem::from(error);
    if names.is_empty() {
        return problem;
    }
    let detail = format!("{} (they are those of {names})", problem.detail).into();
    Problem { detail, ..problem }
}

/// How many messages were deleted.
#[derive(Serialize, ToSchema)]
#[schema(as = Purged, example = json!({"purged": 3}))]
struct PurgedView {
    /// The number of messages.
    purged: i64,
    /// There, and true, if the time for a request was up before all were deleted: asking again goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    more: bool,
    /// There if messages stay that a policy, a trigger, a rule, a constraint or a lock keeps: why the first of them does.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Deletes every message of a queue; its archive stays. Where others are at work there it is done step by step, as far as
/// the time for a request goes.
#[utoipa::path(
    post, path = "/queues/{queue}/purge", tag = TAG, operation_id = "purge_queue",
    params(("queue" = String, Path)),
    responses(
        (status = 200, description = "How many there were", body = PurgedView),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::RequestTimeout,
        errors::NotSupported,
    )
)]
async fn purge(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Manage>,
    Query(NoParameters {}): Query<NoParameters>,
    _: NoBody,
) -> Result<JsonResponse<PurgedView>, Problem> {
    let purged = broker.purge_queue(&call, queue).await?;
    let reason = purged.reason();
    Ok(JsonResponse(PurgedView { purged: purged.count, more: purged.more, reason }))
}

/// Counts a queue's messages: exact, and therefore slow on a long queue.
#[utoipa::path(
    get, path = "/queues/{queue}/metrics", tag = TAG, operation_id = "queue_metrics",
    params(("queue" = String, Path)),
    responses(
        (status = 200, description = "The figures", body = MetricsView),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict,
    )
)]
async fn metrics(
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Any>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<JsonResponse<MetricsView>, Problem> {
    let (metrics, waiters) = broker.queue_metrics(&call, queue).await?;
    Ok(JsonResponse(MetricsView::new(metrics, waiters)))
}
