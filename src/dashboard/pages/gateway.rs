//! The gateway itself, from memory.

use askama::Template;
use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};

use crate::{
    http::{ScopePermit, right},
    telemetry::RecentError,
};

use super::super::{
    failure::Failure,
    frame::{Frame, long_html},
    state::Dashboard,
    text,
    viewer::Viewer,
};

#[derive(Template)]
#[template(path = "gateway.html")]
struct Page {
    frame: Frame,
    version: &'static str,
    figures: Vec<(&'static str, String)>,
    errors: Vec<Row>,
    settings: Vec<(String, String)>,
}

struct Row {
    at: String,
    at_exactly: String,
    what: String,
    queue: String,
    status: u16,
    code: &'static str,
    request_id: String,
    cause: String,
}

impl Row {
    fn new(error: RecentError, now: DateTime<Utc>) -> Self {
        Self {
            at: text::ago(error.at, now),
            at_exactly: text::exact(error.at),
            what: format!("{} {}", error.method, error.route),
            queue: error.queue.unwrap_or_default(),
            status: error.status,
            code: error.code.unwrap_or_default(),
            request_id: error.request_id,
            cause: error.cause.unwrap_or_default(),
        }
    }
}

/// How it is, for those who run it.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    viewer.caller.require_operator()?;
    let frame = viewer.frame.clone();
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let now = Utc::now();
    let errors = state.recent_errors.newest_first();
    let errors = errors.into_iter().map(|error| Row::new(error, now)).collect();
    let page = Page {
        frame,
        version: env!("CARGO_PKG_VERSION"),
        figures: figures(&state, &permit, now),
        errors,
        settings: state.shared().settings.clone(),
    };
    Ok(long_html(&state, &permit.call, &page)?)
}

fn figures(
    state: &Dashboard,
    permit: &ScopePermit<right::Any>,
    now: DateTime<Utc>,
) -> Vec<(&'static str, String)> {
    let process = state.metrics.process_snapshot();
    let (open, idle) = permit.broker.pool_size();
    let small = |count: usize| text::count(i64::try_from(count).unwrap_or(i64::MAX));
    let bytes = |count: Option<u64>| {
        let bytes = count.and_then(|count| i64::try_from(count).ok());
        bytes.map_or_else(|| "not known".to_owned(), text::bytes)
    };
    let started = process.started_at.and_then(|at| i64::try_from(at).ok());
    let up =
        started.map_or_else(|| "not known".to_owned(), |at| text::duration(now.timestamp() - at));
    let files = process
        .open_files
        .map_or_else(|| "not known".to_owned(), |(open, most)| format!("{open} of {most}"));
    vec![
        ("Up for", up),
        ("Memory", bytes(process.memory_bytes)),
        ("Connections of clients", text::count(process.connections)),
        ("Requests in flight", small(state.concurrency.len())),
        ("Bytes in flight", bytes(u64::try_from(state.memory.held()).ok())),
        ("Receivers that wait", small(permit.broker.waiters())),
        ("Queues in use", small(permit.broker.queues_in_use())),
        ("Database connections", format!("{open} open, {idle} idle")),
        ("Open files", files),
    ]
}
