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
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Log {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_filter = self.level.contains(['=', ','])
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
