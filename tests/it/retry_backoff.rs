//! `retry_backoff`: how long a message waits that a settle gives back without a delay.

use serde_json::{Value, json};

use crate::support::{Client, TestGateway};

async fn with_backoff(backoff: Value) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"retry_backoff": backoff}})).await;
    gateway
}

async fn retry(client: &Client, entry: Value) {
    let body = json!({"retry": [entry]}).to_string();
    let answer = client.post("/queues/q/messages/settle", &body).await.expect(200).json();
    assert_eq!(answer["retried"], json!([1]), "{answer}");
}

/// Seconds for which message 1 is hidden, and a second or so of a busy machine.
async fn hidden_for(gateway: &TestGateway) -> f64 {
    let sql =
        "SELECT extract(epoch FROM vt - clock_timestamp())::float8 FROM pgmq.q_q WHERE msg_id = 1";
    gateway.database.value(sql).await
}

#[tokio::test]
async fn each_delivery_waits_longer_up_to_the_most_and_not_all_the_same() {
    let gateway = with_backoff(json!({"min": 1_000, "max": 10_000, "factor": 3})).await;
    gateway.send("q", r#"{"message":1}"#).await;
    for (delivery, base) in [(1, 1_000.0), (2, 3_000.0), (3, 9_000.0), (4, 10_000.0), (5, 10_000.0)]
    {
        let received = gateway.receive_one("q", "vt=0").await;
        assert_eq!(received["read_ct"], delivery);
        retry(&gateway, json!({"receipt": received["receipt"]})).await;
        let most = f64::min(base * 1.2, 10_000.0);
        let waits = hidden_for(&gateway).await;
        assert!((base * 0.8 - 60.0..=most).contains(&waits), "delivery {delivery}: {waits}");
        retry(&gateway, json!({"msg_id": 1, "delay": 0})).await;
    }
    // What failed together does not come back together.
    let mut waits = Vec::new();
    for _ in 0..5 {
        retry(&gateway, json!({"msg_id": 1})).await;
        waits.push(hidden_for(&gateway).await);
    }
    let (least, most) =
        waits.iter().fold((f64::MAX, 0.0), |(a, b), w| (f64::min(a, *w), f64::max(b, *w)));
    assert!(most - least > 10.0, "{waits:?}");
}

#[tokio::test]
async fn a_delay_that_is_given_counts_and_what_was_not_tried_comes_back_at_once() {
    let gateway = with_backoff(json!({"min": 1_000, "max": 1_000, "factor": 1})).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let received = gateway.receive_one("q", "").await;
    retry(&gateway, json!({"msg_id": 1, "delay": 5_000})).await;
    assert!((4_900.0..=5_000.0).contains(&hidden_for(&gateway).await));
    retry(&gateway, json!({"receipt": received["receipt"], "uncounted": true})).await;
    assert_eq!(gateway.receive_one("q", "").await["read_ct"], 1);
    // However often it was delivered, and whatever the power would be.
    gateway
        .configure("q", json!({"retry_backoff": {"min": 1, "max": 7_000, "factor": 100}}))
        .await
        .expect(200);
    gateway.database.execute("UPDATE pgmq.q_q SET read_ct = 2147483647").await;
    retry(&gateway, json!({"msg_id": 1})).await;
    assert!((5_540.0..=7_000.0).contains(&hidden_for(&gateway).await));
    gateway.configure("q", json!({"retry_backoff": null})).await.expect(200);
    retry(&gateway, json!({"msg_id": 1})).await;
    assert!(hidden_for(&gateway).await <= 0.0);
}

/// A dead letter has been delivered elsewhere: that is none of this queue's tries.
#[tokio::test]
async fn a_dead_letter_waits_for_the_deliveries_of_its_queue_alone() {
    let gateway = with_backoff(json!({"min": 1_000, "max": 100_000, "factor": 10})).await;
    let of = json!({"settings": {"max_receives": 1, "dead_letter_queue": "q"}});
    gateway.create_with("work", &of).await;
    gateway.send("work", r#"{"message":1}"#).await;
    gateway.receive_one("work", "vt=0").await;
    assert!(gateway.receive("work", "").await.is_empty());
    for (receipts, base) in [(true, 1_000.0), (false, 10_000.0)] {
        let received = gateway.receive_one("q", "vt=0").await;
        let entry =
            if receipts { json!({"receipt": received["receipt"]}) } else { json!({"msg_id": 1}) };
        retry(&gateway, entry).await;
        let waits = hidden_for(&gateway).await;
        assert!((base * 0.8 - 60.0..=base * 1.2).contains(&waits), "{base}: {waits}");
        retry(&gateway, json!({"msg_id": 1, "delay": 0})).await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let gateway = with_backoff(json!({"min": 1, "max": 3_600, "factor": 2.5})).await;
    let set = json!({"min": 1, "max": 3_600, "factor": 2.5});
    let shown = gateway.get("/queues/q").await.expect(200).json();
    assert_eq!(shown["settings"]["retry_backoff"], set);
    for (backoff, part) in [
        (json!({"min": 10, "max": 5, "factor": 2}), "`min` must be at most `max`"),
        (json!({"min": 1, "max": 5, "factor": 0.5}), "1 to 100"),
        (json!({"min": -1, "max": 5, "factor": 2}), "1 to 315360000"),
        (json!({"min": 1, "max": 5}), "factor"),
        (json!({"min": 1, "max": 5, "factor": 2, "base": 1}), "base"),
        (json!(5), "retry_backoff"),
    ] {
        let refused = gateway.configure("q", json!({"retry_backoff": backoff})).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part) && detail.contains("retry_backoff"), "{backoff}: {detail}");
    }
    assert_eq!(gateway.get("/queues/q").await.json()["settings"]["retry_backoff"], set);
}
