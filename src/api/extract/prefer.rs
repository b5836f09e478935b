//! The `Prefer` header of RFC 7240: what a client wants to have answered.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header::HeaderMap, request::Parts},
    response::{IntoResponse, Response},
};
use utoipa::IntoParams;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const MINIMAL: HeaderValue = HeaderValue::from_static("return=minimal");

/// What to answer once something is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Return {
    /// What it is now.
    Representation,
    /// That it is done.
    Minimal,
}

impl<S: Sync> FromRequestParts<S> for Return {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

impl Return {
    /// The first that is said counts. What else stands there is for others, and is no error.
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        let wishes = values.flat_map(|value| value.split(','));
        for wish in wishes {
            let wish = wish.split(';').next().unwrap_or_default();
            let Some((name, value)) = wish.split_once('=') else { continue };
            if name.trim().eq_ignore_ascii_case("return") {
                let value = value.trim().trim_matches('"');
                let minimal = value.eq_ignore_ascii_case("minimal");
                return if minimal { Self::Minimal } else { Self::Representation };
            }
        }
        Self::Representation
    }
}

/// That it is done, as it was preferred.
pub(in crate::api) fn minimal() -> Response {
    (StatusCode::NO_CONTENT, [(PREFERENCE_APPLIED, MINIMAL)]).into_response()
}

/// What a client prefers to have answered.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes a header")]
pub(in crate::api) struct PreferHeader {
    /// `return=minimal` has it answered with 204, and without the message.
    #[param(rename = "Prefer", example = "return=minimal")]
    prefer: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimal_is_what_is_said_first_of_what_to_return() {
        for (value, expected) in [
            ("return=minimal", Return::Minimal),
            ("Return = \"minimal\"", Return::Minimal),
            ("wait=10, return=minimal; foo", Return::Minimal),
            ("return=representation, return=minimal", Return::Representation),
            ("handling=lenient", Return::Representation),
            ("minimal", Return::Representation),
            ("", Return::Representation),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, HeaderValue::from_static(value));
            assert_eq!(Return::of(&headers), expected, "{value}");
        }
    }
}
