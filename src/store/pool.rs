//! The pool: no more connections than it may have, handed to those who wait in order of arrival.
//!
//! Who waits takes whichever comes first: a connection that somebody gives back, or a new one. New
//! ones are opened beside, so that a server that has no more of them, or is away, keeps nobody from
//! those that there are. A connection counts until it is certain that its session has ended.

mod growth;
mod inner;
mod lease;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::Connection as _;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    backoff::{Backoff, Complaint},
    control::Control,
    progress::Progress,
    session::{ConnectOptions, Session},
};

pub(super) use inner::{AcquireError, Lease};
use inner::{Connection, Counts, Inner, State};

/// A connection that was idle for so long is closed: a crowd of them is of no use to those who wait.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// Time for a connection that is tried.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// The longest pause between attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts to get more connections than a server gave so far.
const LONGEST_PAUSE_FULL: Duration = Duration::from_secs(30);

/// A pool of connections. A clone is the same pool.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

enum Taken {
    Idle(Connection),
    InLine(oneshot::Receiver<Result<Lease, AcquireError>>),
    Closed,
}

impl Pool {
    /// A pool that connects when it is first asked.
    pub fn new(options: &ConnectOptions, max: u32, acquire_timeout: Duration) -> Self {
        Self::with_control(&Arc::new(Control::new(options)), max, acquire_timeout)
    }

    /// Another pool of connections to the same database.
    #[must_use]
    pub fn another(&self, max: u32) -> Self {
        Self::with_control(&self.0.control, max, self.0.acquire_timeout)
    }

    fn with_control(control: &Arc<Control>, max: u32, acquire_timeout: Duration) -> Self {
        let state = State {
            idle: Vec::new(),
            waiters: VecDeque::new(),
            counts: Counts::default(),
            failure: None,
            retry_at: None,
            retry_planned: false,
            backoff: Backoff::new(
                Duration::from_millis(50),
                LONGEST_PAUSE.min(acquire_timeout / 2),
            ),
            backoff_full: Backoff::new(Duration::from_secs(1), LONGEST_PAUSE_FULL),
            server: None,
            complaint: Complaint::default(),
            closed: false,
        };
        let inner = Arc::new(Inner {
            options: control.options().clone(),
            max,
            acquire_timeout,
            control: Arc::clone(control),
            progress: Progress::default(),
            generation: AtomicU64::new(0),
            state: Mutex::new(state),
            ended: Notify::new(),
            starved: Notify::new(),
        });
        inner.watch_idle();
        Self(inner)
    }

    /// Takes a connection, waiting for as long as may be waited.
    pub(super) async fn acquire(&self) -> Result<Lease, AcquireError> {
        let deadline = Instant::now() + self.0.acquire_timeout;
        loop {
            match self.0.take_or_line_up() {
                Taken::Closed => return Err(AcquireError::Closed),
                Taken::InLine(turn) => return self.0.wait(turn, deadline).await,
                Taken::Idle(connection) => {
                    let mut lease = Lease::new(connection, Arc::clone(&self.0));
                    if lease.idle_for() <= TRUSTED_IDLE {
                        return Ok(lease);
                    }
                    match timeout(PING_LIMIT, lease.ping()).await {
                        Ok(Ok(())) => return Ok(lease),
                        Ok(Err(_)) => lease.discard(),
                        Err(_) => lease.give_up_all(),
                    }
                }
            }
        }
    }

    /// Connections that are open, and those of them that are idle.
    pub(super) fn size(&self) -> (u32, u32) {
        let state = self.0.lock();
        (state.counts.open(), u32::try_from(state.idle.len()).unwrap_or(u32::MAX))
    }

    /// Connections that can be had, as far as that is known: no more than there may be.
    pub(super) fn capacity(&self) -> u32 {
        let state = self.0.lock();
        if state.is_refused() { state.counts.open().max(1) } else { self.0.max }
    }

