//! The safety net: one look, now and then, at all queues in which somebody waits. It is what finds
//! messages that SQL clients send.
//!
//! Each queue stands on its own feet: one that is locked, or fails, is looked at apart from the others
//! until it does not any more, and what is lost to it is no reason to look less often.

mod groups;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant, sleep};

use crate::{
    domain::QueueName,
    store::{self, BackgroundConn, Backoff, Conn, Db, Error, Result, Swept},
};

use super::{Shared, lanes::Lanes, peers::Peers, receivers::Receivers};

use groups::{Groups, Look};

/// The pause after a sweep is so many times what it took, if that is longer than usual.
const SWEEP_SHARE: u32 = 3;
/// What a sweep may take without a reason.
const SLIGHT: Duration = Duration::from_millis(10);
/// Pauses are no longer than this, or than usual.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time after which all queues are looked at even if nothing was committed meanwhile.
const WITHOUT_NEWS: Duration = Duration::from_secs(1);
/// Time after which those who wait look for themselves where a sweep takes too long.
const LOOK_FOR_THEMSELVES: Duration = Duration::from_secs(5);
/// Queues of one statement that are found to be in trouble, one by one; more are taken to be.
const CULPRITS: usize = 3;

/// The queues in which somebody waits.
type WaitedOn = HashMap<QueueName, Arc<Receivers>>;

/// What the sweeper keeps from one sweep to the next.
struct Sweeper<'a> {
    shared: &'a Shared,
    lanes: &'a Lanes,
    peers: Option<&'a Peers>,
    /// With a connection of its own, if there are enough.
    db: Db,
    groups: Groups,
    troubled: &'a Troubled,
    /// What was committed before the last sweep that was complete, and when that was.
    seen: Option<(String, Instant)>,
}

/// Queues that are looked at apart, and when those who wait there were last told to look for themselves.
#[derive(Debug, Default)]
struct Troubled(Mutex<HashMap<QueueName, Option<Instant>>>);

/// Sweeps until it is dropped.
pub(super) async fn run(shared: Shared, lanes: Arc<Lanes>, peers: Option<Arc<Peers>>) {
    let troubled = Troubled::default();
    let sweeper = Sweeper {
        shared: &shared,
        lanes: &lanes,
        peers: peers.as_deref(),
        db: shared.db.with_own_background_conn(),
        groups: Groups::default(),
        troubled: &troubled,
        seen: None,
    };
    let apart = Box::pin(troubled.run(&shared, &lanes, peers.as_deref()));
    tokio::join!(Box::pin(sweeper.run()), apart);
}

