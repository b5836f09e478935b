//! What an operator sees: logs and metrics.

mod flood;
mod logs;
mod metrics;
mod recent_errors;
mod request_lines;

pub use flood::{FloodGate, Line};
pub use logs::{init as init_logs, last_line};
pub use metrics::{
    MessageEvent, Metrics, ProcessSnapshot, QueueCounts, QueueFigures, QueueSnapshot, Request,
};
pub use recent_errors::{RecentError, RecentErrors};
pub use request_lines::{has_line, is_request_id};
