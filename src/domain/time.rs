//! Times on the wire.

use std::{fmt, ops::Range, str::FromStr};

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time on the wire: one that a client names, whose refusal says what would be right, or one that it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub DateTime<Utc>);

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refusal = || {
            let found: String = text.chars().take(40).collect();
            format!("must be a time such as `2026-01-01T00:00:00Z`, not `{found}`")
        };
        parse_rfc3339(text).map(Self).ok_or_else(refusal)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2026-01-01T00:00:00Z\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
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

/// The same where it is of the usual length, at a tenth of the cost: each message that is delivered has three.
fn usual_rfc3339(time: &DateTime<Utc>) -> Option<[u8; 27]> {
    // Without an offset, which is added to it for each of its parts.
    let time = time.naive_utc();
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |digits: Range<usize>, mut number: u32| {
        for digit in text[digits].iter_mut().rev() {
            // Under 10, and so within a byte.
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    let year = u32::try_from(time.year()).ok().filter(|year| *year < 10_000)?;
    let micros = Some(time.nanosecond() / 1000).filter(|micros| *micros < 1_000_000)?;
    put(0..4, year);
    put(5..7, time.month());
    put(8..10, time.day());
    put(11..13, time.hour());
    put(14..16, time.minute());
    put(17..19, time.second());
    put(20..26, micros);
    Some(text)
}

/// Reads RFC 3339, and nothing that only looks like it.
fn parse_rfc3339(text: &str) -> Option<DateTime<Utc>> {
    // Some write a space there, which JSON Schema's `date-time` is not.
    let has_t = matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    let parsed = DateTime::parse_from_rfc3339(text).ok().filter(|_| has_t)?;
    Some(parsed.to_utc())
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match usual_rfc3339(&self.0).as_ref().map(|text| str::from_utf8(text)) {
            Some(Ok(text)) => out.serialize_str(text),
            _ => out.serialize_str(&rfc3339(&self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(micros in 0i64..253_402_300_800_000_000) {
            let time = DateTime::from_timestamp_micros(micros).expect("before the year 10000");
            prop_assert_eq!(parse_rfc3339(&rfc3339(&time)), Some(time));
        }

        #[test]
        fn what_is_written_fast_is_the_same(micros in -99_999_999_999_999_999i64..300_000_000_000_000_000) {
            let time = DateTime::from_timestamp_micros(micros).expect("a time that chrono knows");
            let written = serde_json::to_string(&Timestamp(time)).expect("JSON");
            prop_assert_eq!(written, format!("\"{}\"", rfc3339(&time)));
        }

        #[test]
        fn an_offset_is_taken_off(seconds in 0i64..4_000_000_000, hours in -23i64..=23, minutes in 0i64..60) {
            let time = DateTime::from_timestamp(seconds, 0).expect("valid");
            let sign = if hours < 0 { '-' } else { '+' };
            let offset = hours * 60 + if hours < 0 { -minutes } else { minutes };
            let local = time + chrono::TimeDelta::minutes(offset);
            let text = format!("{}{sign}{:02}:{minutes:02}", local.format("%Y-%m-%dT%H:%M:%S"), hours.abs());
            prop_assert_eq!(parse_rfc3339(&text), Some(time), "{}", text);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_rfc3339(&text);
        }

        #[test]
        fn what_is_almost_a_time_is_read_or_refused(text in "[-+0-9TtZz:. ]{10,40}") {
            if let Some(time) = parse_rfc3339(&text) {
                // Whatever was taken is a time on the wire again, as far as the year goes.
                prop_assert!(rfc3339(&time).len() >= 27, "{}", text);
            }
        }
    }

    #[test]
    fn what_only_looks_like_it_is_refused() {
        for wrong in [
            "",
            "now",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00 Z",
            "2026-01-01T00:00:00+01",
            "2026-01-01T00:00:00+0100",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "+12026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z ",
            "1767225600",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_moment_may_have_any_offset() {
        let utc: Timestamp = "2026-01-01T00:00:00Z".parse().expect("valid");
        assert_eq!("2026-01-01T02:00:00+02:00".parse(), Ok(utc));
        assert_eq!(rfc3339(&utc.0), "2026-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_refusal_says_what_would_be_right() {
        for wrong in ["", "tomorrow", "2026-01-01", "2026-01-01T00:00:00", "1767225600"] {
            let refusal = Timestamp::from_str(wrong).expect_err("no time");
            assert!(refusal.contains("such as `2026-01-01T00:00:00Z`"), "{refusal}");
        }
    }

    #[test]
    fn microseconds_always_show() {
        let time = DateTime::from_timestamp(1_767_225_600, 120_000).expect("valid");
        assert_eq!(rfc3339(&time), "2026-01-01T00:00:00.000120Z");
    }
}
