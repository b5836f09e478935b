//! Whole numbers that carry their range in their type.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bounded<const MIN: i64, const MAX: i64>(i64);

/// The value was no whole number, or outside the range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from {min} to {max}, not {found}")]
pub struct OutOfRange {
    min: i64,
    max: i64,
    found: String,
}

impl<const MIN: i64, const MAX: i64> Bounded<MIN, MAX> {
    /// The smallest value.
    pub const MIN: i64 = MIN;
    /// The largest value.
    pub const MAX: i64 = MAX;

    /// Refuses what is outside the range.
    pub fn new(value: i64) -> Result<Self, OutOfRange> {
        Self::checked(Some(value), &value)
    }

    /// The nearest value within the range.
    pub const fn saturating(value: i64) -> Self {
        if value < MIN {
            Self(MIN)
        } else if value > MAX {
            Self(MAX)
        } else {
            Self(value)
        }
    }

    /// The number itself.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// As PostgreSQL's `integer`; the ranges in use that are bound to one fit.
    pub fn as_i32(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    fn checked(value: Option<i64>, found: &dyn fmt::Display) -> Result<Self, OutOfRange> {
        value.filter(|v| (MIN..=MAX).contains(v)).map(Self).ok_or_else(|| OutOfRange {
            min: MIN,
            max: MAX,
            found: found.to_string().chars().take(40).collect(),
        })
    }
}

impl<const MIN: i64, const MAX: i64> FromStr for Bounded<MIN, MAX> {
    type Err = OutOfRange;

    /// Digits with an optional sign; no white space, no `1e3`, no `+`.
    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        let value = Some(text).filter(|t| !t.starts_with('+')).and_then(|t| t.parse().ok());
        Self::checked(value, &format_args!("`{text}`"))
    }
}

impl<const MIN: i64, const MAX: i64> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: i64, const MAX: i64> Serialize for Bounded<MIN, MAX> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_i64(self.0)
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const MIN: i64, const MAX: i64>;

        impl<const MIN: i64, const MAX: i64> de::Visitor<'_> for Visitor<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {MIN} to {MAX}")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
                Bounded::new(value).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Bounded::checked(i64::try_from(value).ok(), &value).map_err(E::custom)
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
                Bounded::checked(whole(value), &value).map_err(E::custom)
            }
        }

        deserializer.deserialize_i64(Visitor)
    }
}

/// `5.0` is a whole number in JSON, whose numbers have no kinds; one that is so large that others
/// are read as the same is not.
fn whole(value: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    let whole = value.fract() == 0.0 && value.abs() <= EXACT;
    #[expect(clippy::cast_possible_truncation, reason = "a whole number within 53 bits")]
    whole.then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Percent = Bounded<0, 100>;
    type Any = Bounded<{ i64::MIN }, { i64::MAX }>;

    proptest! {
        #[test]
        fn text_and_json_agree_with_the_range(value in prop_oneof![any::<i64>(), -5i64..110]) {
            let within = (0..=100).contains(&value).then_some(value);
            let text = value.to_string();
            prop_assert_eq!(text.parse::<Percent>().ok().map(Bounded::get), within);
            prop_assert_eq!(serde_json::from_str::<Percent>(&text).ok().map(Bounded::get), within);
            prop_assert_eq!(Percent::saturating(value).get(), value.clamp(0, 100));
            prop_assert_eq!(text.parse::<Any>().map(Bounded::get), Ok(value));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,30}|[-+0-9eE. _]{0,30}") {
            if let Ok(value) = text.parse::<Any>() {
                let digits = text.strip_prefix('-').unwrap_or(&text);
                prop_assert!(digits.bytes().all(|b| b.is_ascii_digit()), "{}", text);
                prop_assert!(digits.trim_start_matches('0').len() <= 19, "{} {}", text, value);
            }
        }

        #[test]
        fn any_json_number_is_read_exactly_or_refused(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,4})?(e[+-]?[0-9]{1,3})?") {
            if let Ok(value) = serde_json::from_str::<Any>(&text) {
                let float: f64 = text.parse().expect("a number");
                #[expect(clippy::cast_precision_loss, reason = "as precise as the other side")]
                let read = value.get() as f64;
                prop_assert!(read.to_bits() == float.to_bits() || read == 0.0, "{} {}", text, value);
            }
        }
    }

    #[test]
    fn both_ends_belong_to_the_range() {
        assert_eq!(Percent::new(0).map(Bounded::get), Ok(0));
        assert_eq!("100".parse::<Percent>().map(Bounded::get), Ok(100));
        assert!(Percent::new(-1).is_err());
        assert!("101".parse::<Percent>().is_err());
    }

    #[test]
    fn the_refusal_names_the_range_and_the_value() {
        let error = "ten".parse::<Percent>().expect_err("not a number");
        assert_eq!(error.to_string(), "must be a whole number from 0 to 100, not `ten`");
    }

    #[test]
    fn json_takes_whole_numbers_only() {
        for seven in ["7", "7.0", "0.7e1"] {
            assert_eq!(serde_json::from_str::<Percent>(seven).expect("in range").get(), 7);
        }
        for wrong in ["101", "-1", "7.5", "\"7\"", "null", "true", "1e400", "99999999999999999999"]
        {
            assert!(serde_json::from_str::<Percent>(wrong).is_err(), "{wrong}");
        }
    }

    /// One that is read as another would be about another message.
    #[test]
    fn large_numbers_are_read_to_the_digit_or_refused() {
        type Id = Bounded<1, { i64::MAX }>;
        let read = |text: &str| serde_json::from_str::<Id>(text).map(Bounded::get).ok();
        assert_eq!(read("1839830313596429.0"), Some(1_839_830_313_596_429));
        assert_eq!(read("9007199254740991.0"), Some(9_007_199_254_740_991));
        assert_eq!(read("9223372036854775807"), Some(i64::MAX));
        for wrong in ["9007199254740993.0", "1e17", "9223372036854775808"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn text_with_signs_and_spaces_is_refused() {
        for wrong in ["+5", " 5", "5 ", "5.0", "0x5", ""] {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong:?}");
        }
    }
}
