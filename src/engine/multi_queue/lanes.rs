//! Lanes whose batches go into one statement.

use std::sync::Arc;

use tracing::Instrument;

use crate::{
    domain::QueueName,
    store::{Conn, Error, Result},
};

use super::{
    super::{
        Shared,
        lane::{BatchStatement, Lane, Share, ShareOutcome, SharedStatements},
        spans,
    },
    Member, MultiQueue, is_undone,
};

/// A kind of statement that serves several queues.
pub(in crate::engine) trait MultiQueueStatement: BatchStatement + Sized {
    /// Whether a request may go with those of other queues.
    fn is_shareable(input: &Self::Input) -> bool;

    /// Runs one statement for all, and returns what it came to for each, in order.
    fn run_for_all(
        conn: &mut Conn,
        parts: &[Part<'_, Self>],
    ) -> impl Future<Output = Result<Vec<ShareOutcome<Self::Output>>>> + Send;
}

/// What one queue brings to a statement.
pub(in crate::engine) struct Part<'a, W: BatchStatement> {
    pub(in crate::engine) work: &'a W,
    pub(in crate::engine) queue: &'a QueueName,
    pub(in crate::engine) inputs: Vec<&'a W::Input>,
}

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

impl<'a, W: BatchStatement> From<(&'a W, &'a QueueName, Vec<&'a W::Input>)> for Part<'a, W> {
    fn from((work, queue, inputs): (&'a W, &'a QueueName, Vec<&'a W::Input>)) -> Self {
        Self { work, queue, inputs }
    }
}
