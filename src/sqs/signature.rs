//! Signatures of version 4, in headers or in a URL.

use axum::http::{HeaderMap, header};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use super::{
    canonical::Signed,
    digest::hex,
    error::{Kind, Result, SqsError},
};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "sqs";
/// Minutes by which the clocks of the two sides may differ.
const CLOCK_MINUTES: i64 = 15;
/// The longest for which a URL may be signed, in seconds: a week.
const MAX_EXPIRES: i64 = 604_800;
/// The most names of signed headers.
const MAX_HEADERS: usize = 100;
const TERMINATOR: &str = "aws4_request";

/// What a signature says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature {
    /// With which key it was made.
    pub(super) access_key_id: String,
    date: String,
    region: String,
    signed_headers: Vec<String>,
    /// The sum itself, in hexadecimal digits.
    sum: String,
    /// When it was made, as it is written.
    time: String,
    made: DateTime<Utc>,
    /// Seconds for which a URL is good.
    expires: Option<i64>,
}

impl Signature {
    /// Reads the signature of a request; nothing where there is none.
    pub(super) fn of(request: &Signed<'_>) -> Result<Option<Self>> {
        let parameter = |name: &str| query_parameter(request.query, name);
        let algorithm = parameter("X-Amz-Algorithm");
        let mut given = request.headers.get_all(header::AUTHORIZATION).iter();
        let authorization = given.next();
        // Which of them a proxy has looked at is not known.
        if given.next().is_some() || (authorization.is_some() && algorithm.is_some()) {
            return Err(SqsError::new(
                Kind::IncompleteSignature,
                "There are several signatures, in Authorization headers or in the URL: give one.",
            ));
        }
        let authorization = authorization.and_then(|text| text.to_str().ok());
        if let Some(rest) = authorization.and_then(|text| text.strip_prefix(ALGORITHM)) {
            return Self::in_header(rest, request.headers).map(Some);
        }
        match algorithm {
            Some(algorithm) if algorithm == ALGORITHM => Self::in_query(&parameter).map(Some),
            Some(_) => Err(incomplete("X-Amz-Algorithm")),
            None => Ok(None),
        }
    }

    fn in_header(rest: &str, headers: &HeaderMap) -> Result<Self> {
        let part = |name: &str| {
            let parts = rest.split(',').filter_map(|part| part.trim().split_once('='));
            let mut found = parts.filter(|(found, _)| *found == name).map(|(_, value)| value);
            found.next().ok_or_else(|| incomplete(name))
        };
        let time = headers.get("x-amz-date").and_then(|time| time.to_str().ok());
        let time = time.ok_or_else(|| incomplete("X-Amz-Date"))?;
        Self::new(part("Credential")?, part("SignedHeaders")?, part("Signature")?, time, None)
    }

    fn in_query(parameter: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let part = |name: &str| parameter(name).ok_or_else(|| incomplete(name));
        let expires = part("X-Amz-Expires")?.parse().ok();
        let expires = expires.filter(|expires| (1..=MAX_EXPIRES).contains(expires));
        let expires = expires.ok_or_else(|| incomplete("X-Amz-Expires"))?;
        Self::new(
            &part("X-Amz-Credential")?,
            &part("X-Amz-SignedHeaders")?,
            &part("X-Amz-Signature")?,
            &part("X-Amz-Date")?,
            Some(expires),
        )
    }

