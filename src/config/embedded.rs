use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// `[embedded]`: the private PostgreSQL that is used when no database is configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Embedded {
    /// Where the data lives; by default `/var/lib/pgmq-gateway` for root and
    /// `~/.local/share/pgmq-gateway` for others.
    pub data_dir: Option<PathBuf>,
    /// The directory that holds `postgres` and `initdb`; by default they are looked for.
    pub bin_dir: Option<PathBuf>,
    /// A TCP port on 127.0.0.1, with a password; by default a Unix socket is all there is.
    pub port: Option<u16>,
    /// The system user that PostgreSQL runs as when the gateway runs as root; by default
    /// `postgres`.
    pub user: Option<String>,
}

impl Embedded {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.port == Some(0) {
            return Err(Invalid {
                key: "embedded.port",
                allowed: "0 is not within 1 to 65535".to_owned(),
            });
        }
        Ok(())
    }
}
