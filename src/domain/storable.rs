//! Which well-formed JSON PostgreSQL's `jsonb` can store, and give back afterwards.

use memchr::memchr2;

/// Digits before the decimal point that PostgreSQL's `numeric` holds.
const MAX_INTEGER_DIGITS: i64 = 131_072;
/// Digits after the decimal point that PostgreSQL's `numeric` holds.
const MAX_FRACTION_DIGITS: i64 = 16_383;

/// Well-formed JSON that must not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unstorable {
    /// PostgreSQL text has no NUL.
    #[error("a string contains \\u0000, which PostgreSQL cannot store")]
    NulCharacter,
    /// Half of a UTF-16 surrogate pair is no character.
    #[error("a string contains half of a surrogate pair, which is no Unicode character")]
    LoneSurrogate,
    /// More digits than `numeric` holds.
    #[error(
        "a number has more than 131072 digits before or 16383 digits after its decimal point, \
         which PostgreSQL cannot store"
    )]
    NumberOutOfRange,
    /// `jsonb` writes `1e131071` out in full when it is read, so that a small message can become
    /// one that is too large to ever be read.
    #[error(
        "its numbers, written out in full, make it {expanded} bytes long; the limit is {limit}"
    )]
    Expands {
        /// Length in bytes once all numbers are written out.
        expanded: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// What reads it may have no stack for more, and PostgreSQL has not for much more.
    #[error("it is nested too deeply: the limit is {limit} levels of arrays and objects")]
    TooDeep {
        /// The limit in levels.
        limit: u32,
    },
}

/// What storable JSON is held to beside what PostgreSQL refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorableLimits {
    /// Bytes once every number is written without an exponent.
    pub expanded: u64,
    /// Levels of arrays and objects.
    pub depth: u32,
}

/// The most levels of arrays and objects: PostgreSQL's stack holds them whatever stands around them.
pub const MAX_JSON_DEPTH: u32 = 10_000;

/// Bytes of a message, its numbers written out in full, from which on PostgreSQL may never be able to give it
/// back.
pub const MAX_READABLE_BYTES: u64 = 64 << 20;

/// Checks what `jsonb` would refuse, or accept and never be able to give back. `json` is well-formed. Returns
/// its length in bytes once all numbers are written out.
pub fn check_storable(json: &str, limits: StorableLimits) -> Result<u64, Unstorable> {
    let bytes = json.as_bytes();
    let mut at = 0;
    let mut depth: u32 = 0;
    let mut expanded = bytes.len() as u64;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = check_string(bytes, at + 1)?,
            b'-' | b'0'..=b'9' => {
                let end = number_end(bytes, at);
                expanded += expansion(&bytes[at..end])?;
                at = end;
            }
            b'[' | b'{' => {
                depth = depth.saturating_add(1);
                if depth > limits.depth {
                    return Err(Unstorable::TooDeep { limit: limits.depth });
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
    }
    if expanded > limits.expanded {
        return Err(Unstorable::Expands { expanded, limit: limits.expanded });
    }
    Ok(expanded)
}

/// The length of well-formed JSON in bytes once all numbers are written out, whatever else is wrong with it.
pub fn expanded_length(json: &str) -> u64 {
    let no_limits = StorableLimits { expanded: u64::MAX, depth: u32::MAX };
    check_storable(json, no_limits).unwrap_or(u64::MAX)
}

/// Checks a string from behind its opening quote; returns the index behind the closing one.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, Unstorable> {
    while let Some(ahead) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += ahead;
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', _) => return Ok(at + 1),
            (_, Some(b'u')) => at = check_escape(bytes, at)?,
            _ => at += 2,
        }
    }
    Ok(bytes.len())
}

/// Checks the `\uXXXX` at `at`, with its other half where it is one; returns the index behind it.
fn check_escape(bytes: &[u8], at: usize) -> Result<usize, Unstorable> {
    match code_unit(bytes, at) {
        Some(0) => Err(Unstorable::NulCharacter),
        Some(0xD800..=0xDBFF) => match code_unit(bytes, at + 6) {
            Some(0xDC00..=0xDFFF) => Ok(at + 12),
            _ => Err(Unstorable::LoneSurrogate),
        },
        Some(0xDC00..=0xDFFF) => Err(Unstorable::LoneSurrogate),
        _ => Ok(at + 6),
    }
}

