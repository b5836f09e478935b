//! The log of who did what by the dashboard.

use tracing::info;

/// One line for an action: by whom, on which queue, how many messages it was meant for, and to how many it was
/// done. What is about no number has none.
pub(in super::super) fn note(
    who: &str,
    action: &str,
    queue: &str,
    asked: Option<i64>,
    done: Option<i64>,
) {
    info!(target: "audit", who, action, queue, asked, done, "audit");
}
