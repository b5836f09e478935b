//! The task that looks where reads of a queue begin, for as long as that is worth it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::DateTime;
use tokio::{
    select,
    time::{Instant, sleep},
};
use tracing::{debug, info};

use crate::{
    domain::QueueName,
    engine::{Shared, receivers::Receivers},
    store::{self, Error, Result},
};

use super::{KeptQueue, scan_floor::ScanFloor};

/// Time between two looks: while there are reads, while somebody waits, and otherwise.
const WHILE_READ: Duration = Duration::from_millis(25);
const WHILE_WAITED_ON: Duration = Duration::from_millis(100);
const WHILE_UNUSED: Duration = Duration::from_millis(500);
/// A look is followed by a pause of so many times what it took.
const LOOK_SHARE: u32 = 10;
/// A look from the beginning that takes longer is what makes a floor worth it.
const DEAR: Duration = Duration::from_millis(1);
/// Looks from the beginning that take less, one after the other, until it is not worth it any more.
const CHEAP_LOOKS: u32 = 2;
/// Looks from the beginning are no more than this share of the time; there is one after each of these times at
/// the latest, and no sooner.
const FULL_LOOK_SHARE: u32 = 20;
const FULL_LOOK_LEAST: Duration = Duration::from_secs(1);
const FULL_LOOK_MOST: Duration = Duration::from_secs(10);
/// Time after which a queue that nobody reads is given up.
const UNUSED: Duration = Duration::from_secs(30);
/// The pause after a look that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What the keeper of a queue knows.
struct Keeper<'a> {
    queue: &'a QueueName,
    shared: &'a Shared,
    kept: KeptQueue<'a>,
    floor: ScanFloor,
    next_full: Instant,
    cheap_looks: u32,
    next_due: Instant,
}

/// What to do behind a look.
enum Next {
    Pause(Duration),
    End,
}

/// Keeps the floor of a queue until it is not needed any more. Returns at once where somebody does.
pub(in crate::engine) async fn keep(queue: QueueName, receivers: Weak<Receivers>, shared: Shared) {
    let Some(kept) = shared.floors.enter(&queue) else { return };
    let now = Instant::now();
    let mut keeper = Keeper {
        queue: &queue,
        shared: &shared,
        kept,
        floor: ScanFloor::default(),
        next_full: now,
        cheap_looks: 0,
        next_due: now,
    };
    while let Some(receivers) = receivers.upgrade() {
        let next = match keeper.look(&receivers).await {
            Ok(next) => next,
            // What was told before is not relied on for long.
            Err(Error::Locked | Error::Unavailable(_) | Error::Timeout | Error::Overloaded) => {
                Next::Pause(AFTER_FAILURE)
            }
            Err(error) => {
                debug!(%queue, %error, "reads begin at the beginning again");
                Next::End
            }
        };
        // Nothing here keeps lanes that nobody else uses.
        drop(receivers);
        let Next::Pause(pause) = next else { return };
        select! {
            () = sleep(pause) => {}
            () = shared.closing.cancelled() => return,
        }
    }
}

impl Keeper<'_> {
    async fn look(&mut self, receivers: &Arc<Receivers>) -> Result<Next> {
        let is_waited_on = receivers.has_long_poll();
        let unread_for = self.kept.unread_for();
        if !is_waited_on && unread_for > UNUSED {
            return Ok(Next::End);
        }
        let since = self.floor.get().filter(|_| Instant::now() < self.next_full);
        let since = since.and_then(DateTime::from_timestamp_micros);
        let looked = {
            let _look = self.kept.look();
            let _turn = self.shared.floors.looks.acquire().await;
            let mut conn = self.shared.floors.db.background_conn().await?;
            store::lowest_visible(&mut conn, self.queue, since).await?
        };
        let Some(look) = looked else { return Ok(Next::End) };
        let full_cost = since.is_none().then_some(look.walk);
        if full_cost.is_some_and(|cost| !self.is_worth_it(cost)) {
            return Ok(Next::End);
        }
        let again = self.floor.take(&look);
        self.kept.tell(self.floor.get().and_then(DateTime::from_timestamp_micros), full_cost);
        if is_waited_on {
            if look.lowest.is_some() {
                receivers.swept();
            }
            self.look_for_due(receivers).await?;
        }
        let rhythm = if unread_for < WHILE_WAITED_ON {
            WHILE_READ
        } else if is_waited_on {
            WHILE_WAITED_ON.min(self.shared.poll_interval)
        } else {
            WHILE_UNUSED
        };
        Ok(Next::Pause(match self.floor.get() {
            _ if again => Duration::ZERO,
            // The next one is short, however long this one was.
            Some(_) if full_cost.is_some() => rhythm,
            _ => rhythm.max(look.walk * LOOK_SHARE),
        }))
    }

    /// Takes note of a look from the beginning. False if reads may just as well begin there.
    fn is_worth_it(&mut self, cost: Duration) -> bool {
        let pause = (cost * FULL_LOOK_SHARE).clamp(FULL_LOOK_LEAST, FULL_LOOK_MOST);
        self.next_full = Instant::now() + pause;
        self.cheap_looks = if cost < DEAR { self.cheap_looks + 1 } else { 0 };
        let is_known = self.floor.get().is_some();
        if !is_known && cost >= DEAR && self.cheap_looks == 0 {
            debug!(queue = %self.queue, ?cost, "a look from the beginning is dear");
        }
        let is_worth_it = self.cheap_looks < if is_known { CHEAP_LOOKS } else { 1 };
        if is_known && !is_worth_it {
            info!(queue = %self.queue, "dead rows have been cleaned up: reads begin at the beginning again");
        }
        is_worth_it
    }

    /// Sets the clock for the next hidden message: reads do not look for it here, as they would walk what is dead
    /// and would have been visible later.
    async fn look_for_due(&mut self, receivers: &Arc<Receivers>) -> Result<()> {
        if Instant::now() < self.next_due {
            return Ok(());
        }
        // It walks what is dead as well: where that fails, it is not tried again at once.
        self.next_due = Instant::now() + FULL_LOOK_MOST;
        let (due_in, walk) = {
            let _look = self.kept.look();
            let _turn = self.shared.floors.looks.acquire().await;
            let mut conn = self.shared.floors.db.background_conn().await?;
            store::next_due(&mut conn, self.queue).await?
        };
        let pause = (walk * FULL_LOOK_SHARE).clamp(WHILE_WAITED_ON, FULL_LOOK_MOST);
        self.next_due = Instant::now() + pause;
        if let Some(due_in) = due_in {
            receivers.set_timer(due_in);
        }
        Ok(())
    }
}
