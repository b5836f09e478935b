//! Metrics for Prometheus, in a registry of our own: two gateways in one process don't mix.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use metrics_process::Collector;
use metrics_util::MetricKindMask;

const REQUESTS: &str = "pgmq_gateway_http_requests_total";
const REQUEST_SECONDS: &str = "pgmq_gateway_http_request_duration_seconds";
const WAIT_SECONDS: &str = "pgmq_gateway_long_poll_wait_seconds";
const WAITERS: &str = "pgmq_gateway_long_poll_waiters";
const POOL: &str = "pgmq_gateway_database_connections";
const SENT: &str = "pgmq_gateway_messages_sent_total";
const RECEIVED: &str = "pgmq_gateway_messages_received_total";
const DELETED: &str = "pgmq_gateway_messages_deleted_total";
const ARCHIVED: &str = "pgmq_gateway_messages_archived_total";
const QUARANTINED: &str = "pgmq_gateway_messages_quarantined_total";
const DEAD_LETTERED: &str = "pgmq_gateway_messages_dead_lettered_total";
const LENGTH: &str = "pgmq_gateway_queue_length";
const VISIBLE: &str = "pgmq_gateway_queue_visible";
const OLDEST: &str = "pgmq_gateway_queue_oldest_message_age_seconds";
const REFUSED: &str = "pgmq_gateway_refused_total";
const REQUESTS_IN_HAND: &str = "pgmq_gateway_requests_in_hand";
const BYTES_IN_HAND: &str = "pgmq_gateway_bytes_in_hand";
const CONNECTIONS: &str = "pgmq_gateway_connections";
const BUILD: &str = "pgmq_gateway_build_info";

/// Queues whose messages are counted by their names: what was counted once is never forgotten.
const MAX_NAMED: usize = 10_000;
/// The name for all others; no queue has it.
const OTHER: &str = "(other)";

/// Seconds; from a cached statement to the limits of patience.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];

const METADATA: Metadata<'static> =
    Metadata::new("pgmq_gateway", Level::INFO, Some("pgmq_gateway"));

/// The gateway's metrics.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: Collector,
    hasher: RandomState,
    known: RwLock<HashMap<u64, Arc<Series>>>,
    /// Queues that are counted by their names.
    named: RwLock<HashSet<u64>>,
    connections: AtomicUsize,
}

/// A counter and, for requests, their times.
struct Series {
    count: Counter,
    time: Histogram,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method; one that no route has is `OTHER`.
    pub method: &'a str,
    /// The route's pattern, or `unmatched`.
    pub route: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Time from the headers to the answer, without `waited`.
    pub worked: Duration,
    /// Time spent in a long poll.
    pub waited: Duration,
}

/// What was done to messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DoneTo {
    /// Stored.
    Sent,
    /// Delivered.
    Received,
    /// Deleted, by a consumer or as they were read.
    Deleted,
    /// Archived by a consumer.
    Archived,
    /// Archived by the gateway because they could not be read.
    Quarantined,
    /// Moved away by the gateway because they had been delivered often enough.
    DeadLettered,
}

