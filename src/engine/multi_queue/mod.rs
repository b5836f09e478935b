//! Statements that serve several queues: one round trip and one commit for all of them.
//!
//! As long as few queues have work at the same time, each has statements of its own. When there are more, they
//! become ready here, and one statement takes what several of them have gathered. There is no timer: whoever comes
//! first goes at once. What a statement cannot do for a queue is done by one of its own, so that a queue that is
//! locked, gone or refuses a row is a matter of its own clients.

mod kinds;
mod lanes;
mod schedule;
mod sends;
mod settles;
mod statement;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use tokio::{
    pin,
    task::yield_now,
    time::{Duration, timeout},
};

use crate::store::{Conn, Error};

use super::Shared;

use schedule::Schedule;

pub(super) use kinds::MultiQueues;
pub(super) use statement::{MultiQueueStatement, Part};

/// Time after which a statement is waited for by nobody but those whom it serves.
const SLOW: Duration = Duration::from_millis(50);

/// What is served together with what other queues have of its kind.
pub(super) trait Member: Send + Sized + 'static {
    /// Serves several by one statement.
    fn serve(members: Vec<Self>, conn: &mut Conn) -> impl Future<Output = ()> + Send;

    /// Nothing was done, as there is no connection.
    fn fail(self, error: &Error);
}

/// Serves members of one kind, of whatever queues.
pub(super) struct MultiQueue<M> {
    shared: Shared,
    schedule: Mutex<Schedule<M>>,
}

/// Whether the whole was undone because of something that may be one queue's: each has a try of its own.
pub(super) fn is_undone(error: &Error) -> bool {
    error.is_about_rows()
        || matches!(error, Error::Timeout | Error::Forbidden(_) | Error::Deadlock(_))
}

impl<M: Member> MultiQueue<M> {
    /// Nothing where each request has a statement of its own.
    pub(super) fn new(shared: &Shared) -> Option<Arc<Self>> {
        let queues = shared.queues_per_statement;
        let schedule = Mutex::new(Schedule::new(shared.multi_queue_statements, queues));
        (queues > 1).then(|| Arc::new(Self { shared: shared.clone(), schedule }))
    }

    /// Whether it pays to go with others.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().is_busy()
    }

    /// Has a member served with others.
    pub(super) fn add(self: &Arc<Self>, member: M) {
        if self.lock().add(member) {
            self.spawn_worker();
        }
    }

    fn spawn_worker(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.shared.tasks.spawn(async move {
            // After a panic the others go on.
            while AssertUnwindSafe(this.work_off()).catch_unwind().await.is_err() {}
        });
    }

    /// A worker of a single queue has begun.
    pub(super) fn own_began(&self) {
        self.lock().own_began();
    }

    /// One has ended.
    pub(super) fn own_ended(&self) {
        self.lock().own_ended();
    }

    /// Runs statements until nobody is ready. The connection is kept for as long as there is work.
    async fn work_off(self: &Arc<Self>) {
        let mut conn = None;
        // Requests that came in together with the first one are on their way here.
        yield_now().await;
        loop {
            let connected = match &mut conn {
                Some(conn) => Ok(conn),
                // The statements go on every request's account, so on nobody's in particular.
                None => self.shared.db.acquire(&Arc::default()).await.map(|new| conn.insert(new)),
            };
            let members = self.lock().take();
            if members.is_empty() {
                return;
            }
            match connected {
                Ok(conn) => {
                    if self.serve(members, conn).await {
                        return;
                    }
                }
                Err(error) => members.into_iter().for_each(|member| member.fail(&error)),
            }
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
        }
    }

    /// Runs a statement. Whether it took so long that others work in place of whoever ran it.
    async fn serve(self: &Arc<Self>, members: Vec<M>, conn: &mut Conn) -> bool {
        let serve = M::serve(members, conn);
        pin!(serve);
        if timeout(SLOW, &mut serve).await.is_ok() {
            return false;
        }
        let Some(begins) = self.lock().leave_slow() else {
            serve.await;
            return false;
        };
        let _slow = SlowStatement(self);
        if begins {
            self.spawn_worker();
        }
        serve.await;
        true
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<M>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a statement that takes long, until it is dropped.
struct SlowStatement<'a, M: Member>(&'a Arc<MultiQueue<M>>);

impl<M: Member> Drop for SlowStatement<'_, M> {
    fn drop(&mut self) {
        self.0.lock().slow_ended();
    }
}
