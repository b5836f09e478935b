//! TLS: who is let in, and certificates that change.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pgmq_gateway::config::{Settings, Tls};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    TestGateway,
    certificates::{Authority, Certificate, client, shake},
    eventually, raw,
};

/// A gateway with a certificate of an authority, and the directory with its files.
struct Secured {
    gateway: TestGateway,
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Secured {
    async fn start(clients: Option<&Authority>) -> Self {
        Self::with(clients, |_| {}).await
    }

    async fn with(clients: Option<&Authority>, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        let tls = files(directory.path(), &authority.server(), clients);
        let gateway = TestGateway::with(|settings| {
            settings.tls = tls;
            settings.server.operations_port = Some(0);
            change(settings);
        })
        .await;
        Self { gateway, directory, authority }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.gateway.address().expect("TCP")
    }

    async fn dial(&self, client: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
        shake(client, raw::dial(self.address()).await).await
    }

    /// A refusal of the client's certificate comes behind the handshake, so a client asks.
    async fn ask(&self, client: &TlsConnector) -> io::Result<String> {
        raw::get(self.dial(client).await?, "/queues").await
    }
}

fn files(directory: &Path, server: &Certificate, clients: Option<&Authority>) -> Tls {
    let (cert, key) = server.write(directory);
    let client_ca_file = clients.map(|authority| {
        let path: PathBuf = directory.join("clients.crt");
        fs::write(&path, authority.pem()).expect("written");
        path
    });
    Tls { cert_file: Some(cert), key_file: Some(key), client_ca_file }
}

#[track_caller]
fn served(answer: io::Result<String>) {
    let said = answer.expect("answered");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served() {
    let secured = Secured::start(None).await;
    assert!(secured.gateway.gateway.url().starts_with("https://127.0.0.1:"));
    served(secured.ask(&client(&secured.authority, None, "http/1.1")).await);
    let stranger = secured.ask(&client(&Authority::new(), None, "http/1.1")).await;
    let error = stranger.expect_err("not trusted").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    // Plain HTTP is not understood, and harms nobody.
    let plain = raw::get(raw::dial(secured.address()).await, "/queues").await;
    assert!(!plain.unwrap_or_default().contains("HTTP/1.1 200"));
    served(secured.ask(&client(&secured.authority, None, "http/1.1")).await);
}

#[tokio::test]
async fn http2_is_chosen_in_the_handshake() {
    let secured = Secured::start(None).await;
    let stream = secured.dial(&client(&secured.authority, None, "h2")).await.expect("hands shaken");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    let request =
        hyper::Request::get("https://localhost/queues").body(Empty::<bytes::Bytes>::new());
    let response = sender.send_request(request.expect("a request")).await.expect("answered");
    assert_eq!((response.status().as_u16(), response.version()), (200, hyper::Version::HTTP_2));
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(body.starts_with(b"{\"queues\":["));
}

#[tokio::test]
async fn where_certificates_are_required_only_good_ones_are_let_in() {
    let clients = Authority::new();
    let secured = Secured::start(Some(&clients)).await;
    let dial = |shows: &Certificate| client(&secured.authority, Some(shows), "http/1.1");
    served(secured.ask(&dial(&clients.client())).await);
    for (what, connector, says) in [
        ("none", client(&secured.authority, None, "http/1.1"), "CertificateRequired"),
        ("expired", dial(&clients.expired_client()), "CertificateExpired"),
        ("of another authority", dial(&Authority::new().client()), "UnknownCA"),
        ("for servers", dial(&clients.server()), "alert"),
    ] {
        let error = secured.ask(&connector).await.expect_err(what).to_string();
        assert!(error.contains(says), "{what}: {error}");
    }
    served(secured.ask(&dial(&clients.client())).await);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_ends_the_connection() {
    let secured = Secured::with(None, |settings| settings.server.header_timeout_seconds = 1).await;
    for bytes in [&b""[..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        let mut stream = raw::dial(secured.address()).await;
        stream.write_all(bytes).await.expect("sent");
        raw::read_all(&mut stream).await.expect("closed");
    }
    // After a handshake the limits of HTTP are the same as without.
    let connector = client(&secured.authority, None, "http/1.1");
    let mut stream = secured.dial(&connector).await.expect("hands shaken");
    let _ = raw::read_all(&mut stream).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let secured = Secured::with(None, |settings| settings.limits.max_connections = 1).await;
    let connector = client(&secured.authority, None, "http/1.1");
    let held = secured.dial(&connector).await.expect("hands shaken");
    assert!(secured.dial(&connector).await.is_err(), "there is no room");
    served(raw::get(held, "/queues").await);
    eventually("there is room", async || secured.ask(&connector).await.ok()).await;
}

#[tokio::test]
async fn files_that_change_are_in_force_without_a_restart() {
    let clients = Authority::new();
    let secured = Secured::start(Some(&clients)).await;
    let certificate = clients.client();
    let old = client(&secured.authority, Some(&certificate), "http/1.1");
    let kept = secured.dial(&old).await.expect("hands shaken");

    let next = Authority::new();
    let new = client(&next, Some(&certificate), "http/1.1");
    let renewed = next.server();
    // Half of a pair is of no use.
    fs::write(secured.directory.path().join("tls.crt"), &renewed.cert).expect("written");
    served(secured.ask(&old).await);
    renewed.write(secured.directory.path());
    eventually("the new one is in force", async || secured.ask(&new).await.ok()).await;
    assert!(secured.ask(&old).await.is_err(), "the old one is gone");

    // Who was there before goes on.
    served(raw::get(kept, "/queues").await);

    // Authorities of clients too: whom nobody trusts any more is not let in any more.
    let trusted = Authority::new();
    fs::write(secured.directory.path().join("clients.crt"), trusted.pem()).expect("written");
    let welcome = trusted.client();
    let welcome = client(&next, Some(&welcome), "http/1.1");
    eventually("the new authority is in force", async || secured.ask(&welcome).await.ok()).await;
    assert!(secured.ask(&new).await.is_err(), "the old authority is gone");
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let tls = files(directory.path(), &authority.server(), None);
    let start = async |tls: Tls, socket: Option<PathBuf>| {
        let database = crate::support::TestDatabase::new().await;
        let started = crate::support::gateway::try_start(&database.url(), |settings| {
            settings.tls = tls;
            settings.server.unix_socket = socket;
        });
        started.await.expect_err("refused").to_string()
    };
    let key = Some(directory.path().join("none"));
    let missing = start(Tls { key_file: key, ..tls.clone() }, None).await;
    assert!(missing.contains("cannot read tls.key_file"), "{missing}");
    let both = start(tls.clone(), Some(directory.path().join("socket"))).await;
    assert!(both.contains("server.unix_socket") && both.contains("tls.cert_file"), "{both}");
    fs::write(directory.path().join("tls.key"), authority.server().key).expect("written");
    let foreign = start(tls, None).await;
    assert!(foreign.contains("does not fit the certificate"), "{foreign}");
}
