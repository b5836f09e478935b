//! The safety net: one statement, now and then, that asks about all queues in which somebody waits.
//! It is what finds messages that SQL clients send.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    domain::QueueName,
    store::{self, Conn, Error},
};

use super::{Shared, lanes::Lanes, peers::Peers};

/// Time between two looks for lanes that nobody uses.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);
/// A sweep takes at most one part in so many of the time.
const SWEEP_SHARE: u32 = 20;

/// Sweeps until it is dropped.
pub(super) async fn run(shared: Shared, lanes: Arc<Lanes>, peers: Option<Arc<Peers>>) {
    let mut conn = None;
    let mut tidied = Instant::now();
    loop {
        let started = Instant::now();
        sweep(&shared, &lanes, peers.as_deref(), &mut conn).await;
        if tidied.elapsed() >= TIDY_INTERVAL {
            lanes.drop_idle();
            tidied = Instant::now();
        }
        // One that takes long is made less often.
        sleep(shared.poll_interval.max(started.elapsed() * SWEEP_SHARE)).await;
    }
}

/// Keeps a connection for as long as somebody waits: taking another each time would keep them all
/// from being idle.
async fn sweep(shared: &Shared, lanes: &Lanes, peers: Option<&Peers>, conn: &mut Option<Conn>) {
    let (queues, lines): (Vec<QueueName>, Vec<_>) = lanes.waited_on().into_iter().unzip();
    if queues.is_empty() {
        *conn = None;
        return;
    }
    let swept = async {
        let conn = match conn {
            Some(conn) => conn,
            None => conn.insert(shared.db.acquire(&Arc::default()).await?),
        };
        store::sweep(conn, &queues).await
    };
    let swept = match swept.await {
        Ok(swept) => swept,
        // Those who wait learn of it by looking for themselves.
        Err(Error::Unavailable(_)) => {
            for line in &lines {
                line.news();
            }
            return;
        }
        Err(error) => return tracing::debug!(%error, "sweep"),
    };
    for (swept, line) in swept.iter().zip(&lines) {
        if swept.ready {
            line.news();
        }
        if let Some(due_in) = swept.due_in.filter(|_| !swept.ready) {
            line.set_timer(due_in);
        }
        if let Some(peers) = peers.filter(|_| swept.notifies) {
            peers.listen_to(&swept.queue);
        }
    }
}
