//! What a request cost.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counters of one request, for its log line and the metrics.
#[derive(Debug, Default)]
pub struct CallStats {
    round_trips: AtomicU32,
    waited_us: AtomicU64,
}

impl CallStats {
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
