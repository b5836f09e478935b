//! Where the dashboard is, as whoever made the request sees it.

use std::sync::Arc;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use percent_encoding::utf8_percent_encode;

use crate::http::UNRESERVED;

tokio::task_local! {
    static BASE: Arc<str>;
}

/// Does the work of a request that was made below this path, which a proxy takes off.
pub(super) async fn below<T>(base: Arc<str>, work: impl Future<Output = T>) -> T {
    BASE.scope(base, work).await
}

/// The path of the dashboard, without a slash at its end.
pub(super) fn root() -> String {
    format!("{}/ui", base())
}

/// The path of the gateway's API: empty at the root.
pub(super) fn base() -> String {
    BASE.try_with(ToString::to_string).unwrap_or_default()
}

/// A name as it stands in a path or behind a `?`.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, UNRESERVED).to_string()
}

/// The page of a queue.
pub(super) fn queue(name: &str) -> String {
    format!("{}/queues/{}", root(), encoded(name))
}

/// Leads to a path, which is whole: with what a proxy takes off.
pub(super) fn lead_to(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, in_header(path))]).into_response()
}

/// A path as it stands in a header; the first page's where it cannot.
pub(super) fn in_header(path: &str) -> HeaderValue {
    let value = HeaderValue::from_str(path).or_else(|_| HeaderValue::from_str(&root()));
    value.unwrap_or(HeaderValue::from_static("/ui"))
}
