//! Settings: what there is, the defaults, and where each value came from.
//!
//! Defaults first, then a TOML file, then the environment. [`load`] takes its sources as
//! arguments; only the command line reads the real environment.

mod auth;
mod dashboard;
mod database;
mod embedded;
mod engine;
mod environment;
mod http;
mod jwt;
mod limits;
mod load;
mod log;
mod long_poll;
mod maintenance;
mod metrics;
mod receipts;
mod refusal;
mod secret;
mod server;
mod sqs;
mod supabase;
mod tls;

use serde::{Deserialize, Serialize};

pub use auth::{Auth, AuthMode, KeySettings};
pub use dashboard::Dashboard;
pub use database::Database;
pub use embedded::Embedded;
pub use engine::{Engine, ReadMode};
pub use environment::CONFIG_FILE;
pub use http::Http;
pub use jwt::{Jwt, RoleGrants};
pub use limits::Limits;
pub use load::{Effective, Loaded, Sources, load, log_format};
pub use log::{Log, LogFormat, RequestLines};
pub use long_poll::{LongPoll, Strategy};
pub use maintenance::Maintenance;
pub use metrics::Metrics;
pub use receipts::Receipts;
pub use refusal::ConfigError;
pub use secret::Secret;
pub use server::Server;
pub use sqs::Sqs;
pub use supabase::Supabase;
pub use tls::{Tls, TlsFiles};

/// Every setting of the gateway.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The HTTP listener and the life cycle.
    pub server: Server,
    /// Who is let in.
    pub auth: Auth,
    /// Tokens that somebody else signs.
    pub jwt: Jwt,
    /// Which names and which web pages are answered to.
    pub http: Http,
    /// The SQS wire protocol.
    pub sqs: Sqs,
    /// HTTPS in place of HTTP.
    pub tls: Tls,
    /// The PostgreSQL that holds the queues.
    pub database: Database,
    /// The private PostgreSQL that is used when no database is configured.
    pub embedded: Embedded,
    /// How requests share statements.
    pub engine: Engine,
    /// Waiting receives.
    pub long_poll: LongPoll,
    /// Supabase Queues' functions.
    pub supabase: Supabase,
    /// Pages for people.
    pub dashboard: Dashboard,
    /// What a client may ask for.
    pub limits: Limits,
    /// What stands for one delivery of a message.
    pub receipts: Receipts,
    /// What is forgotten, and when.
    pub maintenance: Maintenance,
    /// Logs.
    pub log: Log,
    /// The Prometheus endpoint.
    pub metrics: Metrics,
}

impl Settings {
    /// Checks every range; the first value outside of it is the error.
    fn check(&self) -> Result<(), Invalid> {
        self.server.check()?;
        self.auth.check()?;
        self.jwt.check()?;
        self.http.check()?;
        self.sqs.check()?;
        self.tls.check()?;
        self.database.check()?;
        self.embedded.check()?;
        self.engine.check()?;
        self.long_poll.check()?;
        self.dashboard.check()?;
        self.limits.check()?;
        self.receipts.check()?;
        self.maintenance.check()?;
        self.log.check()?;
        self.metrics.check()
    }
}

/// A value of the right type that makes no sense.
#[derive(Debug)]
struct Invalid {
    key: &'static str,
    allowed: String,
}

fn check_range<T: Copy + PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    min: T,
    max: T,
) -> Result<(), Invalid> {
    if value < min || value > max {
        let allowed = format!("{value} is not within {min} to {max}");
        return Err(Invalid { key, allowed });
    }
    Ok(())
}
