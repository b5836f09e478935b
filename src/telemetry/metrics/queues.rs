//! What is counted and shown of each queue. All of it goes when its queue does, and so stands in
//! two maps of our own: a family of the library's for each name would have to be kept in step.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::snapshot::{QueueCounts, QueueFigures, QueueSnapshot};

/// Queues that are counted by their names at the same time.
pub(super) const MAX_NAMED: usize = 10_000;
/// The name for all others; no queue has it.
const OTHER: &str = "(other)";

/// The counters of a queue, in the order of [`MessageEvent`], as they are before `_total` is added.
const COUNTERS: [(&str, &str); 7] = [
    ("pgmq_gateway_messages_sent", "Messages stored."),
    ("pgmq_gateway_messages_received", "Messages delivered."),
    ("pgmq_gateway_messages_deleted", "Messages deleted by consumers."),
    ("pgmq_gateway_messages_archived", "Messages archived by consumers."),
    (
        "pgmq_gateway_messages_quarantined",
        "Messages taken out of the way because they could not be read.",
    ),
    (
        "pgmq_gateway_messages_dead_lettered",
        "Messages moved away: delivered often enough, or given up by a worker.",
    ),
    (
        "pgmq_gateway_maintenance_failures",
        "Failures to delete what was past its retention in the queue.",
    ),
];
/// The last of them.
pub(super) const MAINTENANCE_FAILED: usize = COUNTERS.len() - 1;

/// What was done to messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageEvent {
    /// Stored.
    Sent,
    /// Delivered.
    Received,
    /// Deleted, by a consumer or as they were read.
    Deleted,
    /// Archived by a consumer.
    Archived,
    /// Archived by the gateway because they could not be read or, where the archive does not take them, hidden.
    Quarantined,
    /// Moved away: delivered often enough, or given up by a worker.
    DeadLettered,
}

/// The series of all queues.
#[derive(Debug)]
pub(super) struct QueueCollector {
    counts: RwLock<HashMap<Arc<str>, Arc<Counts>>>,
    other: Arc<Counts>,
    /// What is about no queue, or about all of them.
    none: Arc<Counts>,
    figures: RwLock<HashMap<Arc<str>, QueueFigures>>,
}

/// What was counted of a queue.
#[derive(Debug)]
struct Counts {
    queue: Arc<str>,
    /// Whether it is one queue's.
    is_of_queue: bool,
    values: [AtomicU64; COUNTERS.len()],
}

impl MessageEvent {
    /// Its place among the counters.
    pub(super) const fn counter(self) -> usize {
        self as usize
    }
}

impl QueueCollector {
    /// Adds to a counter of a queue.
    pub(super) fn count(&self, queue: &str, counter: usize, count: u64) {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        match counts.get(queue) {
            Some(found) => found.add(counter, count),
            None if counts.len() >= MAX_NAMED => self.other.add(counter, count),
            None => {
                drop(counts);
                self.count_new(queue, counter, count);
            }
        }
    }

    /// Shows the counters of a queue from now on.
    pub(super) fn know(&self, queue: &str) {
        let known = self.counts.read().unwrap_or_else(PoisonError::into_inner).contains_key(queue);
        if !known {
            self.count_new(queue, 0, 0);
        }
    }

    /// Adds to a counter of what is about no queue.
    pub(super) fn count_for_none(&self, counter: usize, count: u64) {
        self.none.add(counter, count);
    }

    #[cold]
    fn count_new(&self, queue: &str, counter: usize, count: u64) {
        let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = counts.get(queue) {
            found.add(counter, count);
        } else if counts.len() >= MAX_NAMED {
            self.other.add(counter, count);
        } else {
            let new = Counts::new(queue);
            new.add(counter, count);
            counts.insert(Arc::clone(&new.queue), Arc::new(new));
        }
    }

    pub(super) fn set_figures(&self, queue: &str, new: QueueFigures) {
        let mut figures = self.figures.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = figures.get_mut(queue) {
            *known = new;
        } else {
            figures.insert(queue.into(), new);
        }
    }

    pub(super) fn forget_figures(&self, queue: &str) {
        self.figures.write().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }

    pub(super) fn forget_all_figures(&self) {
        *self.figures.write().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
    }

    pub(super) fn forget(&self, queue: &str) {
        self.counts.write().unwrap_or_else(PoisonError::into_inner).remove(queue);
        self.forget_figures(queue);
    }

