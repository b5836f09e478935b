use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Invalid, check_range};

/// `[server]`: the HTTP listener and the life cycle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address to listen on.
    #[serde(deserialize_with = "address")]
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// A Unix socket to listen on in place of the address and the port.
    pub unix_socket: Option<PathBuf>,
    /// Who may use the Unix socket: permissions as an octal number.
    pub unix_socket_mode: String,
    /// Address for operations, where they have a port of their own.
    #[serde(deserialize_with = "address")]
    pub operations_host: IpAddr,
    /// Port for `/livez`, `/readyz` and `/metrics`, which are then served there alone; 0 lets the
    /// system choose.
    pub operations_port: Option<u16>,
    /// Seconds for one request, `wait` not counted.
    pub request_timeout_seconds: u64,
    /// Seconds for a client to send a request's headers.
    pub header_timeout_seconds: u64,
    /// Seconds for which a connection is kept open without a request.
    pub keep_alive_timeout_seconds: u64,
    /// Seconds for a client to take the next part of an answer.
    pub write_timeout_seconds: u64,
    /// Seconds during which a stopping gateway still accepts requests, while `/readyz` says 503.
    pub shutdown_delay_seconds: u64,
    /// Seconds after which a stopping gateway gives up on requests in hand.
    pub shutdown_timeout_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            unix_socket: None,
            unix_socket_mode: "0660".to_owned(),
            operations_host: Ipv4Addr::LOCALHOST.into(),
            operations_port: None,
            request_timeout_seconds: 30,
            header_timeout_seconds: 15,
            keep_alive_timeout_seconds: 75,
            write_timeout_seconds: 30,
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

    /// Time for which a connection is kept open without a request.
    pub fn keep_alive_timeout(&self) -> Duration {
        Duration::from_secs(self.keep_alive_timeout_seconds)
    }

    /// Time for a client to take the next part of an answer.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_seconds)
    }

    /// The permissions of the Unix socket; `check` has seen that there are some.
    pub fn unix_socket_permissions(&self) -> u32 {
        self.parse_mode().unwrap_or(0o600)
    }

    fn parse_mode(&self) -> Option<u32> {
        let mode = &self.unix_socket_mode;
        let is_octal = mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(mode, 8).ok().filter(|_| is_octal)?;
        (mode <= 0o777).then_some(mode)
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
        check_range("server.request_timeout_seconds", self.request_timeout_seconds, 1, 3_600)?;
        check_range("server.header_timeout_seconds", self.header_timeout_seconds, 1, 300)?;
        check_range(
            "server.keep_alive_timeout_seconds",
            self.keep_alive_timeout_seconds,
            1,
            3_600,
        )?;
        check_range("server.write_timeout_seconds", self.write_timeout_seconds, 1, 3_600)?;
        if self.parse_mode().is_none() {
            let mode = &self.unix_socket_mode;
            let allowed = format!("`{mode}` is not an octal number from 0000 to 0777");
            return Err(Invalid { key: "server.unix_socket_mode", allowed });
        }
        check_range("server.shutdown_delay_seconds", self.shutdown_delay_seconds, 0, 600)?;
        check_range("server.shutdown_timeout_seconds", self.shutdown_timeout_seconds, 1, 3_600)
    }
}

/// An address, or the name of this machine's own.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| {
        de::Error::custom(format!(
            "`{text}` is not an IP address to listen on: 127.0.0.1 serves this machine, 0.0.0.0 every \
             network"
        ))
    })
}
