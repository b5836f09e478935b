//! How much is in a lane.

use crate::engine::loads::LaneLoad;

use super::{BatchStatement, Lane};

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
}