/// The value of `\uXXXX` at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let hex = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let in_number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = bytes[start..].iter().take_while(|b| in_number(b)).count();
    start + length
}

/// By how many bytes a number grows when it is written out.
fn expansion(number: &[u8]) -> Result<u64, Unstorable> {
    let (sign, unsigned) = match number.strip_prefix(b"-") {
        Some(rest) => (1, rest),
        None => (0, number),
    };
    let (mantissa, exponent) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(e) => (&unsigned[..e], parse_exponent(&unsigned[e + 1..])),
        None => (unsigned, 0),
    };
    let (integer, fraction) = match mantissa.iter().position(|b| *b == b'.') {
        Some(dot) => (&mantissa[..dot], &mantissa[dot + 1..]),
        None => (mantissa, &[][..]),
    };

    let significant = {
        let leading_zeros = integer.iter().chain(fraction).take_while(|b| **b == b'0').count();
        length(integer) + length(fraction) - i64::try_from(leading_zeros).unwrap_or(i64::MAX)
    };
    let fraction_digits = length(fraction).saturating_sub(exponent).max(0);
    let integer_digits = if significant == 0 {
        1
    } else {
        let digits = significant.saturating_add(exponent) - length(fraction);
        digits.max(1)
    };
    if integer_digits > MAX_INTEGER_DIGITS || fraction_digits > MAX_FRACTION_DIGITS {
        return Err(Unstorable::NumberOutOfRange);
    }
    let point = i64::from(fraction_digits > 0);
    let written_out = sign + integer_digits + point + fraction_digits;
    Ok(u64::try_from(written_out - length(number)).unwrap_or(0))
}

