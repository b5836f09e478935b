//! What the tests stand on.

pub mod browser;
pub mod certificates;
pub mod client;
pub mod dumps;
pub mod forwarder;
pub mod fronts;
pub mod gateway;
pub mod guarded;
pub mod holder;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod proxies;
pub mod raw;
pub mod servers;
pub mod sigv4;
pub mod snapshot;
pub mod sqs;

pub use browser::Browser;
pub use client::{Answer, Client};
pub use gateway::TestGateway;
pub use holder::Holder;
pub use postgres::TestDatabase;

use std::{io::Write, time::Duration};

use tokio::time::{Instant, sleep};

/// How long a condition may take to come true: long, as the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives a value.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Says what was measured, with `--nocapture`.
pub fn report(figures: &str) {
    let _ = writeln!(std::io::stderr(), "{figures}");
}
