//! The last hour of every queue, in memory: what charts are drawn from.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;
use tokio::time::{MissedTickBehavior, interval};

use crate::telemetry::{Metrics, QueueCounts, QueueSnapshot};

/// Seconds between two samples.
pub(super) const INTERVAL_SECONDS: i64 = 10;
/// Samples that are kept: an hour of them.
pub(super) const SAMPLES: usize = 360;
/// Queues of which they are kept: 12 MB at most. Those that rest have none.
const MAX_QUEUES: usize = 2_000;

/// What was so at a moment, and what was done since the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Messages that could be delivered.
    pub(super) visible: u32,
    /// Messages that were delivered and are hidden.
    pub(super) in_flight: u32,
    /// Messages stored.
    pub(super) sent: u32,
    /// Messages deleted or archived.
    pub(super) done: u32,
}

/// The samples of all queues.
#[derive(Debug)]
pub struct History {
    metrics: Arc<Metrics>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    queues: HashMap<Arc<str>, Series>,
    /// When the last sample was taken, in seconds since 1970.
    last: i64,
    /// How many were taken.
    taken: u64,
}

/// Those of one queue, the oldest first.
#[derive(Debug, Default)]
struct Series {
    samples: VecDeque<Sample>,
    counted: QueueCounts,
}

impl History {
    /// Of what is counted there.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, kept: Mutex::default() })
    }

    /// Takes samples until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let seconds = u64::try_from(INTERVAL_SECONDS).unwrap_or(1);
        let mut ticks = interval(Duration::from_secs(seconds));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sample(&self.metrics.queue_snapshots(), Utc::now().timestamp());
        }
    }

    fn sample(&self, queues: &[QueueSnapshot], now: i64) {
        let mut kept = self.lock();
        let Kept { queues: series, last, taken } = &mut *kept;
        let mut before = std::mem::take(series);
        for known in queues {
            let found = before.remove(&known.queue);
            if let Some(one) = Series::with(found, known, series.len() + before.len() < MAX_QUEUES)
            {
                series.insert(Arc::clone(&known.queue), one);
            }
        }
        *last = now;
        *taken += 1;
    }

    /// The samples of a queue, the oldest first, and when the last was taken, in seconds since 1970. Where
    /// nothing happened there are none.
    pub(super) fn of(&self, queue: &str) -> (Vec<Sample>, i64) {
        let kept = self.lock();
        let samples = kept.queues.get(queue).map(|series| series.samples.iter().copied().collect());
        (samples.unwrap_or_default(), kept.last)
    }

    /// Of each of these queues so many sums of what was sent and done in equal parts of the hour, the oldest
    /// first.
    pub(super) fn sums(&self, queue: &str, parts: usize) -> Vec<(u32, u32)> {
        let kept = self.lock();
        let mut sums = vec![(0, 0); parts];
        let Some(series) = kept.queues.get(queue) else { return sums };
        for (back, sample) in series.samples.iter().rev().enumerate() {
            let part = parts - 1 - (back * parts / SAMPLES).min(parts - 1);
            if let Some((sent, done)) = sums.get_mut(part) {
                *sent = sent.saturating_add(sample.sent);
                *done = done.saturating_add(sample.done);
            }
        }
        sums
    }

    /// Messages sent and done in a second, of late.
    pub(super) fn rates(&self, queue: &str) -> (f64, f64) {
        /// A minute.
        const LATE: usize = 6;
        let kept = self.lock();
        let Some(series) = kept.queues.get(queue) else { return (0.0, 0.0) };
        let late = || series.samples.iter().rev().take(LATE);
        let seconds = f64::from(u32::try_from(late().count().max(1)).unwrap_or(1)) * 10.0;
        let sent: u32 = late().map(|sample| sample.sent).fold(0, u32::saturating_add);
        let done: u32 = late().map(|sample| sample.done).fold(0, u32::saturating_add);
        (f64::from(sent) / seconds, f64::from(done) / seconds)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    /// With one more sample; none where there is nothing to tell of a queue, or no room for another one.
    fn with(found: Option<Self>, known: &QueueSnapshot, has_room: bool) -> Option<Self> {
        let is_new = found.is_none();
        let mut series = found.unwrap_or_default();
        // What was counted before the first look was done at some time, and not now.
        let before = if is_new { known.counts } else { series.counted };
        let sample = sample(known, before);
        series.counted = known.counts;
        let is_at_rest = sample == Sample::default();
        if is_new && (is_at_rest && known.counts == QueueCounts::default() || !has_room) {
            return None;
        }
        if series.samples.len() >= SAMPLES {
            series.samples.pop_front();
        }
        series.samples.push_back(sample);
        let all_at_rest = is_at_rest && series.samples.iter().all(|one| *one == Sample::default());
        let is_full = series.samples.len() >= SAMPLES;
        (!(all_at_rest && is_full)).then_some(series)
    }
}

