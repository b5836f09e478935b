//! A request, wherever it is worked on.

use std::{
    any::Any,
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tracing::Span;

use super::CallerId;

/// What a request has with it: whose it is, what it holds, and what it cost, for its log line and the metrics. Made
/// once, where the request comes in; whoever works for the request has it, also when its client has long gone.
#[derive(Debug, Default)]
pub struct Call {
    round_trips: AtomicU32,
    waited_us: AtomicU64,
    caller: OnceLock<CallerId>,
    held: Mutex<Option<Box<dyn Any + Send>>>,
    room: OnceLock<Room>,
    span: OnceLock<Span>,
    asked_early: AtomicBool,
}

/// Tells whether there is room for what comes of a request.
struct Room(Box<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

impl Call {
    /// Says whose request it is; once.
    pub fn set_caller(&self, caller: CallerId) {
        // A request has one caller.
        let _ = self.caller.set(caller);
    }

    /// Whose request it is; nobody's in particular where no key is needed.
    pub fn caller(&self) -> Option<CallerId> {
        self.caller.get().copied()
    }

    /// Says how it is told whether there is room for what comes of it; once.
    pub fn set_room(&self, has_room: impl Fn() -> bool + Send + Sync + 'static) {
        // A request has one answer.
        let _ = self.room.set(Room(Box::new(has_room)));
    }

    /// Whether there is room for what comes of it: asked before something is done that cannot be taken back.
    pub fn has_room(&self) -> bool {
        self.room.get().is_none_or(|room| (room.0)())
    }

    /// Says to which span belongs what is done and logged for it; once.
    pub fn set_span(&self, span: Span) {
        // One that is there stays: a request is made once.
        let _ = self.span.set(span);
    }

    /// The span to which belongs what is done and logged for it; none where nobody listens.
    pub fn span(&self) -> Span {
        self.span.get().cloned().unwrap_or_else(Span::none)
    }

    /// Says that a first part of its answer is asked for before its client takes anything, as with HTTP/2.
    pub fn set_asked_early(&self) {
        self.asked_early.store(true, Relaxed);
    }

    /// Whether it is.
    pub fn is_asked_early(&self) -> bool {
        self.asked_early.load(Relaxed)
    }

    /// Keeps something until the last one has let go who works for this request, and with it what it
    /// brought.
    pub fn hold(&self, what: impl Any + Send) {
        *self.held() = Some(Box::new(what));
    }

    /// Works on what is kept, if it is of this type.
    pub fn with_held<T: Any, R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.held().as_mut()?.downcast_mut::<T>().map(work)
    }

    /// Lets go of it earlier: nobody works with what the request brought any more.
    pub fn release(&self) {
        *self.held() = None;
    }

    fn held(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One statement went to the database.
    pub fn add_round_trip(&self) {
        self.round_trips.fetch_add(1, Relaxed);
    }

    /// Statements sent to the database so far.
    pub fn round_trips(&self) -> u32 {
        self.round_trips.load(Relaxed)
    }

    /// Time spent in a long poll, which is the client's wish and not our slowness.
    pub fn add_waited(&self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.waited_us.fetch_add(us, Relaxed);
    }

    /// Time spent in a long poll so far.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_us.load(Relaxed))
    }
}
