//! What stands in the body: JSON, whatever its content type says.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::header,
};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::domain::Object;

use super::{
    Api,
    access::must_still_be_let_in,
    context::context,
    edge::too_many,
    hold::{Exhausted, Held},
    not_json::not_json,
    problem::{Code, Problem, shorten},
};

/// Bytes for which there is room from the start.
const FIRST: usize = 16 << 10;

/// More bytes than nothing is written in.
const NOTHING: u64 = 1 << 10;

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

/// A JSON body that may be missing, or null.
pub(super) struct OptionalJson<T>(pub(super) T);

/// No body, or one without content.
pub(super) struct NoBody;

impl<T: DeserializeOwned + Send + 'static> FromRequest<Api> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let bytes = read(request, api).await?;
        parse(api, bytes).await.map(Self)
    }
}

impl<T: DeserializeOwned + Default + Send + 'static> FromRequest<Api> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let bytes = read(request, api).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        if bytes.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        parse(api, bytes).await.map(Self)
    }
}

impl FromRequest<Api> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let unwanted = || Problem::invalid("this request takes no body");
        if request.body().size_hint().lower() > NOTHING {
            return Err(unwanted());
        }
        let read = read_up_to(NOTHING, request, api).await;
        let too_much = |problem: &Problem| problem.code == Code::MessageTooLarge;
        let bytes =
            read.map_err(|problem| if too_much(&problem) { unwanted() } else { problem })?;
        // `{}` is what some clients send for nothing.
        match bytes.trim_ascii() {
            b"" | b"{}" => Ok(Self),
            _ => Err(unwanted()),
        }
    }
}

/// Reads JSON, or says what is wrong with it and where.
pub(super) async fn parse<T: DeserializeOwned + Send + 'static>(
    api: &Api,
    bytes: Bytes,
) -> Result<T, Problem> {
    api.text().run(bytes.len() as u64, move || parse_here(&bytes)).await?
}

fn parse_here<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::invalid("the body is empty; a JSON object is needed"));
    }
    let read = serde_json::from_slice::<Object<T>>(bytes);
    read.map(|body| body.0).map_err(|error| match not_json(bytes) {
        Some(problem) => problem,
        None => explain::<Object<T>>(bytes, &error),
    })
}

/// Reads what could not be read once more, taking note of where: noting it every time would cost
/// those who make no mistakes.
fn explain<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let Err(found) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        // Behind the end of the value.
        return Problem::invalid(format!("body: {error}"));
    };
    let path = found.path().to_string();
    let mut reason = found.into_inner().to_string();
    // It may repeat what the client said, whatever its length.
    shorten(&mut reason);
    if error.is_syntax() || error.is_eof() {
        reason.push_str("; a body is JSON, such as {\"message\": {\"order\": 7}}");
    }
    Problem::invalid(match &*path {
        // Broken off before any field was complete.
        "." | "?" => format!("body: {reason}"),
        // The path ends in the field that the reason names.
        field if !field.contains('.') && reason.starts_with("unknown field") => {
            format!("body: {reason}")
        }
        field if reason.starts_with("must hold") => format!("`{field}` {reason}"),
        field => format!("`{field}`: {reason}"),
    })
}

/// The whole body, within its limits of size and time.
pub(super) async fn read(request: Request, api: &Api) -> Result<Bytes, Problem> {
    read_up_to(api.max_body_bytes, request, api).await
}

async fn read_up_to(limit: u64, request: Request, api: &Api) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let context = context(&parts);
    let mut held = api.bytes_in_hand.hold(api.usage(&context.stats));
    let collected =
        timeout(api.body_timeout, collect(api, body, announced.unwrap_or(0), limit, &mut held))
            .await;
    let collected = collected.unwrap_or_else(|_| Err(too_slow(api.body_timeout)));
    must_still_be_let_in(&parts, api).await?;
    context.holds_body(held);
    let body = collected?;
    context.body_is_here().map_err(|full| too_many(api, full))?;
    Ok(body)
}

async fn collect(
    api: &Api,
    mut body: Body,
    announced: u64,
    limit: u64,
    held: &mut Held,
) -> Result<Bytes, Problem> {
    // No more than is there soon: what is announced need not come.
    let mut kept = BytesMut::with_capacity(usize::try_from(announced).unwrap_or(0).min(FIRST));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::invalid("the body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (kept.len() + data.len()) as u64 > limit {
            return Err(too_large(limit));
        }
        let grown = held.grow_to(kept.len() + data.len());
        grown.map_err(|exhausted| too_many_bytes(api, exhausted))?;
        kept.extend_from_slice(&data);
    }
    Ok(kept.freeze())
}

fn too_large(limit: u64) -> Problem {
    let detail = format!("the body is larger than {limit} bytes, which is the limit");
    Problem::new(Code::MessageTooLarge, detail)
}

/// Also for answers.
pub(super) fn too_many_bytes(api: &Api, exhausted: Exhausted) -> Problem {
    match exhausted {
        Exhausted::ForAll => {
            api.metrics.refused("max_bytes_in_hand");
            let detail = "the requests in hand hold as many bytes as this gateway has room for; try \
                          again in a moment";
            Problem::new(Code::Overloaded, detail)
        }
        Exhausted::ForCaller(most) => {
            api.metrics.refused("key_bytes_in_hand");
            let detail = format!(
                "the requests of this key hold {most} bytes, as many as may be; try again in a moment"
            );
            Problem::new(Code::Overloaded, detail)
        }
    }
}

fn too_slow(limit: Duration) -> Problem {
    let detail = format!("the body did not arrive within {} seconds", limit.as_secs());
    Problem::new(Code::RequestTimeout, detail)
}
