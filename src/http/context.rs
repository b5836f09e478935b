//! What is known of a request while it is worked on.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::{
    body::Body,
    http::{HeaderValue, request::Parts},
};

use crate::{
    auth::{Credential, Fingerprint, Identity, Principal},
    domain::{Call, CallerId, QueueName, Right, Scope},
};

use super::admission::{CallerUsage, Exhausted, Full, InFlightGuard, MemoryPermit};

/// One request, from its headers to its log line.
#[derive(Debug, Default)]
pub(crate) struct RequestContext {
    /// What it cost.
    pub(crate) call: Arc<Call>,
    /// The queue it is about, once the path was read.
    pub(super) queue: OnceLock<String>,
    /// Whose it is, where that is asked.
    pub(super) caller: OnceLock<Arc<Principal>>,
    /// As whose it counts until they have proven who they are.
    pub(super) claimed: OnceLock<CallerId>,
    /// As whom it was let in, and for what.
    pub(super) leave: OnceLock<Leave>,
    /// Its id, as answers have it.
    request_id: Option<HeaderValue>,
    /// Whether a body is to come.
    has_body: AtomicBool,
    /// What there may be of a body where none is taken, until somebody looks.
    unasked: Mutex<Option<Body>>,
    /// Its place among those in flight, until it is answered.
    counted: Mutex<Option<InFlightGuard>>,
}

/// That somebody was let in, before the body was there.
#[derive(Debug)]
pub(super) struct Leave {
    pub(super) principal: Arc<Principal>,
    /// What they showed.
    pub(super) credential: Option<Credential>,
    pub(super) purpose: Purpose,
}

/// What somebody was let in for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To do something to a queue; with no right named, what takes any.
    Queue(Option<Right>, QueueName),
    /// To do something to those queues to which they may.
    Scope(Option<Right>, Scope),
    /// What is in the body, where it says to which queues.
    InBody,
}

impl RequestContext {
    /// One that counts among those in flight.
    pub(super) fn counted(
        counted: Option<InFlightGuard>,
        has_body: bool,
        request_id: HeaderValue,
    ) -> Self {
        let (counted, request_id) = (Mutex::new(counted), Some(request_id));
        let has_body = AtomicBool::new(has_body);
        Self { request_id, has_body, counted, ..Self::default() }
    }

    /// Its id as text: it was made of what can be read.
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// What stands for its caller; the same for all of them where nobody is asked for a key.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.caller.get().map_or_else(Self::nobody, |caller| caller.identity().fingerprint())
    }

    /// What stands for no caller in particular.
    pub(crate) fn nobody() -> Fingerprint {
        Identity::anonymous().fingerprint()
    }

    /// It turned out whose it is.
    pub(super) fn belongs_to(&self, caller: Arc<CallerUsage>) -> Result<(), Full> {
        self.lock().as_mut().map_or(Ok(()), |counted| counted.belongs_to(caller))
    }

    /// As whose it counts by now, where callers are told apart.
    pub(super) fn counts_as(&self) -> Option<CallerId> {
        self.call.caller().or_else(|| self.claimed.get().copied())
    }

    /// It was counted as another's, and so was its body.
    pub(super) fn moves_to(&self, caller: &Arc<CallerUsage>) -> Result<(), Full> {
        let moved = |counted: &mut InFlightGuard| counted.moves_to(Arc::clone(caller));
        self.lock().as_mut().map_or(Ok(()), moved)
    }

    /// The same of its body.
    pub(super) fn body_moves_to(&self, caller: &Arc<CallerUsage>) -> Result<(), Exhausted> {
        let moved = |body: &mut MemoryPermit| body.moves_to(Arc::clone(caller));
        self.call.with_held(moved).unwrap_or(Ok(()))
    }

    /// Whether a body is to come, or to be read.
    pub(super) fn has_body(&self) -> bool {
        self.has_body.load(Relaxed)
    }

    /// What was told to come turned out to be nothing: nobody reads that.
    pub(super) fn has_no_body(&self) {
        self.has_body.store(false, Relaxed);
    }

    /// Puts aside what may be a body, of a request that takes none.
    pub(super) fn put_aside(&self, body: Body) {
        *self.unasked.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// What was put aside, for whoever looks first.
    pub(super) fn take_unasked(&self) -> Option<Body> {
        self.unasked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its body is there, or it has none: from now on it counts among those that are served.
    pub(super) fn body_is_here(&self) -> Result<(), Full> {
        self.lock().as_mut().map_or(Ok(()), InFlightGuard::body_is_here)
    }

    /// It does not count among those in flight any more, nor does its body: that is done with, and it waits.
    pub(super) fn waits(&self) {
        self.let_go();
        self.call.release();
    }

    /// It has a body of some size. What is made of it may be in a lane when the client has gone, so
    /// it counts until nobody works for the request any more.
    pub(super) fn holds_body(&self, body: MemoryPermit) {
        self.call.hold(body);
    }

    /// It is answered.
    pub(super) fn let_go(&self) {
        *self.lock() = None;
    }

    /// Its place among those in flight goes to its answer.
    pub(super) fn take_place(&self) -> Option<InFlightGuard> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<InFlightGuard>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The context that the outermost layer put there.
pub(crate) fn context(parts: &Parts) -> Arc<RequestContext> {
    parts.extensions.get::<Arc<RequestContext>>().cloned().unwrap_or_default()
}
