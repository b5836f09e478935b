//! Lanes whose batches go into one statement.

use std::sync::Arc;

use tracing::Instrument;

use crate::store::{Conn, Error};

use super::{
    super::{
        Shared,
        lane::{Lane, Share, ShareOutcome, SharedStatements},
        spans,
    },
    Member, MultiQueue, is_undone,
    statement::{MultiQueueStatement, Part},
};

impl<W: MultiQueueStatement> MultiQueue<Arc<Lane<W>>> {
    /// Nothing where each request has a statement of its own.
    pub(super) fn of_lanes(shared: &Shared) -> Option<Arc<dyn SharedStatements<W>>> {
        Some(Self::new(shared)? as Arc<dyn SharedStatements<W>>)
    }
}

impl<W: MultiQueueStatement> SharedStatements<W> for MultiQueue<Arc<Lane<W>>> {
    fn is_busy(&self) -> bool {
        self.is_busy()
    }

    fn is_shareable(&self, input: &W::Input) -> bool {
        W::is_shareable(input)
    }

    fn add(self: Arc<Self>, lane: Arc<Lane<W>>) {
        Self::add(&self, lane);
    }

    fn own_began(&self) {
        self.own_began();
    }

    fn own_ended(&self) {
        self.own_ended();
    }
}

impl<W: MultiQueueStatement> Member for Arc<Lane<W>> {
    async fn serve(lanes: Vec<Self>, conn: &mut Conn) {
        let mut shares: Vec<Share<W>> = lanes.iter().filter_map(Lane::take_share).collect();
        // Two statements lock what they lock in the same order.
        shares.sort_by(|a, b| a.queue().cmp(b.queue()));
        if shares.is_empty() {
            return;
        }
        let outcomes = {
            let parts: Vec<Part<'_, W>> = shares.iter().map(Share::part).map(Part::from).collect();
            let span = spans::statement(W::NAME, None, shares.iter().flat_map(Share::calls));
            W::run_for_all(conn, &parts).instrument(span).await
        };
        match outcomes {
            Ok(outcomes) => shares.into_iter().zip(outcomes).for_each(|(share, o)| share.end(o)),
            Err(error) if is_undone(&error) => {
                for share in shares {
                    share.end(ShareOutcome::Retry);
                }
            }
            Err(error) => shares.into_iter().for_each(|share| share.fail(&error)),
        }
    }

    fn fail(self, error: &Error) {
        if let Some(share) = self.take_share() {
            share.fail(error);
        }
    }
}
