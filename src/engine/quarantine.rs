//! Messages that PostgreSQL can store and not send: once written out they are enormous, or they are no UTF-8.

use tracing::warn;

use crate::{
    domain::{Filter, QueueName},
    store::{self, Conn, Error, Quarantined, Result},
    telemetry::{MessageEvent, Metrics},
};

/// Bytes that the numbers of a message take, written out, from which it is not worth reading.
const UNREADABLE_BYTES: i64 = 64 << 20;
/// How many messages are searched for unreadable ones, and by what: the numbers of the next few, which is
/// quick; by trying, whether these can be written out at all; then the same for far more.
const SEARCHES: [(i32, Option<i64>); 4] =
    [(200, Some(UNREADABLE_BYTES)), (200, None), (20_000, Some(UNREADABLE_BYTES)), (2_000, None)];
/// How often one read is tried again because some were found.
const MOST_FOUND: u32 = 25;

/// The search for unreadable messages on behalf of one read.
#[derive(Debug)]
pub struct UnreadableSearch<'a> {
    queue: &'a QueueName,
    filter: Option<&'a Filter>,
    metrics: &'a Metrics,
    found: u32,
}

impl<'a> UnreadableSearch<'a> {
    /// A search that has not looked yet, among what the filter chooses.
    pub fn new(queue: &'a QueueName, filter: Option<&'a Filter>, metrics: &'a Metrics) -> Self {
        Self { queue, filter, metrics, found: 0 }
    }

    /// Whether a read that ended in `error` is worth another try: if it failed because of what it read
    /// or took too long, unreadable messages are searched for and archived, so that they don't
    /// block those behind them. True a few times at most.
    pub async fn cleared(&mut self, conn: &mut Conn, error: Option<&Error>) -> Result<bool> {
        let worth_a_look = matches!(error, Some(Error::Unreadable | Error::Timeout));
        if !worth_a_look || self.is_used_up() {
            return Ok(false);
        }
        self.clear(conn).await
    }

    /// Whether it has found so many that it looks no more.
    pub(super) fn is_used_up(&self) -> bool {
        self.found >= MOST_FOUND
    }

    /// Searches for unreadable messages, however the read ended; whether there were some.
    pub(super) async fn clear(&mut self, conn: &mut Conn) -> Result<bool> {
        let (queue, filter) = (self.queue, self.filter);
        for (max_messages, max_expanded) in SEARCHES {
            let taken = store::quarantine(conn, queue, max_messages, max_expanded, filter).await?;
            if taken.count() > 0 {
                report(queue, &taken, self.metrics);
                self.found += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Says what was taken out of the way and where it is.
fn report(queue: &QueueName, taken: &Quarantined, metrics: &Metrics) {
    let Quarantined { archived, hidden } = taken;
    if !archived.is_empty() {
        warn!(%queue, ids = ?archived, "archived messages that cannot be read");
    }
    if !hidden.is_empty() {
        warn!(%queue, ids = ?hidden, "hid messages for good that cannot be read: the archive does not take them");
    }
    metrics.messages(queue.as_str(), MessageEvent::Quarantined, taken.count());
}

/// Takes messages out of the way that were read and make no sense.
pub(super) async fn take_away(
    conn: &mut Conn,
    queue: &QueueName,
    messages: &[i64],
    metrics: &Metrics,
) {
    if messages.is_empty() {
        return;
    }
    match store::quarantine_these(conn, queue, messages).await {
        Ok(taken) => report(queue, &taken, metrics),
        Err(error) => warn!(%queue, ids = ?messages, %error, "cannot archive unreadable messages"),
    }
}
