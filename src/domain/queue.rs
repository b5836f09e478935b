//! Queues and what is known of them.

use std::fmt;

use super::QueueSettings;
use chrono::{DateTime, Utc};

/// How PGMQ stores a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// An ordinary table: durable and replicated.
    Standard,
    /// An unlogged table: faster, and empty after a crash of the database.
    Unlogged,
    /// A table partitioned by pg_partman.
    Partitioned,
}

impl QueueKind {
    /// The word for it, on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Unlogged => "unlogged",
            Self::Partitioned => "partitioned",
        }
    }
}

impl fmt::Display for QueueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a partitioned queue is cut up and what is kept of it: both count messages, or both are
/// times, as in `10000` and `100000`, or `1 day` and `7 days`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    interval: String,
    retention: String,
}

impl Partition {
    /// Refuses what pg_partman would not understand, and a mixture of counts and times.
    pub fn new(interval: &str, retention: &str) -> Result<Self, &'static str> {
        let both = (measure(interval), measure(retention));
        match both {
            (Some(a), Some(b)) if a == b => {
                Ok(Self { interval: interval.to_owned(), retention: retention.to_owned() })
            }
            (Some(_), Some(_)) => {
                Err("`partition.interval` and `partition.retention` must both count messages \
                 (\"10000\") or both be times (\"1 day\")")
            }
            _ => {
                Err("`partition.interval` and `partition.retention` must be a number of messages \
                 such as \"10000\", or a time such as \"1 day\" or \"12 hours\"")
            }
        }
    }

    /// Messages or time in one partition.
    pub fn interval(&self) -> &str {
        &self.interval
    }

    /// Messages or time after which a partition is dropped.
    pub fn retention(&self) -> &str {
        &self.retention
    }
}

impl Default for Partition {
    /// PGMQ's own defaults.
    fn default() -> Self {
        Self { interval: "10000".to_owned(), retention: "100000".to_owned() }
    }
}

#[derive(PartialEq, Eq)]
enum Measure {
    Messages,
    Time,
}

fn measure(text: &str) -> Option<Measure> {
    const UNITS: [&str; 7] = ["second", "minute", "hour", "day", "week", "month", "year"];
    // Within what PostgreSQL's `interval` and pg_partman's counts hold.
    let positive = |digits: &str, most: usize| {
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        plain && (1..=most).contains(&digits.len()) && !digits.starts_with('0')
    };
    match text.split_once(' ') {
        None => positive(text, 9).then_some(Measure::Messages),
        Some((count, unit)) => {
            let known = UNITS.contains(&unit.strip_suffix('s').unwrap_or(unit));
            (positive(count, 4) && known).then_some(Measure::Time)
        }
    }
}

/// A queue as `pgmq.meta` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its name; one made by another client may have upper case in it.
    pub queue: String,
    /// How it is stored.
    pub kind: QueueKind,
    /// Whether it has an index for reading by group.
    pub fifo: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whether row-level security policies decide which messages the gateway sees: then an empty queue
    /// may only look empty.
    pub row_security: bool,
    /// Whether there is no queue any more of the name that is set for its dead letters: they go into the
    /// archive then.
    pub dead_letter_queue_missing: bool,
    /// What was set for it.
    pub settings: QueueSettings,
}

/// `pgmq.metrics`, and what hides in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMetrics {
    /// The queue's name.
    pub queue: String,
    /// Messages in the queue, visible or not.
    pub queue_length: i64,
    /// Messages that could be delivered now.
    pub queue_visible_length: i64,
    /// Messages that were delivered and are hidden until their visibility timeout is over.
    pub in_flight: i64,
    /// Seconds since the newest message was stored.
    pub newest_msg_age_sec: Option<i32>,
    /// Seconds since the oldest message was stored.
    pub oldest_msg_age_sec: Option<i32>,
    /// Messages ever sent to the queue.
    pub total_messages: i64,
    /// Messages that could be delivered now, and those that were delivered and are hidden.
    pub backlog: i64,
    /// Seconds for which the message that waits longest could have been delivered, counted from its `vt`.
    pub oldest_visible_msg_age_sec: Option<i32>,
    /// When these figures were taken.
    pub scrape_time: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_by_number_or_by_time() {
        for (interval, retention) in
            [("10000", "100000"), ("1 day", "7 days"), ("12 hours", "1 week")]
        {
            assert!(Partition::new(interval, retention).is_ok(), "{interval}");
        }
    }

    #[test]
    fn mixtures_and_nonsense_are_refused() {
        for (interval, retention) in [
            ("10000", "7 days"),
            ("0", "10"),
            ("-5", "10"),
            ("soon", "later"),
            ("1  day", "7 days"),
            ("1 day'; drop table x; --", "7 days"),
            ("99999999999", "99999999999"),
        ] {
            assert!(Partition::new(interval, retention).is_err(), "{interval}");
        }
    }
}