    /// The queues that have series of their own.
    pub(super) fn known(&self) -> HashSet<Arc<str>> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let mut known: HashSet<_> = counts.keys().map(Arc::clone).collect();
        drop(counts);
        let figures = self.figures.read().unwrap_or_else(PoisonError::into_inner);
        known.extend(figures.keys().map(Arc::clone));
        known
    }

    /// What is known of each queue.
    pub(super) fn snapshots(&self) -> Vec<QueueSnapshot> {
        let known = self.known().into_iter();
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let figures = self.figures.read().unwrap_or_else(PoisonError::into_inner);
        let of_queue = |queue: Arc<str>| QueueSnapshot {
            figures: figures.get(&queue).copied(),
            counts: counts.get(&queue).map(|counts| counts.snapshot()).unwrap_or_default(),
            queue,
        };
        known.map(of_queue).collect()
    }

    /// What is known of one.
    pub(super) fn snapshot(&self, queue: &str) -> QueueSnapshot {
        let figures = self.figures.read().unwrap_or_else(PoisonError::into_inner);
        let figures = figures.get(queue).copied();
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.get(queue).map(|counts| counts.snapshot()).unwrap_or_default();
        QueueSnapshot { queue: queue.into(), figures, counts }
    }

    fn encode_counts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        // Nobody has to wait for the text.
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = counts.values().map(Arc::clone).collect();
        drop(counts);
        all.extend([Arc::clone(&self.other), Arc::clone(&self.none)]);
        for (counter, (name, help)) in COUNTERS.into_iter().enumerate() {
            // That of a queue begins at 0, so that its first one is an increase.
            let counted = all.iter().filter_map(|counts| {
                let value = counts.values[counter].load(Relaxed);
                let is_shown = value > 0 || counts.is_of_queue;
                is_shown.then(|| (&*counts.queue, ConstCounter::new(value)))
            });
            encode_family(encoder, name, help, MetricType::Counter, counted)?;
        }
        Ok(())
    }

    fn encode_figures(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.figures.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = figures.iter().map(|(queue, of)| (Arc::clone(queue), *of)).collect();
        drop(figures);
        encode_gauge(
            encoder,
            "pgmq_gateway_queue_length",
            "Messages in the queue; an estimate for a long one. The same at every gateway: max by (queue).",
            all.iter().map(|(queue, of)| (&**queue, of.length)),
        )?;
        encode_gauge(
            encoder,
            "pgmq_gateway_queue_visible",
            "Messages that could be delivered now; an estimate for a long queue. The same at every gateway: \
             max by (queue).",
            all.iter().map(|(queue, of)| (&**queue, of.visible)),
        )?;
        encode_gauge(
            encoder,
            "pgmq_gateway_queue_backlog",
            "Messages that could be delivered now or are in flight; an estimate for a long queue. The same at \
             every gateway: max by (queue).",
            all.iter().map(|(queue, of)| (&**queue, of.backlog)),
        )?;
        encode_gauge(
            encoder,
            "pgmq_gateway_queue_oldest_visible_message_age_seconds",
            "Seconds for which the message that waits longest could have been delivered. The same at every \
             gateway: max by (queue).",
            all.iter().map(|(queue, of)| (&**queue, of.oldest_visible_age_seconds)),
        )?;
        encode_gauge(
            encoder,
            "pgmq_gateway_queue_oldest_message_age_seconds",
            "Seconds since the oldest message in the queue was stored. The same at every gateway: max by \
             (queue).",
            all.iter().map(|(queue, of)| (&**queue, of.oldest_age_seconds)),
        )
    }
}

impl Default for QueueCollector {
    fn default() -> Self {
        let for_no_queue = |name| Arc::new(Counts { is_of_queue: false, ..Counts::new(name) });
        let (other, none) = (for_no_queue(OTHER), for_no_queue(""));
        Self { counts: RwLock::default(), other, none, figures: RwLock::default() }
    }
}

impl Collector for QueueCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_counts(&mut encoder)?;
        self.encode_figures(&mut encoder)
    }
}

impl Counts {
    fn new(queue: &str) -> Self {
        Self { queue: queue.into(), is_of_queue: true, values: Default::default() }
    }

    fn add(&self, counter: usize, count: u64) {
        self.values[counter].fetch_add(count, Relaxed);
    }

    fn snapshot(&self) -> QueueCounts {
        let value = |event: MessageEvent| self.values[event.counter()].load(Relaxed);
        QueueCounts {
            sent: value(MessageEvent::Sent),
            received: value(MessageEvent::Received),
            deleted: value(MessageEvent::Deleted),
            archived: value(MessageEvent::Archived),
            dead_lettered: value(MessageEvent::DeadLettered),
        }
    }
}

fn encode_gauge<'a, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, V)>,
) -> fmt::Result {
    let series = values.map(|(queue, value)| (queue, ConstGauge::new(value)));
    encode_family(encoder, name, help, MetricType::Gauge, series)
}

/// Series that differ in their queue, if there are any.
fn encode_family<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    series: impl Iterator<Item = (&'a str, impl EncodeMetric)>,
) -> fmt::Result {
    let mut series = series.peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (queue, metric) in series {
        metric.encode(family.encode_family(&[("queue", queue)])?)?;
    }
    Ok(())
}