impl Metrics {
    /// An empty registry. A gauge that is not set for `gauge_idle` is forgotten, as that of a queue
    /// that was dropped.
    pub fn new(gauge_idle: Duration) -> Self {
        let builder = PrometheusBuilder::new();
        let builder = [REQUEST_SECONDS, WAIT_SECONDS].iter().try_fold(builder, |builder, name| {
            builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), &BUCKETS)
        });
        let builder = builder.unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder =
            builder.idle_timeout(MetricKindMask::GAUGE, Some(gauge_idle)).build_recorder();
        let metrics = Self {
            handle: recorder.handle(),
            recorder,
            process: Collector::default(),
            hasher: RandomState::new(),
            known: RwLock::default(),
            named: RwLock::default(),
            connections: AtomicUsize::new(0),
        };
        metrics.describe();
        metrics
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "far from 2^52 connections")]
        self.set(CONNECTIONS, Vec::new(), self.connections.load(Relaxed) as f64);
        self.handle.run_upkeep();
        self.handle.render()
    }

    /// Counts a request.
    pub fn request(&self, request: &Request<'_>) {
        let (method, route, status) = (request.method, request.route, request.status);
        let series = self.series((method, route, status), || {
            let labels = vec![
                Label::new("method", method.to_owned()),
                Label::new("route", route.to_owned()),
                Label::new("status", status.to_string()),
            ];
            let count = Key::from_parts(REQUESTS, labels.clone());
            let time = Key::from_parts(REQUEST_SECONDS, labels);
            Series {
                count: self.recorder.register_counter(&count, &METADATA),
                time: self.recorder.register_histogram(&time, &METADATA),
            }
        });
        series.count.increment(1);
        series.time.record(request.worked.as_secs_f64());
        if !request.waited.is_zero() {
            let key = Key::from_static_name(WAIT_SECONDS);
            let wait = self.recorder.register_histogram(&key, &METADATA);
            wait.record(request.waited.as_secs_f64());
        }
    }

    /// Counts something that was refused because of a limit.
    pub fn refused(&self, limit: &'static str) {
        let key = Key::from_parts(REFUSED, vec![Label::new("limit", limit)]);
        self.recorder.register_counter(&key, &METADATA).increment(1);
    }

    /// Sets how many requests are served at this moment, and how many bytes they hold.
    pub fn in_hand(&self, requests: usize, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
        for (name, value) in [(REQUESTS_IN_HAND, requests as f64), (BYTES_IN_HAND, bytes as f64)] {
            self.set(name, Vec::new(), value);
        }
    }

    /// Counts messages of a queue.
    pub fn messages(&self, queue: &str, done: DoneTo, count: usize) {
        if count == 0 {
            return;
        }
        let queue = if self.is_named(queue) { queue } else { OTHER };
        let series = self.series((queue, done), || {
            let name = match done {
                DoneTo::Sent => SENT,
                DoneTo::Received => RECEIVED,
                DoneTo::Deleted => DELETED,
                DoneTo::Archived => ARCHIVED,
                DoneTo::Quarantined => QUARANTINED,
                DoneTo::DeadLettered => DEAD_LETTERED,
            };
            let key = Key::from_parts(name, vec![queue_label(queue)]);
            Series {
                count: self.recorder.register_counter(&key, &METADATA),
                time: Histogram::noop(),
            }
        });
        series.count.increment(count as u64);
    }

    /// A client's connection was accepted.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A client's connection has ended.
    pub fn connection_closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Works off what the histograms have gathered, which would otherwise grow until somebody
    /// scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The series of a label set. Looking one up by its labels would make strings of them for every
    /// request.
    fn series(&self, labels: impl Hash, make: impl FnOnce() -> Series) -> Arc<Series> {
        let hash = self.hasher.hash_one(labels);
        if let Some(series) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Arc::clone(series);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(hash).or_insert_with(|| Arc::new(make())))
    }

    /// Whether a queue is counted by its name: the first ones are.
    fn is_named(&self, queue: &str) -> bool {
        let hash = self.hasher.hash_one(queue);
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        if named.contains(&hash) || named.len() >= MAX_NAMED {
            return named.contains(&hash);
        }
        drop(named);
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.contains(&hash) || named.len() < MAX_NAMED && named.insert(hash)
    }

    /// Sets the figures of a queue.
    pub fn queue(&self, queue: &str, length: f64, visible: f64, oldest_age_seconds: f64) {
        self.set(LENGTH, vec![queue_label(queue)], length);
        self.set(VISIBLE, vec![queue_label(queue)], visible);
        self.set(OLDEST, vec![queue_label(queue)], oldest_age_seconds);
    }

    /// Sets the connections of a pool.
    pub fn pool(&self, pool: &'static str, open: u32, idle: u32) {
        for (state, value) in [("busy", open.saturating_sub(idle)), ("idle", idle)] {
            let labels = vec![Label::new("pool", pool), Label::new("state", state)];
            self.set(POOL, labels, value.into());
        }
    }

    /// Sets the number of clients that wait.
    pub fn waiters(&self, waiters: usize) {
        #[expect(clippy::cast_precision_loss, reason = "far from 2^52 clients")]
        self.set(WAITERS, Vec::new(), waiters as f64);
    }

    /// Looks at the process: memory, processor time, threads, files.
    pub fn process(&self) {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        self.set(BUILD, version, 1.0);
    }

    fn set(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    fn describe(&self) {
        let counter = |name: &'static str, text: &'static str| {
            self.recorder.describe_counter(name.into(), None, text.into());
        };
        counter(REQUESTS, "Requests answered.");
        counter(SENT, "Messages stored.");
        counter(RECEIVED, "Messages delivered.");
        counter(DELETED, "Messages deleted by consumers.");
        counter(ARCHIVED, "Messages archived by consumers.");
        counter(DEAD_LETTERED, "Messages moved away because they had been delivered often enough.");
        counter(QUARANTINED, "Messages archived because they could not be read.");
        counter(REFUSED, "What was refused because of a limit, or for want of a key.");
        let gauge = |name: &'static str, text: &'static str| {
            self.recorder.describe_gauge(name.into(), None, text.into());
        };
        gauge(WAITERS, "Clients that wait for a message at this gateway.");
        gauge(CONNECTIONS, "Connections of clients.");
        gauge(POOL, "Database connections.");
        gauge(LENGTH, "Messages in the queue; an estimate for a long one.");
        gauge(VISIBLE, "Messages that could be delivered now; an estimate for a long queue.");
        gauge(OLDEST, "Seconds since the oldest message in the queue was stored.");
        gauge(
            REQUESTS_IN_HAND,
            "Requests that are served at this moment, those that wait left out.",
        );
        gauge(BYTES_IN_HAND, "Bytes of large bodies and answers at this moment.");
        gauge(BUILD, "The version that runs.");
        let seconds = |name: &'static str, text: &'static str| {
            self.recorder.describe_histogram(name.into(), Some(Unit::Seconds), text.into());
        };
        seconds(
            REQUEST_SECONDS,
            "Time worked on requests, without the time a client asked to wait.",
        );
        seconds(WAIT_SECONDS, "Time that receives with `wait` waited.");
        metrics::with_local_recorder(&self.recorder, || self.process.describe());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn queue_label(queue: &str) -> Label {
    Label::new("queue", queue.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::new(Duration::from_secs(60));
        metrics.messages("orders", DoneTo::Sent, 3);
        metrics.queue("orders", 7.0, 5.0, 1.5);
        metrics.request(&Request {
            method: "GET",
            route: "/queues",
            status: 200,
            worked: Duration::from_millis(3),
            waited: Duration::ZERO,
        });
        for _ in 0..2 {
            metrics.refused("connections");
            metrics.connection_opened();
        }
        metrics.connection_closed();
        metrics.process();
        let text = metrics.render();
        for line in [
            "pgmq_gateway_messages_sent_total{queue=\"orders\"} 3",
            "pgmq_gateway_queue_length{queue=\"orders\"} 7",
            "pgmq_gateway_http_requests_total{method=\"GET\",route=\"/queues\",status=\"200\"} 1",
            "le=\"0.005\"} 1",
            "pgmq_gateway_refused_total{limit=\"connections\"} 2",
            "pgmq_gateway_connections 1",
            "process_resident_memory_bytes",
            "pgmq_gateway_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("pgmq_gateway_long_poll_wait_seconds_count"));
    }

    #[test]
    fn as_many_queues_as_may_be_are_counted_by_name() {
        let metrics = Metrics::new(Duration::from_secs(60));
        for number in 0..MAX_NAMED + 5 {
            metrics.messages(&format!("q{number}"), DoneTo::Sent, 1);
        }
        metrics.messages("q7", DoneTo::Deleted, 1);
        metrics.messages("late", DoneTo::Deleted, 3);
        let text = metrics.render();
        let series = text.lines().filter(|line| line.starts_with(SENT)).count();
        assert_eq!(series, MAX_NAMED + 1);
        for line in [
            "pgmq_gateway_messages_sent_total{queue=\"(other)\"} 5",
            "pgmq_gateway_messages_sent_total{queue=\"q7\"} 1",
            "pgmq_gateway_messages_deleted_total{queue=\"q7\"} 1",
            "pgmq_gateway_messages_deleted_total{queue=\"(other)\"} 3",
        ] {
            assert!(text.contains(line), "{line} is missing");
        }
        assert!(metrics.known.read().expect("whole").len() <= MAX_NAMED + 3);
    }
}
