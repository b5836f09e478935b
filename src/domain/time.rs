//! Times on the wire.

use std::{fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serializer, de};

/// A time that a client names, whose refusal says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub DateTime<Utc>);

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || {
            let found: String = text.chars().take(40).collect();
            format!("must be a time such as `2026-01-01T00:00:00Z`, not `{found}`")
        };
        text.parse().map(Self).map_err(|_| refusal())
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2026-01-01T00:00:00Z\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Moment, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

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
    fn a_moment_may_have_any_offset() {
        let utc: Moment = "2026-01-01T00:00:00Z".parse().expect("valid");
        assert_eq!("2026-01-01T02:00:00+02:00".parse(), Ok(utc));
        assert_eq!(rfc3339(&utc.0), "2026-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_refusal_says_what_would_be_right() {
        for wrong in ["", "tomorrow", "2026-01-01", "2026-01-01T00:00:00", "1767225600"] {
            let refusal = Moment::from_str(wrong).expect_err("no time");
            assert!(refusal.contains("such as `2026-01-01T00:00:00Z`"), "{refusal}");
        }
    }

    #[test]
    fn microseconds_always_show() {
        let time = DateTime::from_timestamp(1_767_225_600, 120_000).expect("valid");
        assert_eq!(rfc3339(&time), "2026-01-01T00:00:00.000120Z");
    }
}
