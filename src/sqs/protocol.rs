//! Tells requests of SQS from others, and its two protocols from one another.

use axum::http::{self, HeaderName, Method, header};

pub(super) const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
/// What the names of actions stand behind.
pub(super) const TARGET_PREFIX: &str = "AmazonSQS.";
/// Digits of an account.
const ACCOUNT_DIGITS: usize = 12;

/// How a request is written, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// JSON with the action in a header.
    Json,
    /// A form, answered in XML.
    Query,
}

/// The protocol of SQS in which a request is written, if it is one.
pub(super) fn protocol_of<B>(request: &http::Request<B>) -> Option<Protocol> {
    let text =
        |name: &HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if text(&TARGET).is_some_and(|target| target.starts_with(TARGET_PREFIX)) {
        return Some(Protocol::Json);
    }
    // Behind a proxy that strips a prefix, an address with a slash at its end has two at its beginning.
    let path = request.uri().path().trim_start_matches('/');
    let is_queue = is_queue(path);
    if !is_queue && !path.is_empty() {
        return None;
    }
    let names = text(&header::ACCESS_CONTROL_REQUEST_HEADERS);
    if *request.method() == Method::OPTIONS && names.is_some_and(|names| names.contains("x-amz-")) {
        // A browser asks whether its SDK may.
        return Some(Protocol::Json);
    }
    let query = request.uri().query().unwrap_or_default();
    let has_action = query.split('&').any(|pair| pair.starts_with("Action="));
    let is_form = text(&header::CONTENT_TYPE)
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    let is_posted = *request.method() == Method::POST && is_form;
    (is_queue || has_action || is_posted).then_some(Protocol::Query)
}

/// Whether a path, without the slash at its beginning, is that of a queue's URL.
pub(super) fn is_queue(path: &str) -> bool {
    path.split_once('/').is_some_and(|(account, queue)| {
        account.len() == ACCOUNT_DIGITS
            && account.bytes().all(|byte| byte.is_ascii_digit())
            && !queue.trim_end_matches('/').contains('/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protocol(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Protocol> {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        protocol_of(&request.body(()).expect("a request"))
    }

    #[test]
    fn requests_of_sqs_are_told_from_those_of_rest() {
        use Protocol::{Json, Query};
        let target = ("x-amz-target", "AmazonSQS.SendMessage");
        let form = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        for (method, path, headers, expected) in [
            ("POST", "/", &[target][..], Some(Json)),
            ("POST", "/000000000000/q", &[target], Some(Json)),
            ("POST", "/queues/q", &[target], Some(Json)),
            ("POST", "/", &[form], Some(Query)),
            ("POST", "/000000000000/q", &[form], Some(Query)),
            ("GET", "/?Action=ListQueues", &[], Some(Query)),
            ("GET", "/000000000000/q", &[], Some(Query)),
            ("POST", "//", &[form], Some(Query)),
            ("POST", "//000000000000/q", &[form], Some(Query)),
            ("GET", "/", &[], None),
            ("POST", "/", &[], None),
            ("POST", "//", &[], None),
            // As curl sends what it is not told the type of.
            ("POST", "/queues/q/messages", &[form], None),
            ("GET", "/queues/q?Action=ListQueues", &[], None),
            ("GET", "/queues/000000000000", &[], None),
            ("POST", "/", &[("x-amz-target", "DynamoDB_20120810.GetItem")], None),
        ] {
            assert_eq!(protocol(method, path, headers), expected, "{method} {path}");
        }
    }
}
