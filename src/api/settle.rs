//! `POST /queues/{queue}/messages/settle`: for consumers that work in batches.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    broker::{Action, MAX_SETTLED, Settle, SettleTarget, SettledEntry},
    domain::{Delay, JsonObject, Limited, MsgId},
    http::{QueuePermit, json_of_done, right},
};

use super::{
    error_text,
    extract::{Json, NoParameters, Query},
    messages::TAG,
    openapi::errors,
    problem::{Problem, code_of},
    response::json_answer,
    settled::{Failed, Settled, room_for_outcome},
    state::Api,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(settle))
}

/// Bytes of the reason of a dead letter.
const MAX_REASON_BYTES: usize = 1_024;

/// Entries of one kind.
type List<T> = Limited<JsonObject<T>, 0, MAX_SETTLED>;

/// What became of messages that were delivered; at most 1000 entries in all.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "delete": [{"msg_id": 42}], "archive": [{"msg_id": 43}], "retry": [{"msg_id": 44, "delay": 10}]
}))]
pub(super) struct SettleBody {
    /// Done with.
    #[serde(default)]
    #[schema(value_type = Vec<Entry>)]
    delete: List<Entry>,
    /// Done with, and to be kept.
    #[serde(default)]
    #[schema(value_type = Vec<Entry>)]
    archive: List<Entry>,
    /// Never to be delivered again: they go to the queue's `dead_letter_queue`, or into the archive where
    /// none is named.
    #[serde(default)]
    #[schema(value_type = Vec<DeadLetter>)]
    dead_letter: List<DeadLetter>,
    /// To be delivered again.
    #[serde(default)]
    #[schema(value_type = Vec<Retry>)]
    retry: List<Retry>,
}

/// A message, by one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Its id, whatever delivery it was.
    #[schema(inline)]
    msg_id: Option<MsgId>,
    /// What stands for its delivery.
    receipt: Option<String>,
}

/// A message that nobody is going to get done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeadLetter {
    /// Its id, whatever delivery it was.
    #[schema(inline)]
    msg_id: Option<MsgId>,
    /// What stands for its delivery.
    receipt: Option<String>,
    /// Why, for people: it becomes the header `x-dead-letter-reason`. At most 1024 bytes.
    #[schema(example = "no such customer")]
    reason: Option<String>,
}

/// A message to deliver again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// Its id, whatever delivery it was.
    #[schema(inline)]
    msg_id: Option<MsgId>,
    /// What stands for its delivery.
    receipt: Option<String>,
    /// Seconds until then; as the queue's `retry_backoff` says if not given, or else at once.
    #[schema(inline)]
    delay: Option<Delay>,
    /// Whether the delivery is taken back from `read_ct`, as nobody tried: once for one delivery, whose
    /// receipt is void then, and whose `last_read_at` is forgotten. False if not given.
    uncounted: Option<bool>,
}

/// Either an id or a receipt.
pub(super) fn target(
    msg_id: Option<i64>,
    receipt: Option<String>,
    whose: &dyn Fn() -> String,
) -> Result<SettleTarget, Problem> {
    if msg_id.is_some() == receipt.is_some() {
        let whose = whose();
        let detail = format!("`{whose}` must have either `msg_id` or `receipt`");
        return Err(Problem::invalid(detail));
    }
    Ok(SettleTarget { msg_id, receipt })
}

/// The reason of a dead letter, if it can be a header.
fn reason(given: Option<String>, whose: &dyn Fn() -> String) -> Result<Option<Arc<str>>, Problem> {
    let Some(reason) = given else { return Ok(None) };
    let bytes = reason.len();
    if bytes > MAX_REASON_BYTES {
        return Err(Problem::invalid(format!(
            "`{}.reason` must have at most {MAX_REASON_BYTES} bytes, not {bytes}",
            whose()
        )));
    }
    if reason.contains('\0') {
        return Err(Problem::invalid(format!(
            "`{}.reason` must be text without `\\u0000`, which PostgreSQL cannot store",
            whose()
        )));
    }
    Ok(Some(reason.into()))
}

impl SettleBody {
    /// What to settle; `within` is what stands before the names of its lists in what is said of them.
    pub(super) fn into_settle(self, within: &str) -> Result<Settle, Problem> {
        let mut entries = Vec::new();
        let mut add = |list: &str, index: usize, action, msg_id: Option<MsgId>, receipt| {
            let target =
                target(msg_id.map(MsgId::get), receipt, &|| format!("{within}{list}[{index}]"));
            target.map(|target| entries.push((action, target)))
        };
        for (index, JsonObject(entry)) in self.delete.0.into_iter().enumerate() {
            add("delete", index, Action::Delete, entry.msg_id, entry.receipt)?;
        }
        for (index, JsonObject(entry)) in self.archive.0.into_iter().enumerate() {
            add("archive", index, Action::Archive, entry.msg_id, entry.receipt)?;
        }
        for (index, JsonObject(entry)) in self.dead_letter.0.into_iter().enumerate() {
            let whose = || format!("{within}dead_letter[{index}]");
            let action = Action::DeadLetter(reason(entry.reason, &whose)?);
            add("dead_letter", index, action, entry.msg_id, entry.receipt)?;
        }
        for (index, JsonObject(entry)) in self.retry.0.into_iter().enumerate() {
            let uncounted = entry.uncounted.unwrap_or(false);
            let action = Action::Retry { after: entry.delay, uncounted };
            add("retry", index, action, entry.msg_id, entry.receipt)?;
        }
        Ok(Settle { entries })
    }
}

/// What became of each.
pub(super) fn settled_of(entries: Vec<SettledEntry>) -> Settled {
    let mut settled = Settled::default();
    for SettledEntry { action, msg_id, error } in entries {
        if let Some(error) = error {
            let (code, detail) = (code_of(&error).as_str(), error_text::detail(&error));
            settled.failed.push(Failed { msg_id, code, detail });
            continue;
        }
        let done = match action {
            Action::Delete => &mut settled.deleted,
            Action::Archive => &mut settled.archived,
            Action::DeadLetter(_) => &mut settled.dead_lettered,
            Action::Hide(_) | Action::Retry { .. } => &mut settled.retried,
        };
        done.extend(msg_id);
    }
    settled
}

/// Deletes, archives, dead-letters and gives back messages in one transaction. What cannot be done fails alone.
#[utoipa::path(
    post, path = "/queues/{queue}/messages/settle", tag = TAG, operation_id = "settle",
    params(("queue" = String, Path)), request_body(content = SettleBody),
    responses(
        (status = 200, description = "What became of each", body = Settled),
        errors::InternalError, errors::QueueNotFound, errors::QueueConflict, errors::OfBody, errors::MessageRejected,
        errors::NotSupported,
    )
)]
async fn settle(
    State(api): State<Api>,
    QueuePermit { broker, call, queue, .. }: QueuePermit<right::Receive>,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body): Json<SettleBody>,
) -> Result<Response, Problem> {
    let settle = body.into_settle("")?;
    let held = room_for_outcome(&api, &call, &settle)?;
    let settled = broker.settle(&call, queue, settle).await?;
    Ok(json_answer(json_of_done(held, &settled_of(settled))?.into()))
}
