use serde::{Deserialize, Serialize};

use super::Invalid;

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as
    /// `info,pgmq_gateway::engine=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Which requests have a line.
    pub requests: RequestLines,
}

/// Which requests have a line in the log. Those that ended with a defect of the gateway's always have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RequestLines {
    /// All of them.
    All,
    /// Those that were answered with an error.
    Errors,
    /// None.
    Off,
    /// Those that were answered with an error, and of the others so many of a million.
    Sample(u32),
}

impl RequestLines {
    /// One percent, in parts of a million.
    const PERCENT: f64 = 10_000.0;
}

impl TryFrom<String> for RequestLines {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let refused = || {
            format!(
                "`{name}` is not one of all, errors, off, nor a share of those without an error, from \
                 0.0001% to 100%, such as 1%"
            )
        };
        match &*name {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            "off" => Ok(Self::Off),
            text => {
                let share = text.strip_suffix('%').and_then(|share| share.trim().parse().ok());
                let parts = share.map(|share: f64| (share * Self::PERCENT).round());
                let parts = parts.filter(|parts| (1.0..=1e6).contains(parts));
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it is from 1 to a million"
                )]
                parts.map(|parts| Self::Sample(parts as u32)).ok_or_else(refused)
            }
        }
    }
}

impl From<RequestLines> for String {
    fn from(lines: RequestLines) -> Self {
        match lines {
            RequestLines::All => "all".to_owned(),
            RequestLines::Errors => "errors".to_owned(),
            RequestLines::Off => "off".to_owned(),
            RequestLines::Sample(parts) => {
                format!("{}%", f64::from(parts) / RequestLines::PERCENT)
            }
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match &*name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{name}` is neither text nor json")),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, requests: RequestLines::All }
    }
}

impl Log {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let has_parts = self.level.split(',').all(|part| !part.trim().is_empty());
        let is_filter = has_parts
            && self.level.contains(['=', ','])
            && self.level.parse::<tracing_subscriber::EnvFilter>().is_ok();
        if is_filter || LEVELS.contains(&&*self.level) {
            return Ok(());
        }
        Err(Invalid {
            key: "log.level",
            allowed: format!(
                "`{}` is not one of off, error, warn, info, debug, trace, nor a filter such as \
                 info,pgmq_gateway::engine=debug",
                self.level
            ),
        })
    }
}
