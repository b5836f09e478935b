//! What stands in the body: JSON, whatever its content type says.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http_body::Body as _;
use serde::de::DeserializeOwned;

use crate::{
    domain::JsonObject,
    http::{Rejection, read, read_up_to, shorten},
};

use super::{
    super::{problem::Problem, state::Api},
    not_json::not_json,
};

/// More bytes than nothing is written in.
const NOTHING: u64 = 1 << 10;

/// A JSON body.
pub(in crate::api) struct Json<T>(pub(in crate::api) T);

/// A JSON body that may be missing, or null.
pub(in crate::api) struct OptionalJson<T>(pub(in crate::api) T);

/// No body, or one without content.
pub(in crate::api) struct NoBody;

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
        let bytes = read.map_err(|rejection| match rejection {
            Rejection::BodyTooLarge(_) => unwanted(),
            rejection => rejection.into(),
        })?;
        // `{}` is what some clients send for nothing.
        match bytes.trim_ascii() {
            b"" | b"{}" => Ok(Self),
            _ => Err(unwanted()),
        }
    }
}

/// Reads JSON, or says what is wrong with it and where.
pub(in crate::api) async fn parse<T: DeserializeOwned + Send + 'static>(
    api: &Api,
    bytes: Bytes,
) -> Result<T, Problem> {
    api.cpu_pool.run(bytes.len() as u64, move || parse_here(&bytes)).await?
}

fn parse_here<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii().is_empty() {
        return Err(Problem::invalid("the body is empty; a JSON object is needed"));
    }
    let read = serde_json::from_slice::<JsonObject<T>>(bytes);
    read.map(|body| body.0).map_err(|error| match not_json(bytes) {
        Some(problem) => problem,
        None => explain::<JsonObject<T>>(bytes, &error),
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
