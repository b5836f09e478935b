//! What clients send in place of JSON without knowing it, and what would be right.

use super::super::problem::Problem;

/// What is wrong with a body that is no JSON, where that shows at its beginning, or in all of it.
pub(in crate::api) fn not_json(bytes: &[u8]) -> Option<Problem> {
    if let Some(what) = encoding(bytes) {
        return Some(Problem::invalid(format!("the body {what}")));
    }
    if let Some(what) = form(bytes.trim_ascii_start()) {
        return Some(Problem::invalid(format!(
            "the body {what}, and JSON is needed, whatever its content type: with curl, \
             -d '{{\"message\":1}}'"
        )));
    }
    let at = std::str::from_utf8(bytes).err()?.valid_up_to();
    Some(Problem::invalid(format!(
        "the body is not UTF-8, as JSON is: byte {at}, counted from 0, is none of a character's"
    )))
}

/// An encoding that is not that of JSON.
fn encoding(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [0xef, 0xbb, 0xbf, ..] => {
            "begins with a byte order mark (EF BB BF), which JSON has none of: send it as UTF-8 \
             without one"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] | [0, _, ..] => {
            "looks like UTF-16 or UTF-32: send JSON as UTF-8"
        }
        [0x1f, 0x8b, ..] => "is compressed (gzip): send it as it is",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "is compressed (zstd): send it as it is",
        [0x78, 0x01 | 0x9c | 0xda, ..] => "is compressed (deflate): send it as it is",
        _ => return None,
    })
}

/// What else it is: of what browsers, libraries and shells make of what they are given.
fn form(bytes: &[u8]) -> Option<&'static str> {
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.%+[]".contains(byte);
    let name = bytes.iter().take_while(|byte| of_name(byte)).count();
    let is_form = name > 0 && bytes.get(name) == Some(&b'=');
    Some(match bytes {
        [b'-', b'-', ..] => "is a form (multipart)",
        [b'\'', ..] => {
            "begins with `'` (single quotation marks are none in JSON, and Windows' shell does not take \
             them off)"
        }
        [b'%', b'7', b'b' | b'B', ..] => "is percent-encoded",
        _ if is_form => "is a form (`name=value`)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        for (bytes, named) in [
            (&b"\xef\xbb\xbf{\"message\":1}"[..], "byte order mark"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"{\0\"\0", "UTF-16"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"\x28\xb5\x2f\xfd\x04", "zstd"),
            (b"\x78\x9c\xab", "deflate"),
            (b"message=1&delay=5", "`name=value`"),
            (b"json=%7B%22message%22%3A1%7D", "`name=value`"),
            (b" a[b]=c", "`name=value`"),
            (b"--boundary\r\nContent-Disposition: form-data", "multipart"),
            (b"%7B%22message%22%3A1%7D", "percent-encoded"),
            (b"'{message:1}'", "single quotation marks"),
            (b"{\"message\":\"caf\xe9\"}", "not UTF-8, as JSON is: byte 15"),
        ] {
            let found = not_json(bytes).map(|problem| problem.detail.into_owned());
            let found = found.unwrap_or_default();
            assert!(found.contains(named), "{}: {found}", String::from_utf8_lossy(bytes));
        }
        for other in [&b""[..], b"{", b"{\"message\":", b"-1", b"null", b"true", b"hello", b"=1"] {
            assert!(not_json(other).is_none(), "{}", String::from_utf8_lossy(other));
        }
    }
}
