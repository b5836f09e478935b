//! The one line of a request. Never a body, a query or a credential.

use chrono::Utc;
use tokio::time::sleep;
use tracing::{Level, event, warn};

use crate::telemetry::{Line, RecentError, Request, has_line};

use super::{context::RequestContext, gate::Gate, wire_error::WireError};

/// Routes whose every request would only fill the log.
const QUIET: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Writes the line. Of those about the same trouble, as many as a person reads.
pub(super) fn log(
    gate: &Gate,
    answered: &Request<'_>,
    context: &RequestContext,
    id: &str,
    trouble: Option<&dyn WireError>,
) {
    if answered.status >= 500 {
        remember(gate, answered, context, id, trouble);
    }
    if !has_line(answered.status) {
        return;
    }
    let level = match answered.status {
        _ if QUIET.contains(&answered.route) => Level::DEBUG,
        501 | 503 => Level::WARN,
        500.. => Level::ERROR,
        _ => Level::INFO,
    };
    let code = trouble.map(WireError::code);
    let (level, left_out) = match code.filter(|_| level <= Level::WARN) {
        Some(code) => admit(gate, code, level),
        None => (level, 0),
    };
    let left_out = Some(left_out).filter(|left_out| *left_out > 0);
    let queue = context.queue.get().map(String::as_str);
    let key = context.caller.get().map(|caller| caller.identity().name());
    let error = trouble.and_then(WireError::cause).map(causes);
    let error = error.filter(|_| answered.status >= 500);
    let round_trips = context.call.round_trips();
    let (duration_ms, waited_ms) = (milliseconds(answered.worked), milliseconds(answered.waited));
    let Request { method, route, status, .. } = *answered;
    macro_rules! line {
        ($level:expr) => {
            event!(
                $level,
                method,
                route,
                queue,
                key,
                status,
                code,
                duration_ms,
                waited_ms,
                round_trips,
                request_id = id,
                error,
                left_out,
                "request"
            )
        };
    }
    match level {
        Level::ERROR => line!(Level::ERROR),
        Level::WARN => line!(Level::WARN),
        Level::INFO => line!(Level::INFO),
        _ => line!(Level::DEBUG),
    }
}

/// Keeps what went wrong for people who look.
fn remember(
    gate: &Gate,
    answered: &Request<'_>,
    context: &RequestContext,
    id: &str,
    trouble: Option<&dyn WireError>,
) {
    gate.recent_errors.add(RecentError {
        at: Utc::now(),
        method: answered.method.to_owned(),
        route: answered.route.to_owned(),
        queue: context.queue.get().cloned(),
        status: answered.status,
        code: trouble.map(WireError::code),
        request_id: id.to_owned(),
        cause: trouble.and_then(WireError::cause).map(causes),
    });
}

/// The level at which a line about trouble is written, and of how many others it tells that were not.
fn admit(gate: &Gate, code: &'static str, level: Level) -> (Level, u64) {
    match gate.flood_gate.check(code) {
        Line::Write { left_out } => (level, left_out),
        Line::LeaveOut { ask_in } => {
            if let Some(time) = ask_in {
                let gate = gate.clone();
                tokio::spawn(async move {
                    sleep(time).await;
                    let left_out = gate.flood_gate.take_left_out(code);
                    if left_out > 0 {
                        warn!(code, left_out, "more requests of this kind");
                    }
                });
            }
            (Level::DEBUG, 0)
        }
    }
}

/// An error with what caused it, each said once.
fn causes(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
