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

use crate::domain::CallStats;

use super::{Conn, Db, error::Result};

/// Pools with fewer connections cannot spare one.
const SMALLEST_POOL: u32 = 3;
/// One that was kept unused for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Where the connection is while nobody is on an errand.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<Option<(Conn, Instant)>>>);

/// A connection for short statements, which is kept for the next errand.
pub struct Errand {
    conn: Option<Conn>,
    kept: Kept,
}

impl Kept {
    fn take(&self) -> Option<(Conn, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, conn: Conn) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two that were out at the same time one is enough.
        place.get_or_insert((conn, Instant::now()));
    }
}

impl Db {
    /// A connection for short statements: the one that is kept, unless it is out.
    pub async fn errand(&self) -> Result<Errand> {
        let kept = self.kept().clone();
        if let Some((mut conn, since)) = kept.take()
            && (since.elapsed() < TRUSTED_IDLE || conn.ping().await.is_ok())
        {
            return Ok(Errand { conn: Some(conn), kept });
        }
        let conn = self.acquire(&Arc::new(CallStats::default())).await?;
        Ok(Errand { conn: Some(conn), kept })
    }

    /// Gives up the connection that is kept, if one is.
    pub fn keep_none(&self) {
        drop(self.kept().take());
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take()
            && conn.max_connections() >= SMALLEST_POOL
            && conn.is_reusable()
        {
            self.kept.put(conn);
        }
    }
}

impl Deref for Errand {
    type Target = Conn;

    #[expect(clippy::expect_used, reason = "it is taken when this is dropped, and not before")]
    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("a connection")
    }
}

impl DerefMut for Errand {
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
