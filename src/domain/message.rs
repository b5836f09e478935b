//! Messages: what is sent and what is delivered.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Delay, time};

/// JSON text, checked to be well-formed and otherwise left as it came, so that no digit is lost.
pub type RawJson = Box<RawValue>;

/// When a message may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// So many seconds after it is stored.
    After(Delay),
    /// At a moment.
    At(DateTime<Utc>),
}

impl Visibility {
    /// At a moment; PostgreSQL's calendar does not reach as far back as ours, and the past is now.
    pub fn at(time: DateTime<Utc>) -> Self {
        if time > Utc::now() { Self::At(time) } else { Self::After(Delay::saturating(0)) }
    }
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Any JSON value.
    pub message: RawJson,
    /// A JSON object, or nothing.
    pub headers: Option<RawJson>,
    /// When it becomes visible.
    pub visible: Visibility,
}

/// A message in a queue, as PGMQ keeps it.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// Its number within the queue.
    pub msg_id: i64,
    /// How many times it has been delivered.
    pub read_ct: i32,
    /// When it was stored.
    #[serde(serialize_with = "time::serialize")]
    pub enqueued_at: DateTime<Utc>,
    /// When it was last delivered.
    #[serde(serialize_with = "time::serialize_option")]
    pub last_read_at: Option<DateTime<Utc>>,
    /// The moment from which it may be delivered (again).
    #[serde(serialize_with = "time::serialize")]
    pub vt: DateTime<Utc>,
    /// The JSON value that was sent.
    pub message: RawJson,
    /// The headers that were sent with it.
    pub headers: Option<RawJson>,
}