    fn new(
        credential: &str,
        signed_headers: &str,
        signature: &str,
        time: &str,
        expires: Option<i64>,
    ) -> Result<Self> {
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key_id, date, region, service, terminator] = parts[..] else {
            return Err(incomplete("Credential"));
        };
        // Of four digits, as a year beyond them is out of all calculation.
        let made = Some(time).filter(|time| time.len() == "20260101T000000Z".len());
        let made = made.and_then(|time| NaiveDateTime::parse_from_str(time, "%Y%m%dT%H%M%SZ").ok());
        let made = made.ok_or_else(|| incomplete("X-Amz-Date"))?.and_utc();
        check_scope(date, service, terminator, time)?;
        let signed_headers: Vec<String> =
            signed_headers.split(';').map(str::to_ascii_lowercase).collect();
        let has_host = signed_headers.iter().any(|name| name == "host");
        if !has_host || signed_headers.len() > MAX_HEADERS {
            return Err(incomplete("SignedHeaders"));
        }
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            signed_headers,
            sum: signature.to_owned(),
            time: time.to_owned(),
            made,
            expires,
        })
    }

    /// Refuses one that was made too long ago, or is from a clock that is ahead.
    pub(super) fn check_time(&self, now: DateTime<Utc>) -> Result<()> {
        let made = self.made;
        let allowed = TimeDelta::minutes(CLOCK_MINUTES);
        let until = made + self.expires.map_or(allowed, TimeDelta::seconds);
        let text = |time: DateTime<Utc>| time.format("%Y%m%dT%H%M%SZ").to_string();
        if now > until {
            let (now, until) = (text(now), text(until));
            return Err(mismatch(&format!("Signature expired: {now} is now later than {until}.")));
        }
        if made > now + allowed {
            let latest = text(now + allowed);
            let message =
                format!("Signature not yet current: {} is still later than {latest}.", self.time);
            return Err(mismatch(&message));
        }
        Ok(())
    }

    /// Whether a secret makes this signature of a request, whose body has this SHA-256 in hexadecimal digits.
    pub(super) fn is_of(&self, secret: &str, request: &Signed<'_>, body_hash: &str) -> bool {
        let Some(canonical) = request.canonical(&self.signed_headers, body_hash) else {
            return false;
        };
        let scope = format!("{}/{}/{SERVICE}/{TERMINATOR}", self.date, self.region);
        let hash = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{hash}", self.time);
        let mut key = hmac(format!("AWS4{secret}").as_bytes(), self.date.as_bytes());
        for part in [self.region.as_str(), SERVICE, TERMINATOR] {
            key = hmac(&key, part.as_bytes());
        }
        let Some(given) = unhex(&self.sum) else { return false };
        let mut mac = mac(&key);
        mac.update(to_sign.as_bytes());
        // Takes the same time wherever it differs.
        mac.verify_slice(&given).is_ok()
    }
}

/// Refuses a signature for something else, in the words of the service. The region is not looked at.
fn check_scope(date: &str, service: &str, terminator: &str, time: &str) -> Result<()> {
    if service != SERVICE {
        let message = format!("Credential should be scoped to correct service: '{SERVICE}'.");
        return Err(mismatch(&message));
    }
    if terminator != TERMINATOR {
        return Err(mismatch(&format!(
            "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{terminator}'."
        )));
    }
    let day = time.get(..8).unwrap_or(time);
    if date != day {
        return Err(mismatch(&format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' \
             != '{day}', from '{time}'."
        )));
    }
    Ok(())
}

fn query_parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // A key of any length is fine.
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("any length"))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = mac(key);
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()).collect()
}

fn incomplete(what: &str) -> SqsError {
    let message = format!(
        "Authorization header or URL lacks a valid {what}: it is `{ALGORITHM} Credential=<access key \
         id>/<date>/<region>/{SERVICE}/{TERMINATOR}, SignedHeaders=<names>, Signature=<hex>` with X-Amz-Date."
    );
    SqsError::new(Kind::IncompleteSignature, message)
}

