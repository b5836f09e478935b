//! Scripts, styles and pictures: part of the program, kept by browsers for as long as they are the same.

use std::{fmt::Write as _, io::Write as _, sync::LazyLock};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

/// Hexadecimal digits that stand for a version.
const VERSION_DIGITS: usize = 12;

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

const FILES: [(&str, &str, &[u8]); 7] = [
    ("style.css", CSS, include_bytes!("assets/style.css")),
    ("app.js", JAVASCRIPT, include_bytes!("assets/app.js")),
    ("charts.js", JAVASCRIPT, include_bytes!("assets/charts.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
    ("htmx.min.js", JAVASCRIPT, include_bytes!("assets/vendor/htmx.min.js")),
    ("uplot.min.js", JAVASCRIPT, include_bytes!("assets/vendor/uplot.min.js")),
    ("uplot.min.css", CSS, include_bytes!("assets/vendor/uplot.min.css")),
];

/// A file as it is sent.
pub(super) struct Asset {
    name: &'static str,
    pub(super) kind: &'static str,
    pub(super) plain: Bytes,
    pub(super) gzipped: Bytes,
    pub(super) etag: HeaderValue,
}

/// All of them, and what stands for this set.
struct Assets {
    version: String,
    all: Vec<Asset>,
}

static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    for (name, _, bytes) in FILES {
        hasher.update(name);
        hasher.update(bytes);
    }
    let all = FILES.map(|(name, kind, bytes)| Asset {
        name,
        kind,
        plain: Bytes::from_static(bytes),
        gzipped: gzipped(bytes, Compression::best()).into(),
        etag: HeaderValue::from_str(&format!("\"{}\"", digits(&Sha256::digest(bytes))))
            .unwrap_or(HeaderValue::from_static("\"\"")),
    });
    Assets { version: digits(&hasher.finalize()), all: all.into() }
});

fn digits(hash: &[u8]) -> String {
    let mut text = String::new();
    for byte in hash.iter().take(VERSION_DIGITS / 2) {
        // Into a string: this does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What stands for the set of files that this program has.
pub(super) fn version() -> &'static str {
    &ASSETS.version
}

/// A file, by its name.
pub(super) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.all.iter().find(|asset| asset.name == name)
}

/// Whether a client takes what is compressed.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::ACCEPT_ENCODING).iter();
    codings.filter_map(|codings| codings.to_str().ok()).any(|codings| {
        codings.split(',').any(|coding| {
            let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
            let is_refused = matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            name.trim().eq_ignore_ascii_case("gzip") && !is_refused
        })
    })
}

/// Bytes, compressed.
pub(super) fn gzipped(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    // Into memory: neither fails.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}
