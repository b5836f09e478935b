//! Reads that cost the same beside an old snapshot.
//!
//! While a transaction with an old snapshot is open (a report, a dump, an idle session), PostgreSQL cannot clean
//! up what has died since. A read that walks the index on `vt` from its beginning then meets every message that
//! was delivered or deleted meanwhile, before the first that is alive. For queues in which that takes long, a
//! [keeper] looks many times a second where the first one that is alive stands, and reads begin there.

mod keeper;
mod scan_floor;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{sync::Semaphore, time::Instant};

use crate::{domain::QueueName, store::Db, telemetry::Metrics};

pub(super) use keeper::keep;

/// A read that takes longer is suspected to walk what is dead.
const SLOW: Duration = Duration::from_millis(3);
/// So many of them are a reason to look.
const SLOW_READS: u32 = 3;
/// Time after which that is looked at again.
const SUSPECT_AGAIN: Duration = Duration::from_secs(5);
/// Queues that are under suspicion.
const MOST_SUSPECTS: usize = 1_000;
/// What was told longer ago is not relied on, unless its keeper looks at this moment: a look from the beginning takes
/// its time.
const FRESH: Duration = Duration::from_secs(2);
const LONGEST_LOOK: Duration = Duration::from_secs(90);
/// A read from the beginning is no more than this share of the time, and is done in place of an empty answer only
/// where it takes no longer than this.
const FULL_READ_SHARE: u32 = 20;
const LONGEST_FULL_READ: Duration = Duration::from_millis(20);
/// Looks that are under way at the same time; each takes a connection.
const LOOKS: usize = 2;
/// Smaller pools have none to spare.
const SMALLEST_POOL: u32 = 4;

/// Where reads begin, for each queue where they do not begin at the beginning.
#[derive(Debug)]
pub(super) struct Floors {
    kept: Mutex<HashMap<QueueName, Kept>>,
    /// How many there are: mostly none, which costs no read anything.
    count: AtomicUsize,
    suspects: Mutex<HashMap<QueueName, Suspect>>,
    db: Db,
    looks: Semaphore,
    metrics: Arc<Metrics>,
}

/// What the keeper of a queue has told.
#[derive(Debug)]
struct Kept {
    since: Option<DateTime<Utc>>,
    told: Instant,
    /// Whether a look is under way.
    is_looked_at: bool,
    read: Instant,
    /// When it was last looked or read from the beginning, and what that takes.
    full: Instant,
    full_cost: Duration,
}

#[derive(Debug)]
struct Suspect {
    slow_reads: u32,
    not_before: Instant,
}

/// A queue that has a keeper, until this is dropped.
pub(super) struct KeptQueue<'a> {
    floors: &'a Floors,
    queue: QueueName,
}

impl Floors {
    pub(super) fn new(db: &Db, metrics: &Arc<Metrics>) -> Self {
        Self {
            kept: Mutex::default(),
            count: AtomicUsize::new(0),
            suspects: Mutex::default(),
            db: db.with_own_background_conn(),
            looks: Semaphore::new(LOOKS),
            metrics: Arc::clone(metrics),
        }
    }

    /// Gives up the connection that is kept for looks: the pool closes once it has all of them.
    pub(super) fn keep_none(&self) {
        self.db.keep_none();
    }

