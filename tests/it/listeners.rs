//! What listens: clients that do not behave, too many of them, Unix sockets, and the operations
//! listener.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pgmq_gateway::config::Settings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::support::{
    Answer, Client, PATIENCE, TestDatabase, TestGateway, eventually, gateway::try_start, raw,
};

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn hurried(settings: &mut Settings) {
    settings.server.header_timeout_seconds = 1;
    settings.server.keep_alive_timeout_seconds = 1;
    settings.server.write_timeout_seconds = 1;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_is_closed() {
    let gateway = TestGateway::with(hurried).await;
    for bytes in [&b""[..], b"P", &PREFACE[..12], b"GET /livez HTTP/1.1\r\nHo"] {
        let mut stream = raw::connect(&gateway).await;
        stream.write_all(bytes).await.expect("sent");
        let said = raw::read_all(&mut stream).await.expect("closed in order");
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
}

/// HTTP/2 has begun, and then there is no sign of life, or half a frame.
#[tokio::test]
async fn a_client_of_http2_that_falls_silent_is_let_go() {
    let gateway = TestGateway::with(hurried).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let half_a_head = [0, 0, 100, 1, 4, 0, 0, 0, 1, 0x82];
    for more in [&settings[..], &[&settings[..], &half_a_head[..]].concat()] {
        let mut stream = raw::connect(&gateway).await;
        stream.write_all(&[PREFACE, more].concat()).await.expect("sent");
        raw::read_all(&mut stream).await.expect("closed");
    }
}

#[tokio::test]
async fn headers_that_drip_are_cut_off_and_disturb_nobody() {
    let gateway = TestGateway::with(hurried).await;
    gateway.create("q").await;
    let address = gateway.gateway.address().expect("TCP");
    let head = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_owned() + &"x".repeat(200);
    let slow: Vec<_> = [head.as_bytes(), PREFACE]
        .into_iter()
        .map(|bytes| {
            let bytes = bytes.to_owned();
            tokio::spawn(async move {
                // Slower than the whole may take, faster than any single wait might.
                raw::drip(raw::dial(address).await, &bytes, Duration::from_millis(200)).await
            })
        })
        .collect();
    while !slow.iter().all(tokio::task::JoinHandle::is_finished) {
        gateway.send("q", r#"{"message":1}"#).await;
    }
    for client in slow {
        assert!(client.await.expect("no panic"), "it was let through to its end");
    }
}

async fn connections(operations: &Client) -> String {
    let metrics = operations.get("/metrics").await.expect(200).text;
    let line = metrics.lines().find_map(|line| line.strip_prefix("pgmq_gateway_connections "));
    line.unwrap_or_else(|| panic!("no gauge in {metrics}")).to_owned()
}

async fn with_operations(change: impl FnOnce(&mut Settings)) -> (TestGateway, Client) {
    let gateway = TestGateway::with(|settings| {
        settings.server.operations_port = Some(0);
        change(settings);
    })
    .await;
    let operations = Client::new(&gateway.gateway.operations_url().expect("a listener"));
    (gateway, operations)
}

/// 20 MB are more than the system keeps for a client.
#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_let_go() {
    let (gateway, operations) = with_operations(hurried).await;
    gateway.create("q").await;
    let fill = "SELECT pgmq.send('q', to_jsonb(repeat('x', 500000))) FROM generate_series(1, 40)";
    gateway.database.execute(fill).await;
    let mut stream = raw::connect(&gateway).await;
    let request = b"GET /queues/q/peek?limit=40 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut first = [0; 17];
    stream.read_exact(&mut first).await.expect("it begins");
    assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
    // The other client's connection is closed as it is idle.
    eventually("the connection ends", async || {
        (connections(&operations).await == "0").then_some(())
    })
    .await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 20_000_000, "it got all {} bytes", rest.len());
}

/// The client answers pings, and has room for a thousand bytes only.
#[tokio::test]
async fn a_client_of_http2_that_does_not_take_its_answer_is_let_go() {
    let (gateway, operations) = with_operations(hurried).await;
    gateway.create("q").await;
    let fill = "SELECT pgmq.send('q', to_jsonb(repeat('x', 50000)))";
    gateway.database.execute(fill).await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.initial_stream_window_size(1000);
    let (mut sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = || {
        let request = hyper::Request::get("http://localhost/queues/q/peek");
        request.body(Empty::<bytes::Bytes>::new()).expect("a request")
    };
    // One that reads gets it all.
    let response = sender.send_request(request()).await.expect("answered");
    let length = response.headers()["content-length"].to_str().expect("text").to_owned();
    let whole = response.into_body().collect().await.expect("all of it").to_bytes();
    assert_eq!(whole.len().to_string(), length);

    let response = sender.send_request(request()).await.expect("it begins");
    eventually("the connection ends", async || {
        (connections(&operations).await == "0").then_some(())
    })
    .await;
    assert!(response.into_body().collect().await.is_err(), "it got all of it");
    let _ = connection.await.expect("no panic");
}

/// It takes a little all the time: 25 kB in a second.
#[tokio::test]
async fn a_client_of_http2_that_takes_its_answer_too_slowly_is_let_go() {
    let (gateway, operations) = with_operations(|settings| {
        settings.server.write_timeout_seconds = 2;
        settings.server.keep_alive_timeout_seconds = 2;
    })
    .await;
    gateway.create("q").await;
    let fill = "SELECT pgmq.send('q', to_jsonb(repeat('x', 300000)))";
    gateway.database.execute(fill).await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.initial_stream_window_size(4000);
    let (mut sender, connection) = builder.handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("http://localhost/queues/q/peek");
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
    let mut body = sender.send_request(request).await.expect("it begins").into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        let length = frame.into_data().expect("data").len();
        taken += length;
        tokio::time::sleep(Duration::from_micros(40) * u32::try_from(length).expect("few")).await;
    }
    assert!((1..300_000).contains(&taken), "it got {taken} bytes");
    eventually("the connection ends", async || {
        (connections(&operations).await == "0").then_some(())
    })
    .await;
    let _ = connection.await.expect("no panic");
}

/// It answers pings and asks for nothing; one that waits for a message is not idle.
#[tokio::test]
async fn an_idle_client_of_http2_is_asked_to_leave() {
    let gateway = TestGateway::with(hurried).await;
    gateway.create("q").await;
    let connect = async || {
        let stream = TokioIo::new(raw::connect(&gateway).await);
        let client = http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        (client.0, tokio::spawn(client.1))
    };
    let request = |path: &str| {
        let request = hyper::Request::get(format!("http://localhost{path}"));
        request.body(Empty::<bytes::Bytes>::new()).expect("a request")
    };
    let (mut waiting, waiting_connection) = connect().await;
    let waits = waiting.send_request(request("/queues/q/messages?wait=5"));
    let waits = tokio::spawn(waits);
    let (mut idle, connection) = connect().await;
    let response = idle.send_request(request("/livez")).await.expect("answered");
    response.into_body().collect().await.expect("all of it");
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it is closed");
    ended.expect("no panic").expect("in good order");
    assert!(idle.is_closed());

    assert!(!waits.is_finished());
    let response = waits.await.expect("no panic").expect("answered");
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.expect("all of it");
    let ended = tokio::time::timeout(PATIENCE, waiting_connection).await.expect("it is closed");
    ended.expect("no panic").expect("in good order");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let (gateway, operations) =
        with_operations(|settings| settings.limits.max_connections = 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(raw::connect(&gateway).await);
    }
    eventually("all are accepted", async || (connections(&operations).await == "3").then_some(()))
        .await;
    for _ in 0..5 {
        let said = raw::get(raw::connect(&gateway).await, "/livez").await.expect("answered");
        let (status, headers, text) = raw::parse(&said);
        let refused = Answer { status, headers, text }.problem(503, "overloaded");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.header("connection"), "close");
        assert!(refused.detail().contains("limits.max_connections"));
    }
    // As any other problem has them.
    let usual = gateway_problem(&operations).await;
    let said = raw::get(raw::connect(&gateway).await, "/").await.expect("answered");
    let refused: serde_json::Value = serde_json::from_str(&raw::parse(&said).2).expect("JSON");
    assert_eq!(fields(&refused), fields(&usual));
    let metrics = operations.get("/metrics").await.expect(200).text;
    let counted = r#"pgmq_gateway_refused_total{limit="connections"} 6"#;
    assert!(metrics.contains(counted), "{metrics}");

    // The others go on, and there is room again when one of them leaves.
    let first = raw::get(held.remove(0), "/queues").await.expect("answered");
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    eventually("there is room", async || {
        let said = raw::get(raw::connect(&gateway).await, "/queues").await.ok()?;
        said.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}

async fn gateway_problem(client: &Client) -> serde_json::Value {
    client.get("/nope").await.problem(404, "route_not_found").json()
}

fn fields(problem: &serde_json::Value) -> Vec<&String> {
    problem.as_object().expect("an object").keys().collect()
}

#[tokio::test]
async fn headers_have_a_bound() {
    let gateway = TestGateway::start().await;
    let roomy = TestGateway::on(&gateway.database, |settings| {
        settings.limits.max_header_bytes = 128 << 10;
        settings.limits.max_headers = 300;
    })
    .await;
    for (bytes, count, tight, wide) in [
        (20_000, 1, 200, 200),
        (60_000, 1, 431, 200),
        (200_000, 1, 431, 431),
        (10, 90, 200, 200),
        (10, 200, 431, 200),
        (10, 400, 431, 431),
    ] {
        for (gateway, status) in [(&gateway, tight), (&roomy, wide)] {
            let mut stream = raw::connect(gateway).await;
            let mut head =
                "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".to_owned();
            for n in 0..count {
                write!(head, "X-{n}: {}\r\n", "x".repeat(bytes)).expect("written");
            }
            let _ = stream.write_all((head + "\r\n").as_bytes()).await;
            let said = raw::read_all(&mut stream).await.expect("answered");
            assert_eq!(raw::parse(&said).0, status, "{count} of {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn operations_are_served_apart() {
    let (gateway, operations) = with_operations(|_| {}).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        gateway.get(path).await.problem(404, "route_not_found");
        operations.get(path).await.expect(200);
    }
    for path in ["/queues", "/docs", "/openapi.json"] {
        operations.get(path).await.problem(404, "route_not_found");
        assert_ne!(gateway.get(path).await.status, 404, "{path}");
    }
    let document = gateway.get("/openapi.json").await.json();
    assert_eq!(document["paths"]["/livez"], serde_json::Value::Null);
    gateway.gateway.drain().await;
    operations.get("/readyz").await.problem(503, "overloaded");
}

/// It is still there while requests in hand finish.
#[tokio::test]
async fn the_operations_listener_goes_last() {
    let (gateway, operations) = with_operations(|_| {}).await;
    let address = gateway.gateway.address().expect("TCP");
    let TestGateway { gateway, client, .. } = gateway;
    client.create("q").await;
    let head = "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n";
    let mut slow = raw::dial(address).await;
    slow.write_all(head.as_bytes()).await.expect("sent");
    let stopping = tokio::spawn(gateway.shut_down());
    eventually("the other listener is gone", async || {
        TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
    operations.get("/livez").await.expect(200);
    slow.write_all(br#"{"message":1}"#).await.expect("sent");
    let said = raw::read_all(&mut slow).await.expect("answered");
    assert!(said.starts_with("HTTP/1.1 201 "), "{said}");
    stopping.await.expect("stopped");
    assert!(operations.request("GET", "/livez").send().await.is_err());
}

#[tokio::test]
async fn a_unix_socket_takes_the_place_of_tcp() {
    let database = TestDatabase::new().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("http.sock");
    // What a process leaves behind that is killed.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    let start = |mode: &'static str| {
        let path = path.clone();
        try_start(&database.url(), move |settings| {
            settings.server.unix_socket = Some(path);
            settings.server.unix_socket_mode = mode.to_owned();
        })
    };
    let gateway = start("0600").await.expect("started over the stale one");
    assert_eq!(gateway.url(), format!("unix:{}", path.display()));
    assert_eq!(gateway.address(), None);
    let metadata = fs::symlink_metadata(&path).expect("there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let stream = UnixStream::connect(&path).await.expect("connected");
    let said = raw::get(stream, "/readyz").await.expect("answered");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");

    let error = start("0600").await.expect_err("it is in use").to_string();
    assert!(error.contains("another process listens") && error.contains("unix_socket"), "{error}");
    let stream = UnixStream::connect(&path).await.expect("the first is still there");
    raw::get(stream, "/readyz").await.expect("answered");
    gateway.shut_down().await;
    assert!(!path.exists(), "it is removed");

    let gateway = start("0666").await.expect("started");
    let mode = fs::symlink_metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    gateway.shut_down().await;
    fs::write(&path, "precious").expect("written");
    let error = start("0600").await.expect_err("not a socket").to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
}
