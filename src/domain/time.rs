//! Times on the wire.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// RFC 3339 in UTC with microseconds, which is PostgreSQL's own resolution.
pub fn rfc3339(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

pub(super) fn serialize<S: Serializer>(time: &DateTime<Utc>, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&rfc3339(time))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
pub(super) fn serialize_option<S: Serializer>(
    time: &Option<DateTime<Utc>>,
    out: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize(time, out),
        None => out.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_always_show() {
        let time = DateTime::from_timestamp(1_767_225_600, 120_000).expect("valid");
        assert_eq!(rfc3339(&time), "2026-01-01T00:00:00.000120Z");
    }
}
