//! TLS: the certificate and its key, and looking after the files that they are in.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::config::TlsFiles;

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not for us.
    #[error("cannot read {setting} {}: {source}", path.display())]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{setting} {}: {reason}", path.display())]
    Content {
        /// The setting that names it.
        setting: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The files, and what was in them when they were last good.
pub(super) struct Tls {
    files: TlsFiles,
    /// Tells whether anything has changed, for better or worse.
    seen: [u8; 32],
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = Contents::read(&files);
        let seen = fingerprint(&contents);
        let config = contents.and_then(|contents| configure(&files, &contents))?;
        Ok(Self { files, seen, current: watch::Sender::new(config) })
    }

    /// What is in force now, and from now on.
    pub(super) fn current(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.current.subscribe()
    }

    /// Looks at the files until it is dropped.
    pub(super) async fn follow(mut self) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            // A network's file system may take its time.
            if let Ok(contents) = spawn_blocking(move || Contents::read(&files)).await {
                self.take(contents);
            }
        }
    }

    /// Puts files that have changed in force if they are good; what is not is said once.
    fn take(&mut self, contents: Result<Contents, TlsError>) {
        let seen = fingerprint(&contents);
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        match contents.and_then(|contents| configure(&self.files, &contents)) {
            Ok(config) => {
                self.current.send_replace(config);
                info!(certificate = %self.files.cert.display(), "the files of TLS have changed and are in force");
            }
            Err(error) => {
                warn!(%error, "the files of TLS have changed and cannot be used: those from before stay in force");
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What is in the files.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |setting, path: &Path| {
            let unreadable =
                |source| TlsError::Unreadable { setting, path: path.to_owned(), source };
            fs::read(path).map_err(unreadable)
        };
        let client_ca = files.client_ca.as_deref();
        Ok(Self {
            cert: read("tls.cert_file", &files.cert)?,
            key: read("tls.key_file", &files.key)?,
            client_ca: client_ca.map(|path| read("tls.client_ca_file", path)).transpose()?,
        })
    }
}

fn fingerprint(contents: &Result<Contents, TlsError>) -> [u8; 32] {
    let mut hash = Sha256::new();
    match contents {
        Ok(contents) => {
            let client_ca = contents.client_ca.as_deref().unwrap_or_default();
            for part in [&contents.cert, &contents.key, client_ca] {
                hash.update(part.len().to_be_bytes());
                hash.update(part);
            }
        }
        Err(error) => hash.update(error.to_string()),
    }
    hash.finalize().into()
}

/// What rustls makes of the files.
fn configure(files: &TlsFiles, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |setting, path: &Path, reason: String| TlsError::Content {
        setting,
        path: path.to_owned(),
        reason,
    };
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&contents.cert);
    let chain = chain.map_err(|reason| wrong("tls.cert_file", &files.cert, reason))?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| wrong("tls.key_file", &files.key, format!("no private key: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls.cert_file", &files.cert, error.to_string()))?;
    let builder = match (&files.client_ca, &contents.client_ca) {
        (Some(path), Some(pem)) => {
            let verifier = client_verifier(pem, provider);
            let verifier = verifier.map_err(|reason| wrong("tls.client_ca_file", path, reason))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let reason = format!("the key does not fit the certificate: {error}");
        wrong("tls.key_file", &files.key, reason)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("no certificate: {error}")),
    }
}

fn client_verifier(
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut authorities = RootCertStore::empty();
    for authority in certificates(pem)? {
        authorities.add(authority).map_err(|error| error.to_string())?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
        .build()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

    use super::*;

    fn pair() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
    }

    fn files(directory: &Path) -> TlsFiles {
        let path = |name| directory.join(name);
        TlsFiles { cert: path("cert"), key: path("key"), client_ca: Some(path("ca")) }
    }

    fn write(files: &TlsFiles, cert: &str, key: &str, ca: &str) {
        fs::write(&files.cert, cert).expect("written");
        fs::write(&files.key, key).expect("written");
        fs::write(files.client_ca.as_ref().expect("a path"), ca).expect("written");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path());
        let refusal = || Tls::load(files.clone()).expect_err("refused").to_string();
        assert!(refusal().contains("cannot read tls.cert_file"), "{}", refusal());
        let (good, other) = (pair(), pair());
        let (cert, key) = (good.cert.pem(), good.signing_key.serialize_pem());
        let half = &cert[..cert.len() / 2];
        for (cert, key, ca, parts) in [
            ("", &*key, &*cert, &["tls.cert_file", "no certificate"][..]),
            (half, &key, &cert, &["tls.cert_file", "no certificate"]),
            (&cert, "", &cert, &["tls.key_file", "no private key"]),
            (&cert, &key[..key.len() / 2], &cert, &["tls.key_file", "no private key"]),
            (&cert, &other.signing_key.serialize_pem(), &cert, &["tls.key_file", "does not fit"]),
            (&cert, &key, "hello", &["tls.client_ca_file", "no certificate"]),
        ] {
            write(&files, cert, key, ca);
            for part in parts {
                assert!(refusal().contains(part), "{} lacks {part}", refusal());
            }
            assert_eq!(refusal().lines().count(), 1, "{}", refusal());
        }
        write(&files, &cert, &key, &cert);
        Tls::load(files.clone()).expect("a good set");
    }

    #[test]
    fn only_a_good_set_of_files_takes_the_place_of_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(directory.path());
        let (first, second) = (pair(), pair());
        let pem =
            |pair: &CertifiedKey<KeyPair>| (pair.cert.pem(), pair.signing_key.serialize_pem());
        let ((cert, key), (new_cert, new_key)) = (pem(&first), pem(&second));
        write(&files, &cert, &key, &cert);
        let mut tls = Tls::load(files.clone()).expect("good");
        let mut current = tls.current();
        let mut changes = |cert: &str, key: &str| {
            write(&files, cert, key, cert);
            tls.take(Contents::read(&files));
            let changed = current.has_changed().expect("alive");
            current.mark_unchanged();
            changed
        };
        assert!(!changes(&cert, &key), "nothing is new");
        assert!(!changes(&new_cert, &key), "half of the pair");
        assert!(changes(&new_cert, &new_key));
        assert!(!changes(&new_cert, ""));
        assert!(changes(&new_cert, &new_key), "as before");
        assert!(changes(&cert, &key));
    }
}
