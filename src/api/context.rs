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
    holds: Mutex<Holds>,
}

/// What it holds until it is answered.
#[derive(Debug, Default)]
struct Holds {
    counted: Option<Counted>,
    body: Option<Held>,
}

impl RequestContext {
    /// One that counts among those in hand.
    pub(super) fn counted(counted: Option<Counted>) -> Self {
        let holds = Mutex::new(Holds { counted, body: None });
        Self { holds, ..Self::default() }
    }

    /// It does not count among those in hand any more: it waits.
    pub(super) fn waits(&self) {
        self.holds().counted = None;
    }

    /// It has a body of some size.
    pub(super) fn holds_body(&self, body: Held) {
        self.holds().body = Some(body);
    }

    /// It is answered.
    pub(super) fn let_go(&self) {
        *self.holds() = Holds::default();
    }

    fn holds(&self) -> std::sync::MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The context that the edge put there.
pub(super) fn context(parts: &Parts) -> Arc<RequestContext> {
    parts.extensions.get::<Arc<RequestContext>>().cloned().unwrap_or_default()
}
