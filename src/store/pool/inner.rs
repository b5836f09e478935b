//! What a pool is made of. A connection on loan has its pool, and those who wait are given one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use sqlx::PgConnection;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::super::{
    backoff::{Backoff, Complaint},
    control::Control,
    failure::{Failure, Reason},
    progress::Progress,
    session::{ConnectOptions, Session},
};

/// Why nobody got a connection.
#[derive(Debug)]
pub(in super::super) enum AcquireError {
    /// The pool is closed.
    Closed,
    /// None came about.
    Failed(Failure),
    /// Those that there are were in use for as long as a request may wait. With the failure to get
    /// more, if there was one.
    Busy(Option<Failure>),
}

impl AcquireError {
    /// Whether those that were in use take changes, and what else there is does not.
    pub(in super::super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Busy(Some(failure)) if failure.reason == Reason::ReadOnly)
    }
}

/// What all clones of a pool share, and its connections on loan.
pub(super) struct Inner {
    pub(super) options: ConnectOptions,
    pub(super) max: u32,
    pub(super) acquire_timeout: Duration,
    pub(super) control: Arc<Control>,
    pub(super) progress: Progress,
    /// Connections of an earlier generation are not used any more.
    pub(super) generation: AtomicU64,
    pub(super) state: Mutex<State>,
    /// Told when a connection has ended.
    pub(super) ended: Notify,
    /// Told when the server has not even one.
    pub(super) starved: Notify,
}

/// What changes as connections come and go.
pub(super) struct State {
    pub(super) idle: Vec<Connection>,
    pub(super) waiters: VecDeque<oneshot::Sender<Result<Lease, AcquireError>>>,
    pub(super) counts: Counts,
    /// What keeps connections from coming about, and since when.
    pub(super) failure: Option<(Failure, Instant)>,
    /// Nothing is tried before.
    pub(super) retry_at: Option<Instant>,
    pub(super) retry_planned: bool,
    pub(super) backoff: Backoff,
    pub(super) backoff_full: Backoff,
    /// The server that took changes last.
    pub(super) server: Option<u64>,
    pub(super) complaint: Complaint,
    pub(super) closed: bool,
}

/// What the pool has of the connections that it may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) connecting: u32,
    /// Idle or in use.
    pub(super) live: u32,
    /// Those among them that take changes and do not belong to the past.
    pub(super) writable: u32,
    /// Closing, or given up on and not gone yet.
    pub(super) ending: u32,
}

impl Counts {
    /// All of them.
    pub(super) fn open(self) -> u32 {
        self.connecting + self.live + self.ending
    }
}

/// A connection of the pool's.
pub(super) struct Connection {
    pub(super) conn: PgConnection,
    pub(super) session: Session,
    pub(super) ends: Instant,
    pub(super) used: Instant,
    pub(super) generation: u64,
}

/// A connection on loan, which is given back when this is dropped.
pub(in super::super) struct Lease {
    pub(super) connection: Option<Connection>,
    pub(super) pool: Arc<Inner>,
}

impl Inner {
    /// What changes, for one at a time.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
