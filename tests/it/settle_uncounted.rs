//! Deliveries that are taken back, as nobody tried.

use serde_json::{Value, json};

use crate::support::{Client, TestGateway};

async fn retry(client: &Client, entry: Value) -> Value {
    let body = json!({"retry": [entry]}).to_string();
    client.post("/queues/q/messages/settle", &body).await.expect(200).json()
}

async fn read_ct(client: &Client) -> i64 {
    client.all("q").await[0]["read_ct"].as_i64().expect("a number")
}

async fn with_one() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway
}

#[tokio::test]
async fn an_uncounted_retry_takes_the_delivery_back_and_its_receipt_with_it() {
    let gateway = with_one().await;
    let first = gateway.receive_one("q", "vt=0").await;
    let second = gateway.receive_one("q", "vt=600").await;
    assert_eq!((&first["read_ct"], &second["read_ct"]), (&json!(1), &json!(2)));
    let uncounted = json!({"receipt": second["receipt"], "uncounted": true});
    assert_eq!(retry(&gateway, uncounted.clone()).await["retried"], json!([1]));
    assert_eq!(read_ct(&gateway).await, 1);
    // Once: it is void, and stays so when there is another delivery with the same number.
    assert_eq!(retry(&gateway, uncounted.clone()).await["failed"][0]["code"], "receipt_stale");
    let again = gateway.receive_one("q", "vt=600").await;
    assert_eq!(again["read_ct"], 2);
    assert_ne!(again["receipt"], second["receipt"]);
    let of = |message: &Value| message["receipt"].as_str().expect("a receipt").to_owned();
    let path = format!("/queues/q/messages/1?receipt={}", of(&second));
    gateway.delete(&path).await.problem(409, "receipt_stale");
    gateway.patch(&path, r#"{"vt":5}"#).await.problem(409, "receipt_stale");
    let archive = format!("/queues/q/messages/1/archive?receipt={}", of(&second));
    gateway.post(&archive, "").await.problem(409, "receipt_stale");
    let transaction =
        json!({"operations": [{"delete": {"queue": "q", "receipt": second["receipt"]}}]});
    gateway.post("/transactions", &transaction.to_string()).await.problem(409, "receipt_stale");
    assert_eq!(retry(&gateway, uncounted).await["failed"][0]["code"], "receipt_stale");
    gateway.delete(&format!("/queues/q/messages/1?receipt={}", of(&again))).await.expect(204);
}

/// By its id alone, too, it is taken back once: what is not delivered again has no delivery left to take.
#[tokio::test]
async fn an_id_takes_one_delivery_back() {
    let gateway = with_one().await;
    for _ in 0..3 {
        gateway.receive_one("q", "vt=0").await;
    }
    for _ in 0..3 {
        let answer = retry(&gateway, json!({"msg_id": 1, "uncounted": true, "delay": 600})).await;
        assert_eq!(answer["retried"], json!([1]));
        assert_eq!(read_ct(&gateway).await, 2);
    }
    assert!(gateway.receive("q", "").await.is_empty(), "the delay counts");
}

#[tokio::test]
async fn a_message_that_was_never_delivered_stays_at_nought() {
    let gateway = with_one().await;
    let answer = retry(&gateway, json!({"msg_id": 1, "uncounted": true})).await;
    assert_eq!(answer["retried"], json!([1]));
    assert_eq!(read_ct(&gateway).await, 0);
}

/// A worker that prefetches and is deployed makes no dead letters of good messages.
#[tokio::test]
async fn what_is_given_back_uncounted_never_becomes_a_dead_letter() {
    let gateway = with_one().await;
    gateway.configure("q", json!({"max_receives": 2})).await.expect(200);
    for _ in 0..5 {
        let message = gateway.receive_one("q", "vt=600").await;
        assert_eq!(message["read_ct"], 1);
        retry(&gateway, json!({"receipt": message["receipt"], "uncounted": true})).await;
    }
    // Deliveries that do count still do.
    for _ in 0..2 {
        gateway.receive_one("q", "vt=0").await;
    }
    assert!(gateway.receive("q", "vt=0").await.is_empty());
}

/// What happened before a message came into a dead-letter queue is not taken back there.
#[tokio::test]
async fn deliveries_elsewhere_stay_counted() {
    let gateway = with_one().await;
    gateway.create("dlq").await;
    gateway.configure("q", json!({"dead_letter_queue": "dlq"})).await.expect(200);
    gateway.receive_one("q", "vt=0").await;
    let body = r#"{"dead_letter":[{"msg_id":1}]}"#;
    gateway.post("/queues/q/messages/settle", body).await.expect(200);
    let body = r#"{"retry":[{"msg_id":1,"uncounted":true}]}"#;
    let answer = gateway.post("/queues/dlq/messages/settle", body).await.expect(200).json();
    assert_eq!(answer["retried"], json!([1]));
    assert_eq!(gateway.all("dlq").await[0]["read_ct"], 1);
}

/// Row by row as well: where a trigger is asked about each.
#[tokio::test]
async fn a_delivery_is_taken_back_where_another_row_is_refused() {
    let gateway = with_one().await;
    gateway.send("q", r#"{"message":2}"#).await;
    let messages = gateway.receive("q", "qty=2&vt=600").await;
    gateway
        .database
        .execute("ALTER TABLE pgmq.q_q ADD CHECK (message <> '2' OR read_ct > 0)")
        .await;
    let entries: Vec<Value> =
        messages.iter().map(|m| json!({"receipt": m["receipt"], "uncounted": true})).collect();
    let body = json!({"retry": entries}).to_string();
    let answer = gateway.post("/queues/q/messages/settle", &body).await.expect(200).json();
    assert_eq!(answer["retried"], json!([1]));
    assert_eq!(answer["failed"][0]["msg_id"], 2, "{answer}");
    let counts: Vec<_> = gateway.all("q").await.iter().map(|m| m["read_ct"].clone()).collect();
    assert_eq!(counts, [0, 1]);
}

/// The receipt is void with the first of them, and the second did nothing.
#[tokio::test]
async fn a_receipt_takes_one_delivery_back_though_it_is_there_twice() {
    let gateway = with_one().await;
    for _ in 0..2 {
        gateway.receive_one("q", "vt=0").await;
    }
    let third = gateway.receive_one("q", "vt=600").await;
    let entry =
        |delay: i64| json!({"receipt": third["receipt"], "uncounted": true, "delay": delay});
    let body = json!({"retry": [entry(600), entry(0), {"msg_id": 1, "delay": 300}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &body).await.expect(200).json();
    assert_eq!(settled["retried"], json!([1, 1]), "{settled}");
    assert_eq!(settled["failed"].as_array().map(Vec::len), Some(1), "{settled}");
    assert_eq!(settled["failed"][0]["code"], "receipt_stale", "{settled}");
    assert_eq!(read_ct(&gateway).await, 2);
    assert!(gateway.receive("q", "").await.is_empty(), "it waits as the last one says");
}
