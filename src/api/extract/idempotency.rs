//! Requests that are done once, however often they are sent.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::{
    broker::IdempotencyKey,
    http::{RequestContext, read},
};

use super::{
    super::{problem::Problem, state::Api},
    body::parse,
};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";
/// The most characters of a key.
const MAX_KEY: usize = 255;

/// The most bytes of a path that are part of what a key is for as they are.
const MAX_PATH: usize = 1_000;

/// A JSON body, and the key under which its request is done once, if it has one.
pub(in crate::api) struct OnceJson<T>(
    pub(in crate::api) T,
    pub(in crate::api) Option<IdempotencyKey>,
);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Api> for OnceJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let key = key(request.headers())?;
        let scoped = key.map(|key| (scope(&request), key));
        let bytes = read(request, api).await?;
        let value = parse(api, bytes.clone()).await?;
        let Some((scope, key)) = scoped else { return Ok(Self(value, None)) };
        let length = bytes.len() as u64;
        let fingerprint = api.cpu_pool.run(length, move || Sha256::digest(&bytes).into()).await?;
        Ok(Self(value, Some(IdempotencyKey { scope, key, fingerprint })))
    }
}

/// What a key is for: it is of no concern to requests of other paths, however those are written, nor to
/// other callers. What stands for the caller comes last and has no space in it, so no two scopes read
/// the same.
fn scope(request: &Request) -> String {
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy();
    let context = request.extensions().get::<Arc<RequestContext>>();
    let caller = context.map_or_else(RequestContext::nobody, |context| context.fingerprint());
    let path = if path.len() > MAX_PATH {
        // Beyond what any path has that is of use, and what an index takes.
        Cow::from(format!("{:x}", Sha256::digest(path.as_bytes())))
    } else {
        path
    };
    format!("{} {path} {caller}", request.method())
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(value) = keys.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if keys.next().is_some() || !(1..=MAX_KEY).contains(&key.len()) || !printable {
        return Err(Problem::invalid(format!(
            "`Idempotency-Key` must be one header of 1 to {MAX_KEY} visible ASCII characters"
        )));
    }
    Ok(Some(key.to_owned()))
}

/// Marks an answer that was given before.
pub(in crate::api) fn mark(replayed: bool, mut response: Response) -> Response {
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_is_printable_and_of_some_length(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static(KEY), value)]);
            let printable = bytes.iter().all(|b| (0x20..0x7f).contains(b));
            let fits = printable && !bytes.is_empty() && bytes.len() <= 255;
            prop_assert_eq!(key(&headers).is_ok(), fits);
        }

        #[test]
        fn a_key_is_taken_as_it_is(text in "[ -~]{1,255}") {
            let value = HeaderValue::from_str(&text).expect("printable");
            let headers = HeaderMap::from_iter([(axum::http::HeaderName::from_static(KEY), value)]);
            prop_assert_eq!(key(&headers).ok().flatten(), Some(text));
        }
    }

    #[test]
    fn two_keys_are_refused() {
        let mut headers = HeaderMap::new();
        assert!(key(&headers).is_ok_and(|key| key.is_none()));
        headers.append(KEY, HeaderValue::from_static("a"));
        headers.append(KEY, HeaderValue::from_static("a"));
        assert!(key(&headers).is_err());
    }
}
