//! A request as its client wrote it down to sign it.

use axum::http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, percent_decode_str, percent_encode};

use crate::http::UNRESERVED;

/// What stays as it is in a path.
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// The header in which a client says the SHA-256 of the body.
pub(super) const CONTENT_HASH: &str = "x-amz-content-sha256";

/// A request, as far as it is signed.
#[derive(Debug)]
pub(super) struct Signed<'a> {
    pub(super) method: &'a Method,
    /// As it came, encoded.
    pub(super) path: &'a str,
    /// As it came, encoded.
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// The name of the host, as the client wrote it.
    pub(super) host: &'a str,
}

impl Signed<'_> {
    /// What is signed of it; nothing where what it says of itself is wrong. `body_hash` is the SHA-256 of the body.
    pub(super) fn canonical(&self, signed_headers: &[String], body_hash: &str) -> Option<String> {
        // What says what is done has to be signed.
        let target = "x-amz-target";
        if self.headers.contains_key(target) && !signed_headers.iter().any(|name| name == target) {
            return None;
        }
        // `UNSIGNED-PAYLOAD` too: who does what is in the body.
        let said = self.headers.get(CONTENT_HASH).and_then(|said| said.to_str().ok());
        if said.is_some_and(|said| said != body_hash) {
            return None;
        }
        let path = if self.path.is_empty() { "/" } else { self.path };
        // A path is encoded once more than it is sent.
        let path = percent_encode(path.as_bytes(), PATH);
        let mut canonical = format!("{}\n{path}\n", self.method);
        canonical.push_str(&canonical_query(self.query));
        canonical.push('\n');
        for name in signed_headers {
            let value = self.header(name)?;
            canonical.extend([name.as_str(), ":", &value, "\n"]);
        }
        canonical.extend(["\n", &signed_headers.join(";"), "\n", body_hash]);
        Some(canonical)
    }

    /// The values of a header, each without spaces around it and with single ones in it.
    fn header(&self, name: &str) -> Option<String> {
        if name == "host" {
            return Some(self.host.to_owned());
        }
        let mut values = Vec::new();
        for value in self.headers.get_all(name) {
            let text = std::str::from_utf8(value.as_bytes()).ok()?;
            values.push(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        }
        (!values.is_empty()).then(|| values.join(","))
    }
}

fn canonical_query(query: &str) -> String {
    let encode = |part: &str| {
        let bytes: Vec<u8> = percent_decode_str(part).collect();
        percent_encode(&bytes, UNRESERVED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (encode(&name.replace('+', "%20")), encode(&value.replace('+', "%20")))
    };
    let mut pairs: Vec<(String, String)> =
        pairs.map(pair).filter(|(name, _)| name != "X-Amz-Signature").collect();
    pairs.sort();
    let pairs: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// A path without `.`, `..` and slashes that follow upon each other, as SDKs sign it.
pub(super) fn normalized(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let last = if path.ends_with('/') && !parts.is_empty() { "/" } else { "" };
    format!("/{}{last}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_sorted_and_encoded_once() {
        for (sent, signed) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("x=2&x=10&x=1", "x=1&x=10&x=2"),
            ("a=x+y&b=x%20y&c=x%2By", "a=x%20y&b=x%20y&c=x%2By"),
            ("a=%2f&b=/", "a=%2F&b=%2F"),
            ("a=%C3%A9&A=1&a-b=2", "A=1&a=%C3%A9&a-b=2"),
            ("x&y=&&z=b=c&", "x=&y=&z=b%3Dc"),
            ("a=%7E~-_.*%25", "a=~~-_.%2A%25"),
            ("a=1&X-Amz-Signature=s", "a=1"),
        ] {
            assert_eq!(canonical_query(sent), signed, "{sent}");
        }
    }

    #[test]
    fn a_path_is_signed_without_detours() {
        for (sent, signed) in [
            ("/", "/"),
            ("//", "/"),
            ("/000000000000/q", "/000000000000/q"),
            ("//000000000000//q/", "/000000000000/q/"),
            ("/a/./b/../c", "/a/c"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("", "/"),
        ] {
            assert_eq!(normalized(sent), signed, "{sent}");
        }
    }

    #[test]
    fn values_of_headers_are_trimmed_and_joined() {
        let mut headers = HeaderMap::new();
        for value in ["  a   b\t c ", "d, e", "", "\"f  g\""] {
            headers.append("x-meta", value.parse().expect("a value"));
        }
        headers.insert("x-text", "é".parse().expect("a value"));
        let method = Method::POST;
        let request =
            Signed { method: &method, path: "/", query: "", headers: &headers, host: "h:1" };
        assert_eq!(request.header("x-meta").as_deref(), Some("a b c,d, e,,\"f g\""));
        assert_eq!(request.header("x-text").as_deref(), Some("é"));
        assert_eq!(request.header("host").as_deref(), Some("h:1"));
        assert_eq!(request.header("x-none"), None);
    }
}
