//! What is counted and measured, for those who show it to people: nothing is asked for it.

use std::sync::Arc;

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

/// The length of a queue, and the like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueFigures {
    /// Messages in it.
    pub length: i64,
    /// Messages that could be delivered now.
    pub visible: i64,
    /// Messages that could be delivered now, and those that are in somebody's hands.
    pub backlog: i64,
    /// Age of its oldest message; 0 where there is none.
    pub oldest_age_seconds: f64,
    /// For how long the message that waits longest could have been delivered; 0 where there is none.
    pub oldest_visible_age_seconds: f64,
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
