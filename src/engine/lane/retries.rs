//! Requests of a lane that met a lock: tried again, until it is gone or their time is up.
//!
//! At most one statement of a lane is under way for them, one that hardly waits, and nothing is held in
//! between. They count among those that may be pending.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use crate::{
    engine::lock_backoff::{LockBackoff, SHORTEST},
    store::Error,
};

use super::{BatchStatement, Lane, Request};

/// Time between two looks at whose time is up.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(200);

impl<W: BatchStatement> Lane<W> {
    /// Has requests tried again after a pause; those whose time is up are told.
    pub(super) fn try_later(self: &Arc<Self>, requests: Vec<Request<W>>) {
        if requests.is_empty() {
            return;
        }
        let is_closing = self.shared.closing.is_cancelled();
        let mut state = self.lock();
        for mut request in requests {
            let is_new = request.backoff.is_none();
            let until = W::locked_until(&request.input);
            let begin = || until.map_or_else(LockBackoff::new, LockBackoff::ending);
            let pause = request.backoff.get_or_insert_with(begin).next_pause();
            // Nobody is kept waiting by a gateway that ends.
            let Some(pause) = pause.filter(|_| is_new || !is_closing) else {
                drop(request.reply.send(Err(Error::Locked)));
                continue;
            };
            state.gathering.set_aside(request.weight);
            state.locked.push(Instant::now() + pause, request);
        }
        if state.retrying {
            return self.newly_locked.notify_one();
        }
        if state.locked.is_empty() {
            // Nobody finds out when that is over: who comes next does.
            state.blocked = false;
            return;
        }
        state.retrying = true;
        drop(state);
        self.spawn_retrier();
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
            if !self.table.allows(W::INTENT) && !closing.is_cancelled() {
                self.wait_for_table().await;
                continue;
            }
            let is_closing = closing.is_cancelled();
            tokio::select! {
                () = sleep_until(due.max(earliest)), if !is_closing => {}
                () = self.newly_locked.notified(), if !is_closing => continue,
                () = closing.cancelled() => {}
            }
            self.try_those_due().await;
            earliest = Instant::now() + SHORTEST;
        }
    }

    /// Waits for a lock on the whole table to go; then all stand in line again.
    async fn wait_for_table(self: &Arc<Self>) {
        let allowed = self.table.allowed(W::INTENT);
        tokio::pin!(allowed);
        loop {
            tokio::select! {
                () = &mut allowed => break,
                () = sleep(EXPIRY_INTERVAL) => self.tell_those_overdue(),
                () = self.shared.closing.cancelled() => break,
            }
        }
        let mut state = self.lock();
        state.blocked = false;
        for request in state.locked.take_due(None, |_| true) {
            let weight = request.weight;
            state.gathering.take_back(weight);
            state.gathering.push_again(request, weight);
        }
        self.ensure_worker(state);
    }

    async fn try_those_due(self: &Arc<Self>) {
        let slot = self.statements.acquire();
        tokio::pin!(slot);
        let _slot = loop {
            tokio::select! {
                slot = &mut slot => break slot,
                () = sleep(EXPIRY_INTERVAL) => self.tell_those_overdue(),
            }
        };
        let batch = self.take_due();
        if !batch.is_empty() {
            let locked = self.run_again(batch).await;
            self.try_later(locked);
        }
    }

    async fn run_again(self: &Arc<Self>, batch: Vec<Request<W>>) -> Vec<Request<W>> {
        let mut conn = match self.shared.db.acquire(&Arc::default()).await {
            Ok(conn) => conn,
            Err(error) => return Self::answer(batch, Err(error)),
        };
        let began = Instant::now();
        let outcome = self.run_statement(&mut conn, &batch, true).await;
        self.finish(&mut conn, batch, outcome, began).await
    }

    /// Tells those whose time is up while nobody can be tried.
    fn tell_those_overdue(&self) {
        let now = Instant::now();
        let is_over = |request: &Request<W>| {
            let until = request.backoff.as_ref().map(LockBackoff::until);
            request.reply.is_closed() || until.is_some_and(|until| until <= now)
        };
        let mut state = self.lock();
        let overdue = state.locked.remove(is_over);
        for request in overdue {
            state.gathering.take_back(request.weight);
            drop(request.reply.send(Err(Error::Locked)));
        }
    }

    /// When the next of them is to be tried. Without any this is over, and the next lock is met anew.
    fn next_due(&self) -> Option<Instant> {
        let mut state = self.lock();
        let due = state.locked.next_due();
        state.retrying = due.is_some();
        if due.is_none() {
            state.blocked = false;
        }
        due
    }

    /// Those that are to be tried now, as many as one statement takes, without those that have gone.
    fn take_due(&self) -> Vec<Request<W>> {
        let settings = &self.shared.settings;
        let (mut rows, mut bytes) = (settings.max_batch_rows, settings.max_batch_bytes);
        let fits = |request: &Request<W>| {
            let size = request.weight.size;
            let fits = size.rows <= rows && size.bytes <= bytes;
            rows = rows.saturating_sub(size.rows);
            bytes = bytes.saturating_sub(size.bytes);
            fits
        };
        let by = (!self.shared.closing.is_cancelled()).then(Instant::now);
        let mut state = self.lock();
        let gone = state.locked.remove(|request| request.reply.is_closed());
        let due = state.locked.take_due(by, fits);
        for request in gone.iter().chain(&due) {
            state.gathering.take_back(request.weight);
        }
        due
    }
}
