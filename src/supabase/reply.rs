//! Answers as PostgREST gives them.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    domain::{Call, Message},
    http::{Gate, MemoryPermit, Rejection, json, room_for},
};

use super::{
    failure::Failure,
    function::SCHEMA,
    options::Options,
    record::{Column, Record},
};

const CONTENT_PROFILE: HeaderName = HeaderName::from_static("content-profile");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A body of so many rows.
pub(super) fn reply(options: &Options, rows: usize, body: Body) -> Response {
    let kind = if options.single {
        "application/vnd.pgrst.object+json; charset=utf-8"
    } else {
        "application/json; charset=utf-8"
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_PROFILE, HeaderValue::from_static(SCHEMA));
    let range = rows.checked_sub(1).map_or_else(|| "*".to_owned(), |last| format!("0-{last}"));
    let all = if options.counted { rows.to_string() } else { "*".to_owned() };
    if let Ok(range) = HeaderValue::from_str(&format!("{range}/{all}")) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    response
}

/// Says for how long was waited at most.
pub(super) fn waited(options: &Options, mut response: Response) -> Response {
    let applied = options.wait.map(|wait| format!("wait={}", wait.get()));
    if let Some(applied) = applied.and_then(|applied| HeaderValue::from_str(&applied).ok()) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    response
}

/// Refuses to make one object of more rows, or of none.
pub(super) fn check_single(options: &Options, rows: usize) -> Result<(), Failure> {
    if !options.single || rows == 1 {
        return Ok(());
    }
    let message = "Cannot coerce the result to a single JSON object";
    let failure = Failure::new(StatusCode::NOT_ACCEPTABLE, "PGRST116", message);
    Err(failure.details(format!("The result contains {rows} rows")))
}

/// Room for messages, if there is some.
pub(super) fn room(
    gate: &Gate,
    call: &Call,
    messages: &[Message],
) -> Result<MemoryPermit, Rejection> {
    room_for(gate, call, messages.iter())
}

/// Records as JSON.
pub(super) fn records(
    options: &Options,
    held: MemoryPermit,
    messages: &[Message],
) -> Result<Bytes, Rejection> {
    let columns = options.select.as_deref().unwrap_or(&Column::ALL);
    let mut records: Vec<_> = messages.iter().map(|message| Record { message, columns }).collect();
    if let Some(descending) = options.descending {
        records.sort_by_key(|record| record.message.msg_id);
        if descending {
            records.reverse();
        }
    }
    match &*records {
        [one] if options.single => json(held, one),
        _ => json(held, &records),
    }
}
