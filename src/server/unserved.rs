//! Requests that the service never sees: what they are told, and that they are counted and logged.

use std::{sync::Arc, time::Duration};

use axum::{http::StatusCode, response::Response};
use tracing::info;

use crate::telemetry::{Metrics, Request, has_line};

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
    pub(super) fn last_words(&self, status: StatusCode, error: &hyper::Error) -> String {
        let problem = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => self.limits.exceeded(),
            StatusCode::URI_TOO_LONG => Problem::url_too_long(),
            _ => Problem::malformed(&error.to_string()),
        };
        self.record(&problem);
        problem.last_words()
    }

    /// What is said to a request of HTTP/2 whose head is too large; nothing if it is not. That of HTTP/1
    /// is held to it where it is read.
    pub(super) fn refuse_head<B>(&self, request: &hyper::Request<B>) -> Option<Response> {
        let problem = self.limits.is_exceeded(request).then(|| self.limits.exceeded())?;
        self.record(&problem);
        Some(problem.response())
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