impl Sweeper<'_> {
    async fn run(mut self) {
        let usual = self.shared.poll_interval;
        let mut backoff = Backoff::new(usual.min(LONGEST_PAUSE), LONGEST_PAUSE);
        let (mut failed_before, mut load) = (false, Duration::ZERO);
        loop {
            match self.sweep().await {
                Ok(took) => {
                    backoff.reset();
                    failed_before = false;
                    // A stall is no load; what takes ever longer is.
                    load = took.min(load * 2 + SLIGHT);
                    sleep(usual.max((load * SWEEP_SHARE).min(LONGEST_PAUSE))).await;
                }
                // What came meanwhile has waited long enough.
                Err(_) if !failed_before => failed_before = true,
                Err(error) => {
                    tracing::debug!(%error, "sweep");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Looks at every queue once; says what that took of the database's time.
    async fn sweep(&mut self) -> Result<Duration> {
        let mut waited_on: WaitedOn = self.lanes.waited_on().into_iter().collect();
        waited_on.retain(|queue, receivers| {
            let is_watched = self.shared.floors.watches(queue);
            // Whoever watches it is at a look from the beginning: reads are short, and need not wait for that.
            let is_read = !is_watched && self.shared.floors.has_floor(queue);
            if is_read {
                receivers.swept();
            }
            if is_watched || is_read {
                // A look from the beginning is dear there.
                self.groups.remove(queue, Instant::now());
            }
            !(is_watched || is_read)
        });
        if waited_on.is_empty() {
            self.db.keep_none();
            return Ok(Duration::ZERO);
        }
        let outcome = self.sweep_queues(&waited_on).await;
        if let Err(Error::Unavailable(_)) = outcome {
            // Those who wait learn of it by looking for themselves.
            for receivers in waited_on.values() {
                receivers.notify();
            }
        }
        outcome
    }

    async fn sweep_queues(&mut self, waited_on: &WaitedOn) -> Result<Duration> {
        let now = Instant::now();
        let mut conn = self.db.background_conn().await?;
        let unseen = self.unseen(&mut conn).await?;
        if unseen.as_deref() == Some("") {
            return Ok(now.elapsed());
        }
        let apart: HashSet<QueueName> = self.troubled.lock().keys().cloned().collect();
        let queues = waited_on.keys().filter(|queue| !apart.contains(*queue));
        let mut took = Duration::ZERO;
        for look in self.groups.looks(queues, now) {
            let began = Instant::now();
            match ask(&mut conn, &look).await {
                Ok(swept) => {
                    tell(waited_on, &look.queues, &swept, self.peers);
                    took += began.elapsed();
                }
                Err(error) if !conn.is_reusable() => return Err(error),
                Err(_) => self.take_apart(&mut conn, &look, waited_on).await?,
            }
        }
        self.seen = unseen.map(|seen| (seen, now));
        Ok(took)
    }

    /// What is committed by now, where looking at everything costs more than asking for that; empty if
    /// nothing was since the last sweep. What becomes visible by itself is known from that one.
    async fn unseen(&self, conn: &mut Conn) -> Result<Option<String>> {
        if self.groups.len() < 2 {
            return Ok(None);
        }
        let committed = store::committed(conn).await?;
        let nothing_new = self.seen.as_ref().is_some_and(|(seen, at)| {
            *seen == committed && at.elapsed() < WITHOUT_NEWS && !self.groups.has_new()
        });
        Ok(Some(if nothing_new { String::new() } else { committed }))
    }

    /// Finds out which queue it was that failed them all.
    async fn take_apart(
        &mut self,
        conn: &mut BackgroundConn,
        look: &Look,
        waited_on: &WaitedOn,
    ) -> Result<()> {
        let now = Instant::now();
        if let Some(group) = look.group {
            self.groups.dissolve(group, now);
        }
        let mut culprits = 0;
        for queue in look.queues.iter().filter(|queue| waited_on.contains_key(*queue)) {
            if culprits < CULPRITS {
                let queue = std::slice::from_ref(queue);
                match store::sweep(conn, queue).await {
                    Ok(swept) => {
                        tell(waited_on, queue, &swept, self.peers);
                        continue;
                    }
                    Err(error) if !conn.is_reusable() => return Err(error),
                    Err(error) => tracing::debug!(?queue, %error, "a queue is looked at apart"),
                }
            }
            culprits += 1;
            self.groups.remove(queue, now);
            self.troubled.lock().insert(queue.clone(), None);
        }
        Ok(())
    }
}

impl Troubled {
    /// Looks at each of them until it is in no trouble any more, or nobody waits there.
    async fn run(&self, shared: &Shared, lanes: &Lanes, peers: Option<&Peers>) {
        loop {
            let began = Instant::now();
            let queues: Vec<QueueName> = self.lock().keys().cloned().collect();
            if !queues.is_empty() {
                let waited_on: WaitedOn = lanes.waited_on().into_iter().collect();
                for queue in &queues {
                    let waits = waited_on.contains_key(queue);
                    if !waits {
                        self.lock().remove(queue);
                        continue;
                    }
                    match look_alone(&shared.db, queue, &waited_on, peers).await {
                        Looked::Well => drop(self.lock().remove(queue)),
                        Looked::InVain => {}
                        Looked::TooLong => self.have_looked(queue, &waited_on),
                    }
                }
            }
            sleep(shared.poll_interval.max(began.elapsed().min(LONGEST_PAUSE))).await;
        }
    }

    /// Has those who wait look for themselves, now and then: nobody looks for them in less time than that takes.
    fn have_looked(&self, queue: &QueueName, waited_on: &WaitedOn) {
        let mut queues = self.lock();
        let (Some(told), Some(receivers)) = (queues.get_mut(queue), waited_on.get(queue)) else {
            return;
        };
        if told.is_none_or(|told| told.elapsed() >= LOOK_FOR_THEMSELVES) {
            *told = Some(Instant::now());
            drop(queues);
            receivers.notify();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Option<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at a queue in trouble came to.
enum Looked {
    /// It is in none any more.
    Well,
    InVain,
    TooLong,
}

/// Looks at a queue that is in trouble.
async fn look_alone(
    db: &Db,
    queue: &QueueName,
    waited_on: &WaitedOn,
    peers: Option<&Peers>,
) -> Looked {
    let looked = async {
        let mut conn = db.background_conn().await?;
        store::sweep(&mut conn, std::slice::from_ref(queue)).await
    };
    match looked.await {
        Ok(swept) => {
            tell(waited_on, std::slice::from_ref(queue), &swept, peers);
            Looked::Well
        }
        Err(Error::Timeout) => Looked::TooLong,
        // It is locked, or the database is away.
        Err(Error::Locked | Error::Unavailable(_) | Error::Overloaded) => Looked::InVain,
        // Those who wait learn of it by looking for themselves.
        Err(_) => {
            if let Some(receivers) = waited_on.get(queue) {
                receivers.notify();
            }
            Looked::InVain
        }
    }
}

async fn ask(conn: &mut Conn, look: &Look) -> Result<Vec<Swept>> {
    if look.planned {
        store::sweep_again(conn, &look.queues).await
    } else {
        store::sweep(conn, &look.queues).await
    }
}

/// Tells those who wait of what was found in each queue.
fn tell(waited_on: &WaitedOn, queues: &[QueueName], swept: &[Swept], peers: Option<&Peers>) {
    for (queue, swept) in queues.iter().zip(swept) {
        let Some(receivers) = waited_on.get(queue) else { continue };
        if swept.ready {
            receivers.swept();
        }
        if let Some(due_in) = swept.due_in.filter(|_| !swept.ready) {
            receivers.set_timer(due_in);
        }
        if let Some(peers) = peers.filter(|_| swept.notifies) {
            peers.listen_to(queue.as_str());
        }
    }
}
