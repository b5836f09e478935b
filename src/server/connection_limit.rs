//! How many connections there may be.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// Room for so many connections.
#[derive(Debug)]
pub(super) struct ConnectionLimit {
    free: Arc<Semaphore>,
    metrics: Option<Arc<Metrics>>,
}

/// The place of one connection, free again once this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Option<Arc<Metrics>>,
}

impl ConnectionLimit {
    pub(super) fn new(count: usize, metrics: Option<Arc<Metrics>>) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), metrics }
    }

    /// A place, if there is one left; who gets none is counted.
    pub(super) fn take(&self) -> Option<Place> {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            if let Some(metrics) = &self.metrics {
                metrics.refused("connections");
            }
            return None;
        };
        if let Some(metrics) = &self.metrics {
            metrics.connection_opened();
        }
        Some(Place { _permit: permit, metrics: self.metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.connection_closed();
        }
    }
}