pub(super) fn mismatch(message: &str) -> SqsError {
    SqsError::new(Kind::SignatureDoesNotMatch, message)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;

    /// What botocore signed with the secret `wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY`.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const BODY: &[u8] =
        br#"{"QueueUrl": "http://localhost:8080/000000000000/q", "MessageBody": "hi"}"#;

    fn is_of(signature: &Signature, secret: &str, request: &Signed<'_>, body: &[u8]) -> bool {
        signature.is_of(secret, request, &hex(&Sha256::digest(body)))
    }

    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/us-east-1/sqs/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target;x-amzn-query-mode, Signature=38c48075dfd050f71e074a6077be7fc389ad1e68e5c9a55c7a7c098dc84015d4";

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-amz-target", "AmazonSQS.SendMessage"),
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-date", "20260101T120000Z"),
            ("x-amzn-query-mode", "true"),
            ("authorization", AUTHORIZATION),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        headers
    }

    fn signed<'a>(headers: &'a HeaderMap, query: &'a str) -> Signed<'a> {
        Signed { method: &Method::POST, path: "/", query, headers, host: "localhost:8080" }
    }

    #[test]
    fn a_signature_of_an_sdk_is_verified() {
        let headers = headers();
        let request = signed(&headers, "");
        let signature = Signature::of(&request).expect("fine").expect("a signature");
        assert_eq!(signature.access_key_id, "AKIDEXAMPLE");
        assert!(is_of(&signature, SECRET, &request, BODY));
        assert!(!is_of(&signature, "another", &request, BODY));
        assert!(!is_of(&signature, SECRET, &request, b"{}"));
        let other = Signed { host: "localhost:8081", ..signed(&headers, "") };
        assert!(!is_of(&signature, SECRET, &other, BODY));
        let mut changed = headers.clone();
        changed.insert("x-amz-target", "AmazonSQS.DeleteQueue".parse().expect("a value"));
        assert!(!is_of(&signature, SECRET, &signed(&changed, ""), BODY));
    }

    #[test]
    fn a_signature_counts_for_a_quarter_of_an_hour() {
        let headers = headers();
        let signature = Signature::of(&signed(&headers, "")).expect("fine").expect("a signature");
        let made = DateTime::parse_from_rfc3339("2026-01-01T12:00:00Z").expect("a time").to_utc();
        for (seconds, fine) in [
            (0, true),
            (899, true),
            (900, true),
            (901, false),
            (-899, true),
            (-900, true),
            (-901, false),
        ] {
            let now = made + TimeDelta::seconds(seconds);
            assert_eq!(signature.check_time(now).is_ok(), fine, "{seconds}");
        }
    }

    #[test]
    fn a_signed_url_counts_as_long_as_it_says() {
        let query = "Action=ListQueues&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20260101%2Fus-east-1%2Fsqs%2Faws4_request&X-Amz-Date=20260101T120000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=4c73e7ae38a3e4ba31c3b37df3fdc0ef4e87e72a200635a4f4278666ecafa677";
        let headers = HeaderMap::new();
        let request = Signed { method: &Method::GET, ..signed(&headers, query) };
        let signature = Signature::of(&request).expect("fine").expect("a signature");
        assert!(is_of(&signature, SECRET, &request, b""));
        assert!(!is_of(&signature, "another", &request, b""));
        let made = DateTime::parse_from_rfc3339("2026-01-01T12:00:00Z").expect("a time").to_utc();
        for (seconds, fine) in
            [(3_599, true), (3_600, true), (3_601, false), (-900, true), (-901, false)]
        {
            let now = made + TimeDelta::seconds(seconds);
            assert_eq!(signature.check_time(now).is_ok(), fine, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_signature_is_told_so() {
        let mut headers = HeaderMap::new();
        assert!(Signature::of(&signed(&headers, "")).expect("fine").is_none());
        headers.insert("authorization", "Bearer x".parse().expect("a value"));
        assert!(Signature::of(&signed(&headers, "")).expect("fine").is_none());
        for wrong in
            ["AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x"]
        {
            headers.insert("authorization", wrong.parse().expect("a value"));
            let error = Signature::of(&signed(&headers, "")).expect_err(wrong);
            assert_eq!(error.kind, Kind::IncompleteSignature);
        }
    }

    #[test]
    fn a_signature_for_something_else_is_told_so_in_the_words_of_the_service() {
        for (part, other, told) in [
            ("/sqs/", "/sns/", "Credential should be scoped to correct service: 'sqs'."),
            (
                "/aws4_request",
                "/aws3_request",
                "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws3_request'.",
            ),
            (
                "/20260101/",
                "/20260102/",
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
                 '20260102' != '20260101', from '20260101T120000Z'.",
            ),
        ] {
            let mut headers = headers();
            let authorization = AUTHORIZATION.replacen(part, other, 1);
            headers.insert("authorization", authorization.parse().expect("a value"));
            let error = Signature::of(&signed(&headers, "")).expect_err(other);
            assert_eq!((error.kind, &*error.message), (Kind::SignatureDoesNotMatch, told));
        }
    }

    #[test]
    fn of_two_signatures_neither_is_taken() {
        let two = "X-Amz-Algorithm=AWS4-HMAC-SHA256";
        let error = Signature::of(&signed(&headers(), two)).expect_err("two");
        assert_eq!(error.kind, Kind::IncompleteSignature);
        for other in [AUTHORIZATION, "Bearer x"] {
            let mut headers = headers();
            headers.append("authorization", other.parse().expect("a value"));
            let error = Signature::of(&signed(&headers, "")).expect_err("two");
            assert_eq!(error.kind, Kind::IncompleteSignature);
        }
    }
}
