use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// `[tls]`: HTTPS in place of HTTP. All files are PEM.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate, and those between it and the authority.
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key.
    pub key_file: Option<PathBuf>,
    /// Authorities, one of which must have signed the certificate that every client then needs.
    pub client_ca_file: Option<PathBuf>,
}

/// The files of a listener that speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities of clients.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// The files, where TLS is wished.
    pub fn files(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.cert_file.clone()?, self.key_file.clone()?);
        Some(TlsFiles { cert, key, client_ca: self.client_ca_file.clone() })
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        let needs = |key, other| {
            let allowed = format!("a certificate and its key belong together: set {other} too");
            Err(Invalid { key, allowed })
        };
        match (&self.cert_file, &self.key_file, &self.client_ca_file) {
            (Some(_), None, _) => needs("tls.cert_file", "tls.key_file"),
            (None, Some(_), _) => needs("tls.key_file", "tls.cert_file"),
            (None, None, Some(_)) => Err(Invalid {
                key: "tls.client_ca_file",
                allowed: "clients show certificates over TLS alone: set tls.cert_file and \
                          tls.key_file too"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
