//! Clients that leave before they are answered: what is logged and counted of them, and of the messages
//! that were meant for them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    floods::{WAIT_FOR_GO, until_it_waits},
    support::{
        TestDatabase, TestGateway, eventually,
        process::{Program, program},
        raw,
    },
};

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

/// A figure of the gateway's, 0 where there is none.
async fn figure(gateway: &TestGateway, name: &str) -> f64 {
    let text = gateway.get("/metrics").await.expect(200).text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or("0").parse().expect("a number")
}

/// Requests to a route whose clients left.
async fn left(gateway: &TestGateway, method: &str, route: &str) -> f64 {
    let labels = format!(r#"{{method="{method}",route="{route}",status="499"}}"#);
    figure(gateway, &format!("pgmq_gateway_http_requests_total{labels}")).await
}

async fn received(gateway: &TestGateway) -> f64 {
    figure(gateway, r#"pgmq_gateway_messages_received_total{queue="q"}"#).await
}

const MESSAGES: &str = "/queues/{queue}/messages";

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_counted() {
    let gateway = with_queue().await;
    let mut stream = raw::connect(&gateway).await;
    let request = b"GET /queues/q/messages?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    gateway.wait_for_waiters("q", 1).await;
    // What is measured is time.
    sleep(Duration::from_secs(1)).await;
    drop(stream);
    eventually("it is counted", async || {
        (left(&gateway, "GET", MESSAGES).await > 0.5).then_some(())
    })
    .await;
    // It was the client's wish to wait, and nobody's work.
    let labels = format!(r#"{{method="GET",route="{MESSAGES}",status="499"}}"#);
    let worked = format!("pgmq_gateway_http_request_duration_seconds_sum{labels}");
    let worked = figure(&gateway, &worked).await;
    assert!(worked < 0.5, "{worked} s");
    let waited = figure(&gateway, "pgmq_gateway_long_poll_wait_seconds_sum").await;
    assert!(waited > 0.9, "{waited} s");
}

/// The same over HTTP/2, where the connection stays.
#[tokio::test]
async fn a_client_of_http2_that_leaves_is_counted() {
    let gateway = with_queue().await;
    let stream = TokioIo::new(raw::connect(&gateway).await);
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = |path: &str| {
        let request = hyper::Request::get(format!("http://localhost{path}"));
        sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"))
    };
    let waiting = tokio::spawn(request("/queues/q/messages?wait=20"));
    gateway.wait_for_waiters("q", 1).await;
    waiting.abort();
    eventually("it is counted", async || {
        (left(&gateway, "GET", MESSAGES).await > 0.5).then_some(())
    })
    .await;
    let response = request("/queues/q").await.expect("answered");
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.expect("all of it");
}

/// One that takes nothing of an answer has not got its messages.
#[tokio::test]
async fn a_client_of_http2_that_leaves_before_it_takes_a_byte_has_got_nothing() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let mut client = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
    let request = hyper::Request::get("http://localhost/queues/q/messages?vt=600");
    let request = request.body(Full::<Bytes>::default()).expect("a request");
    let answer = client.send_request(request).await.expect("answered");
    assert_eq!(answer.status(), 200);
    let length = answer.headers()["content-length"].to_str().expect("text");
    assert!(length.parse::<u64>().expect("a number") > 10, "{length}");
    assert!(gateway.receive("q", "").await.is_empty(), "it is on its way");
    assert!(received(&gateway).await < 0.1);
    // The stream ends, and the connection stays.
    drop(answer);
    let again = gateway.receive_one("q", "wait=20&vt=600").await;
    assert_eq!((&again["msg_id"], &again["read_ct"]), (&id.into(), &1.into()));
    assert!((received(&gateway).await - 1.0).abs() < 0.1);
    drop(client);
}

/// What it asked for may be done all the same.
#[tokio::test]
async fn a_client_that_leaves_while_it_is_served_is_counted_and_logged() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    client.create("q").await;
    // For a lock it would wait for three seconds, which on a busy machine may be too few.
    database.execute(WAIT_FOR_GO).await;
    let address = client.base.trim_start_matches("http://").parse().expect("an address");
    let mut stream = raw::dial(address).await;
    let request =
        b"POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: gone-1\r\n\
                    Content-Length: 13\r\n\r\n{\"message\":1}";
    stream.write_all(request).await.expect("sent");
    until_it_waits(&database).await;
    drop(stream);
    let line = eventually("it is logged", async || {
        let log = gateway.log();
        log.lines().find(|line| line.contains("gone-1")).map(str::to_owned)
    })
    .await;
    for part in ["INFO", "status=499", "queue=\"q\"", "method=\"POST\"", MESSAGES] {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    database.execute("INSERT INTO public.go VALUES (1)").await;
    eventually("it is stored", async || (client.all("q").await.len() == 1).then_some(())).await;
    assert_eq!(gateway.log().matches("gone-1").count(), 1, "once");
    let metrics = client.get("/metrics").await.expect(200).text;
    assert!(metrics.contains(r#"status="499"} 1"#), "{metrics}");
}

/// Counted are those that are handed over, and not those that are read.
#[tokio::test]
async fn messages_that_do_not_fit_are_not_counted_as_received() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 500_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.limits.max_in_flight_bytes = 1 << 20;
    })
    .await;
    gateway.create("q").await;
    for _ in 0..5 {
        gateway.send("q", &json!({"message": "a".repeat(400_000)}).to_string()).await;
    }
    assert_eq!(gateway.receive("q", "qty=5&vt=0").await.len(), 2);
    assert!((received(&gateway).await - 2.0).abs() < 0.1);
    // Where there is no room for an answer, nothing was received.
    gateway.create("stuck").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_stuck IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let (client, body) = (gateway.client.clone(), json!({"message": "a".repeat(450_000)}));
    let sender = tokio::spawn(async move {
        client.post("/queues/stuck/messages", &body.to_string()).await.expect(201);
    });
    eventually("its body is in hand", async || {
        (figure(&gateway, "pgmq_gateway_in_flight_bytes").await > 4e5).then_some(())
    })
    .await;
    gateway.get("/queues/q/messages?qty=2&vt=0").await.problem(503, "overloaded");
    assert!((received(&gateway).await - 2.0).abs() < 0.1);
    lock.rollback().await.expect("unlocked");
    sender.await.expect("stored");
    assert_eq!(gateway.post("/queues/q/messages/pop?qty=5", "").await.messages().len(), 2);
    assert!((received(&gateway).await - 4.0).abs() < 0.1);
}

/// In whatever moment they leave: what they were not given is not counted, and somebody else gets it.
#[tokio::test]
async fn messages_of_clients_that_left_are_not_counted_as_received() {
    let gateway = with_queue().await;
    let mut handed_over = 0;
    for delay_us in (0..60).map(|n| n * 50) {
        let mut stream = raw::connect(&gateway).await;
        let request = b"GET /queues/q/messages?wait=20&vt=600 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        gateway.wait_for_waiters("q", 1).await;
        let id = tokio::spawn({
            let client = gateway.client.clone();
            async move { client.send("q", r#"{"message":1}"#).await }
        });
        sleep(Duration::from_micros(delay_us)).await;
        stream.shutdown().await.expect("half closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("closed by the gateway");
        let id = id.await.expect("sent");
        if !answer.contains("msg_id") {
            let again: Vec<Value> = gateway.receive("q", "wait=20&vt=600").await;
            assert_eq!(again.len(), 1, "neither answered nor given back");
        }
        handed_over += 1;
        gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    }
    let counted = received(&gateway).await;
    assert!((counted - f64::from(handed_over)).abs() < 0.1, "{counted} of {handed_over}");
}
