//! A connection on loan, and what becomes of it afterwards.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rand::Rng;
use sqlx::{Connection as _, PgConnection};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::{
    super::session::{Opened, Session},
    inner::{Connection, Inner, Lease},
};

/// Seconds for which a connection is used, give or take some: what it has gathered is let go of.
const LIFETIME: Duration = Duration::from_secs(1800);
/// Time for which one that takes no changes is used, where there is no other: then it is looked
/// whether there is.
const READ_ONLY_LIFETIME: Duration = Duration::from_secs(1);
/// Time to take leave of the server.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn new(opened: Opened, generation: u64) -> Self {
        let Opened { conn, session } = opened;
        let lifetime = if session.read_only {
            READ_ONLY_LIFETIME
        } else {
            LIFETIME.mul_f64(rand::rng().random_range(0.8..1.2))
        };
        let ends = session.opened + lifetime;
        Self { conn, session, ends, used: Instant::now(), generation }
    }

    pub(super) fn idle_for(&self) -> Duration {
        self.used.elapsed()
    }

    pub(super) fn is_outdated(&self, generation: u64) -> bool {
        self.generation != generation || self.ends <= Instant::now()
    }
}

impl Lease {
    pub(super) fn new(connection: Connection, pool: Arc<Inner>) -> Self {
        Self { connection: Some(connection), pool }
    }

    /// Takes the connection out, so that it is not given back.
    pub(super) fn into_connection(mut self) -> Option<Connection> {
        self.connection.take()
    }

    /// Time since it was last used.
    pub(in super::super) fn idle_for(&self) -> Duration {
        self.connection().idle_for()
    }

    pub(in super::super) fn session(&self) -> &Session {
        &self.connection().session
    }

    /// Whether it should not be used any more.
    pub(in super::super) fn is_outdated(&self) -> bool {
        self.connection().is_outdated(self.pool.generation.load(Relaxed))
    }

    /// It broke: there is nothing to take leave of.
    pub(in super::super) fn discard(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.ending(&connection);
            drop(connection);
            self.pool.ended();
        }
    }

    /// It broke, or is not the right one, in a way that others may be about to as well.
    pub(in super::super) fn discard_all(self) {
        self.pool.outdate(&mut self.pool.lock());
        self.discard();
    }

    /// The way to it broke in the middle of a statement, which others may be about to find as well. The server may not
    /// notice while the statement runs, as none does that waits for a standby: it counts until its session is gone.
    pub(in super::super) fn lose_all(mut self) {
        self.pool.outdate(&mut self.pool.lock());
        self.end_beside(true);
    }

    /// It is not in a state for others: it takes its leave.
    pub(in super::super) fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.close(connection);
        }
    }

    /// Its statement was given up on: it is cancelled, and the connection counts until its session is
    /// gone, so that what is given up on never piles up at the server.
    pub(in super::super) fn give_up(mut self) {
        self.end_beside(false);
    }

    /// The same for one that should have answered, as should the others then.
    pub(in super::super) fn give_up_all(self) {
        self.pool.outdate(&mut self.pool.lock());
        self.give_up();
    }

    fn end_beside(&mut self, is_cut: bool) {
        let Some(connection) = self.connection.take() else { return };
        let pool = Arc::clone(&self.pool);
        pool.ending(&connection);
        let Connection { conn, session, .. } = connection;
        let Ok(runtime) = Handle::try_current() else { return pool.ended() };
        runtime.spawn(async move {
            if is_cut {
                drop(conn);
                pool.control.see_off(&session).await;
            } else {
                pool.control.end(conn, &session).await;
            }
            pool.ended();
        });
    }

    #[expect(clippy::expect_used, reason = "it is taken when this ends, and not before")]
    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("a connection")
    }

    #[expect(clippy::expect_used, reason = "it is taken when this ends, and not before")]
    fn connection_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a connection")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.pool.is_outdated(&connection) {
            self.pool.close(connection);
        } else {
            connection.used = Instant::now();
            self.pool.hand_over(connection);
        }
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection().conn
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection_mut().conn
    }
}

impl Inner {
    /// Takes leave of the server, beside.
    pub(super) fn close(self: &Arc<Self>, connection: Connection) {
        self.ending(&connection);
        let Ok(runtime) = Handle::try_current() else { return self.ended() };
        let pool = Arc::clone(self);
        runtime.spawn(async move {
            let _ = timeout(CLOSE_LIMIT, connection.conn.close()).await;
            pool.ended();
        });
    }

    pub(super) fn close_all(self: &Arc<Self>, connections: Vec<Connection>) {
        for connection in connections {
            self.close(connection);
        }
    }

    /// A connection is not for use any more.
    fn ending(&self, connection: &Connection) {
        let counts = &mut self.lock().counts;
        counts.live -= 1;
        // Those of the past are not among them.
        let is_current = connection.generation == self.generation.load(Relaxed);
        counts.writable -= u32::from(is_current && !connection.session.read_only);
        counts.ending += 1;
    }

    /// Its session has ended: there may be another in its place.
    fn ended(self: &Arc<Self>) {
        let mut state = self.lock();
        state.counts.ending -= 1;
        self.grow(&mut state);
        drop(state);
        self.ended.notify_waiters();
    }
}
