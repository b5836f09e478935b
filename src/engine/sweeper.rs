//! The safety net: one look, now and then, at all queues in which somebody waits. It is what finds
//! messages that SQL clients send.

use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep};

use crate::{
    domain::QueueName,
    store::{self, Error, Result, Swept},
};

use super::{Shared, lanes::Lanes, peers::Peers, receive_lane::ReceiveLane};

/// Time between two looks for lanes that nobody uses.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);
/// A sweep takes at most one part in so many of the time.
const SWEEP_SHARE: u32 = 20;
/// Queues that are asked about in one statement.
const CHUNK: usize = 64;
/// Sweeps after which it is asked again which queues have notifications.
const THOROUGH_EVERY: u32 = 50;
/// Sweeps of the same queues after which it is worth planning a statement for them.
const WORTH_PLANNING: u32 = 3;

/// What the sweeper keeps from one sweep to the next.
#[derive(Default)]
struct Sweeper {
    /// The queues of the last sweep, and how often they were swept.
    queues: Vec<QueueName>,
    times: u32,
}

/// Sweeps until it is dropped.
pub(super) async fn run(shared: Shared, lanes: Arc<Lanes>, peers: Option<Arc<Peers>>) {
    let mut sweeper = Sweeper::default();
    let mut tidied = Instant::now();
    loop {
        let started = Instant::now();
        sweeper.sweep(&shared, &lanes, peers.as_deref()).await;
        if tidied.elapsed() >= TIDY_INTERVAL || lanes.take_met_unknown() {
            lanes.drop_idle();
            tidied = Instant::now();
        }
        // One that takes long is made less often.
        sleep(shared.poll_interval.max(started.elapsed() * SWEEP_SHARE)).await;
    }
}

impl Sweeper {
    async fn sweep(&mut self, shared: &Shared, lanes: &Lanes, peers: Option<&Peers>) {
        let mut waited_on = lanes.waited_on();
        if waited_on.is_empty() {
            shared.db.keep_none();
            return;
        }
        // In an order, so that the same queues make the same statement.
        waited_on.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if !waited_on.iter().map(|(queue, _)| queue).eq(&self.queues) {
            self.queues = waited_on.iter().map(|(queue, _)| queue.clone()).collect();
            self.times = 0;
        }
        self.times += 1;
        for chunk in waited_on.chunks(CHUNK) {
            let queues: Vec<QueueName> = chunk.iter().map(|(queue, _)| queue.clone()).collect();
            match self.look(shared, &queues).await {
                Ok(swept) => tell(chunk, &swept, peers),
                // Those who wait learn of it by looking for themselves.
                Err(Error::Unavailable(_)) => chunk.iter().for_each(|(_, line)| line.news()),
                Err(error) => tracing::debug!(%error, "sweep"),
            }
        }
    }

    async fn look(&self, shared: &Shared, queues: &[QueueName]) -> Result<Vec<Swept>> {
        let mut conn = shared.db.errand().await?;
        let planned = self.times > WORTH_PLANNING && !self.times.is_multiple_of(THOROUGH_EVERY);
        if planned && queues.iter().all(|queue| queue.check_creatable().is_ok()) {
            match store::sweep_again(&mut conn, queues).await {
                // The thorough way knows what to make of a queue that is gone.
                Err(Error::QueueNotFound) => {}
                outcome => return outcome,
            }
        }
        store::sweep(&mut conn, queues).await
    }
}

/// Tells those who wait of what was found.
fn tell(chunk: &[(QueueName, Arc<ReceiveLane>)], swept: &[Swept], peers: Option<&Peers>) {
    for (swept, (_, line)) in swept.iter().zip(chunk) {
        if swept.ready {
            line.swept();
        }
        if let Some(due_in) = swept.due_in.filter(|_| !swept.ready) {
            line.set_timer(due_in);
        }
        if let Some(peers) = peers.filter(|_| swept.notifies) {
            peers.listen_to(&swept.queue);
        }
    }
}
