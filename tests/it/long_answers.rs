//! Answers that are long and carry no messages: they count for as long as they are there.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use super::limits::in_flight_bytes;
use crate::support::{TestGateway, eventually, raw};

/// A settling of so many messages that are not there.
fn in_vain(count: i64) -> Value {
    json!({"delete": (1..=count).map(|id| json!({"msg_id": id})).collect::<Vec<_>>()})
}

#[tokio::test]
async fn long_answers_count_until_they_are_sent() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"a"}"#).await.expect(201);
    let queues =
        "DO $$ BEGIN FOR n IN 1..200 LOOP PERFORM pgmq.create('more' || n); END LOOP; END $$";
    gateway.database.execute(queues).await;
    let batch = json!({"messages": vec![json!({"message": 1}); 1_000]});
    for (method, path, body, status) in [
        ("GET", "/queues?limit=200", String::new(), 200),
        ("POST", "/queues/q/messages/settle", in_vain(1_000).to_string(), 200),
        ("POST", "/topics/a/messages/batch", batch.to_string(), 201),
    ] {
        let mut client = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
        let request = hyper::Request::builder().method(method);
        let request = request.uri(format!("http://localhost{path}"));
        let request = request.header("content-type", "application/json");
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = client.send_request(request).await.expect("answered");
        assert_eq!(answer.status(), status, "{path}");
        assert!(in_flight_bytes(&gateway).await >= 65_536.0, "{path}");
        drop((answer, client));
        let nothing = async || (in_flight_bytes(&gateway).await == 0.0).then_some(());
        eventually("it has gone", nothing).await;
    }
}

/// What became of a thousand messages, while there is nothing to receive.
#[tokio::test]
async fn what_was_settled_counts_while_its_client_waits() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let body = json!({"settle": in_vain(1_000), "wait": 20}).to_string();
    let client = gateway.client.clone();
    let waiter =
        tokio::spawn(async move { client.post("/queues/q/messages/receive", &body).await });
    gateway.wait_for_waiters("q", 1).await;
    assert!(in_flight_bytes(&gateway).await >= 65_536.0);
    gateway.send("q", r#"{"message":1}"#).await;
    let answer = waiter.await.expect("no panic").expect(200).json();
    assert_eq!(answer["settled"]["failed"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(answer["messages"][0]["message"], 1);
    let nothing = async || (in_flight_bytes(&gateway).await == 0.0).then_some(());
    eventually("it has gone", nothing).await;
}

/// Nothing is done where there is no room to say what became of it.
#[tokio::test]
async fn a_long_settling_needs_room_for_its_answer() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 1_000;
        settings.limits.max_body_bytes = 128 << 10;
        settings.limits.max_answer_bytes = 128 << 10;
        settings.limits.max_in_flight_bytes = 128 << 10;
    })
    .await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let settled = gateway.post("/queues/q/messages/settle", &in_vain(1_000).to_string()).await;
    settled.problem(503, "overloaded");
    assert_eq!(gateway.all("q").await.len(), 1, "nothing was done");
    let settled = gateway.post("/queues/q/messages/settle", &in_vain(50).to_string()).await;
    assert_eq!(settled.expect(200).json()["deleted"], json!([1]));
}
