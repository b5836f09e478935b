//! The contract's table of errors, row by row, and what the framework says by itself.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, TestGateway};

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

#[tokio::test]
async fn bad_parameters_are_named_with_what_is_allowed() {
    let gateway = with_queue().await;
    for (path, part) in [
        ("/queues/q/messages?qty=0", "`qty` must be a whole number from 1 to 100"),
        ("/queues/q/messages?qty=101", "1 to 100"),
        ("/queues/q/messages?qty=ten", "not `ten`"),
        ("/queues/q/messages?qty=", "`qty`"),
        ("/queues/q/messages?vt=-1", "`vt` must be a whole number from 0 to 315360000"),
        ("/queues/q/messages?vt=99999999999999999999", "0 to 315360000"),
        ("/queues/q/messages?wait=21", "`wait` must be a whole number from 0 to 20"),
        ("/queues/q/messages?qyt=1", "unknown query parameter `qyt`, expected one of `qty`"),
        ("/queues/q/messages?qty=1&qty=2", "duplicate"),
        ("/queues/q/messages?fifo=both", "`fifo` must be `grouped`, `round_robin` or `head`"),
        ("/queues/q/messages/1?receipt=x", "`receipt`"),
        ("/queues/q?x=1", "`x`"),
        ("/queues/q/peek?limit=101", "`limit`"),
        ("/queues/q/peek?after=-1", "`after`"),
        ("/queues?limit=1001", "1 to 1000"),
        ("/queues/q/archive?since=now", "`since` must be a time such as `2026-01-01T00:00:00Z`"),
        ("/queues/q/messages/abc", "`msg_id` must be a whole number from 1"),
        ("/queues/q/messages/0", "`msg_id`"),
        ("/queues/q/messages/9223372036854775808", "9223372036854775807"),
    ] {
        let refused = gateway.get(path).await.problem(400, "invalid_request");
        assert!(refused.detail().contains(part), "{path}: {}", refused.detail());
        assert_eq!(refused.header("cache-control"), "no-store", "{path}");
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_and_nothing_is_stored() {
    let gateway = with_queue().await;
    for (body, part) in [
        ("", "empty"),
        ("   ", "empty"),
        ("{", "body"),
        ("[]", "body"),
        ("{}", "missing field `message`"),
        (r#"{"message":1,"mesage":2}"#, "unknown field `mesage`, expected one of `message`"),
        (r#"{"message":1,"message":2}"#, "duplicate field `message`"),
        (r#"{"message":1} x"#, "trailing"),
        (r#"{"message":}"#, "message"),
        (r#"{"message":NaN}"#, "message"),
        (r#"{"message":1,"headers":[1]}"#, "`headers` must be a JSON object"),
        (r#"{"message":1,"headers":"x"}"#, "`headers` must be a JSON object"),
        ("\u{feff}{\"message\":1}", "body"),
        ("{\"message\":\"a\u{1}\"}", "message"),
    ] {
        let refused = gateway.post("/queues/q/messages", body).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part), "{body:?}: {detail}");
    }
    let invalid_utf8 = gateway.request("POST", "/queues/q/messages");
    let invalid_utf8 = invalid_utf8.body(b"{\"message\":\"\xff\"}".to_vec());
    Answer::of(invalid_utf8).await.problem(400, "invalid_request");
    let unwanted = gateway.post("/queues/q/purge", r#"{"really":true}"#).await;
    unwanted.problem(400, "invalid_request");
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["total_messages"], 0);
}

#[tokio::test]
async fn json_that_postgresql_cannot_store_is_rejected() {
    let gateway = with_queue().await;
    for (message, part) in [
        (r#""a\u0000b""#, "\\u0000"),
        (r#"{"\u0000":1}"#, "\\u0000"),
        (r#""\ud800""#, "surrogate"),
        ("1e131072", "131072 digits"),
        ("1e-16384", "16383 digits"),
    ] {
        for body in [
            format!(r#"{{"message":{message}}}"#),
            format!(r#"{{"message":1,"headers":{{"h":{message}}}}}"#),
        ] {
            let rejected = gateway.post("/queues/q/messages", &body).await;
            let detail = rejected.problem(422, "message_rejected").detail();
            assert!(detail.contains(part), "{detail}");
        }
    }
    // Beyond what is foreseen: PostgreSQL's own limit on nesting.
    let deep = format!(r#"{{"message":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let rejected = gateway.post("/queues/q/messages", &deep).await;
    rejected.problem(422, "message_rejected");
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["total_messages"], 0);
}

#[tokio::test]
async fn messages_over_the_limit_are_too_large() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 2_000;
        settings.limits.max_body_bytes = 10_000;
    })
    .await;
    gateway.create("q").await;
    let body = |bytes: usize| json!({"message": "x".repeat(bytes - 2)}).to_string();
    gateway.post("/queues/q/messages", &body(2_000)).await.expect(201);
    let refused = gateway.post("/queues/q/messages", &body(2_001)).await;
    let detail = refused.problem(413, "message_too_large").detail();
    assert!(detail.contains("2001") && detail.contains("2000"), "{detail}");
    let with_headers = json!({"message": "x".repeat(1_500), "headers": {"h": "x".repeat(500)}});
    let refused = gateway.post("/queues/q/messages", &with_headers.to_string()).await;
    refused.problem(413, "message_too_large");
    let batch = json!({"messages": [{"message": 1}, {"message": "x".repeat(2_000)}]});
    let refused = gateway.post("/queues/q/messages/batch", &batch.to_string()).await;
    assert!(refused.problem(413, "message_too_large").detail().contains("messages[1]"));

    // The body as a whole: a little over, far over, and without saying so beforehand.
    for bytes in [10_100, 200_000] {
        let refused = gateway.post("/queues/q/messages", &body(bytes)).await;
        assert!(refused.problem(413, "message_too_large").detail().contains("10000 bytes"));
    }
    let chunks = reqwest::Body::from(vec![b'x'; 20_000]);
    let chunked =
        gateway.request("POST", "/queues/q/messages").header("transfer-encoding", "chunked");
    Answer::of(chunked.body(chunks)).await.problem(413, "message_too_large");
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["total_messages"], 1);
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let gateway = with_queue().await;
    for path in ["/nope", "/queues/", "/queues/q/nope", "/queues/q/messages/1/2", "/queues//q"] {
        gateway.get(path).await.problem(404, "route_not_found");
    }
    for (method, path, allowed) in [
        ("POST", "/queues/q", "DELETE,GET,HEAD,PATCH,PUT"),
        ("PATCH", "/queues", "GET,HEAD"),
        ("DELETE", "/queues/q/messages", "GET,POST"),
        ("GET", "/queues/q/messages/batch", "POST"),
        ("GET", "/queues/q/messages/pop", "POST"),
        ("BREW", "/queues/q/purge", "POST"),
        ("POST", "/livez", "GET,HEAD"),
    ] {
        let refused = Answer::of(gateway.request(method, path)).await;
        let refused = refused.problem(405, "method_not_allowed");
        let mut allow: Vec<&str> = refused.header("allow").split(',').map(str::trim).collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_form_of_another_site_is_no_json() {
    let gateway = with_queue().await;
    let post = |headers: &[(&str, &str)]| {
        let request = gateway.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    for (headers, status) in [
        (&[("content-type", "application/x-www-form-urlencoded")][..], 201),
        (&[("sec-fetch-site", "cross-site"), ("content-type", "text/plain")], 415),
        (&[("sec-fetch-site", "cross-site")], 415),
        (&[("origin", "https://evil.example")], 415),
        (&[("origin", "https://evil.example"), ("content-type", "application/json")], 201),
        (&[("origin", &gateway.base), ("content-type", "text/plain")], 201),
        (&[("sec-fetch-site", "same-origin"), ("content-type", "text/plain")], 201),
    ] {
        let answer = Answer::of(post(headers)).await.expect(status);
        if status == 415 {
            answer.problem(415, "unsupported_media_type");
        }
    }
    // Neither is one without a body.
    let purge = gateway.request("POST", "/queues/q/purge").header("sec-fetch-site", "cross-site");
    Answer::of(purge).await.problem(415, "unsupported_media_type");
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], 4);
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let gateway = with_queue().await;
    let mut seen = Vec::new();
    for path in ["/queues", "/livez", "/nope", "/docs/", "/openapi.json", "/queues/none"] {
        let answer = gateway.get(path).await;
        let id = answer.header("x-request-id").to_owned();
        assert!(!id.is_empty() && !seen.contains(&id), "{path}: {id:?}");
        seen.push(id);
        let own = gateway.request("GET", path).header("x-request-id", "mine-1");
        assert_eq!(Answer::of(own).await.header("x-request-id"), "mine-1", "{path}");
    }
    let long = gateway.request("GET", "/nope").header("x-request-id", "x".repeat(200));
    assert_ne!(Answer::of(long).await.header("x-request-id").len(), 200);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let gateway = TestGateway::with(|settings| settings.server.request_timeout_seconds = 1).await;
    gateway.create("q").await;
    let mut stream =
        TcpStream::connect(gateway.gateway.address().expect("TCP")).await.expect("connected");
    let head =
        "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"mess";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer)).await;
    let length = read.expect("an answer").expect("readable");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
}

/// With every connection in use for longer than a request may wait.
#[tokio::test]
async fn too_much_at_once_is_overload_and_not_a_hang() {
    let gateway = TestGateway::with(|settings| {
        settings.database.max_connections = 1;
        settings.database.acquire_timeout_ms = 1_000;
    })
    .await;
    gateway.create("q").await;
    // A send that takes its time: what is locked would not keep a connection.
    let slow = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN PERFORM pg_sleep(3); RETURN NEW; END'; \
                CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_q FOR EACH ROW \
                EXECUTE FUNCTION public.slow()";
    gateway.database.execute(slow).await;
    let stuck = gateway.client.clone();
    let stuck = tokio::spawn(async move { stuck.send("q", r#"{"message":1}"#).await });
    let overloaded = crate::support::eventually("the pool is exhausted", async || {
        let answer = gateway.get("/queues/q").await;
        (answer.status == 503).then_some(answer)
    });
    let overloaded = overloaded.await.problem(503, "overloaded");
    assert!(!overloaded.header("retry-after").is_empty());
    gateway.get("/readyz").await.expect(200);
    stuck.await.expect("stored after all");
}
