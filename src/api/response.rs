//! Responses that are JSON.

use crate::{
    domain::{Call, Message},
    http::{json, room_for},
};
use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};

use super::{message_view::MessageView, problem::Problem, state::Api};

/// An answer that is one message.
pub(super) fn one_message(api: &Api, call: &Call, message: &Message) -> Result<Response, Problem> {
    let held = room_for(api, call, std::iter::once(message))?;
    Ok(json_answer(json(held, &MessageView::from(message))?.into()))
}

/// Headers for which there is room from the start, so that none of the layers has to make more.
const HEADERS: usize = 12;

/// A body that is JSON.
pub(super) fn json_answer(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
