//! Where the connection for the gateway's own account is between two uses.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::Semaphore;

use super::pool::Lease;

/// The connection while nobody uses it, and whose turn it is.
#[derive(Clone)]
pub(super) struct KeptLease {
    place: Arc<Mutex<Option<(Lease, Instant)>>>,
    pub(super) turn: Arc<Semaphore>,
}

impl Default for KeptLease {
    fn default() -> Self {
        Self { place: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl KeptLease {
    /// What is kept, and since when.
    pub(super) fn take(&self) -> Option<(Lease, Instant)> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps a connection.
    pub(super) fn put(&self, lease: Lease) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some((lease, Instant::now()));
    }
}

impl fmt::Debug for KeptLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptLease")
    }
}
