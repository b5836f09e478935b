//! Bodies that nobody would read, or that nobody would decode: refused, and the client hears of it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::auth::{ADMIN, with_admin};
use crate::{
    floods::{WAIT_FOR_GO, until_it_waits},
    support::{Answer, Client, PATIENCE, TestGateway, eventually, raw},
};

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway
}

/// The paths that take a method, with something in the place of their parameters.
async fn paths(gateway: &TestGateway, method: &str) -> Vec<String> {
    let document = gateway.get("/openapi.json").await.expect(200).json();
    let all = document["paths"].as_object().expect("paths").iter();
    let takes = all.filter(|(_, item)| item[method].is_object());
    let concrete = takes.map(|(path, _)| {
        let path = path.replace("{queue}", "q").replace("{msg_id}", "1");
        path.replace("{routing_key}", "a.b")
    });
    concrete.collect()
}

#[tokio::test]
async fn a_body_on_get_and_head_is_refused_everywhere() {
    let gateway = with_queue().await;
    let mut paths = paths(&gateway, "get").await;
    assert!(paths.len() > 10, "{paths:?}");
    paths.extend(["/openapi.json", "/docs/"].map(str::to_owned));
    for path in &paths {
        for method in ["GET", "HEAD"] {
            for body in ["{}", " ", "qty=10", r#"{"qty":10}"#] {
                let answer = Answer::of(gateway.request(method, path).body(body)).await;
                assert_eq!(answer.status, 400, "{method} {path}");
                if method == "GET" {
                    let detail = answer.problem(400, "invalid_request").detail();
                    assert!(detail.contains("GET takes no body"), "{detail}");
                }
            }
        }
    }
    assert_eq!(gateway.receive_one("q", "").await["read_ct"], 1, "none of them received it");
    // Where nothing is served, or not in this way, that is what is wrong.
    let nowhere = gateway.request("GET", "/nowhere").body("{}");
    Answer::of(nowhere).await.problem(404, "route_not_found");
    let settle = gateway.request("GET", "/queues/q/messages/settle").body("{}");
    Answer::of(settle).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_body_without_a_byte_is_none() {
    let gateway = with_queue().await;
    for head in ["Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let request = format!("GET /queues/q HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{head}");
        let mut stream = raw::connect(&gateway).await;
        let request = request.replace("Host: h", "Host: localhost");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let said = raw::read_all(&mut stream).await.expect("answered");
        assert_eq!(raw::parse(&said).0, 200, "{said}");
    }
    for (method, path) in [
        ("POST", "/queues/q/purge"),
        ("POST", "/queues/q/messages/pop"),
        ("DELETE", "/queues/q/messages/1"),
        ("DELETE", "/queues/q"),
    ] {
        gateway.put("/queues/q", "").await;
        for body in ["", " \n", "{}"] {
            let answer = Answer::of(gateway.request(method, path).body(body)).await;
            assert!([200, 204, 404].contains(&answer.status), "{path} {body:?}: {answer:?}");
        }
    }
}

/// As HTTP/2 has it: that there is a body is told before what it is.
#[tokio::test]
async fn a_body_on_get_is_refused_over_http2() {
    let gateway = with_queue().await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (parts, status) in [(&[][..], 200), (&[""][..], 200), (&["", "{}"], 400)] {
        let frames =
            parts.iter().map(|part| Ok::<_, std::io::Error>(Frame::data(Bytes::from(*part))));
        let body = StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()));
        let request = hyper::Request::get("http://localhost/queues/q").body(body);
        let response = sender.send_request(request.expect("a request")).await.expect("answered");
        assert_eq!(response.status(), status, "{parts:?}");
        response.into_body().collect().await.expect("all of it");
    }
}

