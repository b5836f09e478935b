//! Authorities and what they sign, made for one test.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Somebody who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub struct Certificate {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        let name = format!("authority {}", uuid::Uuid::now_v7());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server on this machine.
    pub fn server(&self) -> Certificate {
        self.sign(ExtendedKeyUsagePurpose::ServerAuth, 4000)
    }

    /// For a client.
    pub fn client(&self) -> Certificate {
        self.sign(ExtendedKeyUsagePurpose::ClientAuth, 4000)
    }

    /// For a client, in the past.
    pub fn expired_client(&self) -> Certificate {
        self.sign(ExtendedKeyUsagePurpose::ClientAuth, 2020)
    }

    fn sign(&self, purpose: ExtendedKeyUsagePurpose, until: i32) -> Certificate {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(2010, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        Certificate { cert: cert.pem(), key: key.serialize_pem() }
    }
}

impl Certificate {
    /// Writes both, and says where.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (directory.join("tls.crt"), directory.join("tls.key"));
        fs::write(&cert, &self.cert).expect("written");
        fs::write(&key, &self.key).expect("written");
        (cert, key)
    }
}

/// A client that trusts an authority, and may have a certificate to show.
pub fn client(trusts: &Authority, shows: Option<&Certificate>, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusts.pem().as_bytes()).expect("PEM");
    roots.add(root).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let cert = CertificateDer::from_pem_slice(certificate.cert.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("PEM");
            builder.with_client_auth_cert(vec![cert], key).expect("a pair")
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Shakes hands, by the name that the certificates of servers have.
pub async fn shake(client: &TlsConnector, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    client.connect(ServerName::try_from("localhost").expect("a name"), stream).await
}
