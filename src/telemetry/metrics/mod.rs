//! Metrics for Prometheus, in a registry of our own: two gateways in one process don't mix.

mod process;
mod queues;
mod snapshot;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};

pub use queues::MessageEvent;
pub use snapshot::{ProcessSnapshot, QueueCounts, QueueFigures, QueueSnapshot};

use process::ProcessCollector;
use queues::{MAINTENANCE_FAILED, MAX_NAMED, QueueCollector};

/// Seconds; from a cached statement to the limits of patience.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 20.0];

/// `N` labels whose values are known beforehand.
type StaticLabels<const N: usize> = [(&'static str, &'static str); N];

/// The gateway's metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RequestLabels, Histogram, fn() -> Histogram>,
    wait_seconds: Histogram,
    refused: Family<StaticLabels<1>, Counter>,
    statements_cancelled: Counter,
    waiters: Gauge,
    queues_in_use: Gauge,
    scan_floors: Gauge,
    connections: Gauge,
    database_connections: Family<StaticLabels<2>, Gauge>,
    requests_in_flight: Gauge,
    in_flight_bytes: Gauge,
    queues: Arc<QueueCollector>,
    process: Arc<ProcessCollector>,
    hasher: RandomState,
    /// The series of requests by the hash of their labels.
    known_requests: RwLock<HashMap<u64, RequestSeries, foldhash::fast::RandomState>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

/// What is counted of requests that are alike.
struct RequestSeries {
    count: Counter,
    seconds: Histogram,
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

impl Metrics {
    /// The content type of what [`Metrics::render`] returns.
    pub const CONTENT_TYPE: &'static str = prometheus_text::CONTENT_TYPE;

    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("pgmq_gateway_build", "The version that runs", build);
        let queues = Arc::new(QueueCollector::default());
        registry.register_collector(Box::new(Arc::clone(&queues)));
        let process = Arc::new(ProcessCollector::default());
        registry.register_collector(Box::new(Arc::clone(&process)));
        // The names of counters get their `_total`, and the texts their full stops, as they are
        // rendered.
        Self {
            requests: register(
                &mut registry,
                "pgmq_gateway_http_requests",
                "Requests answered",
                Family::default(),
            ),
            request_seconds: register(
                &mut registry,
                "pgmq_gateway_http_request_duration_seconds",
                "Time worked on requests, without the time a client asked to wait",
                Family::new_with_constructor(histogram),
            ),
            wait_seconds: register(
                &mut registry,
                "pgmq_gateway_long_poll_wait_seconds",
                "Time that receives with `wait` waited",
                histogram(),
            ),
            refused: register(
                &mut registry,
                "pgmq_gateway_refused",
                "What was refused because of a limit, or for want of a key",
                Family::default(),
            ),
            statements_cancelled: register(
                &mut registry,
                "pgmq_gateway_database_statements_cancelled",
                "Statements that were given up on and cancelled on the database server",
                Counter::default(),
            ),
            waiters: register(
                &mut registry,
                "pgmq_gateway_long_poll_waiters",
                "Clients that wait for a message at this gateway",
                Gauge::default(),
            ),
            queues_in_use: register(
                &mut registry,
                "pgmq_gateway_queues_in_use",
                "Queues that this gateway keeps something of in memory, as they were used a moment ago",
                Gauge::default(),
            ),
            scan_floors: register(
                &mut registry,
                "pgmq_gateway_scan_floors",
                "Queues whose reads begin behind dead rows that PostgreSQL cannot clean up",
                Gauge::default(),
            ),
            connections: register(
                &mut registry,
                "pgmq_gateway_connections",
                "Connections of clients",
                Gauge::default(),
            ),
            database_connections: register(
                &mut registry,
                "pgmq_gateway_database_connections",
                "Database connections",
                Family::default(),
            ),
            requests_in_flight: register(
                &mut registry,
                "pgmq_gateway_requests_in_flight",
                "Requests that are served at this moment, those that wait left out",
                Gauge::default(),
            ),
            in_flight_bytes: register(
                &mut registry,
                "pgmq_gateway_in_flight_bytes",
                "Bytes of large bodies and answers at this moment",
                Gauge::default(),
            ),
            registry,
            queues,
            process,
            hasher: RandomState::new(),
            known_requests: RwLock::default(),
        }
    }

