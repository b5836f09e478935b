//! What stands behind the `?`.

use std::{fmt::Display, str::FromStr};

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use url::form_urlencoded;

use crate::domain::{RawJson, check_storable};

use super::problem::Problem;

/// The query's parameters; one that is unknown or given twice is refused.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = form_urlencoded::parse(query.as_bytes());
        let deserializer = serde_urlencoded::Deserializer::new(pairs);
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner().to_string();
            Problem::invalid(match reason.strip_prefix("unknown field") {
                Some(rest) => format!("unknown query parameter{rest}"),
                None if path == "." => format!("query: {reason}"),
                None => format!("`{path}` {reason}"),
            })
        })
    }
}

/// For routes that take no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}

/// Reads a parameter by way of its own parser, whose error says what is allowed.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

/// A JSON object that a message must contain.
#[derive(Debug)]
pub(super) struct Filter(pub(super) RawJson);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let json: RawJson =
            serde_json::from_str(text).map_err(|e| format!("must be a JSON object: {e}"))?;
        if !json.get().starts_with('{') {
            return Err("must be a JSON object, such as {\"type\":\"invoice\"}".to_owned());
        }
        check(&json).map(|()| Self(json))
    }
}

fn check(json: &RawValue) -> Result<(), String> {
    // What no message can contain cannot be looked for.
    check_storable(json.get(), 1 << 20).map_err(|reason| reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_json_object() {
        assert_eq!(Filter::from_str(r#"{"a":1}"#).expect("object").0.get(), r#"{"a":1}"#);
        for wrong in ["", "[1]", "1", "{\"a\":}", "{\"a\":\"\\u0000\"}", "{\"a\":1e200000}"] {
            assert!(Filter::from_str(wrong).is_err(), "{wrong}");
        }
    }
}
