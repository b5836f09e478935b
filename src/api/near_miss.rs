//! Paths and methods that are not served, and what was probably meant.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
};
use utoipa::openapi::OpenApi;

use crate::domain::spelling::distance;

use super::problem::{Code, Problem};

/// Letters that may be wrong, missing or too many in a path that is still taken for another.
const MAX_MISTAKES: usize = 2;
/// Longer paths are nobody's slip.
const MAX_BYTES: usize = 256;
/// What people put before paths, by habit.
const HABITS: [&str; 3] = ["/api/v1", "/api", "/v1"];

/// The paths that are served, with `{…}` for what may be anything.
#[derive(Clone, Debug)]
pub(super) struct Paths(Arc<[String]>);

impl Paths {
    /// Those of a document.
    pub(super) fn new(document: &OpenApi) -> Self {
        Self(document.paths.paths.keys().cloned().collect())
    }

    /// Nothing is served at this path.
    pub(super) fn not_found(&self, path: &str) -> Problem {
        let instead = match self.meant(path) {
            Some(meant) => format!("{meant} was probably meant"),
            None => "/docs shows what there is".to_owned(),
        };
        Problem::new(Code::RouteNotFound, format!("there is no {path}; {instead}"))
    }

    /// The path that was probably meant.
    fn meant(&self, path: &str) -> Option<String> {
        if path.len() > MAX_BYTES {
            return None;
        }
        let tidy = tidied(path);
        let alike = self.0.iter().filter_map(|served| alike(served, &tidy));
        let (_, meant) = alike.min_by_key(|(mistakes, _)| *mistakes)?;
        (meant != path).then_some(meant)
    }
}

/// A path without what people put around it by habit.
fn tidied(path: &str) -> String {
    let stripped = HABITS
        .iter()
        .find_map(|habit| path.strip_prefix(habit).filter(|rest| rest.starts_with('/')));
    let parts = stripped.unwrap_or(path).split('/').filter(|part| !part.is_empty());
    parts.fold(String::new(), |whole, part| whole + "/" + part)
}

/// With how many mistakes a path is one that is served, and that one with what stands for `{…}`.
fn alike(served: &str, path: &str) -> Option<(usize, String)> {
    let (wanted, given) = (served.split('/'), path.split('/'));
    if wanted.clone().count() != given.clone().count() {
        return None;
    }
    let (mut mistakes, mut whole) = (0, Vec::new());
    for (wanted, given) in wanted.zip(given) {
        if wanted.starts_with('{') {
            whole.push(given);
        } else {
            mistakes += distance(&given.to_ascii_lowercase(), wanted);
            whole.push(wanted);
        }
    }
    (mistakes <= MAX_MISTAKES).then(|| (mistakes, whole.join("/")))
}

/// The path is served, but not for this method.
pub(super) fn method_not_allowed(request: &Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let meant = match (method, route) {
        (&Method::POST, "/queues/{queue}") => {
            ": PUT makes a queue, and POST to its /messages sends to it"
        }
        (&Method::POST | &Method::PUT, "/queues") => ": PUT /queues/{queue} makes a queue",
        (&Method::PUT, "/queues/{queue}/messages") => ": POST sends a message",
        (&Method::POST, "/queues/{queue}/messages/{msg_id}") => {
            ": DELETE ends a message, PATCH changes its visibility, and POST to its /archive archives it"
        }
        _ => "; the header Allow says what it takes",
    };
    Problem::new(Code::MethodNotAllowed, format!("{path} does not take {method}{meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant_is_named() {
        let served = [
            "/queues",
            "/queues/{queue}",
            "/queues/{queue}/messages",
            "/queues/{queue}/messages/batch",
            "/queues/{queue}/messages/{msg_id}",
            "/livez",
            "/topics/{routing_key}/messages",
        ];
        let paths = Paths(served.iter().map(ToString::to_string).collect());
        for (path, meant) in [
            ("/queue", Some("/queues")),
            ("/queues/", Some("/queues")),
            ("/Queues/orders", Some("/queues/orders")),
            ("/queue/orders", Some("/queues/orders")),
            ("/api/v1/queues/orders/messages", Some("/queues/orders/messages")),
            ("/queues/orders/message", Some("/queues/orders/messages")),
            ("/queues/orders/message/batch", Some("/queues/orders/messages/batch")),
            ("/queues/orders/message/7", Some("/queues/orders/messages/7")),
            ("/queues//orders", Some("/queues/orders")),
            ("/topic/a.b/messages", Some("/topics/a.b/messages")),
            ("/live", Some("/livez")),
            ("/nope", None),
            ("/queues/orders/nope", None),
            ("/", None),
        ] {
            assert_eq!(paths.meant(path).as_deref(), meant, "{path}");
        }
        assert_eq!(paths.meant(&format!("/queues/{}/message", "x".repeat(300))), None);
    }
}
