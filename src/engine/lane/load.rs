//! How much is in a lane.

use crate::engine::loads::LaneLoad;

use super::{BatchStatement, Lane, Request};

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

    /// The next batch, which is under way until the second is dropped.
    pub(super) fn take(&self) -> (Vec<Request<W>>, UnderWay<'_, W>) {
        let mut state = self.lock();
        let held = state.gathering.bytes();
        let batch = state.gathering.take();
        state.crowded = batch.len() > 1;
        let bytes = held - state.gathering.bytes();
        state.under_way += bytes;
        (batch, UnderWay { lane: self, bytes })
    }
}

/// Bytes that are counted until their statement has ended, however it did.
pub(super) struct UnderWay<'a, W: BatchStatement> {
    lane: &'a Lane<W>,
    bytes: usize,
}

impl<W: BatchStatement> Drop for UnderWay<'_, W> {
    fn drop(&mut self) {
        self.lane.lock().under_way -= self.bytes;
    }
}
