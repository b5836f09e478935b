//! What a request wants done, in either protocol.

use axum::{
    extract::MatchedPath,
    http::{Method, request::Parts},
};

use super::{
    error::{Kind, Result, SqsError},
    form::Form,
    protocol::{Protocol, TARGET, TARGET_PREFIX, is_queue},
    shapes::{Action, Input},
    surrogates,
};

/// The version of the service's interface.
const VERSION: &str = "2012-11-05";

/// Reads the action of a request.
pub(super) fn action(protocol: Protocol, parts: &Parts, body: &[u8]) -> Result<Action> {
    // At other paths than these nobody has looked at which site's page it comes from.
    let is_guarded = parts.extensions.get::<MatchedPath>().is_some();
    let is_read = parts.method == Method::GET && protocol == Protocol::Query && is_guarded;
    if parts.method != Method::POST && !is_read {
        let message = format!("{} does nothing here: POST the action.", parts.method);
        return Err(SqsError::new(Kind::UnknownOperation, message));
    }
    let mut action = match protocol {
        Protocol::Json => of_json(parts, body),
        Protocol::Query => of_form(parts, body),
    }?;
    // What is sent to a queue's URL is about that queue, unless it names one.
    let path = parts.uri.path();
    if is_queue(path.trim_start_matches('/')) {
        action.address(path);
    }
    Ok(action)
}

fn of_json(parts: &Parts, body: &[u8]) -> Result<Action> {
    let target = parts.headers.get(TARGET).and_then(|target| target.to_str().ok());
    let name = target.and_then(|target| target.strip_prefix(TARGET_PREFIX)).unwrap_or_default();
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    Action::read(name, Input::Json(body)).or_else(|error| {
        // A text that is none is for its entry alone to fail of, as one with illegal characters.
        let is_send = matches!(name, "SendMessage" | "SendMessageBatch");
        let changed = is_send.then(|| surrogates::without_lone(body)).flatten();
        let read = changed.and_then(|body| Action::read(name, Input::Json(&body)).ok());
        read.ok_or(error)
    })
}

fn of_form(parts: &Parts, body: &[u8]) -> Result<Action> {
    let body: &[u8] = if parts.method == Method::GET { b"" } else { body };
    let form = Form::of(parts.uri.query().unwrap_or_default().as_bytes(), body)?;
    let Some(name) = form.action else {
        return Err(SqsError::new(Kind::UnknownOperation, "There is no Action."));
    };
    if !Action::is_known(&name) {
        let message = format!("The action {name} is not valid for this endpoint.");
        return Err(SqsError::new(Kind::InvalidAction, message));
    }
    if let Some(version) = form.version.filter(|version| version != VERSION) {
        let message = format!("The requested version ( {version} ) is not valid.");
        return Err(SqsError::new(Kind::NoSuchVersion, message));
    }
    Action::read(&name, Input::Form(form.input))
}
