//! What an operator sees: logs and metrics.

mod flood;
mod logs;
mod metrics;

pub use flood::{FloodGate, Line};
pub use logs::init as init_logs;
pub use metrics::{DoneTo, Metrics, QueueFigures, Request};
