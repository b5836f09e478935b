//! How long connections are kept: between requests, and within the headers of one.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{Instant, sleep, timeout},
};

use crate::support::{PATIENCE, TestGateway, raw, report};

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
    for (version, more) in [
        ("1.1", "Connection: close\r\n"),
        ("1.1", "Connection: Close\r\n"),
        ("1.1", "TE: trailers\r\nConnection: TE, close\r\n"),
        ("1.1", "TE: trailers\r\nConnection: TE\r\nConnection: CLOSE\r\n"),
        ("1.0", ""),
    ] {
        let mut stream = raw::connect(&gateway).await;
        let head = ask(&mut stream, version, more).await;
        assert!(!head.contains("keep-alive:"), "{head}");
    }
    let mut stream = raw::connect(&gateway).await;
    let head = ask(&mut stream, "1.1", "").await;
    assert!(head.contains("\r\nkeep-alive: timeout=75\r\n"), "{head}");
}

/// Workers with Node's agent, each with a message whose lease it extends so often, on a connection of its own.
async fn heartbeats(gateway: &TestGateway, workers: u32, interval: Duration, rounds: u32) {
    gateway.create("q").await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/heartbeats.mjs");
    let mut node = Command::new("node");
    node.arg(script).arg(format!("{}/queues/q/messages", gateway.base));
    node.args([workers.to_string(), interval.as_millis().to_string(), rounds.to_string()]);
    let limit = interval * rounds + PATIENCE;
    let ran = timeout(limit, node.kill_on_drop(true).output()).await.expect("in time");
    let ran = ran.expect("node runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    let counts: Value =
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{errors}"));
    report(&format!("{workers} workers, a request every {interval:?}, {rounds} times: {counts}"));
    let expected = json!({"answered": workers * rounds, "failed": {}, "connections": workers});
    assert_eq!(counts, expected, "each on the connection that it began with");
}

#[tokio::test]
async fn an_agent_that_asks_at_the_time_for_headers_meets_no_reset() {
    let gateway = TestGateway::with(|settings| settings.server.header_timeout_seconds = 1).await;
    heartbeats(&gateway, 6, Duration::from_secs(1), 5).await;
}

/// `cargo test --test it five_minutes -- --ignored --nocapture`: with the settings and the pace of real ones.
#[tokio::test]
#[ignore = "takes five minutes"]
async fn an_agent_that_asks_every_15_s_for_five_minutes_meets_no_reset() {
    let gateway = TestGateway::start().await;
    heartbeats(&gateway, 6, Duration::from_secs(15), 20).await;
}
