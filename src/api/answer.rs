//! Answers that carry messages: bounded, and held until they are on their way.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

use crate::domain::{CallStats, Message};

use super::{
    Api,
    body::too_many_bytes,
    hold::Held,
    problem::{Code, Problem},
};

/// Room for messages, if there is some.
pub(super) fn room_for<'a>(
    api: &Api,
    stats: &CallStats,
    messages: impl Iterator<Item = &'a Message>,
) -> Result<Held, Problem> {
    let mut held = api.bytes_in_hand.hold(api.usage(stats));
    let bytes = messages.map(Message::bytes).sum::<u64>();
    let grown = held.grow_to(usize::try_from(bytes).unwrap_or(usize::MAX));
    grown.map_err(|exhausted| too_many_bytes(api, exhausted))?;
    Ok(held)
}

/// An answer as JSON, which is held until its last byte is gone.
pub(super) fn json(held: Held, answer: &impl Serialize) -> Result<Bytes, Problem> {
    // Growing a large one would copy it again and again.
    let mut json = Vec::with_capacity(held.bytes());
    serde_json::to_writer(&mut json, answer).map_err(|error| Problem {
        source: Some(error.into()),
        ..Problem::new(Code::InternalError, "the messages could not be written as JSON")
    })?;
    Ok(held.keep(json))
}

/// An answer that is one message.
pub(super) fn one_message(
    api: &Api,
    stats: &CallStats,
    message: &Message,
) -> Result<Response, Problem> {
    let held = room_for(api, stats, std::iter::once(message))?;
    Ok(json_answer(json(held, message)?.into()))
}

/// A body that is JSON.
pub(super) fn json_answer(body: Body) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
