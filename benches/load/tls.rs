//! TLS, and HTTP/2, beside plain HTTP/1.1; and many gateways beside one.

use std::{fs, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http,
    http2::Http2,
    measure::{Plan, median, round},
    scenarios::row,
    stage::{Gateway, Stage},
};

/// The name in the certificate.
const NAME: &str = "localhost";

/// Connections of 64 clients that speak HTTP/2: most libraries have one for all requests to a host.
const HTTP2_CONNECTIONS: [usize; 2] = [4, 64];

pub async fn tls(stage: &Stage, plan: &Plan) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let (cert, key) = (stage.file("bench.crt"), stage.file("bench.key"));
    fs::write(&cert, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let files = [("PGMQ_GATEWAY__TLS__CERT_FILE", &cert), ("PGMQ_GATEWAY__TLS__KEY_FILE", &key)];
    let settings: Vec<(&str, &str)> =
        files.iter().map(|(name, path)| (*name, path.to_str().expect("UTF-8"))).collect();
    let secure = Gateway::start(&stage.url, &settings);
    stage.fill("bench_b", 0).await;
    let (mut plain, mut with_tls) = (Vec::new(), Vec::new());
    let mut http2 = HTTP2_CONNECTIONS.map(|connections| (connections, Vec::new()));
    for _ in 0..plan.rounds {
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        plain.push(round(plan, clients, http::send).await);
        let mut streams = Vec::new();
        for _ in 0..64 {
            streams.push(connect(&secure.address, made.cert.der(), &[]).await);
        }
        let clients = http::clients_over(streams, &secure.address, "bench_b");
        with_tls.push(round(plan, clients, http::send).await);
        for (connections, rounds) in &mut http2 {
            let mut clients = Vec::new();
            for _ in 0..*connections {
                let stream = connect(&secure.address, made.cert.der(), &[b"h2"]).await;
                clients.push(Http2::begin(stream, NAME, "bench_b").await);
            }
            let clients = clients.iter().cycle().take(64).cloned().collect();
            rounds.push(round(plan, clients, Http2::send).await);
        }
    }
    row("send, plain (A) and over TLS (B)", &median(&plain), &median(&with_tls), None);
    for (connections, rounds) in &http2 {
        let name = format!(
            "send, plain HTTP/1.1 (A) and HTTP/2 over TLS on {connections} connections (B)"
        );
        row(&name, &median(&plain), &median(rounds), None);
    }
}

/// The same database behind one gateway and behind three.
pub async fn gateways(stage: &Stage, plan: &Plan) {
    let third = Gateway::start(&stage.url, &[]);
    let three = [&stage.gateway, &stage.other_gateway, &third];
    let (mut one, mut all) = (Vec::new(), Vec::new());
    stage.fill("bench_b", 0).await;
    for _ in 0..plan.rounds {
        let clients = http::clients(&stage.gateway.address, 63, "bench_b").await;
        one.push(round(plan, clients, http::send).await);
        let mut clients = Vec::new();
        for gateway in three {
            clients.extend(http::clients(&gateway.address, 21, "bench_b").await);
        }
        all.push(round(plan, clients, http::send).await);
    }
    row("send, one gateway (A) and three (B)", &median(&one), &median(&all), None);
}

async fn connect(
    address: &str,
    certificate: &CertificateDer<'static>,
    protocols: &[&[u8]],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(address).await.expect("connected");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let name = ServerName::try_from(NAME).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS")
}
