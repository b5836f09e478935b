//! Halves of characters in JSON: `\ud800` without what belongs behind it is no text.

/// The same JSON with `\ufffe`, which no message may have in it either, in place of each half that stands alone;
/// nothing where none does.
pub(super) fn without_lone(json: &[u8]) -> Option<Vec<u8>> {
    let mut text = json.to_vec();
    let (mut at, mut found) = (0, false);
    while at < text.len() {
        if text[at] != b'\\' {
            at += 1;
            continue;
        }
        at += match (half(&text[at..]), text.get(at + 6..).and_then(half)) {
            // An escaped backslash, say, begins no other escape.
            (None, _) => 2,
            (Some(Half::First), Some(Half::Second)) => 12,
            (Some(_), _) => {
                text[at + 2..at + 6].copy_from_slice(b"fffe");
                found = true;
                6
            }
        };
    }
    found.then_some(text)
}

#[derive(Clone, Copy)]
enum Half {
    First,
    Second,
}

/// The half with whose escape a text begins.
fn half(text: &[u8]) -> Option<Half> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let code = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    match code {
        0xd800..=0xdbff => Some(Half::First),
        0xdc00..=0xdfff => Some(Half::Second),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replaced(json: &str) -> Option<String> {
        without_lone(json.as_bytes()).map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn halves_that_stand_alone_are_replaced_and_nothing_else() {
        for (json, expected) in [
            (r#""\ud800""#, r#""\ufffe""#),
            (r#""\uDFFFé""#, r#""\ufffeé""#),
            (r#""\ud800\ud83d\ude00\udc00""#, r#""\ufffe\ud83d\ude00\ufffe""#),
            (r#""\ud800\u0041""#, r#""\ufffe\u0041""#),
            (r#""\ud800\\udc00""#, r#""\ufffe\\udc00""#),
            (r#""\\\ud800""#, r#""\\\ufffe""#),
        ] {
            assert_eq!(replaced(json).as_deref(), Some(expected), "{json}");
        }
        for whole in [
            r#""\ud83d\ude00""#,
            r#""\\ud800""#,
            r#""\\\\ud800""#,
            r#""\n\"\ud7ff\ue000""#,
            r#""\u+d80""#,
            r#""\ud80"#,
            "\\",
            "",
        ] {
            assert_eq!(replaced(whole), None, "{whole}");
        }
    }

    proptest! {
        /// What any text is written as, with halves in it, is read.
        #[test]
        fn what_is_left_can_be_read(parts in prop::collection::vec("\\\\u[dD][89abcdefABCDEF0-7][0-9a-f]{2}|\\\\\\\\|[a-z]", 0..12)) {
            let json = format!("\"{}\"", parts.concat());
            let text = without_lone(json.as_bytes()).unwrap_or_else(|| json.into_bytes());
            prop_assert!(serde_json::from_slice::<String>(&text).is_ok());
        }
    }
}