fn sample(known: &QueueSnapshot, before: QueueCounts) -> Sample {
    let small = |count: i64| u32::try_from(count.max(0)).unwrap_or(u32::MAX);
    let grown = |now: u64, then: u64| u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
    let (now, figures) = (known.counts, known.figures);
    let figure = |of: fn(&crate::telemetry::QueueFigures) -> i64| figures.as_ref().map_or(0, of);
    Sample {
        visible: small(figure(|of| of.visible)),
        in_flight: small(figure(|of| of.backlog - of.visible)),
        sent: grown(now.sent, before.sent),
        done: grown(now.deleted + now.archived, before.deleted + before.archived),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(queue: &str, sent: u64) -> QueueSnapshot {
        let counts = QueueCounts { sent, ..QueueCounts::default() };
        QueueSnapshot { queue: queue.into(), figures: None, counts }
    }

    fn history() -> Arc<History> {
        History::new(Arc::new(Metrics::new()))
    }

    #[test]
    fn what_was_done_between_two_looks_is_kept_for_an_hour() {
        let history = history();
        for sent in 0..=SAMPLES as u64 + 10 {
            history.sample(&[known("q", 5 + sent * 3)], 0);
        }
        let (samples, _) = history.of("q");
        assert_eq!(samples.len(), SAMPLES);
        assert!(samples.iter().all(|sample| sample.sent == 3), "{samples:?}");
        let sums = history.sums("q", 30);
        assert!(sums.iter().all(|(sent, done)| *sent == 36 && *done == 0), "{sums:?}");
        assert!((history.rates("q").0 - 0.3).abs() < 1e-9);
    }

    #[test]
    fn what_rests_and_what_is_gone_takes_no_room() {
        let history = history();
        history.sample(&[known("resting", 0), known("busy", 1)], 0);
        assert!(history.of("resting").0.is_empty() && history.of("busy").0.len() == 1);
        history.sample(&[known("resting", 0)], 0);
        assert!(history.lock().queues.is_empty());
    }

    #[test]
    fn no_more_queues_are_kept_than_there_is_room_for() {
        let history = history();
        let names: Vec<String> = (0..MAX_QUEUES + 5).map(|n| n.to_string()).collect();
        let queues: Vec<_> = names.iter().map(|name| known(name, 1)).collect();
        history.sample(&queues, 0);
        history.sample(&queues, 10);
        assert_eq!(history.lock().queues.len(), MAX_QUEUES);
        // In whatever order they are known, those that are kept keep their room.
        let names: Vec<String> = (0..2 * MAX_QUEUES).map(|n| n.to_string()).collect();
        let queues: Vec<_> = names.iter().rev().map(|name| known(name, 1)).collect();
        history.sample(&queues, 20);
        assert_eq!(history.lock().queues.len(), MAX_QUEUES);
        assert_eq!(history.of("0").0.len(), 3);
    }
}
