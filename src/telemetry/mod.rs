//! What an operator sees: logs and metrics.

mod logs;
mod metrics;

pub use logs::init as init_logs;
pub use metrics::{DoneTo, Metrics, QueueFigures, Request};
