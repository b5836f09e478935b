//! Messages that PostgreSQL can store and not send: small ones whose numbers become enormous.

use std::slice;

use tracing::warn;

use crate::{
    domain::QueueName,
    store::{self, Conn, Error, Result},
    telemetry::{DoneTo, Metrics},
};

/// Bytes that the numbers of a message take, written out, from which it is not worth reading.
const UNREADABLE_BYTES: i64 = 64 << 20;
/// How many messages are searched for unreadable ones: the next few, then far more.
const SEARCH_DEPTHS: [i32; 2] = [200, 20_000];

/// The search for unreadable messages on behalf of one read.
#[derive(Debug)]
pub struct UnreadableSearch<'a> {
    queue: &'a QueueName,
    metrics: &'a Metrics,
    depths: slice::Iter<'static, i32>,
}

impl<'a> UnreadableSearch<'a> {
    /// A search that has not looked yet.
    pub fn new(queue: &'a QueueName, metrics: &'a Metrics) -> Self {
        Self { queue, metrics, depths: SEARCH_DEPTHS.iter() }
    }

    /// Whether a read that ended in `error` is worth another try: if it failed because of its size
    /// or took too long, unreadable messages are searched for and archived, so that they don't
    /// block those behind them. True at most twice.
    pub async fn cleared(&mut self, conn: &mut Conn, error: Option<&Error>) -> Result<bool> {
        if !matches!(error, Some(Error::Unreadable | Error::Timeout)) {
            return Ok(false);
        }
        for depth in self.depths.by_ref() {
            let ids = store::quarantine(conn, self.queue, *depth, UNREADABLE_BYTES).await?;
            if !ids.is_empty() {
                let queue = self.queue;
                warn!(%queue, ?ids, "archived messages whose numbers are too large to be read");
                self.metrics.messages(queue.as_str(), DoneTo::Quarantined, ids.len());
                return Ok(true);
            }
        }
        Ok(false)
    }
}