    /// Whether every connection is in use that can be had.
    pub(super) fn is_exhausted(&self) -> bool {
        let state = self.0.lock();
        state.idle.is_empty() && (state.counts.open() >= self.0.max || state.is_refused())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// The statements that run, and whether they get done.
    pub(super) fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// The connection beside the pool.
    pub(super) fn control(&self) -> &Arc<Control> {
        &self.0.control
    }

    pub(super) fn acquire_timeout(&self) -> Duration {
        self.0.acquire_timeout
    }

    /// Waits until the server has not even one connection for the pool: those beside the pool are to
    /// be given up then.
    pub(super) async fn starved(&self) {
        self.0.starved.notified().await;
    }

    /// A session was opened beside the pool: those who wait need not wait for the next attempt. If it
    /// is another server's, connections to the one before are not used any more.
    pub(super) fn observe(&self, session: &Session) {
        let mut state = self.0.lock();
        self.0.note_server(&mut state, session);
        if !session.read_only || state.counts.writable == 0 {
            state.retry_at = None;
            self.0.grow(&mut state);
        }
    }

    /// The server of a session is not the one that takes changes now.
    pub(super) fn has_moved_from(&self, session: &Session) -> bool {
        !session.read_only && self.0.lock().server.is_some_and(|server| server != session.server)
    }

    /// Waits for the connections that are out, then closes them all.
    pub(super) async fn close(&self) {
        let (idle, waiters) = {
            let mut state = self.0.lock();
            state.closed = true;
            (std::mem::take(&mut state.idle), std::mem::take(&mut state.waiters))
        };
        drop(waiters);
        self.0.close_all(idle);
        self.0.control.close().await;
        loop {
            let ended = self.0.ended.notified();
            if self.0.lock().counts.open() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl State {
    /// Whether no more connections come about, though there may be more.
    fn is_refused(&self) -> bool {
        self.failure.is_some() && self.retry_at.is_some_and(|at| at > Instant::now())
    }
}

impl Inner {
    fn take_or_line_up(self: &Arc<Self>) -> Taken {
        let mut outdated = Vec::new();
        let taken = {
            let mut state = self.lock();
            if state.closed {
                return Taken::Closed;
            }
            loop {
                match state.idle.pop() {
                    Some(connection) if self.is_outdated(&connection) => outdated.push(connection),
                    Some(connection) => break Taken::Idle(connection),
                    None => {
                        let (turn, waiting) = oneshot::channel();
                        state.waiters.push_back(turn);
                        self.grow(&mut state);
                        break Taken::InLine(waiting);
                    }
                }
            }
        };
        self.close_all(outdated);
        taken
    }

    async fn wait(
        &self,
        turn: oneshot::Receiver<Result<Lease, AcquireError>>,
        deadline: Instant,
    ) -> Result<Lease, AcquireError> {
        let outcome = timeout_at(deadline, turn).await;
        if let Ok(outcome) = outcome {
            return outcome.unwrap_or(Err(AcquireError::Closed));
        }
        let mut state = self.lock();
        state.waiters.retain(|waiter| !waiter.is_closed());
        let failure = state.failure.as_ref().map(|(failure, _)| failure.clone());
        Err(match failure {
            Some(failure) if state.counts.live == 0 => AcquireError::Failed(failure),
            failure => AcquireError::Busy(failure),
        })
    }

    /// Hands a connection to whoever waits for longest, or keeps it.
    fn hand_over(self: &Arc<Self>, connection: Connection) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return self.close(connection);
        }
        let mut lease = Lease::new(connection, Arc::clone(self));
        while let Some(waiter) = state.waiters.pop_front() {
            // Who has left does not take it.
            let Err(Ok(unwanted)) = waiter.send(Ok(lease)) else { return };
            lease = unwanted;
        }
        state.idle.extend(lease.into_connection());
    }

    fn is_outdated(&self, connection: &Connection) -> bool {
        connection.is_outdated(self.generation.load(Relaxed))
    }

    /// Every connection that there is belongs to the past, and takes no place of those to come but its own.
    fn outdate(&self, state: &mut State) {
        self.generation.fetch_add(1, Relaxed);
        state.counts.writable = 0;
    }

    /// Closes what nobody has used for long, for as long as the pool is there.
    fn watch_idle(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(IDLE_LIMIT / 5).await;
                let Some(pool) = pool.upgrade() else { return };
                let old: Vec<_> = {
                    let mut state = pool.lock();
                    if state.closed {
                        return;
                    }
                    let is_old =
                        |c: &mut Connection| c.idle_for() > IDLE_LIMIT || pool.is_outdated(c);
                    state.idle.extract_if(.., is_old).collect()
                };
                pool.close_all(old);
            }
        });
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (open, idle) = self.size();
        f.debug_struct("Pool").field("open", &open).field("idle", &idle).finish_non_exhaustive()
    }
}
