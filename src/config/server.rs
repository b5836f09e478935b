use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Invalid, within};

/// `[server]`: the HTTP listener and the life cycle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Seconds for one request, `wait` not counted.
    pub request_timeout_seconds: u64,
    /// Seconds for a client to send a request's headers.
    pub header_timeout_seconds: u64,
    /// Seconds during which a stopping gateway still accepts requests, while `/readyz` says 503.
    pub shutdown_delay_seconds: u64,
    /// Seconds after which a stopping gateway gives up on requests in hand.
    pub shutdown_timeout_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 8080,
            request_timeout_seconds: 30,
            header_timeout_seconds: 15,
            shutdown_delay_seconds: 0,
            shutdown_timeout_seconds: 30,
        }
    }
}

impl Server {
    /// Time for one request, `wait` not counted.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }

    /// Time for a client to send a request's headers.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_seconds)
    }

    /// Time during which a stopping gateway still accepts requests.
    pub fn shutdown_delay(&self) -> Duration {
        Duration::from_secs(self.shutdown_delay_seconds)
    }

    /// Time after which a stopping gateway gives up on requests in hand.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout_seconds)
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        within("server.request_timeout_seconds", self.request_timeout_seconds, 1, 3_600)?;
        within("server.header_timeout_seconds", self.header_timeout_seconds, 1, 300)?;
        within("server.shutdown_delay_seconds", self.shutdown_delay_seconds, 0, 600)?;
        within("server.shutdown_timeout_seconds", self.shutdown_timeout_seconds, 1, 3_600)
    }
}
