//! Where the connection for the gateway's own account is between two uses.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::Semaphore, time::sleep};

use super::pool::Lease;

/// One that was unused for longer is given back: nobody may come for it any more.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Time between two looks at one that is kept.
const LOOK: Duration = Duration::from_secs(2);

/// The connection while nobody uses it, and whose turn it is.
#[derive(Clone)]
pub(super) struct KeptLease {
    place: Arc<Mutex<Place>>,
    pub(super) turn: Arc<Semaphore>,
}

#[derive(Default)]
struct Place {
    /// And since when it is kept.
    lease: Option<(Lease, Instant)>,
    /// Whether a task looks after it.
    is_watched: bool,
}

impl Default for KeptLease {
    fn default() -> Self {
        Self { place: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl KeptLease {
    /// What is kept, and since when.
    pub(super) fn take(&self) -> Option<(Lease, Instant)> {
        lock(&self.place).lease.take()
    }

    /// Keeps a connection, for as long as it is used now and then and is as good as a new one.
    pub(super) fn put(&self, lease: Lease) {
        let mut place = lock(&self.place);
        let before = place.lease.replace((lease, Instant::now()));
        if !place.is_watched
            && let Ok(runtime) = Handle::try_current()
        {
            place.is_watched = true;
            runtime.spawn(watch(Arc::downgrade(&self.place)));
        }
        drop(place);
        drop(before);
    }
}

/// Gives a connection back that nobody has used for long or that belongs to the past, as it takes the place of one that
/// is of use. Ends once none is there.
async fn watch(place: Weak<Mutex<Place>>) {
    loop {
        sleep(LOOK).await;
        let Some(place) = place.upgrade() else { return };
        let (old, is_empty) = {
            let mut place = lock(&place);
            let old = place
                .lease
                .take_if(|(lease, since)| since.elapsed() > IDLE_LIMIT || lease.is_outdated());
            place.is_watched = place.lease.is_some();
            (old, place.lease.is_none())
        };
        drop(old);
        if is_empty {
            return;
        }
    }
}

fn lock(place: &Mutex<Place>) -> MutexGuard<'_, Place> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for KeptLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptLease")
    }
}
