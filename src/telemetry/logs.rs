//! Logs on standard error: standard output belongs to what a command prints.

use std::io::{IsTerminal, Write, stderr};

use chrono::{SecondsFormat, Utc};
use serde_json::json;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{Log, LogFormat};

use super::request_lines;

/// Sets the process's logger. The filter was checked when the settings were loaded; a second call
/// changes nothing.
pub fn init(log: &Log) {
    request_lines::choose(log.requests);
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = quieten(filter, &log.level);
    let registry = tracing_subscriber::registry().with(filter);
    let outcome = match log.format {
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
            registry.with(layer.with_target(false)).try_init()
        }
        LogFormat::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false);
            registry.with(layer.with_writer(stderr)).try_init()
        }
    };
    drop(outcome);
}

/// Says on standard error why the process ends, in the format of the log, whatever its level: without it nobody would
/// know.
pub fn last_line(format: LogFormat, text: &str) {
    let line = match format {
        LogFormat::Text => format!("{}: {text}", env!("CARGO_PKG_NAME")),
        LogFormat::Json => {
            let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
            let target = env!("CARGO_CRATE_NAME");
            let fields = json!({
                "timestamp": timestamp, "level": "ERROR", "message": text, "target": target
            });
            fields.to_string()
        }
    };
    let _ = writeln!(stderr(), "{line}");
}

/// A plain level is meant for the gateway: its libraries log only what matters. What triggers say in the
/// database may have messages in it.
fn quieten(filter: EnvFilter, level: &str) -> EnvFilter {
    let is_plain = !level.contains(['=', ',']);
    let libraries = ["sqlx=warn", "hyper=warn", "h2=warn"].iter().filter(|_| is_plain);
    let notices = ["sqlx::postgres::notice=off"].iter().filter(|_| !level.contains("sqlx"));
    libraries
        .chain(notices)
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}
