//! JSON as people read it: on lines of its own, and every digit as it is. Works on the text alone; no number and no
//! string is ever read.

/// A part of a text that is shown in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// What it is: a class of the style sheet's.
    pub(super) class: &'static str,
    /// As it is shown.
    pub(super) text: String,
}

/// The deepest level that is indented.
const MAX_INDENT: usize = 40;

/// The most pieces, each of which takes some 50 bytes in a page, and the most bytes of their text.
const MAX_PIECES: usize = 20_000;
const MAX_BYTES: usize = 1 << 20;

/// Well-formed JSON with line ends and indentation; nothing where that is too much to show.
pub(super) fn pretty(json: &str) -> Option<Vec<Piece>> {
    let mut printer = Printer::default();
    let mut rest = json.trim();
    while let Some(first) = rest.chars().next() {
        if printer.pieces.len() > MAX_PIECES || printer.bytes > MAX_BYTES {
            return None;
        }
        rest = match first {
            '{' | '[' => printer.open(first, &rest[1..]),
            '}' | ']' => {
                printer.close(first);
                &rest[1..]
            }
            ',' => {
                printer.comma();
                &rest[1..]
            }
            ':' => {
                printer.plain(": ");
                printer.is_key = false;
                &rest[1..]
            }
            '"' => {
                let (string, rest) = rest.split_at(string_end(rest));
                let class = if printer.is_key { "json-key" } else { "json-string" };
                printer.piece(class, string);
                rest
            }
            space if space.is_whitespace() => rest.trim_start(),
            _ => {
                let end = rest.find([',', '}', ']', ' ', '\n']).unwrap_or(rest.len()).max(1);
                let (scalar, rest) = rest.split_at(end);
                let class = match scalar {
                    "null" => "json-null",
                    "true" | "false" => "json-bool",
                    _ => "json-number",
                };
                printer.piece(class, scalar);
                rest
            }
        };
    }
    Some(printer.pieces)
}

/// Where a string ends that a text begins with.
fn string_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[derive(Default)]
struct Printer {
    pieces: Vec<Piece>,
    /// Of their text.
    bytes: usize,
    /// Of each level, whether it is an object.
    levels: Vec<bool>,
    is_key: bool,
}

impl Printer {
    /// Opens a level, and closes it at once where it is empty; what is left is returned.
    fn open<'a>(&mut self, bracket: char, rest: &'a str) -> &'a str {
        let closing = if bracket == '{' { '}' } else { ']' };
        if let Some(rest) = rest.trim_start().strip_prefix(closing) {
            self.plain(if bracket == '{' { "{}" } else { "[]" });
            return rest;
        }
        self.plain(if bracket == '{' { "{" } else { "[" });
        self.levels.push(bracket == '{');
        self.is_key = bracket == '{';
        self.new_line();
        rest
    }

    fn close(&mut self, bracket: char) {
        self.levels.pop();
        self.new_line();
        self.plain(if bracket == '}' { "}" } else { "]" });
        self.is_key = false;
    }

    fn comma(&mut self) {
        self.plain(",");
        self.is_key = self.levels.last().copied().unwrap_or(false);
        self.new_line();
    }

    fn new_line(&mut self) {
        let indent = "  ".repeat(self.levels.len().min(MAX_INDENT));
        self.plain("\n");
        self.plain(&indent);
    }

    /// What needs no colour goes with what stood before it.
    fn plain(&mut self, text: &str) {
        match self.pieces.last_mut().filter(|piece| piece.class == "json-mark") {
            Some(piece) => {
                self.bytes += text.len();
                piece.text.push_str(text);
            }
            None => self.piece("json-mark", text),
        }
    }

    fn piece(&mut self, class: &'static str, text: &str) {
        self.bytes += text.len();
        self.pieces.push(Piece { class, text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(json: &str) -> String {
        pretty(json).expect("short").into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn it_is_indented_and_every_digit_stays() {
        let json = r#"{"n": 12345678901234567890.1234567890, "e": [], "o": {}, "l": [1e400, -0.0, "a, \"b\": {"], "x": null}"#;
        let expected = "{\n  \"n\": 12345678901234567890.1234567890,\n  \"e\": [],\n  \"o\": {},\n  \"l\": [\n    \
                        1e400,\n    -0.0,\n    \"a, \\\"b\\\": {\"\n  ],\n  \"x\": null\n}";
        assert_eq!(text(json), expected);
        assert_eq!(text(" 7 "), "7");
        assert_eq!(text("\"\\\\\""), "\"\\\\\"");
    }

    #[test]
    fn keys_are_told_from_strings() {
        let class = |text: &str, of: &str| {
            let pieces = pretty(text).expect("short").into_iter();
            pieces.filter(|piece| piece.text == of).map(|piece| piece.class).next()
        };
        let json = r#"{"a": ["b", {"c": "d"}], "e": true}"#;
        for (of, expected) in [
            ("\"a\"", "json-key"),
            ("\"b\"", "json-string"),
            ("\"c\"", "json-key"),
            ("\"d\"", "json-string"),
            ("\"e\"", "json-key"),
            ("true", "json-bool"),
        ] {
            assert_eq!(class(json, of), Some(expected), "{of}");
        }
    }

    #[test]
    fn what_would_make_a_page_too_large_is_not_laid_out() {
        let many = |count| format!("[{}1]", "1,".repeat(count));
        assert!(pretty(&many(9_000)).is_some());
        assert!(pretty(&many(11_000)).is_none());
        // Few pieces, and all of it white space.
        assert!(pretty(&format!("{}{}", "[".repeat(50_000), "]".repeat(50_000))).is_none());
    }

    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?[1-9][0-9]{0,30}(\\.[0-9]{1,5})?(e[0-9]{1,3})?",
            "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).expect("a string")),
        ];
        leaf.prop_recursive(4, 20, 4, |inner| {
            let entry = ("\\PC{0,4}", inner.clone()).prop_map(|(key, value)| {
                format!("{}:{value}", serde_json::to_string(&key).expect("a string"))
            });
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(entry, 0..4).prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        })
    }

    /// Without the white space between its parts.
    fn dense(json: &str) -> String {
        let (mut out, mut in_string, mut escaped) = (String::new(), false, false);
        for c in json.chars() {
            if in_string || !c.is_whitespace() {
                out.push(c);
            }
            match c {
                '"' if !escaped => in_string = !in_string,
                _ => {}
            }
            escaped = c == '\\' && !escaped && in_string;
        }
        out
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_added(json in any_json()) {
            prop_assert_eq!(dense(&text(&json)), dense(&json));
        }

        #[test]
        fn any_text_is_shown_without_panic(anything in "\\PC{0,40}") {
            let _ = pretty(&anything);
        }
    }
}
