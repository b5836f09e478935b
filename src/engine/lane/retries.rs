//! Requests of a lane that met a lock: tried again, until it is gone or their time is up.
//!
//! At most one statement of a lane is under way for them, and nothing is held in between. They count among
//! those that may be pending.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};

use crate::{
    engine::lock_backoff::{LockBackoff, SHORTEST},
    store::{Error, Result},
};

use super::{Lane, Request, Work};

impl<W: Work> Lane<W> {
    /// Has requests tried again after a pause; those whose time is up are told.
    pub(super) fn try_later(self: &Arc<Self>, requests: Vec<Request<W>>) {
        if requests.is_empty() {
            return;
        }
        let is_closing = self.shared.closing.is_cancelled();
        let mut state = self.lock();
        for mut request in requests {
            let is_new = request.backoff.is_none();
            let pause = request.backoff.get_or_insert_with(LockBackoff::new).next_pause();
            // Nobody is kept waiting by a gateway that ends.
            let Some(pause) = pause.filter(|_| is_new || !is_closing) else {
                drop(request.reply.send(Err(Error::Locked)));
                continue;
            };
            state.gathering.set_aside(request.size);
            state.locked.push(Instant::now() + pause, request);
        }
        if state.retrying {
            return self.newly_locked.notify_one();
        }
        state.retrying = !state.locked.is_empty();
        let is_needed = state.retrying;
        drop(state);
        if is_needed {
            self.spawn_retrier();
        }
    }

    fn spawn_retrier(self: &Arc<Self>) {
        let lane = Arc::clone(self);
        self.shared.tasks.spawn(async move {
            // After a panic the others go on.
            while AssertUnwindSafe(lane.retry()).catch_unwind().await.is_err() {}
        });
    }

    async fn retry(self: &Arc<Self>) {
        let closing = &self.shared.closing;
        let mut earliest = Instant::now();
        while let Some(due) = self.next_due() {
            let is_closing = closing.is_cancelled();
            tokio::select! {
                () = sleep_until(due.max(earliest)), if !is_closing => {}
                () = self.newly_locked.notified(), if !is_closing => continue,
                () = closing.cancelled() => {}
            }
            let batch = self.take_due();
            if !batch.is_empty() {
                let outcome = self.run_again(&batch).await;
                self.try_later(Self::answer(batch, outcome));
            }
            earliest = Instant::now() + SHORTEST;
        }
    }

    /// When the next of them is to be tried. Without any this is over, and the next lock is met anew.
    fn next_due(&self) -> Option<Instant> {
        let mut state = self.lock();
        let due = state.locked.next_due();
        state.retrying = due.is_some();
        if due.is_none() {
            state.blocked = None;
        }
        due
    }

    /// Those that are to be tried now, as many as one statement takes, without those that have gone.
    fn take_due(&self) -> Vec<Request<W>> {
        let settings = &self.shared.settings;
        let (mut rows, mut bytes) = (settings.max_batch_rows, settings.max_batch_bytes);
        let fits = |request: &Request<W>| {
            let fits = request.size.rows <= rows && request.size.bytes <= bytes;
            rows = rows.saturating_sub(request.size.rows);
            bytes = bytes.saturating_sub(request.size.bytes);
            fits
        };
        let by = (!self.shared.closing.is_cancelled()).then(Instant::now);
        let mut state = self.lock();
        let gone = state.locked.remove(|request| request.reply.is_closed());
        let due = state.locked.take_due(by, fits);
        for request in gone.iter().chain(&due) {
            state.gathering.take_back(request.size);
        }
        due
    }

    async fn run_again(&self, batch: &[Request<W>]) -> Result<Vec<W::Output>> {
        let leave = self.shared.leave_to_retry(&self.statements).await;
        let Some(_leave) = leave else { return Err(Error::Locked) };
        let mut conn = self.shared.db.acquire(&Arc::default()).await?;
        self.run_statement(&mut conn, batch, true).await
    }
}
