//! Heads of requests that are none, or not for one host, or too large: each is told so as everything else
//! that is refused.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::support::{
    TestGateway,
    fronts::{Front, Fronts},
    raw,
};

/// Sends a head, and reads what is said until the gateway closes.
async fn said(gateway: &TestGateway, head: &[u8]) -> String {
    let mut stream = raw::connect(gateway).await;
    stream.write_all(head).await.expect("sent");
    raw::read_all(&mut stream).await.expect("answered")
}

/// Insists on a problem, and returns its detail.
#[track_caller]
fn problem(said: &str, status: u16, code: &str) -> String {
    let (found, headers, body) = raw::parse(said);
    assert_eq!(found, status, "{said}");
    let header =
        |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    assert_eq!(header("content-type"), "application/problem+json", "{said}");
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!((&body["code"], &body["status"]), (&code.into(), &status.into()), "{said}");
    assert_eq!(body["instance"], header("x-request-id"), "{said}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{said}");
    assert!(body["title"].is_string() && !header("x-request-id").is_empty(), "{said}");
    // What HTTP/1.0 has by itself.
    let closes = header("connection") == "close" || said.starts_with("HTTP/1.0");
    assert!(!header("date").is_empty() && closes, "{said}");
    body["detail"].as_str().expect("a detail").to_owned()
}

#[tokio::test]
async fn what_is_no_request_is_told_so() {
    let gateway = TestGateway::start().await;
    let filter = "GET /queues/q/messages?filter={\"a\":1} HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (head, names) in [
        (filter, "%22"),
        ("GET /queues/q/messages?filter=<a> HTTP/1.1\r\nHost: localhost\r\n\r\n", "encoded"),
        ("GET /queues/a b HTTP/1.1\r\nHost: localhost\r\n\r\n", "encoded"),
        ("G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n", "method"),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03", "TLS"),
        ("GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", "version"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n", "header"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nA: \0\r\n\r\n", "header"),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", "content-length"),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            "content-length",
        ),
        // More than anything counts, and a number all the same.
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551614\r\n\r\n",
            "`Content-Length`",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\n",
            "`Content-Length`",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
            "transfer-encoding",
        ),
    ] {
        let detail = problem(&said(&gateway, head.as_bytes()).await, 400, "invalid_request");
        assert!(detail.contains(names), "{head:?}: {detail}");
        // The same, behind what was answered before, and with a body that nobody reads.
        let before = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let both = format!("{before}{head}{}", "x".repeat(200_000));
        let said = said(&gateway, both.as_bytes()).await;
        let (first, second) = said.split_once("ok\n").unwrap_or_else(|| panic!("{said}"));
        assert!(first.starts_with("HTTP/1.1 200 OK"), "{said}");
        problem(second, 400, "invalid_request");
        assert!(second.contains("cache-control: no-store\r\n"), "{second}");
    }
    let metrics = gateway.get("/metrics").await.expect(200).text;
    let counted =
        r#"pgmq_gateway_http_requests_total{method="OTHER",route="unmatched",status="400"} 26"#;
    assert!(metrics.contains(counted), "{metrics}");
}

/// As everybody types it first, however it is reached.
#[tokio::test]
async fn a_filter_that_is_not_encoded_is_explained() {
    let fronts = Fronts::start(|_| {}).await;
    fronts.gateway.create("q").await;
    for front in fronts.all() {
        for globbing in [&["-g"][..], &[]] {
            let url = format!("{}/queues/q/messages?filter={{\"a\":1}}", front.base);
            let mut curl = Command::new("curl");
            // Over HTTP/2 there is no request that could be answered.
            curl.args(["-sS", "--http1.1", "--cacert"]).arg(fronts.authority());
            let output = curl.args(globbing).arg(url).output().await.expect("it ran");
            let body = String::from_utf8_lossy(&output.stdout);
            let explained = body.contains("--data-urlencode 'filter=");
            // HAProxy says itself that this is no request.
            let by_proxy = front.name == "HAProxy" && body.contains("400 Bad request");
            assert!(explained || by_proxy, "{}: {body} {output:?}", front.name);
        }
    }
}

