//! Requests that a browser makes for a page of another site, and names that are not ours.

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{
    problem::{Code, Problem},
    receive,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Seconds for which a browser remembers what it was told.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

/// Which names and which pages are answered to.
#[derive(Clone, Debug, Default)]
pub struct EdgeRules {
    /// Names that `Host` may have; any where nothing is said. In lower case, without a port.
    pub hosts: Option<Vec<String>>,
    /// Origins whose pages may use the gateway; `*` is any.
    pub origins: Vec<String>,
}

impl EdgeRules {
    /// The names under which a browser on this machine reaches it, and no other page can.
    pub fn loopback_hosts() -> Vec<String> {
        ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).to_vec()
    }

    /// Refuses what must not be done for whoever asks in this way.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        self.check_host(request)?;
        self.refuse_foreign_form(request)
    }

    /// A page of another site can have its own name lead to this machine; the name gives it away.
    fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else { return Ok(()) };
        let in_header = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let Some(given) = authority.or(in_header) else { return Ok(()) };
        let name = String::from_utf8_lossy(given).to_ascii_lowercase();
        let name = without_port(&name);
        if hosts.iter().any(|host| host == "*" || host == name) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Forbidden,
            "the gateway does not answer to this name; http.allowed_hosts lists those to which it does",
        ))
    }

    /// A browser sends a plain form anywhere without asking. Where one marks a request as another
    /// site's, only a content type that it does ask about first is taken.
    fn refuse_foreign_form(&self, request: &Request) -> Result<(), Problem> {
        // What another site's page shows as a picture must not lease messages.
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        match *request.method() {
            Method::OPTIONS => return Ok(()),
            Method::GET | Method::HEAD if path != Some(receive::PATH) => return Ok(()),
            _ => {}
        }
        let headers = request.headers();
        if !is_foreign(headers) || says_json(headers) || self.is_welcome(headers) {
            return Ok(());
        }
        Err(Problem::new(
            Code::UnsupportedMediaType,
            "a request from another site must have `Content-Type: application/json`",
        ))
    }

    fn is_welcome(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        // Where any page may use it, each has to ask first, which a browser does for JSON.
        origin.is_some_and(|origin| self.origins.iter().any(|o| o == origin))
    }

    /// What tells browsers which pages may use the gateway; nothing where none may.
    pub(super) fn cors(&self) -> Option<CorsLayer> {
        if self.origins.is_empty() {
            return None;
        }
        let origins = self.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let allowed = if self.origins.iter().any(|origin| origin == "*") {
            AllowOrigin::from(Any)
        } else {
            AllowOrigin::list(origins)
        };
        let header = HeaderName::from_static;
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                header("idempotency-key"),
                header("x-request-id"),
            ])
            .expose_headers([
                header::LOCATION,
                header::RETRY_AFTER,
                header("idempotency-replayed"),
                header("x-request-id"),
            ])
            .max_age(MAX_AGE);
        Some(cors)
    }
}

/// The host of `host:port`; that of IPv6 keeps its brackets.
fn without_port(authority: &str) -> &str {
    let end = authority.rfind(':').filter(|at| {
        let port = &authority[at + 1..];
        !authority.ends_with(']') && port.bytes().all(|b| b.is_ascii_digit())
    });
    &authority[..end.unwrap_or(authority.len())]
}

fn is_foreign(headers: &HeaderMap) -> bool {
    // A browser says no more than this where the connection is not to be trusted.
    let accepts = headers.get(header::ACCEPT).map(HeaderValue::as_bytes).unwrap_or_default();
    if accepts.starts_with(b"image/") {
        return true;
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

fn says_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("valid"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn foreign_is_what_a_browser_calls_so() {
        for (given, foreign) in [
            (&[][..], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "same-origin"), ("origin", "http://evil")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://evil.example"), ("host", "localhost:8080")], true),
            (&[("origin", "http://localhost:8080"), ("host", "localhost:8080")], false),
            (&[("origin", "null"), ("host", "localhost:8080")], true),
            (&[("accept", "image/avif,*/*")], true),
            (&[("accept", "*/*")], false),
        ] {
            assert_eq!(is_foreign(&headers(given)), foreign, "{given:?}");
        }
    }

    #[test]
    fn only_known_names_are_answered_to() {
        let rules = EdgeRules { hosts: Some(EdgeRules::loopback_hosts()), origins: Vec::new() };
        for (host, known) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("127.0.0.1:1", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:8080", false),
            ("localhost:80@evil", false),
            ("", false),
        ] {
            let request = Request::get("/").header(header::HOST, host).body(Body::empty());
            let checked = rules.check_host(&request.expect("a request"));
            assert_eq!(checked.is_ok(), known, "{host:?}");
        }
        let nameless = Request::get("/").body(Body::empty()).expect("a request");
        assert!(rules.check_host(&nameless).is_ok());
    }

    proptest! {
        #[test]
        fn any_host_is_read_without_panic(host in "\\[?[a-z0-9:.\\]é-]{0,30}") {
            let name = without_port(&host);
            prop_assert!(host.starts_with(name));
        }
    }
}
