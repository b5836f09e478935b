//! Looking at a queue that somebody has locked.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    engine::{
        lock_backoff::{LONGEST, LockBackoff, PATIENCE, SHORTEST},
        table_lock::Intent,
        wait_queue::Ticket,
    },
    store::{self, Found, Result},
};

use super::{Receivers, guards::InFlightRead, key::Key};

/// Who stood in a wait queue when, to tell who has waited for long enough.
#[derive(Default)]
struct Arrivals(VecDeque<(Instant, Ticket)>);

impl Arrivals {
    /// Those before `next` stand there by now.
    fn note(&mut self, next: Ticket) {
        if self.0.back().is_none_or(|(_, last)| *last < next) {
            self.0.push_back((Instant::now(), next));
        }
    }

    /// Those before this ticket have stood there for as long as anybody waits for a lock.
    fn overdue(&mut self) -> Option<Ticket> {
        let mut overdue = None;
        while let Some((_, before)) = self.0.front().filter(|(at, _)| at.elapsed() >= PATIENCE) {
            overdue = Some(*before);
            self.0.pop_front();
        }
        overdue
    }
}

/// Counts a look that meets a lock, until it is dropped.
struct Blocked<'a>(&'a Receivers);

impl<'a> Blocked<'a> {
    fn new(receivers: &'a Receivers) -> Self {
        receivers.lock().blocked_looks += 1;
        Self(receivers)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.lock().blocked_looks -= 1;
    }
}

impl Receivers {
    /// Whether a look would meet a lock, going by the others.
    pub(super) fn is_blocked(&self) -> bool {
        !self.table.allows(Intent::Change) || self.lock().blocked_looks > 0
    }

    /// Looks again while somebody has locked the table: for a while for those that do not wait, for as long
    /// as they do for those that wait. Nothing is held in between.
    pub(super) async fn look_when_unlocked(
        self: &Arc<Self>,
        key: &Arc<Key>,
        in_flight: &mut InFlightRead<'_>,
    ) -> Result<Found> {
        let _blocked = Blocked::new(self);
        let closing = &self.shared.closing;
        let (mut backoff, mut arrivals) = (LockBackoff::new(), Arrivals::default());
        loop {
            if !self.dismiss_overdue(key, &mut arrivals) {
                return Err(store::Error::Locked);
            }
            if closing.is_cancelled() {
                // Those who wait are on their way out.
                sleep(SHORTEST).await;
                continue;
            }
            if self.table.allows(Intent::Change) {
                tokio::select! {
                    () = sleep(backoff.next_pause_of_many()) => {}
                    () = closing.cancelled() => continue,
                }
            } else {
                tokio::select! {
                    () = self.table.allowed(Intent::Change) => {}
                    () = sleep(LONGEST) => continue,
                    () = closing.cancelled() => continue,
                }
            }
            let mut conn = None;
            let permit = timeout(LONGEST, self.look_permit(key, &mut conn)).await;
            let Ok(_permit) = permit else { continue };
            match self.look_once(&mut conn, key, in_flight, true).await {
                Err(store::Error::Locked) => {}
                outcome => return outcome,
            }
        }
    }

    /// Tells those that do not wait, and have waited for long enough, that there is a lock. Whether anybody
    /// is left.
    fn dismiss_overdue(&self, key: &Arc<Key>, arrivals: &mut Arrivals) -> bool {
        let (dismissed, is_left) = {
            let mut state = self.lock();
            let Some(wait_queue) = state.wait_queues.get_mut(key) else { return false };
            arrivals.note(wait_queue.next_ticket());
            let overdue = if self.shared.closing.is_cancelled() {
                Some(wait_queue.next_ticket())
            } else {
                arrivals.overdue()
            };
            let dismissed = overdue.map(|before| wait_queue.dismiss_short_polls(before));
            (dismissed.unwrap_or_default(), wait_queue.len() > 0)
        };
        for client in dismissed {
            client.call.add_round_trip();
            drop(client.reply.send(Err(store::Error::Locked)));
        }
        is_left
    }
}