#[tokio::test]
async fn a_request_is_for_one_host() {
    let gateway = TestGateway::start().await;
    for (head, status) in [
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
        ("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("GET /queues HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        ("GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (
            "GET /queues HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            400,
        ),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nhost: evil\r\nConnection: close\r\n\r\n", 400),
        ("GET /queues HTTP/1.1\r\nHost: a@localhost\r\nConnection: close\r\n\r\n", 400),
        ("GET /queues HTTP/1.1\r\nHost: local host\r\nConnection: close\r\n\r\n", 400),
        ("GET /queues HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (
            "POST /queues/q/messages HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
            400,
        ),
    ] {
        let said = said(&gateway, head.as_bytes()).await;
        assert_eq!(raw::parse(&said).0, status, "{head:?}: {said}");
        if status == 400 {
            let detail = problem(&said, 400, "invalid_request");
            assert!(detail.contains("`Host`"), "{detail}");
        }
    }
}

/// The head of a request that has so many bytes, in all.
fn head_of(bytes: usize) -> String {
    let (begin, end) =
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Pad: ", "\r\nConnection: close\r\n\r\n");
    format!("{begin}{}{end}", "x".repeat(bytes - begin.len() - end.len()))
}

#[tokio::test]
async fn the_limit_on_heads_is_what_it_says() {
    let gateway = TestGateway::start().await;
    for (bytes, status) in
        [(32_767, 200), (32_768, 200), (32_769, 431), (40_000, 431), (46_000, 431), (300_000, 431)]
    {
        let said = said(&gateway, head_of(bytes).as_bytes()).await;
        assert_eq!(raw::parse(&said).0, status, "{bytes}: {said}");
        if status == 431 {
            let detail = problem(&said, 431, "headers_too_large");
            assert!(detail.contains("32768") && detail.contains("max_headers"), "{detail}");
        }
    }
    let many: Vec<_> = (0..99).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = many.concat();
    for (more, status) in [("", 200), ("x-one: 1\r\n", 431)] {
        let head = format!("GET /livez HTTP/1.0\r\nHost: localhost\r\n{many}{more}\r\n");
        assert_eq!(raw::parse(&said(&gateway, head.as_bytes()).await).0, status);
    }
}

#[tokio::test]
async fn the_limit_on_heads_holds_over_http2_and_is_told() {
    let gateway = TestGateway::start().await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (bytes, headers, status) in
        [(32_000, 1, 200), (33_000, 1, 431), (10, 100, 431), (10, 90, 200)]
    {
        let mut request =
            hyper::Request::get("http://localhost/livez").header("x-request-id", "mine");
        for n in 0..headers {
            request = request.header(format!("x-{n}"), "x".repeat(bytes));
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("answered");
        assert_eq!(response.status(), status, "{bytes} bytes, {headers} headers");
        if status == 431 {
            let headers = response.headers();
            let id = headers["x-request-id"].to_str().expect("text").to_owned();
            assert_eq!(id, "mine");
            assert_eq!(headers["cache-control"], "no-store");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            let body = response.into_body().collect().await.expect("all of it").to_bytes();
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(
                (&body["code"], &body["instance"]),
                (&"headers_too_large".into(), &id.into())
            );
        }
    }
    // What differs from the name that it is for.
    let request = hyper::Request::get("http://localhost/queues").header("host", "evil.example");
    let response = sender.send_request(request.body(Empty::new()).expect("a request")).await;
    assert_eq!(response.expect("answered").status(), 400);
}

/// Behind a proxy it is the gateway's limit, or the proxy's own.
#[tokio::test]
async fn a_large_head_is_refused_behind_proxies() {
    let fronts = Fronts::start(|_| {}).await;
    for Front { name, base, .. } in fronts.all() {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(fronts.authority());
        curl.arg("-H").arg(format!("x-pad: {}", "x".repeat(40_000))).arg(format!("{base}/livez"));
        let output = curl.output().await.expect("it ran");
        let status = String::from_utf8_lossy(&output.stdout);
        assert!(["431", "400"].contains(&&*status), "{name}: {output:?}");
    }
}
