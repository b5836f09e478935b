//! What is counted and measured, for those who show it to people: nothing is asked for it.

use std::sync::Arc;

use super::{Metrics, queues::QueueFigures};

/// What is known of a queue.
#[derive(Clone, Debug)]
pub struct QueueSnapshot {
    /// Its name.
    pub queue: Arc<str>,
    /// Its length and the like; nothing where that is not known.
    pub figures: Option<QueueFigures>,
    /// What this gateway did to its messages since it started.
    pub counts: QueueCounts,
}

/// How many messages of a queue this gateway dealt with since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Stored.
    pub sent: u64,
    /// Delivered.
    pub received: u64,
    /// Deleted by consumers.
    pub deleted: u64,
    /// Archived by consumers.
    pub archived: u64,
    /// Moved away: delivered often enough, or given up by a worker.
    pub dead_lettered: u64,
}

/// What is known of the process; what the system does not tell is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessSnapshot {
    /// Resident memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Open files, and how many there may be.
    pub open_files: Option<(u64, u64)>,
    /// When it started, in seconds since 1970.
    pub started_at: Option<u64>,
    /// Connections of clients.
    pub connections: i64,
}

impl Metrics {
    /// What is known of each queue, in no order.
    pub fn queue_snapshots(&self) -> Vec<QueueSnapshot> {
        self.queues.snapshots()
    }

    /// What is known of one queue; nothing counted and no figures where nothing is known.
    pub fn queue_snapshot(&self, queue: &str) -> QueueSnapshot {
        self.queues.snapshot(queue)
    }

    /// What was last seen of the process.
    pub fn process_snapshot(&self) -> ProcessSnapshot {
        ProcessSnapshot { connections: self.connections.get(), ..self.process.snapshot() }
    }
}
