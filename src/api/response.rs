//! Responses that are JSON.

use crate::{
    domain::{Call, Message},
    http::{json, room_for},
};
use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

use super::{message_view::MessageView, problem::Problem, state::Api};

/// An answer that is one message.
pub(super) fn one_message(api: &Api, call: &Call, message: &Message) -> Result<Response, Problem> {
    let held = room_for(api, call, std::iter::once(message))?;
    Ok(json_answer(json(held, &MessageView::from(message))?.into()))
}

/// A body that is JSON.
pub(super) fn json_answer(body: Body) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
