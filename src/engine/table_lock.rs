//! Whether somebody has locked the table of a queue as a whole. Whoever needs it then waits here and not in
//! the database: one looks for all of them whether the lock is gone, and they go on when it is.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::sleep};

use crate::{
    domain::QueueName,
    store::{self, Conn, Error, Result, TableAccess},
};

use super::{Shared, lock_backoff::LockBackoff};

/// What somebody wants to do to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To look at it.
    Look,
    /// To change what is in it.
    Change,
}

/// What is known of locks on the table of a queue.
pub(super) struct TableLock {
    queue: QueueName,
    shared: Shared,
    access: watch::Sender<TableAccess>,
    /// Whether somebody looks again and again.
    watched: Mutex<bool>,
}

impl TableLock {
    pub(super) fn new(queue: &QueueName, shared: &Shared) -> Arc<Self> {
        let access = watch::Sender::new(TableAccess::All);
        let (queue, shared) = (queue.clone(), shared.clone());
        Arc::new(Self { queue, shared, access, watched: Mutex::new(false) })
    }

    /// Whether it could be done, as far as that is known.
    pub(super) fn allows(&self, intent: Intent) -> bool {
        allows(*self.access.borrow(), intent)
    }

    /// Waits until it can be done.
    pub(super) async fn allowed(&self, intent: Intent) {
        let mut access = self.access.subscribe();
        // There is always somebody who could change it: this.
        let _ = access.wait_for(|access| allows(*access, intent)).await;
    }

    /// Finds out whether the table is what a statement met locked. From now on it is watched if it is.
    pub(super) async fn look(self: &Arc<Self>, conn: &mut Conn) {
        // Of a queue that is gone, or a database that fails, others tell.
        let access = store::table_access(conn, &self.queue).await.unwrap_or(TableAccess::All);
        let mut watched = self.watched();
        self.access.send_replace(access);
        if access != TableAccess::All && !*watched {
            *watched = true;
            let watch = Watch(Arc::clone(self));
            self.shared.tasks.spawn(async move { watch.0.watch().await });
        }
    }

    /// Looks until the lock is gone, or nobody waits for that.
    async fn watch(&self) {
        let mut backoff = LockBackoff::new();
        let closing = &self.shared.closing;
        loop {
            tokio::select! {
                () = sleep(backoff.next_pause_of_many()) => {}
                () = closing.cancelled() => return,
            }
            // Behind the pause: those who are to wait come in it.
            if self.access.receiver_count() == 0 {
                return;
            }
            match self.look_again().await {
                Ok(TableAccess::All) | Err(Error::QueueNotFound) => return,
                Ok(access) => drop(self.access.send_replace(access)),
                Err(_) => {}
            }
        }
    }

    async fn look_again(&self) -> Result<TableAccess> {
        let mut conn = self.shared.db.acquire(&Arc::default()).await?;
        store::table_access(&mut conn, &self.queue).await
    }

    fn watched(&self) -> MutexGuard<'_, bool> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the watch, however it ends: without it, everyone finds out for himself.
struct Watch(Arc<TableLock>);

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.0.watched();
        *watched = false;
        self.0.access.send_replace(TableAccess::All);
    }
}

fn allows(access: TableAccess, intent: Intent) -> bool {
    match access {
        TableAccess::All => true,
        TableAccess::Looks => intent == Intent::Look,
        TableAccess::None => false,
    }
}

impl fmt::Debug for TableLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TableLock").field(&*self.access.borrow()).finish()
    }
}
