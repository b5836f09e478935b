//! Requests that a browser makes for a page of another site, and names that are not ours.

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{
    front_end::FrontEnd,
    host::{self, Hosts},
    rejection::Rejection,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Seconds for which a browser remembers what it was told.
const MAX_AGE: std::time::Duration = std::time::Duration::from_secs(600);

/// Which names and which pages are answered to.
#[derive(Clone, Debug, Default)]
pub struct OriginPolicy {
    /// Names that `Host` may have.
    pub hosts: Hosts,
    /// Origins whose pages may use the gateway; `*` is any.
    pub origins: Vec<String>,
}

impl OriginPolicy {
    /// Refuses what must not be done for whoever asks in this way.
    pub(super) fn check(&self, request: &Request, front_end: &FrontEnd) -> Result<(), Rejection> {
        self.hosts.check(request)?;
        self.refuse_foreign_form(request, front_end)
    }

    /// A browser sends a plain form anywhere without asking. Where one marks a request as another
    /// site's, only a content type that it does ask about first is taken.
    fn refuse_foreign_form(
        &self,
        request: &Request,
        front_end: &FrontEnd,
    ) -> Result<(), Rejection> {
        // What another site's page shows as a picture must not lease messages.
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let is_guarded = path.is_some_and(|path| front_end.guarded_reads.contains(&path));
        match *request.method() {
            Method::OPTIONS => return Ok(()),
            Method::GET | Method::HEAD if !is_guarded => return Ok(()),
            _ => {}
        }
        let headers = request.headers();
        if is_of_media_type(headers, front_end.media_types)
            || !may_be_of_a_browser(headers)
            || self.is_welcome(headers)
        {
            return Ok(());
        }
        let host = host::given(request).unwrap_or_default();
        let detail = if is_foreign(headers, host) {
            front_end.foreign_form
        } else if *request.method() == Method::GET && may_be_foreign(headers, host) {
            "a browser's request for messages must come from a page of this host, which `Origin` or \
             `Referer` says, or show a key by `Authorization: Bearer`"
        } else {
            return Ok(());
        };
        Err(Rejection::ForeignOrigin(detail))
    }

    fn is_welcome(&self, headers: &HeaderMap) -> bool {
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        // Where any page may use it, each has to ask first, which a browser does for JSON.
        origin.is_some_and(|origin| self.origins.iter().any(|o| o == origin))
    }

    /// What tells browsers which pages may use the gateway; nothing where none may.
    pub(super) fn cors(&self, front_end: &FrontEnd) -> Option<CorsLayer> {
        if self.origins.is_empty() {
            return None;
        }
        let origins = self.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let allowed = if self.origins.iter().any(|origin| origin == "*") {
            AllowOrigin::from(Any)
        } else {
            AllowOrigin::list(origins)
        };
        let names = |names: &'static [&'static str]| {
            names.iter().copied().map(HeaderName::from_static).collect::<Vec<_>>()
        };
        let cors = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
            .allow_headers(names(front_end.request_headers))
            .expose_headers(names(front_end.response_headers))
            .max_age(MAX_AGE);
        Some(cors)
    }
}

/// Whether a request has anything of what makes it foreign, or maybe so. To pass over its headers once costs a
/// fraction of looking for each of these, and most requests have none.
fn may_be_of_a_browser(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| {
        (name == header::USER_AGENT && value.as_bytes().starts_with(b"Mozilla/"))
            || (name == header::ACCEPT && value.as_bytes().starts_with(b"image/"))
            || name == header::ORIGIN
            || name.as_str() == SEC_FETCH_SITE.as_str()
            || name == header::UPGRADE_INSECURE_REQUESTS
    })
}

/// Whether a browser says that a request is made for another site's page.
fn is_foreign(headers: &HeaderMap, host: &[u8]) -> bool {
    // A browser says no more than this where the connection is not to be trusted.
    let accepts = headers.get(header::ACCEPT).map(HeaderValue::as_bytes).unwrap_or_default();
    if accepts.starts_with(b"image/") {
        return true;
    }
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    headers.get(header::ORIGIN).is_some_and(|origin| !is_of(origin, host))
}

/// Whether a request may be one that a browser makes for any page, about which it says nothing: over plain
/// HTTP, unless from this machine, it does not say for whom it gets something. A page can have it get
/// something without asking first, but not show a key that it does not have, nor call itself otherwise.
fn may_be_foreign(headers: &HeaderMap, host: &[u8]) -> bool {
    let text = |name| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_browser = text(header::USER_AGENT).starts_with(b"Mozilla/")
        || headers.contains_key(header::UPGRADE_INSECURE_REQUESTS);
    // It calls itself like one.
    let is_shell = text(header::USER_AGENT).windows(10).any(|part| part == b"PowerShell");
    let has_key = text(header::AUTHORIZATION)
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "));
    let is_ours = headers.contains_key(SEC_FETCH_SITE)
        || [header::ORIGIN, header::REFERER]
            .iter()
            .any(|name| headers.get(name).is_some_and(|page| is_of(page, host)));
    is_browser && !is_shell && !has_key && !is_ours
}

/// Whether an origin or a page is of a host and port.
fn is_of(page: &HeaderValue, host: &[u8]) -> bool {
    let rest = page.to_str().ok().and_then(|page| page.split_once("://"));
    let of = rest.and_then(|(_, rest)| rest.split(['/', '?', '#']).next());
    of.is_some_and(|of| !of.is_empty() && of.as_bytes().eq_ignore_ascii_case(host))
}

fn is_of_media_type(headers: &HeaderMap, types: &[&str]) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| types.iter().any(|t| kind.trim().eq_ignore_ascii_case(t)))
}

#[cfg(test)]
mod tests {
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
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "http://localhost:8080")], false),
            (&[("origin", "null")], true),
            (&[("accept", "image/avif,*/*")], true),
            (&[("accept", "*/*")], false),
        ] {
            assert_eq!(is_foreign(&headers(given), b"localhost:8080"), foreign, "{given:?}");
            assert!(!foreign || may_be_of_a_browser(&headers(given)), "{given:?}");
        }
    }

    #[test]
    fn a_browser_that_says_nothing_may_ask_for_any_page() {
        let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0");
        let shell = ("user-agent", "Mozilla/5.0 (Windows NT 10.0) WindowsPowerShell/5.1");
        for (given, foreign) in [
            (&[][..], false),
            (&[("user-agent", "curl/8.0")], false),
            (&[shell], false),
            (&[browser], true),
            (&[("upgrade-insecure-requests", "1")], true),
            (&[browser, ("sec-fetch-site", "none")], false),
            (&[browser, ("referer", "http://queue.example:8080/docs/")], false),
            (&[browser, ("referer", "http://queue.example:8080")], false),
            (&[browser, ("referer", "http://queue.example:8080.evil.example/")], true),
            (&[browser, ("referer", "http://evil.example/?http://queue.example:8080/")], true),
            (&[browser, ("referer", "http://queue.example/")], true),
            (&[browser, ("referer", "")], true),
            (&[browser, ("origin", "http://Queue.example:8080")], false),
            (&[browser, ("authorization", "Bearer key")], false),
            (&[browser, ("authorization", "bearer key")], false),
            // It is one that a browser adds by itself.
            (&[browser, ("authorization", "Basic a2V5")], true),
        ] {
            let found = may_be_foreign(&headers(given), b"queue.example:8080");
            assert_eq!(found, foreign, "{given:?}");
            assert!(!foreign || may_be_of_a_browser(&headers(given)), "{given:?}");
        }
    }
}
