//! Looking at messages by their state, a bounded part at a time.

use std::sync::Arc;

use crate::{
    domain::{Call, Filter, QueueName},
    store::{self, BrowseLimits, Browsed, MessageSearch, MessageSource, Position},
};

use super::{Broker, Error, Result, work::Kind};

/// Rows that are looked at for a page at first, and where that takes too long. There is no time for a third look.
const ROWS: [i32; 2] = [20_000, 1_000];

/// A part of the messages that are meant.
#[derive(Clone, Debug)]
pub struct BrowseMessages {
    /// The queue.
    pub queue: QueueName,
    /// Which messages.
    pub search: MessageSearch,
    /// Where to go on.
    pub after: Option<Position>,
    /// The most of them.
    pub limit: i32,
    /// Whether nothing but their ids is wanted.
    pub ids_only: bool,
}

impl Broker {
    /// The largest id in a queue: what comes later has a larger one.
    pub async fn last_id(&self, call: &Arc<Call>, queue: QueueName) -> Result<i64> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let queue = &queue;
            let policy = broker.policies.of(queue).await?;
            let last =
                broker.on_queue(Kind::Browse, queue, &policy, &call, |mut conn| async move {
                    store::last_id(&mut conn, queue).await
                });
            last.await?.map_err(Error::on(queue))
        })
        .await
    }

    /// Messages by their state, leasing none. A search ends after so many rows, found or not: `next` says where to
    /// go on.
    pub async fn browse_messages(
        &self,
        call: &Arc<Call>,
        mut what: BrowseMessages,
    ) -> Result<Browsed> {
        what.search.filter = what.search.filter.filter(Filter::is_selective);
        let (broker, call) = (self.clone(), Arc::clone(call));
        let kind = match what.search.source {
            MessageSource::Archived => Kind::Archive,
            _ => Kind::Browse,
        };
        self.run(false, async move {
            let (queue, what) = (&what.queue, &what);
            let policy = broker.policies.of(queue).await?;
            let found = broker.on_queue(kind, queue, &policy, &call, |mut conn| async move {
                let mut outcome = Err(store::Error::Timeout);
                for rows in ROWS {
                    let limits = BrowseLimits {
                        messages: what.limit,
                        rows: rows.max(what.limit),
                        ids_only: what.ids_only,
                    };
                    let (search, after) = (&what.search, what.after);
                    outcome = store::browse_messages(&mut conn, queue, search, after, limits).await;
                    if !matches!(outcome, Err(store::Error::Timeout)) {
                        break;
                    }
                }
                outcome
            });
            found.await?.map_err(Error::on(queue))
        })
        .await
    }
}
