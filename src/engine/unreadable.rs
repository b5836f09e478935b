//! Messages that PostgreSQL can store and not send: once written out, they are enormous.

use std::slice;

use tracing::warn;

use crate::{
    domain::QueueName,
    store::{self, Conn, Error, Result},
    telemetry::{DoneTo, Metrics},
};

/// Bytes that the numbers of a message take, written out, from which it is not worth reading.
const UNREADABLE_BYTES: i64 = 64 << 20;
/// How many messages are searched for unreadable ones, and by what: the numbers of the next few and
/// of far more, which is quick; then, by trying, whether the next few can be written out at all.
const SEARCHES: [(i32, Option<i64>); 3] =
    [(200, Some(UNREADABLE_BYTES)), (20_000, Some(UNREADABLE_BYTES)), (200, None)];

/// The search for unreadable messages on behalf of one read.
#[derive(Debug)]
pub struct UnreadableSearch<'a> {
    queue: &'a QueueName,
    metrics: &'a Metrics,
    searches: slice::Iter<'static, (i32, Option<i64>)>,
}

impl<'a> UnreadableSearch<'a> {
    /// A search that has not looked yet.
    pub fn new(queue: &'a QueueName, metrics: &'a Metrics) -> Self {
        Self { queue, metrics, searches: SEARCHES.iter() }
    }

    /// Whether a read that ended in `error` is worth another try: if it failed because of its size
    /// or took too long, unreadable messages are searched for and archived, so that they don't
    /// block those behind them. True a few times at most.
    pub async fn cleared(&mut self, conn: &mut Conn, error: Option<&Error>) -> Result<bool> {
        // A pop that got no answer counts too: if an unreadable message is still there, it failed.
        let worth_a_look =
            matches!(error, Some(Error::Unreadable | Error::Timeout | Error::OutcomeUnknown(None)));
        if !worth_a_look {
            return Ok(false);
        }
        for (max_messages, max_expanded) in self.searches.by_ref() {
            let ids = store::quarantine(conn, self.queue, *max_messages, *max_expanded).await?;
            if !ids.is_empty() {
                let queue = self.queue;
                warn!(%queue, ?ids, "archived messages that cannot be read");
                self.metrics.messages(queue.as_str(), DoneTo::Quarantined, ids.len());
                return Ok(true);
            }
        }
        Ok(false)
    }
}
