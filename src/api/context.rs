//! What is known of a request while it is worked on.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::http::request::Parts;

use crate::{auth::Principal, domain::CallStats};

use super::hold::{Counted, Held};

/// One request, from its headers to its log line.
#[derive(Debug, Default)]
pub(super) struct RequestContext {
    /// What it cost.
    pub(super) stats: Arc<CallStats>,
    /// The queue it is about, once the path was read.
    pub(super) queue: OnceLock<String>,
    /// Whose it is, where that is asked.
    pub(super) caller: OnceLock<Arc<Principal>>,
    /// Its place among those in hand, until it is answered.
    counted: Mutex<Option<Counted>>,
}

impl RequestContext {
    /// One that counts among those in hand.
    pub(super) fn counted(counted: Option<Counted>) -> Self {
        Self { counted: Mutex::new(counted), ..Self::default() }
    }

    /// It does not count among those in hand any more: it waits.
    pub(super) fn waits(&self) {
        self.let_go();
    }

    /// It has a body of some size. What is made of it may be in a lane when the client has gone, so
    /// it counts until nobody works for the request any more.
    pub(super) fn holds_body(&self, body: Held) {
        self.stats.hold(body);
    }

    /// It is answered.
    pub(super) fn let_go(&self) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The context that the edge put there.
pub(super) fn context(parts: &Parts) -> Arc<RequestContext> {
    parts.extensions.get::<Arc<RequestContext>>().cloned().unwrap_or_default()
}
