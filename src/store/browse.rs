//! Looking at messages by their state, in SQL.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow, types::Json};

use crate::domain::{Filter, QueueName, RawJson};

use super::{
    Conn,
    decode::{RawTime, Timestamp},
    error::Result,
};

/// What messages are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageSource {
    /// Those in the queue, whatever their state.
    All,
    /// Those that could be delivered now.
    Waiting,
    /// Those that were delivered and are hidden.
    InFlight,
    /// Those that were not delivered yet and are hidden.
    Delayed,
    /// Those in the archive.
    Archived,
}

impl MessageSource {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Waiting => "waiting",
            Self::InFlight => "in_flight",
            Self::Delayed => "delayed",
            Self::Archived => "archived",
        }
    }
}

/// Which messages are meant: those that fit everything that is said.
#[derive(Clone, Debug)]
pub struct MessageSearch {
    /// What they are.
    pub source: MessageSource,
    /// Stored then or later; archived, of those in the archive.
    pub since: Option<DateTime<Utc>>,
    /// Stored, or archived, before.
    pub until: Option<DateTime<Utc>>,
    /// The largest id that they may have.
    pub last_id: Option<i64>,
    /// A JSON object that they must contain.
    pub filter: Option<Filter>,
    /// The queue of which they are dead letters.
    pub origin: Option<QueueName>,
}

/// How far a search has come: behind the message that became visible then, and has this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    vt: RawTime,
    msg_id: i64,
}

impl Position {
    /// Of what [`Self::parts`] gave; nothing where that has no moment.
    pub fn of_parts(vt: i64, msg_id: i64) -> Option<Self> {
        RawTime::new(vt).map(|vt| Self { vt, msg_id })
    }

    /// The message's `vt` as PostgreSQL counts time, which goes further than ours, and its id.
    pub fn parts(self) -> (i64, i64) {
        (self.vt.micros(), self.msg_id)
    }
}

/// Bounds of a page.
#[derive(Clone, Copy, Debug)]
pub struct BrowseLimits {
    /// The most messages on it.
    pub messages: i32,
    /// The most rows that are looked at for it.
    pub rows: i32,
    /// Whether nothing but their ids is wanted.
    pub ids_only: bool,
}

/// A message in a list.
#[derive(Clone, Debug)]
pub struct ListedMessage {
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
    /// When it was archived.
    pub archived_at: Option<DateTime<Utc>>,
    /// The JSON value that was sent, unless it is large.
    pub message: Option<RawJson>,
    /// The headers that were sent with it, unless they are large.
    pub headers: Option<RawJson>,
    /// Whether there are any.
    pub has_headers: bool,
    /// Bytes in which the message is stored.
    pub bytes: i64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Browsed {
    /// In order.
    pub messages: Vec<ListedMessage>,
    /// Where to go on; nothing where all has been looked at.
    pub next: Option<Position>,
}

/// A page of messages behind `after`, leasing nothing.
pub async fn browse_messages(
    conn: &mut Conn,
    queue: &QueueName,
    search: &MessageSearch,
    after: Option<Position>,
    limits: BrowseLimits,
) -> Result<Browsed> {
    let query = sqlx::query(
        "/* browse_messages */ SELECT * FROM \
         pgmq_gateway.browse_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(queue.as_str())
    .bind(search.source.as_str())
    .bind(after.map(|after| after.vt))
    // SQL can store messages under ids below those of PGMQ.
    .bind(after.map_or(i64::MIN, |after| after.msg_id))
    .bind(limits.messages)
    .bind(limits.rows)
    .bind(search.since)
    .bind(search.until)
    .bind(search.last_id)
    .bind(search.filter.as_ref().map(|filter| Json(filter.json())))
    .bind(search.origin.as_ref().map(QueueName::as_str))
    .bind(limits.ids_only);
    let mut found = Browsed::default();
    let take = |row: PgRow| {
        let listed = listed(&row)?;
        let position = Position { vt: row.try_get("vt")?, msg_id: listed.msg_id };
        if row.try_get("is_mark")? {
            found.next = Some(position);
        } else {
            found.messages.push(listed);
            let count = i32::try_from(found.messages.len()).unwrap_or(i32::MAX);
            found.next = (count >= limits.messages).then_some(position);
        }
        Ok(())
    };
    conn.on(queue).run_repeatable_each(query, take).await?;
    Ok(found)
}

fn listed(row: &PgRow) -> std::result::Result<ListedMessage, sqlx::Error> {
    let time = |column: &str| row.try_get::<Option<Timestamp>, _>(column);
    let option = |column: &str| time(column).map(|time| time.map(|time| time.0));
    // One that cannot be read is shown without its content.
    let json = |column: &str| match row.try_get::<Option<Json<RawJson>>, _>(column) {
        Ok(json) => Ok(json.map(|json| json.0)),
        Err(sqlx::Error::ColumnDecode { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    Ok(ListedMessage {
        msg_id: row.try_get("msg_id")?,
        read_ct: row.try_get("read_ct")?,
        enqueued_at: option("enqueued_at")?.unwrap_or_default(),
        last_read_at: option("last_read_at")?,
        vt: option("vt")?.unwrap_or_default(),
        archived_at: option("archived_at")?,
        message: json("message")?,
        headers: json("headers")?,
        has_headers: row.try_get("has_headers")?,
        bytes: row.try_get::<Option<i64>, _>("bytes")?.unwrap_or(0),
    })
}
