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
    broker::{IdempotencyKey, Replayable},
    domain::{Delay, NewMessage, QueueName, RawJson, Visibility, without_own_headers},
    http::{Caller, QueuePermit, RequestContext, right},
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
/// The most bytes of a form that are shown again where it was wrong.
const MAX_SHOWN: usize = 64 << 10;

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
    permit.broker.check_exists(&permit.call, &queue).await?;
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
    let QueuePermit { broker, call, caller: sender, .. } = permit;
    let is_paused = broker.overview_of(&queue).paused;
    let rights = rights(&sender, &name, frame.read_only);
    let written = Written::of(&form);
    let sent = async {
        let (bytes, to) = (form.bytes() as u64, queue.clone());
        let read = move |sender: Caller| {
            let new = new_message(&form)?;
            sender.authorize_origin_headers(new.headers.as_ref(), "")?;
            Ok::<_, Failure>((new, once(&form, &to, &caller.to_string())?))
        };
        let (new, once) = sender.on_text(bytes, read).await?;
        let deed = Deed::new(&who, "send", queue.as_str());
        let (work, call, queue) = (broker.clone(), Arc::clone(&call), queue.clone());
        let work = async move { Ok(work.send(&call, queue, new, once).await?) };
        let tally = |sent: &Replayable<i64>| {
            let done = i64::from(!sent.replayed);
            Tally { asked: Some(1), done: Some(done), error: None }
        };
        audited(&broker, deed, tally, Box::pin(work)).await
    };
    match sent.await {
        Ok(sent) => {
            let form = format!("{}/send?stored={}", place::queue(&name), sent.result);
            Ok(place::lead_to(&form))
        }
        // What was written is not lost where it was wrong.
        Err(failure) if failure.is_clients() => {
            let head = QueueHead::new(&queue, Tab::Send, rights, is_paused);
            let page = written.again(frame, head, failure.detail());
            let refusal = (StatusCode::UNPROCESSABLE_ENTITY, "message_rejected");
            Ok(frame::long_refused(&state, &call, refusal, &page)?)
        }
        Err(failure) => Err(failure),
    }
}

/// What is shown again of a form where it was wrong: all of it, or nothing, as a part of a message is another one.
#[derive(Default)]
struct Written {
    message: String,
    headers: String,
    delay: String,
    left_out: bool,
}

impl Written {
    fn of(form: &Form) -> Self {
        if form.bytes() > MAX_SHOWN {
            return Self { left_out: true, ..Self::default() };
        }
        let field = |name| form.raw(name).to_owned();
        let (message, headers, delay) = (field("message"), field("headers"), field("delay"));
        Self { message, headers, delay, left_out: false }
    }

    fn again(self, frame: Frame, head: QueueHead, error: &str) -> Page {
        let note = " What was written is too long to be shown again: go back to have it.";
        let Self { message, headers, delay, left_out } = self;
        let error = Some(format!("{error}{}", if left_out { note } else { "" }));
        Page { frame, head, message, headers, delay, once: new_once(), error, stored: None }
    }
}

/// What stands for one form.
fn new_once() -> String {
    rand::rng().sample_iter(Alphanumeric).take(ONCE).map(char::from).collect()
}

/// As what a form is stored once: nothing where it says nothing.
fn once(form: &Form, queue: &QueueName, caller: &str) -> Result<Option<IdempotencyKey>, Failure> {
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
    Ok(Some(IdempotencyKey { scope, key: key.to_owned(), fingerprint }))
}

fn new_message(form: &Form) -> Result<NewMessage, Failure> {
    let delay = form.parsed::<Delay>("delay")?;
    Ok(NewMessage {
        message: json(form.raw("message"), "The message")?,
        sql_null: false,
        headers: match form.get("headers") {
            Some(headers) if headers.starts_with('{') => {
                Some(without_own_headers(json(headers, "The headers")?))
            }
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
