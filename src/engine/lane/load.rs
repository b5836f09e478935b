//! How much is in a lane.

use tracing::Span;

use crate::engine::spans;

use super::{BatchStatement, Lane, Request};

/// How much is in a lane at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLoad {
    /// What the lane is for.
    pub name: &'static str,
    /// Rows of requests that wait for a statement.
    pub rows: usize,
    /// Statements under way.
    pub statements: usize,
    /// Whether something in it meets a lock.
    pub is_blocked: bool,
}

impl<W: BatchStatement> Lane<W> {
    /// What is in it at this moment.
    pub(in crate::engine) fn load(&self, name: &'static str) -> LaneLoad {
        let state = self.lock();
        LaneLoad {
            name,
            rows: state.gathering.rows(),
            statements: state.workers,
            is_blocked: state.blocked || !state.locked.is_empty(),
        }
    }

    /// The span of a statement that serves these requests.
    pub(super) fn span_of(&self, requests: &[Request<W>]) -> Span {
        let calls = requests.iter().map(|request| &*request.call);
        spans::statement(W::NAME, Some(&self.queue), calls)
    }

    /// The next batch, which is under way until the second is dropped.
    pub(super) fn take(&self) -> (Vec<Request<W>>, UnderWay<'_, W>) {
        let mut state = self.lock();
        let held = state.gathering.bytes();
        let batch = if state.one_by_one.holds() {
            state.gathering.take_first().into_iter().collect()
        } else {
            state.gathering.take()
        };
        state.crowded = batch.len() > 1;
        let bytes = held - state.gathering.bytes();
        state.under_way += bytes;
        (batch, UnderWay { lane: self, bytes })
    }
}

/// Bytes that are counted until their statement has ended, however it did, or takes long.
pub(super) struct UnderWay<'a, W: BatchStatement> {
    lane: &'a Lane<W>,
    bytes: usize,
}

impl<W: BatchStatement> Drop for UnderWay<'_, W> {
    fn drop(&mut self) {
        self.lane.lock().under_way -= self.bytes;
    }
}
