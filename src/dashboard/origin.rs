//! Whether what changes something is sent by a page of ours.

use axum::http::{HeaderName, Method, header, request::Parts, uri::Authority};

use crate::http::Rejection;

use super::failure::Failure;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what a browser does not say to be sent by a page of ours, unless it only looks. The cookie is not sent
/// for pages of other sites; this holds also for those of the same site, and where nobody needs a log-in.
pub(super) fn check_origin(parts: &Parts) -> Result<(), Failure> {
    if matches!(parts.method, Method::GET | Method::HEAD) || is_from_here(parts) {
        return Ok(());
    }
    Err(Rejection::ForeignOrigin(
        "This was not sent by a page of this dashboard, so nothing was done. A proxy in front must pass on `Host` \
         as the browser wrote it.",
    )
    .into())
}

fn is_from_here(parts: &Parts) -> bool {
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    let authority = parts.uri.authority().map(Authority::as_str);
    let host = authority.or_else(|| text(header::HOST));
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}
