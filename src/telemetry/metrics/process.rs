//! What the system says of this process.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use metrics_process::collector::{Metrics, collect};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::snapshot::ProcessSnapshot;

/// The last look at the process; what this system does not tell is left out.
#[derive(Debug, Default)]
pub(super) struct ProcessCollector(Mutex<Metrics>);

impl ProcessCollector {
    /// Looks anew. That takes longer the more files are open.
    pub(super) fn look(&self) {
        let metrics = collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
    }

    /// What was seen then.
    pub(super) fn snapshot(&self) -> ProcessSnapshot {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ProcessSnapshot {
            memory_bytes: metrics.resident_memory_bytes,
            open_files: metrics.open_fds.zip(metrics.max_fds),
            started_at: metrics.start_time_seconds,
            ..ProcessSnapshot::default()
        }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seconds) = metrics.cpu_seconds_total {
            // `_total` is added to it.
            let (name, kind) = ("process_cpu_seconds", MetricType::Counter);
            let help = "Total user and system CPU time spent in seconds.";
            let family = encoder.encode_descriptor(name, help, None, kind)?;
            ConstCounter::new(seconds).encode(family)?;
        }
        for (name, help, value) in gauges(&metrics) {
            if let Some(value) = value {
                let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(family)?;
            }
        }
        Ok(())
    }
}

/// Names and texts as Prometheus's own libraries have them.
fn gauges(metrics: &Metrics) -> [(&'static str, &'static str, Option<u64>); 7] {
    [
        ("process_open_fds", "Number of open file descriptors.", metrics.open_fds),
        ("process_max_fds", "Maximum number of open file descriptors.", metrics.max_fds),
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            metrics.virtual_memory_bytes,
        ),
        (
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            metrics.virtual_memory_max_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            metrics.resident_memory_bytes,
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            metrics.start_time_seconds,
        ),
        ("process_threads", "Number of OS threads in the process.", metrics.threads),
    ]
}
