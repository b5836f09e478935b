//! One connection for what the gateway does on its own account: looking for news, settings, figures.
//!
//! It is kept from one use to the next for as long as somebody waits, so that all of them together
//! need one connection, and the others can be given up.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{Conn, Db, error::Result, kept_lease::KeptLease};

/// Pools with fewer connections cannot spare one.
const SMALLEST_POOL: u32 = 3;
/// One that was kept unused for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Time to wait for the one that is out; who waits for longer takes another.
const PATIENCE: Duration = Duration::from_millis(100);

/// A connection for short statements, which is kept for the next use.
pub struct BackgroundConn {
    conn: Option<Conn>,
    kept: KeptLease,
    turn: Option<OwnedSemaphorePermit>,
}

impl Db {
    /// A connection for short statements: the one that is kept, unless it is out for long.
    pub async fn background_conn(&self) -> Result<BackgroundConn> {
        let kept = self.kept().clone();
        let turn = timeout(PATIENCE, Arc::clone(&kept.turn).acquire_owned()).await;
        // It is never closed.
        let Ok(turn) = turn.map(std::result::Result::ok) else {
            let conn = self.acquire_own().await?;
            return Ok(BackgroundConn { conn: Some(conn), kept, turn: None });
        };
        if let Some((lease, since)) = kept.take() {
            let mut conn = self.resume_own(lease);
            if since.elapsed() < TRUSTED_IDLE || conn.ping().await.is_ok() {
                return Ok(BackgroundConn { conn: Some(conn), kept, turn });
            }
        }
        let conn = self.acquire_own().await?;
        Ok(BackgroundConn { conn: Some(conn), kept, turn })
    }

    /// The same with a place of its own for a connection that is kept, if there are enough of them: for
    /// work that must not wait for other work.
    #[must_use]
    pub fn with_own_background_conn(&self) -> Self {
        let enough = self.capacity() >= 2 * SMALLEST_POOL;
        if enough { self.with_kept(KeptLease::default()) } else { self.clone() }
    }
}

impl Drop for BackgroundConn {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && self.turn.is_some()
            && conn.capacity() >= SMALLEST_POOL
            && let Some(lease) = conn.into_lease()
        {
            self.kept.put(lease);
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
