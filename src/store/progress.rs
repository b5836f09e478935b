//! Whether statements get done.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Counts the statements that run for clients, and knows when one got done last.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    running: AtomicUsize,
    /// Milliseconds from the beginning until something got done, or began where nothing ran.
    last_ms: AtomicU64,
    /// One has had no answer for long, or was given up on, and since then it was not seen that
    /// statements get done.
    doubtful: AtomicBool,
    /// Milliseconds from the beginning until that began.
    doubted_ms: AtomicU64,
}

/// A statement that runs, until this is dropped.
pub(super) struct Running<'a>(Option<&'a Progress>);

impl Default for Progress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            running: AtomicUsize::new(0),
            last_ms: AtomicU64::new(0),
            doubtful: AtomicBool::new(false),
            doubted_ms: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// A statement begins.
    pub(super) fn begin(&self) -> Running<'_> {
        if self.running.fetch_add(1, Relaxed) == 0 && !self.is_doubtful() {
            self.last_ms.store(self.now_ms(), Relaxed);
        }
        Running(Some(self))
    }

    /// There is reason to doubt that statements get done.
    pub(super) fn doubt(&self) {
        if !self.doubtful.swap(true, Relaxed) {
            self.doubted_ms.store(self.now_ms(), Relaxed);
        }
    }

    /// Whether something got done since there is reason to doubt it.
    pub(super) fn is_cleared(&self) -> bool {
        self.last_ms.load(Relaxed) > self.doubted_ms.load(Relaxed)
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Relaxed)
    }

    /// It was seen that they do.
    pub(super) fn trust(&self) {
        self.doubtful.store(false, Relaxed);
    }

    /// Whether something runs and nothing got done for so long.
    pub(super) fn is_stalled(&self, time: Duration) -> bool {
        let since = self.now_ms().saturating_sub(self.last_ms.load(Relaxed));
        self.running.load(Relaxed) > 0 && u128::from(since) > time.as_millis()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Running<'_> {
    /// One of the gateway's own account, which tells nothing of those of clients.
    pub(super) const fn uncounted() -> Self {
        Self(None)
    }

    /// It got done.
    pub(super) fn done(&self) {
        if let Some(progress) = self.0 {
            progress.last_ms.store(progress.now_ms(), Relaxed);
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(progress) = self.0 {
            progress.running.fetch_sub(1, Relaxed);
        }
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
        assert!(!progress.is_stalled(LONG));
        let first = progress.begin();
        assert!(!progress.is_stalled(LONG), "it has just begun");
        advance(LONG * 2).await;
        assert!(progress.is_stalled(LONG));
        let second = progress.begin();
        assert!(progress.is_stalled(LONG), "another one that begins is no progress");
        second.done();
        drop(second);
        assert!(!progress.is_stalled(LONG));
        advance(LONG * 2).await;
        drop(first);
        assert!(!progress.is_stalled(LONG));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_are_given_up_on_one_after_the_other_are_stalled() {
        let progress = Progress::default();
        for _ in 0..4 {
            let running = progress.begin();
            progress.doubt();
            advance(LONG / 2).await;
            drop(running);
        }
        let running = progress.begin();
        assert!(progress.is_stalled(LONG) && !progress.is_cleared());
        running.done();
        assert!(progress.is_cleared());
        progress.trust();
        assert!(!progress.is_stalled(LONG) && !progress.is_doubtful());
    }
}
