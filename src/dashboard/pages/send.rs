//! Sending a message.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use serde_json::value::RawValue;

use crate::{
    domain::{Delay, NewMessage, RawJson, Visibility},
    http::{QueuePermit, right},
};

use super::{
    super::{
        actions::{Deed, Tally, audited},
        failure::Failure,
        form::Form,
        frame::{self, Frame, html},
        state::Dashboard,
        tabs::{QueueHead, Tab},
        viewer::{Viewer, rights},
    },
    queue_name,
};

const FIELDS: [&str; 3] = ["message", "headers", "delay"];

#[derive(Template)]
#[template(path = "send.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    message: String,
    headers: String,
    delay: String,
    error: Option<String>,
    /// The id of what was just stored.
    stored: Option<i64>,
}

/// The form.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    if state.shared().read_only {
        return Err(Failure::read_only());
    }
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(&name));
    let permit = QueuePermit::<right::Send>::new(viewer.caller, queue.clone())?;
    let is_paused = permit.broker.overview_of(&queue).paused;
    Ok(html(&Page {
        head: QueueHead::new(&queue, Tab::Send, rights, is_paused),
        message: "{\n  \"hello\": \"world\"\n}".to_owned(),
        headers: String::new(),
        delay: String::new(),
        error: None,
        stored: None,
        frame,
    }))
}

/// Stores a message.
pub(in super::super) async fn send(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    if state.shared().read_only {
        return Err(Failure::read_only());
    }
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    let permit = QueuePermit::<right::Send>::new(viewer.caller, queue.clone())?;
    let limit = state.max_body_bytes;
    let form = Form::read(request, &state, limit, &FIELDS).await?;
    let is_paused = permit.broker.overview_of(&queue).paused;
    let rights = rights(&permit.caller, &name, frame.read_only);
    let mut page = Page {
        head: QueueHead::new(&queue, Tab::Send, rights, is_paused),
        message: form.raw("message").to_owned(),
        headers: form.raw("headers").to_owned(),
        delay: form.raw("delay").to_owned(),
        error: None,
        stored: None,
        frame,
    };
    let sent = async {
        let new = new_message(&form)?;
        permit.caller.authorize_origin_headers(new.headers.as_ref(), "")?;
        let deed = Deed::new(&who, "send", queue.as_str());
        let (work, stats, queue) =
            (permit.broker.clone(), Arc::clone(&permit.stats), queue.clone());
        let work = async move { Ok(work.send(&stats, queue, new, None).await?.result) };
        let tally = |_: &i64| Tally { asked: Some(1), done: Some(1), error: None };
        audited(&permit.broker, deed, tally, Box::pin(work)).await
    };
    match sent.await {
        Ok(id) => {
            page.stored = Some(id);
            Ok(html(&page))
        }
        // What was written is not lost where it was wrong.
        Err(failure) if failure.is_clients() => {
            page.error = Some(failure.detail().to_owned());
            Ok(frame::refused(StatusCode::UNPROCESSABLE_ENTITY, "message_rejected", &page))
        }
        Err(failure) => Err(failure),
    }
}

fn new_message(form: &Form) -> Result<NewMessage, Failure> {
    let delay = form.parsed::<Delay>("delay")?;
    Ok(NewMessage {
        message: json(form.raw("message"), "The message")?,
        headers: match form.get("headers") {
            Some(headers) if headers.starts_with('{') => Some(json(headers, "The headers")?),
            Some(_) => {
                return Err(Failure::invalid("The headers must be a JSON object, or nothing."));
            }
            None => None,
        },
        visible: delay.map(Visibility::After),
    })
}

fn json(text: &str, what: &str) -> Result<RawJson, Failure> {
    serde_json::from_str::<Box<RawValue>>(text.trim())
        .map_err(|error| Failure::invalid(format!("{what} is no JSON: {error}.")))
}
