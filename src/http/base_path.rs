//! Under which path a proxy serves the gateway, for what is answered with a path of its own.

use std::{convert::Infallible, ops::Deref};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, request::Parts},
};

use super::access::GatedBroker;

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The most bytes of it.
const MAX_BYTES: usize = 256;

/// The path without a slash at its end; empty at the root. A proxy says it, or the settings do. Nobody
/// else is told what a client makes up.
pub(crate) struct BasePath(pub(crate) String);

impl<S: Deref<Target = GatedBroker> + Send + Sync> FromRequestParts<S> for BasePath {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(forwarded(&parts.headers).unwrap_or_else(|| state.path_prefix.clone())))
    }
}

/// What proxies say, the outermost first; nothing if it is no path.
fn forwarded(headers: &HeaderMap) -> Option<String> {
    if !headers.contains_key(FORWARDED_PREFIX) {
        return None;
    }
    let mut path = String::new();
    for value in headers.get_all(FORWARDED_PREFIX) {
        for part in value.to_str().ok()?.split(',') {
            path.push_str(part.trim().trim_end_matches('/'));
        }
    }
    // With two slashes at its beginning it would be another host's.
    let is_path = path.is_empty() || (path.starts_with('/') && !path.contains("//"));
    let fits =
        path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%+@:".contains(&byte));
    (is_path && fits && path.len() <= MAX_BYTES).then_some(path)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_prefix_is_a_path_and_nothing_else() {
        for (given, read) in [
            (&[][..], None),
            (&["/queue-api"], Some("/queue-api")),
            (&["/queue-api/"], Some("/queue-api")),
            (&["/"], Some("")),
            (&[""], Some("")),
            (&["/a, /b"], Some("/a/b")),
            (&["/a", "/b/"], Some("/a/b")),
            (&["queue-api"], None),
            (&["//evil.example"], None),
            (&["/a//b"], None),
            (&["/\\evil.example"], None),
            (&["/a?b"], None),
            (&["https://evil.example/"], None),
        ] {
            let pair = |value: &&str| {
                let value = HeaderValue::from_str(value).expect("a value");
                (FORWARDED_PREFIX, value)
            };
            let headers: HeaderMap = given.iter().map(pair).collect();
            assert_eq!(forwarded(&headers).as_deref(), read, "{given:?}");
        }
        let long = HeaderValue::from_str(&format!("/{}", "a".repeat(MAX_BYTES))).expect("a value");
        assert_eq!(forwarded(&HeaderMap::from_iter([(FORWARDED_PREFIX, long)])), None);
    }
}
