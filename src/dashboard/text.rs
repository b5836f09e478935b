//! Numbers, times and JSON as people read them.

use chrono::{DateTime, SecondsFormat, Utc};

/// A count with its digits in groups of three.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// So many of something.
pub(super) fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Seconds, roughly, in two units at most.
pub(super) fn duration(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = seconds.max(0);
    let Some(place) = UNITS.iter().position(|(size, _)| seconds >= *size) else {
        return "0 s".to_owned();
    };
    let (size, unit) = UNITS[place];
    let first = format!("{} {unit}", seconds / size);
    match UNITS.get(place + 1) {
        Some((next, name)) if seconds / size < 10 && seconds % size / next > 0 => {
            format!("{first} {} {name}", seconds % size / next)
        }
        _ => first,
    }
}

/// A moment, seen from another one.
pub(super) fn ago(moment: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - moment).num_seconds();
    if seconds < 0 {
        format!("in {}", duration(-seconds))
    } else {
        format!("{} ago", duration(seconds))
    }
}

/// A moment to the second.
pub(super) fn moment(moment: DateTime<Utc>) -> String {
    moment.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A moment as machines read it, with all its digits.
pub(super) fn exact(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Bytes, roughly.
pub(super) fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
    let mut size = bytes.max(0) as f64;
    let mut unit = 0;
    while size >= 1_000.0 && unit + 1 < UNITS.len() {
        size /= 1_000.0;
        unit += 1;
    }
    if unit == 0 || size >= 100.0 {
        format!("{size:.0} {}", UNITS[unit])
    } else {
        format!("{size:.1} {}", UNITS[unit])
    }
}

/// So many in a second.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 0.1 => "<0.1".to_owned(),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => {
            #[expect(clippy::cast_possible_truncation, reason = "it is rounded")]
            let whole = rate.round() as i64;
            count(whole)
        }
    }
}

/// The beginning of a text, on one line.
pub(super) fn beginning(text: &str, characters: usize) -> String {
    let mut short: String = text.chars().take(characters).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_easy_to_read() {
        assert_eq!(count(0), "0");
        assert_eq!(count(-1_234_567), "-1\u{202f}234\u{202f}567");
        assert_eq!(counted(1, "message", "messages"), "1 message");
        assert_eq!(counted(2, "message", "messages"), "2 messages");
        for (seconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (600, "10 min"),
            (3_600, "1 h"),
            (5_400, "1 h 30 min"),
            (90_000, "1 d 1 h"),
            (864_000, "10 d"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
        for (size, text) in [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (123_456_789, "123 MB")]
        {
            assert_eq!(bytes(size), text);
        }
        for (per_second, text) in
            [(0.0, "0"), (0.04, "<0.1"), (3.25, "3.2"), (1234.4, "1\u{202f}234")]
        {
            assert_eq!(rate(per_second), text);
        }
        assert_eq!(beginning("äöü", 2), "äö…");
        assert_eq!(beginning("äöü", 3), "äöü");
    }
}
