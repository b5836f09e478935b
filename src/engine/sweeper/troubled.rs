//! Looks at queues in trouble, each by itself, until it is in none any more: those that are slow one after the other,
//! and beside them the others, which do not wait for those.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep};

use crate::{
    domain::QueueName,
    engine::{Shared, lanes::Lanes, peers::Peers, receivers::Receivers},
    store::{self, Conn, Error},
};

use super::{
    apart::{Apart, Looked, SHORT},
    waited_on::{LONGEST_PAUSE, WaitedOn, tell_of},
};

/// Time between two queues in which those who wait are told to look for themselves, so that a dozen have their turn in
/// time. Each look takes a connection for long: while few of those are left to others, it is up to the longer time.
const BETWEEN_TOLD: Duration = Duration::from_millis(400);
const LONGEST_BETWEEN_TOLD: Duration = Duration::from_secs(2);

/// Queues that are looked at apart.
pub(super) struct Troubled<'a> {
    shared: &'a Shared,
    lanes: &'a Lanes,
    peers: Option<&'a Peers>,
    apart: Mutex<Apart>,
}

impl<'a> Troubled<'a> {
    pub(super) fn new(shared: &'a Shared, lanes: &'a Lanes, peers: Option<&'a Peers>) -> Self {
        Self { shared, lanes, peers, apart: Mutex::default() }
    }

    /// Works until it is dropped.
    pub(super) async fn run(&self) {
        let looks = (Box::pin(self.look_at_others()), Box::pin(self.look_at_slow_ones()));
        tokio::join!(looks.0, looks.1, self.have_looked());
    }

    /// Looks at all that are not known to be slow, again and again.
    async fn look_at_others(&self) {
        loop {
            let began = Instant::now();
            if !self.lock().is_empty() {
                let waited_on: WaitedOn = self.lanes.waited_on().into_iter().collect();
                self.lock().keep(|queue| waited_on.contains_key(queue), began);
                let queues = self.lock().not_slow();
                if !queues.is_empty() {
                    self.look_at(&queues, &waited_on).await;
                }
            }
            self.pause(began).await;
        }
    }

    async fn look_at(&self, queues: &[QueueName], waited_on: &WaitedOn) {
        let Ok(mut conn) = self.shared.db.background_conn().await else { return };
        for queue in queues {
            let Some(receivers) = waited_on.get(queue) else { continue };
            let looked = look_alone(&mut conn, queue, SHORT, receivers, self.peers).await;
            self.lock().note(queue, looked, Instant::now());
        }
    }

    /// Looks at those that are slow, one after the other.
    async fn look_at_slow_ones(&self) {
        loop {
            let (began, next) = (Instant::now(), self.lock().next_slow());
            let mut looked = Looked::InVain;
            if let Some((queue, limit)) = next {
                if let Some(receivers) = self.receivers(&queue)
                    && let Ok(mut conn) = self.shared.db.background_conn().await
                {
                    looked = look_alone(&mut conn, &queue, limit, &receivers, self.peers).await;
                }
                self.lock().note(&queue, looked, Instant::now());
            }
            // Where the whole database was slow for a moment, all of them are well.
            if looked != Looked::Well {
                self.pause(began).await;
            }
        }
    }

    /// Has those who wait at slow queues look for themselves, now and then: nobody looks for them in less time than
    /// that takes.
    async fn have_looked(&self) {
        let mut told = Instant::now();
        loop {
            sleep(BETWEEN_TOLD).await;
            if !self.has_connections_left() && told.elapsed() < LONGEST_BETWEEN_TOLD {
                continue;
            }
            told = Instant::now();
            let queue = self.lock().next_to_tell(Instant::now());
            if let Some(receivers) = queue.and_then(|queue| self.receivers(&queue)) {
                receivers.notify();
            }
        }
    }

    /// Whether a third of the connections is in nobody's hands.
    fn has_connections_left(&self) -> bool {
        let ((open, idle), capacity) = (self.shared.db.size(), self.shared.db.capacity());
        capacity.saturating_sub(open.saturating_sub(idle)) >= capacity.div_ceil(3)
    }

    fn receivers(&self, queue: &QueueName) -> Option<Arc<Receivers>> {
        self.lanes.in_use(queue).map(|lanes| Arc::clone(&lanes.receive))
    }

    async fn pause(&self, began: Instant) {
        sleep(self.shared.poll_interval.max(began.elapsed().min(LONGEST_PAUSE))).await;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Apart> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a queue that is in trouble.
async fn look_alone(
    conn: &mut Conn,
    queue: &QueueName,
    limit: Duration,
    receivers: &Arc<Receivers>,
    peers: Option<&Peers>,
) -> Looked {
    match store::sweep(conn, std::slice::from_ref(queue), Some(limit)).await {
        Ok(swept) => {
            for swept in &swept {
                tell_of(receivers, queue, swept, peers);
            }
            // The way there takes its time, too, and holds nobody else up.
            let is_slow = swept.iter().any(|swept| swept.took > SHORT);
            if is_slow { Looked::Slowly } else { Looked::Well }
        }
        Err(Error::Timeout) => Looked::TooLong,
        // It is locked, or the database is away.
        Err(Error::Locked | Error::Unavailable(_) | Error::Overloaded) => Looked::InVain,
        // Those who wait learn of it by looking for themselves.
        Err(_) => {
            receivers.notify();
            Looked::InVain
        }
    }
}