    /// The `vt` from which on to read; from the beginning where nothing is known of late.
    pub(super) fn since(&self, queue: &QueueName) -> Option<DateTime<Utc>> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let mut kept = self.lock();
        let kept = kept.get_mut(queue)?;
        kept.read = Instant::now();
        kept.since()
    }

    /// Whether reads of a queue do not begin at the beginning.
    pub(super) fn has_floor(&self, queue: &QueueName) -> bool {
        self.count.load(Relaxed) > 0
            && self.lock().get(queue).is_some_and(|kept| kept.since().is_some())
    }

    /// Whether a read that found nothing from the floor on is to begin at the beginning: now and then, so that
    /// what was set to the past by SQL does not wait for the keeper's look.
    pub(super) fn may_read_fully(&self, queue: &QueueName) -> bool {
        let mut kept = self.lock();
        let Some(kept) = kept.get_mut(queue) else { return true };
        let is_time = kept.full_cost <= LONGEST_FULL_READ
            && kept.full.elapsed() >= kept.full_cost * FULL_READ_SHARE;
        if is_time {
            kept.full = Instant::now();
        }
        is_time
    }

    /// Whether a keeper looks for what can be delivered in a queue, which nobody else then needs to.
    pub(super) fn watches(&self, queue: &QueueName) -> bool {
        self.count.load(Relaxed) > 0
            && self.lock().get(queue).is_some_and(|kept| kept.told.elapsed() < FRESH)
    }

    /// Takes note of how long a read from the beginning took. Something if that is a reason for a keeper.
    pub(super) fn note_read(&self, queue: &QueueName, took: Duration) -> bool {
        if took < SLOW || self.db.capacity() < SMALLEST_POOL {
            return false;
        }
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if suspects.len() >= MOST_SUSPECTS && !suspects.contains_key(queue) {
            suspects.retain(|_, suspect| suspect.not_before > now);
            if suspects.len() >= MOST_SUSPECTS {
                return false;
            }
        }
        let none = || Suspect { slow_reads: 0, not_before: now };
        let suspect = suspects.entry(queue.clone()).or_insert_with(none);
        suspect.slow_reads += 1;
        if suspect.slow_reads < SLOW_READS || suspect.not_before > now {
            return false;
        }
        *suspect = Suspect { slow_reads: 0, not_before: now + SUSPECT_AGAIN };
        true
    }

    /// Makes somebody the keeper of a queue, unless it has one.
    fn enter(&self, queue: &QueueName) -> Option<KeptQueue<'_>> {
        let mut kept = self.lock();
        if kept.contains_key(queue) {
            return None;
        }
        let now = Instant::now();
        let (since, full_cost) = (None, Duration::ZERO);
        let is_looked_at = false;
        let new = Kept { since, told: now, is_looked_at, read: now, full: now, full_cost };
        kept.insert(queue.clone(), new);
        self.count(&kept);
        Some(KeptQueue { floors: self, queue: queue.clone() })
    }

    fn count(&self, kept: &HashMap<QueueName, Kept>) {
        self.count.store(kept.len(), Relaxed);
        self.metrics.scan_floors(kept.values().filter(|kept| kept.since.is_some()).count());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Kept>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// What is relied on. An old one is as right, and leaves out less of what is dead.
    fn since(&self) -> Option<DateTime<Utc>> {
        let trusted = if self.is_looked_at { LONGEST_LOOK } else { FRESH };
        self.since.filter(|_| self.told.elapsed() < trusted)
    }
}

impl KeptQueue<'_> {
    /// Says that a look is under way, until this is dropped.
    fn look(&self) -> LookUnderWay<'_> {
        self.set_looked_at(true);
        LookUnderWay(self)
    }

    fn set_looked_at(&self, is_looked_at: bool) {
        if let Some(kept) = self.floors.lock().get_mut(&self.queue) {
            kept.is_looked_at = is_looked_at;
        }
    }

    /// Tells where reads begin and, after a look from the beginning, what that took.
    fn tell(&self, since: Option<DateTime<Utc>>, full_cost: Option<Duration>) {
        let mut all = self.floors.lock();
        let Some(kept) = all.get_mut(&self.queue) else { return };
        (kept.since, kept.told) = (since, Instant::now());
        if let Some(cost) = full_cost {
            (kept.full, kept.full_cost) = (kept.told, cost);
        }
        self.floors.count(&all);
    }

    /// Time since it was last read.
    fn unread_for(&self) -> Duration {
        self.floors.lock().get(&self.queue).map_or(Duration::MAX, |kept| kept.read.elapsed())
    }
}

/// A look of a keeper.
struct LookUnderWay<'a>(&'a KeptQueue<'a>);

impl Drop for LookUnderWay<'_> {
    fn drop(&mut self) {
        self.0.set_looked_at(false);
    }
}

impl Drop for KeptQueue<'_> {
    fn drop(&mut self) {
        let mut kept = self.floors.lock();
        kept.remove(&self.queue);
        self.floors.count(&kept);
        let is_last = kept.is_empty();
        drop(kept);
        if is_last {
            self.floors.keep_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_relied_on_while_its_keeper_looks() {
        let now = Instant::now();
        let mut kept = Kept {
            since: DateTime::from_timestamp_micros(1),
            told: now,
            is_looked_at: false,
            read: now,
            full: now,
            full_cost: Duration::ZERO,
        };
        assert!(kept.since().is_some());
        advance(FRESH * 2).await;
        assert!(kept.since().is_none(), "nobody keeps it");
        kept.is_looked_at = true;
        assert!(kept.since().is_some());
        advance(LONGEST_LOOK).await;
        assert!(kept.since().is_none(), "no look takes so long");
    }
}
