//! The kinds of statements that serve several queues.

use std::sync::Arc;

use super::{
    super::{
        Shared,
        lane::SharedStatements,
        receivers::ReadyLook,
        statements::{End, Send},
    },
    MultiQueue,
};

/// Lanes of all queues that are served together, by kind. Nothing where nothing is shared.
#[derive(Clone)]
pub(in crate::engine) struct MultiQueues {
    pub(in crate::engine) send: Option<Arc<dyn SharedStatements<Send>>>,
    pub(in crate::engine) delete: Option<Arc<dyn SharedStatements<End>>>,
    pub(in crate::engine) receive: Option<Arc<MultiQueue<ReadyLook>>>,
    pub(in crate::engine) archive: Option<Arc<dyn SharedStatements<End>>>,
}

impl MultiQueues {
    pub(in crate::engine) fn new(shared: &Shared) -> Self {
        Self {
            send: MultiQueue::of_lanes(shared),
            delete: MultiQueue::of_lanes(shared),
            receive: MultiQueue::new(shared),
            archive: MultiQueue::of_lanes(shared),
        }
    }
}
