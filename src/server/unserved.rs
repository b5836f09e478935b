//! Requests that the service never sees: what they are told, and that they are counted and logged.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::StatusCode, response::Response};
use tracing::info;

use crate::telemetry::{Metrics, Request, has_line, is_request_id};

use super::{connection_options::HeadLimits, problem::Problem};

/// Answers them.
#[derive(Clone, Debug)]
pub(super) struct Unserved {
    limits: HeadLimits,
    /// Where they are counted.
    metrics: Option<Arc<Metrics>>,
}

impl Unserved {
    pub(super) fn new(limits: HeadLimits, metrics: Option<Arc<Metrics>>) -> Self {
        Self { limits, metrics }
    }

    /// What is said to a request of HTTP/1 that could not be read, and was to be refused with a status.
    /// `left` is what of it was not yet understood.
    pub(super) fn last_words(
        &self,
        status: StatusCode,
        error: &hyper::Error,
        left: &[u8],
    ) -> String {
        let problem = match status {
            // hyper says the same of a body that is announced with more bytes than it can count.
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if self.limits.is_kept_by(left) => {
                Problem::malformed("`Content-Length` is more than any body has")
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => self.limits.exceeded(),
            StatusCode::URI_TOO_LONG => Problem::url_too_long(),
            _ => Problem::malformed(&error.to_string()),
        };
        self.record(&problem);
        problem.last_words()
    }

    /// What is said to a request of HTTP/2 whose head is too large; nothing if it is not. That of HTTP/1
    /// is held to it where it is read.
    pub(super) fn refuse_head<B>(
        &self,
        request: &hyper::Request<B>,
        is_crowded: impl FnOnce() -> bool,
    ) -> Option<Response> {
        let problem = self.limits.is_exceeded(request).then(|| self.limits.exceeded())?;
        let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let id = id.filter(|id| is_request_id(id.as_bytes()));
        let problem = match id {
            Some(id) => problem.of(id),
            None => problem,
        };
        self.record(&problem);
        let response = problem.response();
        // Nothing counts it: of many that wait on a connection, the heads say enough, and wait for no client.
        Some(if is_crowded() { response.map(|_| Body::empty()) } else { response })
    }

    fn record(&self, problem: &Problem) {
        let (status, code, request_id) = (problem.status(), problem.code(), problem.id());
        let (method, route, none) = ("OTHER", "unmatched", Duration::ZERO);
        if has_line(status) {
            info!(method, route, status, code, request_id, "request");
        }
        if let Some(metrics) = &self.metrics {
            metrics.request(&Request { method, route, status, worked: none, waited: none });
        }
    }
}
