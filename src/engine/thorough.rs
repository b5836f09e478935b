//! Reads that one bad row does not spoil.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{
    domain::{FifoMode, QueueName},
    store::{self, Conn, Error, Found, Popped, Read, Result},
    telemetry::MessageEvent,
};

use super::{Shared, UnreadableSearch, quarantine::take_away};

/// The pause between two reads that find nothing but what the table keeps: each tries it all again.
pub(super) const BESIDE_KEPT: Duration = Duration::from_millis(500);
/// How often a read is tried again that others undo.
const MOST_UNDONE: u32 = 2;
/// How often a read runs out of time at a message before it is given up on.
const MOST_SLOW: u32 = 2;

/// Time between two looks for messages that a read which was given up on may have locked still, and how often
/// that is done.
const PAUSE: Duration = Duration::from_millis(250);
const MOST_PAUSES: u32 = 20;
/// Time after which no other read is waited for that is at an unreadable message: maybe none is.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Reads; where a row is in the way, without it. One that the table does not let go is left, one that takes too long
/// is passed over for a while, one that cannot be read is taken out of the way.
pub(super) async fn read_thoroughly(
    conn: &mut Conn,
    read: &Read,
    want_due: bool,
    mut one_by_one: bool,
    shared: &Shared,
) -> Result<Found> {
    let wanted = read.qty;
    let mut read = read.clone();
    read.qty = shared.heavy.rows(&read.queue, wanted);
    let queue = read.queue.clone();
    let mut search = UnreadableSearch::new(&queue, read.filter.as_ref(), &shared.metrics);
    let (mut undone, mut gave_up, mut tries, mut reads_fully) = (0, false, 0, false);
    let (mut slow, began) = (0, Instant::now());
    loop {
        if read.fifo == Some(FifoMode::Fair) {
            read.after_group = shared.turns.after(&queue);
        }
        if !reads_fully {
            read.since = shared.floors.since(&queue);
        }
        // Whoever keeps the floor says when the next one is due.
        let want_due = want_due && read.since.is_none();
        let passed_over = shared.slow_rows.of(&queue);
        let mut outcome = store::read(conn, &read, want_due, one_by_one, &passed_over).await;
        match &mut outcome {
            Err(Error::TimeoutAt { msg_id, queue_id }) => {
                shared.slow_rows.note(&queue, *queue_id, *msg_id);
                slow += 1;
                if slow >= MOST_SLOW {
                    return Err(Error::Timeout);
                }
            }
            Err(Error::Timeout) if read.qty > 1 => {
                // With one it may be the search that takes so long.
                if read.filter.is_none() {
                    shared.heavy.note(&read.queue);
                }
                read.qty = 1;
                // With a filter, finding none is an answer.
                gave_up = read.filter.is_none();
            }
            // What was given up on may be at these messages still.
            Ok(found) if gave_up && found.messages.is_empty() && tries < MOST_PAUSES => {
                tries += 1;
                keep_account(conn, &queue, found, shared).await;
                sleep(PAUSE).await;
            }
            Ok(found) if gave_up && found.messages.is_empty() => {
                gave_up = false;
                keep_account(conn, &queue, found, shared).await;
                if !search.cleared(conn, Some(&Error::Timeout)).await? {
                    shared.kept.report(&queue, found.kept.as_ref());
                    found.dead = 0;
                    return outcome;
                }
            }
            Err(Error::Deadlock(_)) if undone < MOST_UNDONE => undone += 1,
            Err(error) if !one_by_one && is_in_the_way(error) => one_by_one = true,
            // The connection broke: no row is to blame for that.
            Err(Error::OutcomeUnknown(_)) => return outcome,
            Err(error) if search.cleared(conn, Some(error)).await? => {}
            // Another read is at it, which clears it away: this one goes on without.
            Err(Error::Unreadable)
                if tries < MOST_PAUSES
                    && !search.is_used_up()
                    && began.elapsed() < LONGEST_WAIT
                    && !shared.closing.is_cancelled() =>
            {
                tries += 1;
                sleep(PAUSE).await;
            }
            Err(_) => return outcome,
            Ok(found) if found.is_empty() && is_to_begin_anew(read.since, &queue, shared) => {
                (read.since, reads_fully) = (None, true);
            }
            Ok(found) => {
                // There may be as many as are wanted.
                found.more |= read.qty < wanted && !found.messages.is_empty();
                if let Some(group) = found.last_group.take() {
                    shared.turns.note(&queue, group);
                }
                shared.kept.report(&read.queue, found.kept.as_ref());
                take_away(conn, &read.queue, &found.unreadable, &shared.metrics).await;
                return outcome;
            }
        }
    }
}

/// Pops in the same way.
pub(super) async fn pop_thoroughly(
    conn: &mut Conn,
    pop: &store::Pop,
    shared: &Shared,
) -> Result<Popped> {
    let mut pop = pop.clone();
    pop.qty = shared.heavy.rows(&pop.queue, pop.qty);
    let mut search = UnreadableSearch::new(&pop.queue, None, &shared.metrics);
    let (mut one_by_one, mut reads_fully) = (false, false);
    loop {
        if !reads_fully {
            pop.since = shared.floors.since(&pop.queue);
        }
        let outcome = store::pop(conn, &pop, one_by_one).await;
        match &outcome {
            // Undone as a whole.
            Err(Error::Timeout) if pop.qty > 1 => {
                shared.heavy.note(&pop.queue);
                pop.qty = 1;
            }
            Err(Error::Locked) if !one_by_one => one_by_one = true,
            Err(error) if !one_by_one && is_in_the_way(error) => one_by_one = true,
            // What it took may be gone: another pop would delete the next ones, too.
            Err(Error::OutcomeUnknown(source)) => {
                if source.is_none() {
                    clear_for_the_next(conn, &mut search).await;
                }
                return outcome;
            }
            Err(error) if search.cleared(conn, Some(error)).await? => {}
            Err(_) => return outcome,
            Ok(popped) if popped.is_empty() && is_to_begin_anew(pop.since, &pop.queue, shared) => {
                (pop.since, reads_fully) = (None, true);
            }
            Ok(popped) => {
                shared.kept.report(&pop.queue, popped.kept.as_ref());
                return outcome;
            }
        }
    }
}

/// It may be an unreadable message for which a pop got no answer: whoever pops next is not to meet it.
async fn clear_for_the_next(conn: &mut Conn, search: &mut UnreadableSearch<'_>) {
    if let Err(error) = search.clear(conn).await {
        debug!(%error, "cannot search for unreadable messages");
    }
}

/// What was done on the way, of a read that is done again.
async fn keep_account(conn: &mut Conn, queue: &QueueName, found: &Found, shared: &Shared) {
    shared.metrics.messages(queue.as_str(), MessageEvent::DeadLettered, found.dead);
    take_away(conn, queue, &found.unreadable, &shared.metrics).await;
}

/// Whether to look once more from the beginning, where there was nothing from `since` on.
pub(super) fn is_to_begin_anew(
    since: Option<DateTime<Utc>>,
    queue: &QueueName,
    shared: &Shared,
) -> bool {
    since.is_some() && shared.floors.may_read_fully(queue)
}

/// Whether it may be a row that failed a statement, so that others can be had without it.
fn is_in_the_way(error: &Error) -> bool {
    let is_about_others =
        matches!(error, Error::Locked | Error::Unreadable | Error::TableDiffers { .. });
    error.is_about_rows() && !is_about_others
}
