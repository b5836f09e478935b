//! Answers to what never reaches the service: problems as every other one.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

/// What is wrong with a request that is not served.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u32>,
    /// The id of the request, of which none is known.
    id: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: String) -> Self {
        Self { status, code, title, detail, retry_after: None, id: Uuid::now_v7().to_string() }
    }

    /// There are as many connections as there may be.
    pub(super) fn too_many_connections() -> Self {
        let detail = "too many connections; limits.max_connections bounds them".to_owned();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(1), ..Self::new(status, "overloaded", "Overloaded", detail) }
    }

    /// The head of a request is more than is taken.
    pub(super) fn head_too_large(max_bytes: u32, max_headers: usize) -> Self {
        let detail = format!(
            "the head of the request, with its URL, is larger than {max_bytes} bytes \
             (limits.max_header_bytes) or has more than {max_headers} headers (limits.max_headers)"
        );
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "headers_too_large", "The head of the request is too large", detail)
    }

    /// The URL alone is.
    pub(super) fn url_too_long() -> Self {
        let detail = "the URL is longer than this gateway takes; what is large belongs into a body";
        Self::new(StatusCode::URI_TOO_LONG, "url_too_long", "URL too long", detail.to_owned())
    }

    /// The head of a request is none.
    pub(super) fn malformed(reason: &str) -> Self {
        let detail = format!("this is no HTTP request: {reason}{}", advice(reason));
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "Invalid request", detail)
    }

    /// Of a request that its client has given this id.
    pub(super) fn of(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    /// The status.
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The word for it.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The id that it is given.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn body(&self) -> String {
        json!({
            "type": format!("urn:pgmq-gateway:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": self.id,
            "code": self.code,
        })
        .to_string()
    }

    /// As the last words on a connection of HTTP/1.
    pub(super) fn last_words(&self) -> String {
        let body = self.body();
        let retry_after =
            self.retry_after.map_or_else(String::new, |wait| format!("retry-after: {wait}\r\n"));
        format!(
            "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\n{retry_after}\
             cache-control: no-store\r\nx-content-type-options: nosniff\r\n\
             x-request-id: {}\r\nconnection: close\r\ncontent-length: {}\r\ndate: {}\r\n\r\n{body}",
            self.status.as_str(),
            self.status.canonical_reason().unwrap_or_default(),
            self.id,
            body.len(),
            Utc::now().format("%a, %d %b %Y %H:%M:%S GMT"),
        )
    }

    /// As an answer on a connection that goes on.
    pub(super) fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert("x-request-id", id);
        }
        response
    }
}

/// What would be right, for the mistakes that people make.
fn advice(reason: &str) -> &'static str {
    if reason.contains("URI") || reason.contains("version") {
        "; in a URL, spaces, quotation marks and the like are percent-encoded (`\"` is %22): with curl, \
         -G --data-urlencode 'filter={\"a\":1}' does that"
    } else if reason.contains("method") {
        "; it has to begin with a method, such as GET: is this TLS, or another protocol?"
    } else {
        ""
    }
}
