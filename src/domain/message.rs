//! Messages: what is sent and what is delivered.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use super::{Delay, DeliveryId, Receipt, ReceiptKey, expanded_length};

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
    /// At once.
    pub const NOW: Self = Self::After(Delay::saturating(0));

    /// At a moment; the database, whose clock decides, takes the past for now. PostgreSQL writes no year 0.
    pub fn at(time: DateTime<Utc>) -> Self {
        if time > DateTime::UNIX_EPOCH { Self::At(time) } else { Self::NOW }
    }
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Any JSON value.
    pub message: RawJson,
    /// Whether a message `null` is stored as the null of SQL, as by functions in SQL that are given it.
    pub sql_null: bool,
    /// A JSON object, or nothing.
    pub headers: Option<RawJson>,
    /// When it becomes visible; when the queue's settings say where nothing is said.
    pub visible: Option<Visibility>,
}

impl NewMessage {
    /// What is stored of the message; nothing for the null of SQL.
    pub fn stored(&self) -> Option<&RawValue> {
        (!self.sql_null || self.message.get() != "null").then_some(&*self.message)
    }

    /// Bytes of the message and its headers.
    pub fn bytes(&self) -> u64 {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.get().len());
        (self.message.get().len() + headers) as u64
    }

    /// The same once all numbers are written out in full, as PostgreSQL does when it is read.
    pub fn expanded_bytes(&self) -> u64 {
        let headers = self.headers.as_ref().map_or(0, |headers| expanded_length(headers.get()));
        expanded_length(self.message.get()).saturating_add(headers)
    }
}

/// A message in a queue, as PGMQ keeps it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its number within the queue.
    pub msg_id: i64,
    /// How many times it has been delivered.
    pub read_ct: i32,
    /// When it was stored.
    pub enqueued_at: DateTime<Utc>,
    /// When it was last delivered.
    pub last_read_at: Option<DateTime<Utc>>,
    /// The moment from which it may be delivered (again).
    pub vt: DateTime<Utc>,
    /// The JSON value that was sent.
    pub message: RawJson,
    /// The headers that were sent with it.
    pub headers: Option<RawJson>,
    /// The queue that it stands in, as [`DeliveryId::queue_id`].
    pub queue_id: i64,
    /// What stands for this delivery; nothing where the message was only looked at.
    pub receipt: Option<Receipt>,
}

/// How many messages from the first on have at most so many bytes together; one always fits.
pub fn fitting<'a>(messages: impl IntoIterator<Item = &'a Message>, bytes: u64) -> usize {
    let mut total = 0;
    let fits = |message: &&Message| {
        total += message.bytes();
        total <= bytes
    };
    messages.into_iter().take_while(fits).count().max(1)
}

impl Message {
    /// Bytes of the message and its headers, and what is written around them.
    pub fn bytes(&self) -> u64 {
        /// What the names and numbers take.
        const AROUND: usize = 300;
        (self.content_bytes() + AROUND) as u64
    }

    /// Bytes of what was sent: the message and its headers.
    pub fn content_bytes(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, |headers| headers.get().len());
        self.message.get().len() + headers
    }

    /// Which delivery this is.
    pub fn delivery(&self) -> DeliveryId {
        let Self { msg_id, read_ct, queue_id, .. } = *self;
        let read_stamp = DeliveryId::stamp_of(self.last_read_at);
        DeliveryId { msg_id, read_ct, queue_id, read_stamp }
    }

    /// Adds the receipt of a delivery.
    pub fn sign(&mut self, key: &ReceiptKey) {
        self.receipt = Some(key.sign(&self.delivery()));
    }
}

/// A message in an archive.
#[derive(Clone, Debug)]
pub struct ArchivedMessage {
    /// The message as it was.
    pub message: Message,
    /// When it was archived.
    pub archived_at: DateTime<Utc>,
}

/// Which message is meant, and for which delivery its consumer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The message.
    pub msg_id: i64,
    /// The delivery; nothing for whatever delivery it was.
    pub delivered: Option<DeliveryId>,
}

/// What became of something that was to be done to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Done,
    /// There is no such message.
    Missing,
    /// The message has been delivered again since.
    Stale,
    /// Somebody else has locked the message.
    Locked,
    /// A policy, a trigger or a constraint of the table kept the message as it was.
    Kept,
    /// The archive has a message of this id already.
    Conflict,
    /// The queue has no archive.
    NoArchive,
    /// The table is that of an older PGMQ, and a delivery cannot be taken back.
    NoUncount,
    /// The same, and nothing can say a reason.
    NoReason,
    /// A trigger failed for a reason that may pass, and the message was left as it was.
    Failed,
    /// The queue's table, or the one that the message was to go to, is not as PGMQ makes it.
    Differs,
    /// The message cannot be written out, and was left as it was.
    Unreadable,
    /// The connection broke before that was known.
    Unknown,
}

/// How a queue is read in groups, by the header `x-pgmq-group`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FifoMode {
    /// As many messages as possible of the oldest group first.
    Grouped,
    /// One message of each group in turn.
    RoundRobin,
    /// The first message of each group.
    Head,
    /// One message of each group in turn, without order or blocking: as a queue's settings say, and no receive.
    Fair,
}

impl FifoMode {
    /// Those that a receive may ask for.
    pub const OF_RECEIVES: [Self; 3] = [Self::Grouped, Self::RoundRobin, Self::Head];

    /// The word for it, on the wire and in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grouped => "grouped",
            Self::RoundRobin => "round_robin",
            Self::Head => "head",
            Self::Fair => "fair",
        }
    }
}

impl FromStr for FifoMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mode = Self::OF_RECEIVES.into_iter().find(|mode| mode.as_str() == text);
        mode.ok_or("must be `grouped`, `round_robin` or `head`")
    }
}

impl<'de> Deserialize<'de> for FifoMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
