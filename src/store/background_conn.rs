//! One connection for what the gateway does on its own account: looking for news, settings, figures.
//!
//! It is kept from one errand to the next for as long as somebody waits, so that all of them together
//! need one connection, and the others can be given up.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Conn, Db, error::Result};

/// Pools with fewer connections cannot spare one.
const SMALLEST_POOL: u32 = 3;
/// One that was kept unused for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Time to wait for the one that is out; who waits for longer takes another.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the connection is while nobody is on an errand.
#[derive(Clone)]
pub(super) struct Kept {
    place: Arc<Mutex<Option<(Conn, Instant)>>>,
    turn: Arc<Semaphore>,
}

/// A connection for short statements, which is kept for the next errand.
pub struct BackgroundConn {
    conn: Option<Conn>,
    kept: Kept,
    turn: Option<OwnedSemaphorePermit>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { place: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Kept {
    fn take(&self) -> Option<(Conn, Instant)> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, conn: Conn) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some((conn, Instant::now()));
    }
}

impl Db {
    /// A connection for short statements: the one that is kept, unless it is out for long.
    pub async fn background_conn(&self) -> Result<BackgroundConn> {
        let kept = self.kept().clone();
        let turn = timeout(PATIENCE, Arc::clone(&kept.turn).acquire_owned()).await;
        // It is never closed.
        let Ok(turn) = turn.map(std::result::Result::ok) else {
            let conn = self.apart().acquire_own().await?;
            return Ok(BackgroundConn { conn: Some(conn), kept, turn: None });
        };
        if let Some((mut conn, since)) = kept.take()
            && (since.elapsed() < TRUSTED_IDLE || conn.ping().await.is_ok())
        {
            return Ok(BackgroundConn { conn: Some(conn), kept, turn });
        }
        let conn = self.apart().acquire_own().await?;
        Ok(BackgroundConn { conn: Some(conn), kept, turn })
    }

    /// The same with a place of its own for a connection that is kept, if there are enough of them: for
    /// errands that must not wait for others.
    #[must_use]
    pub fn with_own_errand(&self) -> Self {
        let enough = self.capacity() >= 2 * SMALLEST_POOL;
        if enough { self.apart() } else { self.clone() }
    }

    /// The same without the place where connections are kept: one that is kept there must not keep
    /// the place.
    fn apart(&self) -> Self {
        self.with_kept(Kept::default())
    }

    /// Gives up the connection that is kept, if one is.
    pub fn keep_none(&self) {
        drop(self.kept().take());
    }
}

impl Drop for BackgroundConn {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && self.turn.is_some()
            && conn.capacity() >= SMALLEST_POOL
            && conn.is_reusable()
        {
            self.kept.put(conn);
        }
    }
}

impl Deref for BackgroundConn {
    type Target = Conn;

    #[expect(clippy::expect_used, reason = "it is taken when this is dropped, and not before")]
    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("a connection")
    }
}

impl DerefMut for BackgroundConn {
    #[expect(clippy::expect_used, reason = "it is taken when this is dropped, and not before")]
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("a connection")
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}