/// The exponent behind the `e`; one that does not fit is as far out as one can be.
fn parse_exponent(text: &[u8]) -> i64 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    match text.strip_prefix('-') {
        Some(digits) => -digits.parse().unwrap_or(i64::MAX / 2),
        None => text.trim_start_matches('+').parse().unwrap_or(i64::MAX / 2),
    }
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1 << 24;

    fn check_storable(json: &str, expanded: u64) -> Result<(), Unstorable> {
        super::check_storable(json, StorableLimits { expanded, depth: 4 }).map(drop)
    }

    #[test]
    fn ordinary_json_is_storable() {
        for json in [
            "null",
            r#"{"n":12345678901234567890.123456789,"s":"a\\u0000 \"q\" \\ud800","e":[1e3,-2.5E-7]}"#,
            r#""\ud83d\ude00 \u00e9""#,
            "[0e9999999,-0.0,1e131071,1e-16383]",
        ] {
            assert_eq!(check_storable(json, LIMIT), Ok(()), "{json}");
        }
    }

    #[test]
    fn strings_that_postgresql_refuses() {
        for (json, reason) in [
            (r#""a\u0000b""#, Unstorable::NulCharacter),
            (r#"{"\u0000":1}"#, Unstorable::NulCharacter),
            (r#""\\\u0000""#, Unstorable::NulCharacter),
            (r#""\ud800""#, Unstorable::LoneSurrogate),
            (r#""\ud800x\udc00""#, Unstorable::LoneSurrogate),
            (r#""\ud800\ud800""#, Unstorable::LoneSurrogate),
            (r#"["\udc00"]"#, Unstorable::LoneSurrogate),
        ] {
            assert_eq!(check_storable(json, LIMIT), Err(reason), "{json}");
        }
    }

    #[test]
    fn numbers_that_postgresql_refuses() {
        for json in [
            "1e131072",
            "[10e131071]",
            "1e-16384",
            "0.1e-16383",
            "1e99999999999999999999999",
            "-1e-99999999999999999999999",
        ] {
            let found = check_storable(json, LIMIT);
            assert_eq!(found, Err(Unstorable::NumberOutOfRange), "{json}");
        }
    }

    #[test]
    fn small_numbers_that_would_fill_the_memory() {
        let json = format!("[{}0]", "1e131071,".repeat(200));
        let expanded = json.len() as u64 + 200 * (131_072 - 8);
        let refusal = Unstorable::Expands { expanded, limit: LIMIT };
        assert_eq!(check_storable(&json, LIMIT), Err(refusal));
        assert_eq!(check_storable(&json, expanded), Ok(()));
        assert_eq!(expanded_length(&json), expanded);
        assert_eq!(expanded_length("[1e3, -2.5E-7,12]"), "[1000, -0.00000025,12]".len() as u64);
    }

    #[test]
    fn levels_are_counted_and_not_brackets() {
        let refusal = Err(Unstorable::TooDeep { limit: 4 });
        for (json, outcome) in [
            ("[[[[1]]]]", Ok(())),
            (r#"{"a":[{"b":[]}],"c":[[[2]]]}"#, Ok(())),
            (r#"["[[[[[[","{{{{{{",{"]]":"\"[[[[["}]"#, Ok(())),
            ("[[[[[]]]]]", refusal),
            (r#"{"a":[{"b":[{}]}]}"#, refusal),
            (&"[".repeat(1_000_000), refusal),
        ] {
            assert_eq!(check_storable(json, LIMIT), outcome, "{json:.40}");
        }
    }

    /// A number written out by moving the digits about, as PostgreSQL does.
    fn written_out(digits: &str, fraction: usize, exponent: i32) -> String {
        let point = i64::try_from(digits.len() - fraction).expect("small") + i64::from(exponent);
        let mut text = digits.to_owned();
        let point = if point <= 0 {
            let zeros = usize::try_from(1 - point).expect("positive");
            text.insert_str(0, &"0".repeat(zeros));
            1
        } else {
            usize::try_from(point).expect("positive")
        };
        while text.len() < point {
            text.push('0');
        }
        text.insert(point, '.');
        let integer_zeros = text.find(|c| c != '0').unwrap_or(0);
        let text = text[integer_zeros..].trim_end_matches('.');
        if text.starts_with('.') || text.is_empty() { format!("0{text}") } else { text.to_owned() }
    }

    proptest! {
        #[test]
        fn the_expansion_is_exact(digits in "[1-9][0-9]{0,12}", cut in 0usize..12, exponent in -300i32..300) {
            let fraction = cut.min(digits.len() - 1);
            let (integer, decimals) = digits.split_at(digits.len() - fraction);
            let number = if fraction == 0 { format!("{integer}e{exponent}") }
                else { format!("{integer}.{decimals}e{exponent}") };
            let grown = written_out(&digits, fraction, exponent).len().saturating_sub(number.len());
            prop_assert_eq!(expansion(number.as_bytes()), Ok(grown as u64), "{}", number);
        }

        #[test]
        fn any_text_is_walked_without_panic(text in "[\\\\u0-9a-fD\"eE.+-]{0,40}") {
            let _ = check_storable(&text, LIMIT);
        }

        #[test]
        fn escapes_are_characters_or_refused(units in prop::collection::vec(
            prop_oneof![any::<u16>(), 0xD7F0u16..0xE010, Just(0)], 0..6,
        )) {
            let json = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
            let characters: Result<String, _> = char::decode_utf16(units).collect();
            let fine = characters.is_ok_and(|text| !text.contains('\0'));
            prop_assert_eq!(check_storable(&format!("\"{json}\""), LIMIT).is_ok(), fine, "{}", json);
        }

        #[test]
        fn levels_are_those_of_a_parser(json in "[\\[\\]1, ]{1,14}|(\\[\"[\\[{]{0,9}\",){0,6}") {
            fn levels(value: &serde_json::Value) -> u32 {
                let items = value.as_array();
                items.map_or(0, |items| 1 + items.iter().map(levels).max().unwrap_or(0))
            }
            let closed = json.matches('[').count().saturating_sub(json.matches(']').count());
            for json in [json.clone(), format!("{json}1{}", "]".repeat(closed))] {
                let Ok(value) = serde_json::from_str(&json) else { continue };
                prop_assert_eq!(check_storable(&json, LIMIT).is_ok(), levels(&value) <= 4, "{}", json);
            }
        }

        #[test]
        fn what_serde_writes_is_storable(text in "[^\u{0}]{0,40}", n in any::<f64>()) {
            let json = serde_json::json!({"t": text, "n": n}).to_string();
            prop_assert_eq!(check_storable(&json, LIMIT), Ok(()));
        }
    }
}
