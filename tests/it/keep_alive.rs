//! How long connections are kept: between requests, and within the headers of one.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{PATIENCE, TestGateway, raw};

/// Asks on a connection that stays open, and returns the head of the answer.
async fn ask(stream: &mut TcpStream, version: &str, more: &str) -> String {
    let request = format!("GET /livez HTTP/{version}\r\nHost: localhost\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut said = Vec::new();
    while !said.ends_with(b"ok\n") {
        let mut buffer = [0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time");
        let read = read.expect("an answer");
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&said).to_ascii_lowercase()
}

#[tokio::test]
async fn an_idle_connection_outlives_the_time_for_headers() {
    let gateway = TestGateway::with(|settings| {
        settings.server.header_timeout_seconds = 1;
        settings.server.keep_alive_timeout_seconds = 4;
    })
    .await;
    let mut stream = raw::connect(&gateway).await;
    let head = ask(&mut stream, "1.1", "").await;
    assert!(head.contains("\r\nkeep-alive: timeout=4\r\n"), "{head}");
    sleep(Duration::from_secs(2)).await;
    ask(&mut stream, "1.1", "").await;
    let idle = Instant::now();
    assert_eq!(raw::read_all(&mut stream).await.expect("closed in order"), "");
    assert!(idle.elapsed() >= Duration::from_millis(3_900), "{:?}", idle.elapsed());
}

#[tokio::test]
async fn headers_that_begin_on_a_kept_connection_have_their_own_time() {
    let gateway = TestGateway::with(|settings| {
        settings.server.header_timeout_seconds = 1;
        settings.server.keep_alive_timeout_seconds = 600;
    })
    .await;
    let mut stream = raw::connect(&gateway).await;
    ask(&mut stream, "1.1", "").await;
    assert!(raw::drip(stream, &[b'G'; 600], Duration::from_millis(100)).await, "it is closed");
}

#[tokio::test]
async fn only_a_connection_that_is_kept_is_said_to_be() {
    let gateway = TestGateway::start().await;
    for (version, more) in [("1.1", "Connection: close\r\n"), ("1.0", "")] {
        let mut stream = raw::connect(&gateway).await;
        let head = ask(&mut stream, version, more).await;
        assert!(!head.contains("keep-alive:"), "{head}");
    }
    let mut stream = raw::connect(&gateway).await;
    let head = ask(&mut stream, "1.1", "").await;
    assert!(head.contains("\r\nkeep-alive: timeout=75\r\n"), "{head}");
}
