//! What stands around every response: where the dashboard is, what a page may load, and compression.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use flate2::Compression;
use http_body::Body as _;

use crate::http::{BasePath, in_its_place};

use super::{
    assets::{gzipped, takes_gzip},
    place,
};

/// What a page may load, and from where: nothing from elsewhere, nothing that stands in it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
/// Bytes of a page that is worth compressing, and of one that would take too long.
const WORTH: std::ops::RangeInclusive<u64> = 1_024..=(1 << 20);

/// The outermost layer.
pub(super) async fn around(BasePath(base): BasePath, request: Request, next: Next) -> Response {
    let takes_gzip = takes_gzip(request.headers());
    let mut response = place::below(Arc::from(base), next.run(request)).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // By which a browser says over plain HTTP, too, that a form is sent from here.
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let unkept = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(unkept);
    if is_page(headers) { compressed(response, takes_gzip).await } else { response }
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_plain = !headers.contains_key(header::CONTENT_ENCODING);
    is_plain && kind.is_some_and(|kind| kind.starts_with("text/html"))
}

async fn compressed(response: Response, takes_gzip: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let size = body.size_hint().exact().filter(|size| WORTH.contains(size));
    let Some(size) = size.filter(|_| takes_gzip) else {
        return Response::from_parts(parts, body);
    };
    // It is in memory, as a whole: its size is known.
    let bytes = to_bytes(body, usize::try_from(size).unwrap_or(0)).await.unwrap_or_default();
    parts.headers.remove(header::CONTENT_LENGTH);
    let gzip = HeaderValue::from_static("gzip");
    parts.headers.insert(header::CONTENT_ENCODING, gzip);
    let body = in_its_place(&parts, Body::from(gzipped(&bytes, Compression::new(5))));
    Response::from_parts(parts, body)
}
