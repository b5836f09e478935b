//! Sending a message.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};
use rand::{Rng, distr::Alphanumeric};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    broker::{Once, Replayable},
    domain::{Delay, NewMessage, QueueName, RawJson, Visibility},
    http::{QueuePermit, RequestContext, right},
};

use super::{
    super::{
        actions::{Deed, Tally, audited},
        failure::Failure,
        form::Form,
        frame::{self, Frame, html},
        place,
        state::Dashboard,
        tabs::{QueueHead, Tab},
        viewer::{Viewer, rights},
    },
    queue_name,
};

const FIELDS: [&str; 4] = ["message", "headers", "delay", "once"];
/// Characters of what stands for one form, and the most of what is taken for that.
const ONCE: usize = 24;
const MAX_ONCE: usize = 64;

#[derive(Template)]
#[template(path = "send.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    message: String,
    headers: String,
    delay: String,
    /// Stands for this form, so that it is sent once, however often a browser sends it.
    once: String,
    error: Option<String>,
    /// The id of what was stored by the form before this one.
    stored: Option<i64>,
}

/// The form; behind one that was sent, with what it stored.
pub(in super::super) async fn show(
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    viewer.must_act()?;
    let form = Form::of_query(request.uri().query(), &["stored"])?;
    // Any number: a trigger may give a message another one than PGMQ would.
    let stored = form.parsed::<i64>("stored")?;
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(&name));
    let permit = QueuePermit::<right::Send>::new(viewer.caller, queue.clone())?;
    let is_paused = permit.broker.overview_of(&queue).paused;
    Ok(html(&Page {
        head: QueueHead::new(&queue, Tab::Send, rights, is_paused),
        message: "{\n  \"hello\": \"world\"\n}".to_owned(),
        headers: String::new(),
        delay: String::new(),
        once: new_once(),
        error: None,
        stored,
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
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    let permit = QueuePermit::<right::Send>::new(viewer.caller, queue.clone())?;
    let limit = state.max_body_bytes;
    let context = request.extensions().get::<Arc<RequestContext>>();
    let caller = context.map_or_else(RequestContext::nobody, |context| context.fingerprint());
    let form = Form::read(request, &state, limit, &FIELDS).await?;
    let is_paused = permit.broker.overview_of(&queue).paused;
    let rights = rights(&permit.caller, &name, frame.read_only);
    let page = |error| Page {
        head: QueueHead::new(&queue, Tab::Send, rights, is_paused),
        message: form.raw("message").to_owned(),
        headers: form.raw("headers").to_owned(),
        delay: form.raw("delay").to_owned(),
        once: new_once(),
        error: Some(error),
        stored: None,
        frame,
    };
    let sent = async {
        let new = new_message(&form)?;
        permit.caller.authorize_origin_headers(new.headers.as_ref(), "")?;
        let once = once(&form, &queue, &caller.to_string())?;
        let deed = Deed::new(&who, "send", queue.as_str());
        let (work, call, queue) = (permit.broker.clone(), Arc::clone(&permit.call), queue.clone());
        let work = async move { Ok(work.send(&call, queue, new, once).await?) };
        let tally = |sent: &Replayable<i64>| {
            let done = i64::from(!sent.replayed);
            Tally { asked: Some(1), done: Some(done), error: None }
        };
        audited(&permit.broker, deed, tally, Box::pin(work)).await
    };
    match sent.await {
        Ok(sent) => {
            let form = format!("{}/send?stored={}", place::queue(&name), sent.result);
            Ok(place::lead_to(&form))
        }
        // What was written is not lost where it was wrong.
        Err(failure) if failure.is_clients() => {
            let page = page(failure.detail().to_owned());
            Ok(frame::refused(StatusCode::UNPROCESSABLE_ENTITY, "message_rejected", &page))
        }
        Err(failure) => Err(failure),
    }
}

/// What stands for one form.
fn new_once() -> String {
    rand::rng().sample_iter(Alphanumeric).take(ONCE).map(char::from).collect()
}

/// As what a form is stored once: nothing where it says nothing.
fn once(form: &Form, queue: &QueueName, caller: &str) -> Result<Option<Once>, Failure> {
    let Some(key) = form.get("once") else { return Ok(None) };
    if key.len() > MAX_ONCE || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::invalid(format!(
            "`once` is what the page of this form gave: up to {MAX_ONCE} letters and digits."
        )));
    }
    let mut hash = Sha256::new();
    for field in ["message", "headers", "delay"] {
        let text = form.raw(field);
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let scope = format!("POST /ui/queues/{queue}/send {caller}");
    let fingerprint = hash.finalize().into();
    Ok(Some(Once { scope, key: key.to_owned(), fingerprint }))
}

fn new_message(form: &Form) -> Result<NewMessage, Failure> {
    let delay = form.parsed::<Delay>("delay")?;
    Ok(NewMessage {
        message: json(form.raw("message"), "The message")?,
        sql_null: false,
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