    /// The text that Prometheus scrapes.
    #[expect(clippy::expect_used, reason = "writing to a string cannot fail")]
    pub fn render(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("a string");
        text
    }

    /// Counts a request.
    pub fn request(&self, request: &Request<'_>) {
        if !request.waited.is_zero() {
            self.wait_seconds.observe(request.waited.as_secs_f64());
        }
        let (method, route, status) = (request.method, request.route, request.status);
        // Looking a series up by its labels would make strings of them for every request.
        let hash = self.hasher.hash_one((method, route, status));
        let known = self.known_requests.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(&hash) {
            return series.add(request.worked);
        }
        drop(known);
        let mut known = self.known_requests.write().unwrap_or_else(PoisonError::into_inner);
        let series = known.entry(hash).or_insert_with(|| {
            let labels = RequestLabels { method: method.into(), route: route.into(), status };
            RequestSeries {
                count: self.requests.get_or_create_owned(&labels),
                seconds: self.request_seconds.get_or_create_owned(&labels),
            }
        });
        series.add(request.worked);
    }

    /// Counts something that was refused because of a limit.
    pub fn refused(&self, limit: &'static str) {
        self.refused.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts a statement that was given up on and cancelled on the server.
    pub fn statement_cancelled(&self) {
        self.statements_cancelled.inc();
    }

    /// Sets how many requests are served at this moment, and how many bytes they hold.
    pub fn in_flight(&self, requests: usize, bytes: usize) {
        self.requests_in_flight.set(whole(requests));
        self.in_flight_bytes.set(whole(bytes));
    }

    /// Counts messages of a queue that is there.
    pub fn messages(&self, queue: &str, done: MessageEvent, count: usize) {
        if count > 0 {
            self.queues.count(queue, done.counter(), count as u64);
        }
    }

    /// Counts a failure to delete what is past its retention, in a queue that is there or elsewhere.
    pub fn maintenance_failed(&self, queue: Option<&str>) {
        match queue {
            Some(queue) => self.queues.count(queue, MAINTENANCE_FAILED, 1),
            None => self.queues.count_for_none(MAINTENANCE_FAILED, 1),
        }
    }

    /// Sets the figures of a queue.
    pub fn set_queue_figures(&self, queue: &str, figures: QueueFigures) {
        self.queues.set_figures(queue, figures);
    }

    /// Takes away the figures of a queue that cannot be had any more.
    pub fn forget_queue_figures(&self, queue: &str) {
        self.queues.forget_figures(queue);
    }

    /// The same for all queues.
    pub fn forget_all_figures(&self) {
        self.queues.forget_all_figures();
    }

    /// Takes away all series of a queue that is gone. Another one of its name begins at zero.
    pub fn forget_queue(&self, queue: &str) {
        self.queues.forget(queue);
    }

    /// A queue is there: what is counted of it begins at zero, and is shown, unless as many are counted by
    /// name as may be.
    pub fn know_queue(&self, queue: &str) {
        self.queues.know(queue);
    }

    /// Whether so many queues can be counted by name.
    pub fn has_names_for(&self, queues: usize) -> bool {
        queues <= MAX_NAMED
    }

    /// The queues that have series of their own.
    pub fn known_queues(&self) -> HashSet<Arc<str>> {
        self.queues.known()
    }

    /// A client's connection was accepted.
    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// A client's connection has ended.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// Sets the connections of a pool.
    pub fn pool(&self, pool: &'static str, open: u32, idle: u32) {
        for (state, value) in [("busy", open.saturating_sub(idle)), ("idle", idle)] {
            let labels = [("pool", pool), ("state", state)];
            self.database_connections.get_or_create(&labels).set(value.into());
        }
    }

    /// Sets the number of queues of which something is kept in memory.
    pub fn queues_in_use(&self, queues: usize) {
        self.queues_in_use.set(whole(queues));
    }

    /// Sets the number of queues whose reads begin behind dead rows.
    pub fn scan_floors(&self, queues: usize) {
        self.scan_floors.set(whole(queues));
    }

    /// Sets the number of clients that wait.
    pub fn waiters(&self, waiters: usize) {
        self.waiters.set(whole(waiters));
    }

    /// Looks at the process: memory, processor time, threads, files.
    pub fn process(&self) {
        self.process.look();
    }

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

impl RequestSeries {
    fn add(&self, worked: Duration) {
        self.count.inc();
        self.seconds.observe(worked.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
