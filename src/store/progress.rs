//! Whether statements get done.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Counts the statements that run, and knows when one got done last.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    running: AtomicUsize,
    /// Milliseconds from the beginning until something got done, or began where nothing ran.
    last_ms: AtomicU64,
}

/// A statement that runs, until this is dropped.
pub(super) struct Running<'a>(&'a Progress);

impl Default for Progress {
    fn default() -> Self {
        let (running, last_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { began: Instant::now(), running, last_ms }
    }
}

impl Progress {
    /// A statement begins.
    pub(super) fn begin(&self) -> Running<'_> {
        if self.running.fetch_add(1, Relaxed) == 0 {
            self.done();
        }
        Running(self)
    }

    /// A statement got done.
    pub(super) fn done(&self) {
        self.last_ms.store(self.now_ms(), Relaxed);
    }

    /// Whether something runs, or is `busy` otherwise, and nothing got done for so long.
    pub(super) fn is_stalled(&self, time: Duration, busy: bool) -> bool {
        let busy = busy || self.running.load(Relaxed) > 0;
        let since = self.now_ms().saturating_sub(self.last_ms.load(Relaxed));
        busy && u128::from(since) > time.as_millis()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_does_nothing_is_not_stalled() {
        let progress = Progress::default();
        advance(LONG * 100).await;
        assert!(!progress.is_stalled(LONG, false));
        let first = progress.begin();
        assert!(!progress.is_stalled(LONG, false), "it has just begun");
        advance(LONG * 2).await;
        assert!(progress.is_stalled(LONG, false));
        let second = progress.begin();
        assert!(progress.is_stalled(LONG, false), "another one that begins is no progress");
        progress.done();
        drop(second);
        assert!(!progress.is_stalled(LONG, false));
        advance(LONG * 2).await;
        drop(first);
        assert!(!progress.is_stalled(LONG, false));
        assert!(progress.is_stalled(LONG, true), "somebody waits");
    }
}
