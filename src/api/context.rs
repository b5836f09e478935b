//! What is known of a request while it is worked on.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::domain::CallStats;

/// One request, from its headers to its log line.
#[derive(Debug, Default)]
pub(super) struct RequestContext {
    /// What it cost.
    pub(super) stats: Arc<CallStats>,
    /// The queue it is about, once the path was read.
    pub(super) queue: OnceLock<String>,
}

/// The account that a handler's work goes on.
pub(super) struct Stats(pub(super) Arc<CallStats>);

/// The context that the edge put there.
pub(super) fn context(parts: &Parts) -> Arc<RequestContext> {
    parts.extensions.get::<Arc<RequestContext>>().cloned().unwrap_or_default()
}

impl<S: Send + Sync> FromRequestParts<S> for Stats {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Arc::clone(&context(parts).stats)))
    }
}