/// Whoever says that there is a body, and sends none, is served like anybody else, and no more.
#[tokio::test]
async fn a_request_with_an_empty_body_counts_among_those_that_are_served() {
    let gateway = TestGateway::with(|settings| settings.limits.max_requests = 1).await;
    gateway.create("q").await;
    gateway.database.execute(WAIT_FOR_GO).await;
    let client = gateway.client.clone();
    let sender = tokio::spawn(async move { client.send("q", r#"{"message":1}"#).await });
    until_it_waits(&gateway.database).await;
    gateway.get("/queues/other").await.problem(503, "overloaded");
    let request = "GET /queues/other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut stream = raw::connect(&gateway).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let said = raw::read_all(&mut stream).await.expect("answered");
    assert_eq!(raw::parse(&said).0, 503, "{said}");
    gateway.database.execute("INSERT INTO public.go VALUES (1)").await;
    sender.await.expect("no panic");
}

#[tokio::test]
async fn a_body_on_what_takes_none_is_refused_and_nothing_is_done() {
    let gateway = with_queue().await;
    let large = "x".repeat(1 << 20);
    for (method, path) in [
        ("DELETE", "/queues/q"),
        ("DELETE", "/queues/q/messages/1"),
        ("DELETE", "/queues/q/bindings?pattern=a"),
        ("POST", "/queues/q/purge"),
        ("POST", "/queues/q/messages/1/archive"),
        ("POST", "/queues/q/messages/pop"),
    ] {
        for body in [r#"{"really":true}"#, "x", "[]", &large] {
            let answer = Answer::of(gateway.request(method, path).body(body.to_owned())).await;
            answer.problem(400, "invalid_request");
        }
    }
    assert_eq!(gateway.all("q").await.len(), 1);
}

#[tokio::test]
async fn a_content_encoding_is_refused_on_every_call() {
    let gateway = with_queue().await;
    let mut calls = 0;
    for method in ["get", "put", "post", "patch", "delete"] {
        for path in paths(&gateway, method).await {
            let method = method.to_uppercase();
            for encoding in ["gzip", "deflate", "br", "zstd", "x-other", "identity, gzip"] {
                let request = gateway.request(&method, &path).header("content-encoding", encoding);
                let body = if method == "GET" { "" } else { r#"{"message":1}"# };
                let answer = Answer::of(request.body(body)).await;
                let answer = answer.problem(415, "unsupported_media_type");
                assert!(answer.detail().contains("Content-Encoding"), "{}", answer.detail());
                assert_eq!(answer.header("accept-encoding"), "identity");
                calls += 1;
            }
        }
    }
    assert!(calls > 100, "{calls}");
    assert_eq!(gateway.all("q").await.len(), 1, "nothing was done");
    for encoding in ["identity", "Identity", ""] {
        let request = gateway.request("POST", "/queues/q/messages");
        let request = request.header("content-encoding", encoding).body(r#"{"message":1}"#);
        Answer::of(request).await.expect(201);
    }
    let nowhere = gateway.request("POST", "/nowhere").header("content-encoding", "gzip");
    Answer::of(nowhere).await.problem(404, "route_not_found");
    let post = gateway.request("POST", "/queues/q").header("content-encoding", "gzip");
    Answer::of(post).await.problem(405, "method_not_allowed");
}

/// What a body is coded with on its way is undone by the server, or refused; it is not part of the message.
#[tokio::test]
async fn a_transfer_coding_that_is_not_undone_is_refused() {
    let gateway = with_queue().await;
    for (coding, status) in [
        ("chunked", "201"),
        ("Chunked", "201"),
        ("gzip, chunked", "415"),
        ("identity, chunked", "415"),
        ("gzip\r\nTransfer-Encoding: chunked", "415"),
    ] {
        let mut stream = raw::connect(&gateway).await;
        let request = format!(
            "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Transfer-Encoding: {coding}\r\n\r\nd\r\n{{\"message\":1}}\r\n0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert_eq!(answer.get(9..12), Some(status), "{coding}: {answer}");
    }
    assert_eq!(gateway.all("q").await.len(), 3, "nothing else was stored");
}

/// Sends a head, and then a body that never comes.
async fn head_alone(gateway: &TestGateway, head: &str) -> TcpStream {
    let mut stream = raw::connect(gateway).await;
    let head = format!("{head} HTTP/1.1\r\nHost: localhost\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

/// It is not for a body that one waits whose head says enough.
#[tokio::test]
async fn the_refusal_does_not_wait_for_the_body() {
    let gateway = with_queue().await;
    for (head, status) in [
        ("GET /queues/q/messages?wait=20", "400"),
        ("GET /queues/q", "400"),
        ("POST /queues/q/messages", "415"),
        ("DELETE /queues/q", "415"),
    ] {
        let encoding = if status == "415" { "Content-Encoding: gzip\r\n" } else { "" };
        for length in
            ["Content-Length: 1000", "Content-Length: 1000000", "Transfer-Encoding: chunked"]
        {
            let started = Instant::now();
            let mut stream = head_alone(&gateway, head).await;
            let rest = format!("{encoding}{length}\r\n\r\n");
            stream.write_all(rest.as_bytes()).await.expect("sent");
            let mut answer = [0; 12];
            let read = timeout(PATIENCE, stream.read_exact(&mut answer)).await;
            read.expect("in time").expect("answered");
            assert_eq!(&answer[9..], status.as_bytes(), "{head} {length}");
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

/// A client that is told no hears of it, and the connection is as good as before: what it had sent is
/// read, although nobody wants it.
#[tokio::test]
async fn what_is_left_of_a_body_does_not_destroy_the_answer() {
    let gateway = TestGateway::with(with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let key = format!("Authorization: Bearer {ADMIN}\r\n");
    let body = "x".repeat(200_000);
    for (line, headers, status) in [
        ("POST /queues/q/messages", "", 401),
        ("POST /nowhere", "", 404),
        ("POST /queues/q", &*key, 405),
        ("POST /queues/q/messages?x=1", &key, 400),
        ("GET /queues/q", &key, 400),
        ("DELETE /queues/q", &key, 400),
        ("POST /queues/q/messages", "Content-Encoding: gzip\r\n", 415),
    ] {
        let mut stream = raw::connect(&gateway).await;
        for _ in 0..2 {
            let head = format!(
                "{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n",
                body.len()
            );
            // In two parts, the second of which comes when the gateway has made up its mind.
            let before = answered(&admin, status).await;
            stream.write_all(head.as_bytes()).await.expect("sent");
            stream.write_all(&body.as_bytes()[..1000]).await.expect("sent");
            eventually(&format!("{line} is refused"), async || {
                (answered(&admin, status).await > before).then_some(())
            })
            .await;
            stream.write_all(&body.as_bytes()[1000..]).await.expect("sent");
            assert_eq!(read_one(&mut stream).await, status, "{line}");
        }
    }
}

/// How many requests were answered with a status.
async fn answered(admin: &Client, status: u16) -> u64 {
    let metrics = admin.get("/metrics").await.expect(200).text;
    let status = format!("status=\"{status}\"}}");
    let lines = metrics.lines().filter(|line| line.starts_with("pgmq_gateway_http_requests_total"));
    let counts = lines.filter_map(|line| line.split_once(&status)?.1.trim().parse::<u64>().ok());
    counts.sum()
}

/// Reads one answer, to its last byte.
async fn read_one(stream: &mut TcpStream) -> u16 {
    let mut said = Vec::new();
    let whole = async {
        loop {
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await.expect("readable");
            assert!(length > 0, "closed before it was whole: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&part[..length]);
            let text = String::from_utf8_lossy(&said);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let (status, headers, _) = raw::parse(&format!("{head}\r\n\r\n"));
            let length: usize =
                headers["content-length"].to_str().expect("text").parse().expect("a number");
            if body.len() >= length {
                let _: Value = serde_json::from_str(body).expect("a problem");
                return status;
            }
        }
    };
    timeout(PATIENCE, whole).await.expect("answered in time")
}

/// One that asks before it sends is spared the sending.
#[tokio::test]
async fn whoever_expects_to_be_told_is_told_no() {
    let gateway = with_queue().await;
    for head in ["GET /queues/q", "POST /nowhere", "DELETE /queues/q"] {
        let mut stream = head_alone(&gateway, head).await;
        let rest = b"Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n";
        stream.write_all(rest).await.expect("sent");
        let said = raw::read_all(&mut stream).await.expect("answered");
        assert!(said.starts_with("HTTP/1.1 40"), "{said}");
    }
}

/// Nobody knows where the next request begins.
#[tokio::test]
async fn chunks_that_are_none_are_told_so_and_end_the_connection() {
    let gateway = with_queue().await;
    let trailers = "t: x\r\n".repeat(150);
    for (fault, chunks) in [
        ("no size", "zz\r\n".to_owned()),
        ("no line end", "d\r\n{\"message\":1}0\r\n\r\n".to_owned()),
        (
            "a long extension",
            format!("d;x={}\r\n{{\"message\":1}}\r\n0\r\n\r\n", "y".repeat(20_000)),
        ),
        ("many trailers", format!("d\r\n{{\"message\":1}}\r\n0\r\n{trailers}\r\n")),
    ] {
        let mut stream = raw::connect(&gateway).await;
        let head = "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all((head.to_owned() + &chunks).as_bytes()).await.expect("sent");
        let said = raw::read_all(&mut stream).await.expect("answered");
        let (status, headers, body) = raw::parse(&said);
        assert_eq!(status, 400, "{fault}: {said}");
        assert_eq!(headers["connection"], "close", "{fault}: {said}");
        assert!(!headers.contains_key("keep-alive"), "{fault}: {said}");
        assert!(body.contains("chunks are malformed"), "{fault}: {said}");
    }
    assert_eq!(gateway.all("q").await.len(), 1, "nothing was stored");
}
