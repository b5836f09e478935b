//! One gateway as clients reach it: by plain HTTP, by TLS, and behind proxies.

use std::path::PathBuf;

use pgmq_gateway::config::{Settings, Tls};

use super::{
    Client, TestDatabase, TestGateway,
    certificates::Authority,
    proxies::{self, Kind, Proxy},
};

/// The gateway, twice on the same database, and what stands in front.
pub struct Fronts {
    /// That of plain HTTP.
    pub gateway: TestGateway,
    _secured: TestGateway,
    _proxies: Vec<Proxy>,
    directory: tempfile::TempDir,
    authority: Authority,
    all: Vec<Front>,
}

/// A way to reach it.
#[derive(Clone, Debug)]
pub struct Front {
    pub name: &'static str,
    pub base: String,
    pub is_proxy: bool,
    /// The gateway behind it.
    direct: Client,
}

impl Fronts {
    /// With settings that hold for both.
    pub async fn start(change: impl Fn(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).expect("written");
        let (cert, key) = authority.server().write(directory.path());
        let database = TestDatabase::new().await;
        let gateway = TestGateway::on(&database, &change).await;
        let secured = TestGateway::on(&database, |settings| {
            change(settings);
            settings.tls = Tls { cert_file: Some(cert), key_file: Some(key), ..Tls::default() };
        })
        .await;
        let front = |name, base: &str| Front {
            name,
            base: base.to_owned(),
            is_proxy: false,
            direct: gateway.client.clone(),
        };
        let address = gateway.gateway.address().expect("TCP");
        let port = secured.gateway.address().expect("TCP").port();
        let mut all = vec![front("plain HTTP", &gateway.base)];
        let base = format!("https://localhost:{port}");
        all.push(Front { direct: Client::careless(&base), ..front("TLS", &base) });
        let mut running = Vec::new();
        for (name, kind) in [("nginx", Kind::Nginx), ("HAProxy", Kind::Haproxy)] {
            if let Some(proxy) = proxies::start(kind, 0, address).await {
                all.push(Front { is_proxy: true, ..front(name, &proxy.base) });
                running.push(proxy);
            }
        }
        Self { gateway, _secured: secured, _proxies: running, directory, authority, all }
    }

    /// Every way to reach it.
    pub fn all(&self) -> &[Front] {
        &self.all
    }

    /// Who signed the certificate.
    pub fn trusted(&self) -> &Authority {
        &self.authority
    }

    /// Its certificate as a file.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }
}

impl Front {
    /// How many clients wait for messages of a queue, at the gateway behind it.
    pub async fn waiters(&self, queue: &str) -> u64 {
        self.direct.waiters(queue).await
    }

    /// A client that has nothing to do with TLS.
    pub fn client(&self) -> Client {
        Client::new(&self.base)
    }
}
