//! Statements that serve several queues: one round trip and one commit for all of them.
//!
//! As long as few queues have work at the same time, each has statements of its own. When there are more, they
//! become ready here, and one statement takes what several of them have gathered. There is no timer: whoever comes
//! first goes at once. What a statement cannot do for a queue is done by one of its own, so that a queue that is
//! locked, gone or refuses a row is a matter of its own clients.

mod lanes;
mod schedule;
mod sends;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use tokio::task::yield_now;

use crate::store::{Conn, Error};

use super::{Shared, lane::SharedStatements, statements};

use schedule::Schedule;

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

/// Lanes of all queues that are served together, by kind. Nothing where nothing is shared.
#[derive(Clone)]
pub(super) struct MultiQueues {
    pub(super) send: Option<Arc<dyn SharedStatements<statements::Send>>>,
}

impl MultiQueues {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { send: MultiQueue::of_lanes(shared) }
    }
}

impl<M: Member> MultiQueue<M> {
    /// Nothing where each request has a statement of its own.
    pub(super) fn new(shared: &Shared) -> Option<Arc<Self>> {
        let queues = shared.queues_per_statement;
        let schedule = Mutex::new(Schedule::new(shared.multi_queue_statements, queues));
        (queues > 1).then(|| Arc::new(Self { shared: shared.clone(), schedule }))
    }

    /// Whether it pays to go with others.
    fn is_busy(&self) -> bool {
        self.lock().is_busy()
    }

    /// Has a member served with others.
    fn add(self: &Arc<Self>, member: M) {
        if self.lock().add(member) {
            let this = Arc::clone(self);
            self.shared.tasks.spawn(async move {
                // After a panic the others go on.
                while AssertUnwindSafe(this.work_off()).catch_unwind().await.is_err() {}
            });
        }
    }

    /// Runs statements until nobody is ready. The connection is kept for as long as there is work.
    async fn work_off(&self) {
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
                Ok(conn) => M::serve(members, conn).await,
                Err(error) => members.into_iter().for_each(|member| member.fail(&error)),
            }
            if self.shared.db.is_exhausted() {
                // Others wait for one.
                conn = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<M>> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
