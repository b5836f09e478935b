//! How long a message waits that was given back, by how often it was delivered.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Bounded;

/// Seconds of a back-off: 1 to 315,360,000 (10 years).
pub type BackoffSeconds = Bounded<1, 315_360_000>;

/// Seconds that a message waits that was given back: `min * factor ^ (read_ct - 1)`, at most `max`, give or
/// take a fifth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Unchecked")]
pub struct RetryBackoff {
    min: BackoffSeconds,
    max: BackoffSeconds,
    factor: BackoffFactor,
}

/// The same before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    min: BackoffSeconds,
    max: BackoffSeconds,
    factor: BackoffFactor,
}

impl TryFrom<Unchecked> for RetryBackoff {
    type Error = String;

    fn try_from(Unchecked { min, max, factor }: Unchecked) -> Result<Self, String> {
        Self::new(min, max, factor)
    }
}

impl RetryBackoff {
    /// Refuses a `min` above `max`; the error says so.
    pub fn new(
        min: BackoffSeconds,
        max: BackoffSeconds,
        factor: BackoffFactor,
    ) -> Result<Self, String> {
        if min > max {
            return Err(format!("`min` must be at most `max`, which is {max}, not {min}"));
        }
        Ok(Self { min, max, factor })
    }

    /// Seconds after the first delivery.
    pub fn min(&self) -> BackoffSeconds {
        self.min
    }

    /// Seconds that it is at most.
    pub fn max(&self) -> BackoffSeconds {
        self.max
    }

    /// From one delivery to the next.
    pub fn factor(&self) -> BackoffFactor {
        self.factor
    }

    /// The least, the most, and the factor, as SQL takes them.
    pub fn parts(&self) -> [f64; 3] {
        #[expect(clippy::cast_precision_loss, reason = "within 53 bits")]
        [self.min.get() as f64, self.max.get() as f64, self.factor.value()]
    }
}

/// A number from 1 to 100 with up to three decimals, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffFactor(u32);

impl BackoffFactor {
    /// The smallest value.
    pub const MIN: i32 = 1;
    /// The largest value.
    pub const MAX: i32 = 100;

    fn value(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }

    fn new(value: f64) -> Option<Self> {
        let thousandths = (value * 1_000.0).round();
        let fits = (f64::from(Self::MIN)..=f64::from(Self::MAX)).contains(&value)
            && (thousandths - value * 1_000.0).abs() < 1e-6;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number from 1000 to 100000"
        )]
        fits.then_some(Self(thousandths as u32))
    }
}

impl Serialize for BackoffFactor {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1_000) {
            out.serialize_u32(self.0 / 1_000)
        } else {
            out.serialize_f64(self.value())
        }
    }
}

impl<'de> Deserialize<'de> for BackoffFactor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl Visitor {
            fn check<E: de::Error>(value: f64) -> Result<BackoffFactor, E> {
                BackoffFactor::new(value).ok_or_else(|| {
                    E::custom(format!(
                        "must be a number from 1 to 100 with at most three decimals, not {value}"
                    ))
                })
            }
        }

        impl de::Visitor<'_> for Visitor {
            type Value = BackoffFactor;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 to 100")
            }

            #[expect(clippy::cast_precision_loss, reason = "what is so large is refused")]
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<BackoffFactor, E> {
                Self::check(value as f64)
            }

            #[expect(clippy::cast_precision_loss, reason = "what is so large is refused")]
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<BackoffFactor, E> {
                Self::check(value as f64)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<BackoffFactor, E> {
                Self::check(value)
            }
        }

        deserializer.deserialize_f64(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_was_read() {
        for json in [
            r#"{"min":1,"max":3600,"factor":2}"#,
            r#"{"min":5,"max":5,"factor":1}"#,
            r#"{"min":1,"max":315360000,"factor":1.125}"#,
        ] {
            let read: RetryBackoff = serde_json::from_str(json).expect("valid");
            assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, part) in [
            (r#"{"min":2,"max":1,"factor":2}"#, "`min` must be at most `max`"),
            (r#"{"min":0,"max":1,"factor":2}"#, "1 to 315360000"),
            (r#"{"min":1,"max":315360001,"factor":2}"#, "1 to 315360000"),
            (r#"{"min":1,"max":2,"factor":0.9}"#, "1 to 100"),
            (r#"{"min":1,"max":2,"factor":101}"#, "1 to 100"),
            (r#"{"min":1,"max":2,"factor":1.0001}"#, "three decimals"),
            (r#"{"min":1,"max":2,"factor":"2"}"#, "a number from 1 to 100"),
            (r#"{"min":1,"max":2}"#, "factor"),
            (r#"{"min":1,"max":2,"factor":2,"jitter":1}"#, "jitter"),
        ] {
            let error = serde_json::from_str::<RetryBackoff>(json).expect_err(json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
