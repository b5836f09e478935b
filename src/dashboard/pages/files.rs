//! Scripts, styles and pictures.

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::super::{
    assets::{self, takes_gzip},
    failure::Failure,
};

/// A year, which is as long as anybody keeps anything.
const KEPT: &str = "public, max-age=31536000, immutable";

/// A file. Of another version than ours, which another gateway may have written into a page, it is not kept.
pub(in super::super) async fn serve(
    Path((version, file)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let found = assets::find(&file);
    let asset = found.ok_or_else(|| Failure::not_found("There is no such file."))?;
    let is_ours = version == assets::version();
    let kept = if is_ours { KEPT } else { "no-cache" };
    let mut response = if has(&headers, &asset.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(&headers) {
        ([(header::CONTENT_ENCODING, "gzip")], asset.gzipped.clone()).into_response()
    } else {
        asset.plain.clone().into_response()
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    out.insert(header::ETAG, asset.etag.clone());
    out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
}

/// Whether a browser has it already.
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).map(HeaderValue::as_bytes).unwrap_or_default();
    let (known, etag) = (String::from_utf8_lossy(known), String::from_utf8_lossy(etag.as_bytes()));
    known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag)
}
