//! The safety net: one look, now and then, at all queues in which somebody waits. It is what finds
//! messages that SQL clients send.
//!
//! Each queue stands on its own feet: one that is locked, or fails, is looked at apart from the others
//! until it does not any more, and what is lost to it is no reason to look less often.

mod apart;
mod groups;
mod troubled;
mod waited_on;

use std::sync::Arc;

use tokio::time::{Duration, Instant, sleep};

use crate::store::{self, BackgroundConn, Backoff, Conn, Db, Error, Result, Swept};

use super::{Shared, lanes::Lanes, peers::Peers};

use apart::{Looked, SHORT};
use groups::{Groups, Look};
use troubled::Troubled;
use waited_on::{LONGEST_PAUSE, WaitedOn, tell};

/// The pause after a sweep is so many times what it took, if that is longer than usual.
const SWEEP_SHARE: u32 = 3;
/// What a sweep may take without a reason.
const SLIGHT: Duration = Duration::from_millis(10);
/// Time after which all queues are looked at even if nothing was committed meanwhile.
const WITHOUT_NEWS: Duration = Duration::from_secs(1);
/// Time for finding out which queues have failed a statement. Those that nobody came to by then are looked at apart.
const CULPRITS_LIMIT: Duration = Duration::from_secs(1);

/// What the sweeper keeps from one sweep to the next.
struct Sweeper<'a> {
    shared: &'a Shared,
    lanes: &'a Lanes,
    peers: Option<&'a Peers>,
    /// With a connection of its own, if there are enough.
    db: Db,
    groups: Groups,
    troubled: &'a Troubled<'a>,
    /// What was committed before the last sweep that was complete, and when that was.
    seen: Option<(String, Instant)>,
}

/// Sweeps until it is dropped.
pub(super) async fn run(shared: Shared, lanes: Arc<Lanes>, peers: Option<Arc<Peers>>) {
    let troubled = Troubled::new(&shared, &lanes, peers.as_deref());
    let sweeper = Sweeper {
        shared: &shared,
        lanes: &lanes,
        peers: peers.as_deref(),
        db: shared.db.with_own_background_conn(),
        groups: Groups::default(),
        troubled: &troubled,
        seen: None,
    };
    tokio::join!(Box::pin(sweeper.run()), Box::pin(troubled.run()));
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
        let looks = {
            let apart = self.troubled.lock();
            self.groups.looks(waited_on.keys().filter(|queue| !apart.contains(queue)), now)
        };
        let mut took = Duration::ZERO;
        for look in looks {
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
        for queue in look.queues.iter().filter(|queue| waited_on.contains_key(*queue)) {
            let mut looked = Looked::InVain;
            if now.elapsed() < CULPRITS_LIMIT {
                let queue = std::slice::from_ref(queue);
                match store::sweep(conn, queue, Some(SHORT)).await {
                    Ok(swept) => {
                        tell(waited_on, queue, &swept, self.peers);
                        continue;
                    }
                    Err(error) if !conn.is_reusable() => return Err(error),
                    Err(error) => {
                        tracing::debug!(?queue, %error, "a queue is looked at apart");
                        if matches!(error, Error::Timeout) {
                            looked = Looked::TooLong;
                        }
                    }
                }
            }
            self.groups.remove(queue, now);
            let mut apart = self.troubled.lock();
            apart.add(queue, now);
            apart.note(queue, looked, Instant::now());
        }
        Ok(())
    }
}

async fn ask(conn: &mut Conn, look: &Look) -> Result<Vec<Swept>> {
    if look.planned {
        store::sweep_again(conn, &look.queues).await
    } else {
        store::sweep(conn, &look.queues, None).await
    }
}
