//! Messages as `pgmq.message_record`, in PostgreSQL's own JSON.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::domain::Message;

/// A column of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    MsgId,
    ReadCt,
    EnqueuedAt,
    LastReadAt,
    Vt,
    Message,
    Headers,
}

impl Column {
    /// In the order of the type.
    pub(super) const ALL: [Self; 7] = [
        Self::MsgId,
        Self::ReadCt,
        Self::EnqueuedAt,
        Self::LastReadAt,
        Self::Vt,
        Self::Message,
        Self::Headers,
    ];

    /// The one of this name.
    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::MsgId => "msg_id",
            Self::ReadCt => "read_ct",
            Self::EnqueuedAt => "enqueued_at",
            Self::LastReadAt => "last_read_at",
            Self::Vt => "vt",
            Self::Message => "message",
            Self::Headers => "headers",
        }
    }
}

/// A message, of which these columns are written.
pub(super) struct Record<'a> {
    pub(super) message: &'a Message,
    pub(super) columns: &'a [Column],
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        let message = self.message;
        for column in self.columns {
            let name = column.name();
            match column {
                Column::MsgId => map.serialize_entry(name, &message.msg_id)?,
                Column::ReadCt => map.serialize_entry(name, &message.read_ct)?,
                Column::EnqueuedAt => map.serialize_entry(name, &time(&message.enqueued_at))?,
                Column::LastReadAt => {
                    map.serialize_entry(name, &message.last_read_at.as_ref().map(time))?;
                }
                Column::Vt => map.serialize_entry(name, &time(&message.vt))?,
                Column::Message => map.serialize_entry(name, &message.message)?,
                Column::Headers => map.serialize_entry(name, &message.headers)?,
            }
        }
        map.end()
    }
}

/// As PostgreSQL writes a `timestamptz` in UTC into JSON.
fn time(time: &DateTime<Utc>) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let short = text.trim_end_matches('0').trim_end_matches('.');
    // Only digits of a fraction are left out.
    format!("{short}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_postgresql_does() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00+00:00"),
            (100_000, "1970-01-01T00:00:00.1+00:00"),
            (10_000_120_000, "1970-01-01T02:46:40.12+00:00"),
            (1_767_268_800_123_456, "2026-01-01T12:00:00.123456+00:00"),
        ] {
            let given = DateTime::from_timestamp_micros(micros).expect("a time");
            assert_eq!(time(&given), text);
        }
    }
}
