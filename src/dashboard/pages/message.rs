//! One message, whole.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};

use crate::{
    broker::{Archived, Browse, Error},
    domain::{Message, MsgId, PageSize, QueueName},
    http::{Caller, QueuePermit, make_room, right, room_for},
};

use super::{
    super::{
        actions::Action,
        failure::Failure,
        form::Form,
        frame::Frame,
        json_text::{Piece, pretty},
        state::Dashboard,
        tabs::{QueueHead, Tab},
        text,
        viewer::Viewer,
    },
    act::may,
    queue_name,
};

/// Bytes of JSON that are shown with colours; more is shown as it is.
const MAX_PRETTY: usize = 128 << 10;

#[derive(Template)]
#[template(path = "message.html")]
struct Page<'a> {
    frame: Frame,
    head: QueueHead,
    id: i64,
    is_archived: bool,
    /// What may be done to it.
    actions: Vec<Action>,
    facts: Vec<(&'static str, String, String)>,
    message: Json<'a>,
    headers: Option<Json<'a>>,
}

/// JSON as it is shown.
struct Json<'a> {
    raw: &'a str,
    size: String,
    pretty: Option<Vec<Piece>>,
}

impl<'a> Json<'a> {
    fn new(raw: &'a str) -> Self {
        let size = text::bytes(i64::try_from(raw.len()).unwrap_or(i64::MAX));
        Self { raw, size, pretty: if raw.len() <= MAX_PRETTY { pretty(raw) } else { None } }
    }
}

/// A message in the queue, or in its archive.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path((name, id)): Path<(String, String)>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let id: MsgId = id
        .parse()
        .map_err(|reason| Failure::not_found(format!("The id of a message {reason}.")))?;
    let form = Form::of_query(request.uri().query(), &["from"])?;
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(queue.as_str()));
    let read_only = frame.read_only;
    let permit = QueuePermit::<right::Receive>::new(viewer.caller, queue.clone())?;
    let overview = permit.broker.overview_of(&queue);
    let head = QueueHead::new(&queue, Tab::Messages, rights, overview.paused);
    let (message, archived_at) = if form.get("from") == Some("archive") {
        in_archive(&permit, &queue, id).await?
    } else {
        match permit.broker.message(&permit.call, queue.clone(), id).await {
            Ok(message) => (message, None),
            // It may have been archived since.
            Err(Error::MessageNotFound { .. }) => in_archive(&permit, &queue, id).await?,
            Err(error) => return Err(error.into()),
        }
    };
    let mut held = room_for(&state, &permit.call, std::iter::once(&*message))?;
    let now = permit.broker.now();
    let page = Page {
        frame,
        head,
        id: id.get(),
        is_archived: archived_at.is_some(),
        actions: actions(&permit.caller, &queue, &message, archived_at.is_some(), read_only),
        facts: facts(&message, archived_at, now),
        message: Json::new(message.message.get()),
        headers: message.headers.as_ref().map(|headers| Json::new(headers.get())),
    };
    // What is shown counts until it is sent, as it is written: a page is larger than its message.
    let text = page.render().unwrap_or_default();
    make_room(&state, &mut held, text.len())?;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((kind, held.keep(text.into_bytes())).into_response())
}

/// What somebody may do to it.
fn actions(
    caller: &Caller,
    queue: &QueueName,
    message: &Message,
    is_archived: bool,
    read_only: bool,
) -> Vec<Action> {
    let is_dead = message
        .headers
        .as_ref()
        .is_some_and(|headers| headers.get().contains("\"x-dead-letter-queue\""));
    let of_state: &[Action] = match (is_archived, is_dead) {
        _ if read_only => &[],
        (true, _) => &[Action::Replay],
        (false, true) => &[Action::Redrive, Action::GiveBack, Action::Archive, Action::Delete],
        (false, false) => &[Action::GiveBack, Action::Archive, Action::Delete],
    };
    let fits = |action: &&Action| may(caller, **action, queue.as_str());
    of_state.iter().filter(fits).copied().collect()
}

async fn in_archive(
    permit: &QueuePermit<right::Receive>,
    queue: &QueueName,
    id: MsgId,
) -> Result<(Arc<Message>, Option<DateTime<Utc>>), Failure> {
    let what = Browse {
        queue: queue.clone(),
        after: id.get().saturating_sub(1),
        limit: PageSize::saturating(1),
        // Not the next one: that may be one that nobody can read.
        which: Archived { msg_ids: Some(vec![id.get()]), ..Archived::default() },
    };
    let call = Arc::clone(&permit.call);
    let page = permit.broker.browse_archive(&call, what).await?;
    let found = page.messages.into_iter().find(|found| found.message.msg_id == id.get());
    if page.unreadable.contains(&id.get()) {
        return Err(Error::MessageUnreadable(id.get()).into());
    }
    found.map(|found| (Arc::new(found.message), Some(found.archived_at))).ok_or_else(|| {
        Failure::not_found(format!(
            "Message {id} is neither in queue `{queue}` nor in its archive: it was never there, or is deleted."
        ))
    })
}

/// What is known of it: what, roughly and exactly.
fn facts(
    message: &Message,
    archived_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<(&'static str, String, String)> {
    let time = |name, moment| (name, text::ago(moment, now), text::exact(moment));
    let mut facts = vec![time("Stored", message.enqueued_at)];
    facts.push(("Deliveries", message.read_ct.to_string(), String::new()));
    facts.extend(message.last_read_at.map(|at| time("Last delivered", at)));
    match archived_at {
        Some(at) => facts.push(time("Archived", at)),
        None if message.vt <= now => facts.push(time("Could be delivered since", message.vt)),
        None if message.read_ct > 0 => facts.push(time("In flight; visible again", message.vt)),
        None => facts.push(time("Delayed; due", message.vt)),
    }
    facts
}
