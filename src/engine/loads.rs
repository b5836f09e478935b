//! What is in the lanes of a queue, for people who look.

use crate::domain::QueueName;

use super::{Engine, LaneLoad};

impl Engine {
    /// What is in the lanes of a queue; nothing where it is not in use at this gateway.
    pub fn lane_loads(&self, queue: &QueueName) -> Vec<LaneLoad> {
        let Some(lanes) = self.lanes.in_use(queue) else { return Vec::new() };
        vec![
            lanes.send.load("send"),
            lanes.delete.load("delete"),
            lanes.archive.load("archive"),
            lanes.visibility.load("visibility"),
            lanes.pop.load("pop"),
            lanes.look.load("look"),
            lanes.settle.load("settle"),
        ]
    }
}
