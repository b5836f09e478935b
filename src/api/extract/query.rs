//! What stands behind the `?`.

use std::{fmt::Display, str::FromStr};

use axum::{extract::FromRequestParts, http::request::Parts};
use serde::{Deserialize, Deserializer, de};
use url::form_urlencoded;

use crate::http::check_query;

use super::super::problem::Problem;

/// The query's parameters; one that is unknown or given twice is refused.
pub(in crate::api) struct Query<T>(pub(in crate::api) T);

impl<S: Send + Sync, T: de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn read<T: de::DeserializeOwned>(query: &str) -> Result<T, Problem> {
    check_query(query)?;
    let pairs = form_urlencoded::parse(query.as_bytes());
    let deserializer = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        Problem::invalid(match reason.strip_prefix("unknown field") {
            Some(rest) => format!("unknown query parameter{rest}"),
            None if path == "." => format!("query: {reason}"),
            None => format!("`{path}` {reason}"),
        })
    })
}

/// For routes that take no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct NoParameters {}

/// Reads a parameter by way of its own parser, whose error says what is allowed.
pub(in crate::api) fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|error| match text.replace(' ', "+").parse::<T>() {
        // It had one, and lost it on its way.
        Ok(_) if text.contains(' ') => de::Error::custom(format!(
            "{error}: a `+` in the query of a URL stands for a space; write it as %2B, or a time in UTC \
             with a Z"
        )),
        _ => de::Error::custom(error),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Bounded, Filter, Timestamp};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parameters {
        #[serde(default, deserialize_with = "parsed")]
        limit: Option<Bounded<1, 100>>,
        #[serde(default, deserialize_with = "parsed")]
        since: Option<Timestamp>,
        #[serde(default, deserialize_with = "parsed")]
        filter: Option<Filter>,
        name: Option<String>,
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused_in_one_line(query in "\\PC{0,60}|((limit|since|filter|name|x)=[^&]{0,20}&?){0,4}") {
            if let Err(problem) = read::<Parameters>(&query) {
                prop_assert!(!problem.detail.is_empty(), "{}", query);
            }
        }

        #[test]
        fn text_comes_through_as_it_was(name in any::<String>(), limit in 1i64..=100) {
            let filter = serde_json::json!({ name.replace('\0', ""): [limit] }).to_string();
            let time = "2026-01-01T00:00:00.5+01:00";
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("name", &name)
                .append_pair("limit", &limit.to_string())
                .append_pair("filter", &filter)
                .append_pair("since", time)
                .finish();
            let read = read::<Parameters>(&query).expect("valid");
            prop_assert_eq!(read.name, Some(name));
            prop_assert_eq!(read.limit.map(Bounded::get), Some(limit));
            prop_assert_eq!(read.since.map(|time| time.0.timestamp_millis()), Some(1_767_222_000_500));
            let read = read.filter.expect("given");
            prop_assert_eq!(read.json().get(), &filter);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (query, named) in [
            ("limt=1", "unknown query parameter `limt`"),
            ("limit=0", "`limit` must be a whole number from 1 to 100"),
            ("limit=1&limit=2", "duplicate field `limit`"),
            ("since=yesterday", "`since` must be a time such as `2026"),
            ("since=2026-01-01T00:00:00+01:00", "write it as %2B"),
            ("filter=[1]", "`filter` must be a JSON object"),
            ("name=caf%E9", "no UTF-8"),
        ] {
            let problem = read::<Parameters>(query).err().expect("refused");
            assert!(problem.detail.contains(named), "{query}: {}", problem.detail);
        }
    }
}
