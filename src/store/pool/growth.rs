//! New connections for those who wait.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use sqlx::Connection as _;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    super::{
        failure::{Failure, Reason},
        session::{Opened, Session},
    },
    inner::{AcquireError, Connection, Inner, State},
};

/// Pause where those that take changes are to be had, and one that doesn't came.
const READ_ONLY_PAUSE: Duration = Duration::from_secs(1);
/// Time to take leave of a server that is of no use.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl Inner {
    /// Opens connections for those who wait: one for each, or one at a time while that fails.
    pub(super) fn grow(self: &Arc<Self>, state: &mut State) {
        if state.closed || Handle::try_current().is_err() {
            return;
        }
        while state.waiters.len() > state.counts.connecting as usize
            && state.counts.open() < self.max
        {
            if state.failure.is_some() {
                if state.counts.connecting > 0 {
                    return;
                }
                if let Some(at) = state.retry_at.filter(|at| *at > Instant::now()) {
                    return self.plan_retry(state, at);
                }
            }
            state.counts.connecting += 1;
            let pool = Arc::clone(self);
            tokio::spawn(async move { pool.connect().await });
        }
    }

    fn plan_retry(self: &Arc<Self>, state: &mut State, at: Instant) {
        if state.retry_planned {
            return;
        }
        state.retry_planned = true;
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep_until(at).await;
            let Some(pool) = pool.upgrade() else { return };
            let mut state = pool.lock();
            state.retry_planned = false;
            pool.grow(&mut state);
        });
    }

    async fn connect(self: Arc<Self>) {
        let mut attempt = Attempt { pool: &self, open: true };
        let outcome = self.options.open_writable().await;
        attempt.open = false;
        match outcome {
            Ok(opened) => self.connected(opened).await,
            Err(error) => self.failed(&Failure::new(error)),
        }
    }

    async fn connected(self: &Arc<Self>, opened: Opened) {
        if let Some(generation) = self.takes(&opened.session) {
            self.hand_over(Connection::new(opened, generation));
            return self.grow(&mut self.lock());
        }
        let _ = timeout(CLOSE_LIMIT, opened.conn.close()).await;
        self.failed(&Failure::read_only());
    }

    /// Whether a new connection is of use, and the generation that it belongs to. One that takes no changes is of use
    /// where there is no other.
    fn takes(&self, session: &Session) -> Option<u64> {
        let mut state = self.lock();
        self.note_server(&mut state, session);
        if state.closed || (session.read_only && state.counts.writable > 0) {
            return None;
        }
        state.counts.connecting -= 1;
        state.counts.live += 1;
        state.counts.writable += u32::from(!session.read_only);
        self.recovered(&mut state);
        Some(self.generation.load(Relaxed))
    }

    fn recovered(&self, state: &mut State) {
        let Some((failure, _)) = state.failure.take() else { return };
        state.retry_at = None;
        state.backoff.reset();
        if failure.reason != Reason::Full {
            state.backoff_full.reset();
        }
        if state.complaint.is_over() {
            let (open, most) = (state.counts.open(), self.max);
            info!(open, most, "the database gives connections again");
        }
    }

    fn failed(self: &Arc<Self>, failure: &Failure) {
        let unserved = {
            let mut state = self.lock();
            state.counts.connecting -= 1;
            let now = Instant::now();
            let since = state.failure.take().map_or(now, |(_, since)| since);
            let alone = state.counts.live == 0;
            let pause = match failure.reason {
                Reason::Full if !alone => state.backoff_full.pause(),
                Reason::ReadOnly => READ_ONLY_PAUSE,
                _ => state.backoff.pause(),
            };
            state.retry_at = Some(now + pause);
            self.complain(&mut state, failure);
            if alone && failure.reason == Reason::Full {
                self.control.yield_connection();
                self.starved.notify_waiters();
            }
            // Nobody comes back whose turn it would be then.
            let hopeless = alone
                && (failure.reason == Reason::Refused
                    || now.duration_since(since) >= self.acquire_timeout);
            state.failure = Some((failure.clone(), since));
            let most = if hopeless { state.waiters.len() } else { 0 };
            let unserved: Vec<_> = state.waiters.drain(..most).collect();
            self.grow(&mut state);
            unserved
        };
        for waiter in unserved {
            drop(waiter.send(Err(AcquireError::Failed(failure.clone()))));
        }
        self.ended.notify_waiters();
    }

    fn complain(&self, state: &mut State, failure: &Failure) {
        if state.closed || !state.complaint.is_due() {
            return;
        }
        let (got, most, target) = (state.counts.live, self.max, self.options.describe_target());
        match failure.reason {
            Reason::Full => warn!(
                database = %target, got, most, reason = %failure,
                "the database gives no more connections: going on with those that there are"
            ),
            Reason::ReadOnly => warn!(
                database = %target,
                "some connections lead to a server that takes no changes: they are not used"
            ),
            _ => warn!(
                database = %target, reason = %failure,
                "cannot connect to the database, trying again"
            ),
        }
    }

    /// Notes which server it is. Connections to another one are not used any more, nor are those to one that was told
    /// to take no changes: sessions that began before don't know.
    pub(super) fn note_server(&self, state: &mut State, session: &Session) {
        if session.read_only {
            if state.counts.writable > 0 && state.server == Some(session.server) {
                self.outdate(state);
            }
            return;
        }
        let before = state.server.replace(session.server);
        if before.is_some_and(|before| before != session.server) {
            self.outdate(state);
            info!("the database is another server now, or was started anew");
        }
    }
}

/// An attempt to connect that is counted until it has ended, however it does.
struct Attempt<'a> {
    pool: &'a Arc<Inner>,
    open: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.open {
            self.pool.lock().counts.connecting -= 1;
            self.pool.ended.notify_waiters();
        }
    }
}
