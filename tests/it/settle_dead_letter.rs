//! `settle.dead_letter`: messages that a worker knows nobody will get done.

use serde_json::{Value, json};

use crate::support::{Client, Holder, TestGateway, eventually};

async fn settled(client: &Client, body: Value) -> Value {
    client.post("/queues/q/messages/settle", &body.to_string()).await.expect(200).json()
}

/// `q` with so many messages, and `dlq`, where its dead letters go.
async fn with_dead_letter_queue(count: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("dlq").await;
    gateway.create_with("q", &json!({"settings": {"dead_letter_queue": "dlq"}})).await;
    for n in 0..count {
        gateway.send("q", &json!({"message": n, "headers": {"h": n}}).to_string()).await;
    }
    gateway
}

#[tokio::test]
async fn a_dead_letter_goes_to_its_queue_with_the_reason_and_comes_back_without() {
    let gateway = with_dead_letter_queue(3).await;
    let first = gateway.receive_one("q", "vt=600").await;
    let answer = settled(
        &gateway,
        json!({"dead_letter": [{"receipt": first["receipt"], "reason": "no such customer: ü"},
                               {"msg_id": 2}]}),
    )
    .await;
    let expected = json!({"deleted": [], "archived": [], "dead_lettered": [1, 2], "retried": [], "failed": []});
    assert_eq!(answer, expected);
    assert_eq!(gateway.all("q").await.len(), 1);
    let dead = gateway.all("dlq").await;
    assert_eq!(dead.len(), 2, "{dead:?}");
    let headers = &dead[0]["headers"];
    assert_eq!(headers["x-dead-letter-reason"], "no such customer: ü");
    assert_eq!((&headers["x-dead-letter-queue"], &headers["h"]), (&json!("q"), &json!(0)));
    assert_eq!(
        (&headers["x-dead-letter-msg-id"], &headers["x-dead-letter-read-ct"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(dead[1]["headers"].get("x-dead-letter-reason"), None);
    let moved = gateway.post("/queues/dlq/redrive", "").await.expect(200).json();
    assert_eq!(moved, json!({"moved": 2}));
    for message in gateway.all("q").await {
        let headers = message["headers"].as_object().expect("headers");
        assert_eq!(headers.len(), 1, "only its own: {message}");
    }
}

/// Without a queue for them they are kept in the archive, and say why.
#[tokio::test]
async fn a_dead_letter_goes_to_the_archive_where_no_queue_is_named() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let body = json!({"dead_letter": [{"msg_id": 1, "reason": "broken"}]});
    assert_eq!(settled(&gateway, body).await["dead_lettered"], json!([1]));
    assert!(gateway.all("q").await.is_empty());
    let archived = gateway.get("/queues/q/archive").await.expect(200).messages();
    assert_eq!(archived[0]["headers"]["x-dead-letter-reason"], "broken");
    let replayed = gateway.post("/queues/q/archive/replay", r#"{"msg_ids":[1]}"#).await.expect(200);
    assert_eq!(replayed.json(), json!({"replayed": 1}));
    assert_eq!(gateway.all("q").await[0]["headers"], Value::Null);
}

/// One that its queue does not take stays, and keeps no other from being settled.
#[tokio::test]
async fn what_the_dead_letter_queue_refuses_fails_alone() {
    let gateway = with_dead_letter_queue(4).await;
    gateway
        .database
        .execute("ALTER TABLE pgmq.q_dlq ADD CHECK (message <> '1'), ADD UNIQUE (message)")
        .await;
    gateway.send("dlq", r#"{"message":2}"#).await;
    let stale = gateway.receive_one("q", "vt=0").await;
    gateway.receive("q", "qty=4&vt=0").await;
    let answer = settled(
        &gateway,
        json!({"delete": [{"msg_id": 4}],
               "dead_letter": [{"receipt": stale["receipt"]}, {"msg_id": 2}, {"msg_id": 3},
                               {"msg_id": 99}, {"msg_id": 1, "reason": "r"}, {"receipt": "nonsense"}]}),
    )
    .await;
    assert_eq!((&answer["deleted"], &answer["dead_lettered"]), (&json!([4]), &json!([1])));
    let failed = answer["failed"].as_array().expect("failed");
    let mut failed: Vec<_> = failed
        .iter()
        .map(|f| (f["msg_id"].as_i64(), f["code"].as_str().expect("a code")))
        .collect();
    failed.sort_unstable();
    let expected = [
        (None, "invalid_request"),
        (Some(1), "receipt_stale"),
        (Some(2), "forbidden"),
        (Some(3), "message_conflict"),
        (Some(99), "message_not_found"),
    ];
    assert_eq!(failed, expected, "{answer}");
    assert_eq!(gateway.all("q").await.len(), 2);
}

#[tokio::test]
async fn a_locked_dead_letter_queue_keeps_nothing_else_from_being_settled() {
    let gateway = with_dead_letter_queue(2).await;
    let holder = Holder::of_tables(&gateway.database, &["q_dlq"], "SHARE").await;
    let body = json!({"delete": [{"msg_id": 1}], "dead_letter": [{"msg_id": 2}]});
    let answer = settled(&gateway, body).await;
    assert_eq!(
        (&answer["deleted"], &answer["failed"][0]["code"]),
        (&json!([1]), &json!("overloaded"))
    );
    holder.rollback().await;
    let body = json!({"dead_letter": [{"msg_id": 2}]});
    assert_eq!(settled(&gateway, body).await["dead_lettered"], json!([2]));
}

#[tokio::test]
async fn who_waits_for_dead_letters_is_given_one_at_once() {
    let gateway = with_dead_letter_queue(1).await;
    let (received, answer) = tokio::join!(
        gateway.receive_one("dlq", "wait=20"),
        settled(&gateway, json!({"dead_letter": [{"msg_id": 1, "reason": "x"}]}))
    );
    assert_eq!(answer["dead_lettered"], json!([1]));
    assert_eq!(received["headers"]["x-dead-letter-reason"], "x");
}

#[tokio::test]
async fn a_reason_that_cannot_be_kept_is_refused_and_nothing_is_done() {
    let gateway = with_dead_letter_queue(1).await;
    for (reason, part) in
        [(json!("x".repeat(1_025)), "1024"), (json!("a\u{0}b"), "u0000"), (json!(7), "reason")]
    {
        let body = json!({"dead_letter": [{"msg_id": 1, "reason": reason}]}).to_string();
        let refused = gateway.post("/queues/q/messages/settle", &body).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part) && detail.contains("dead_letter"), "{detail}");
    }
    let fits = json!({"dead_letter": [{"msg_id": 1, "reason": "x".repeat(1_024)}]});
    assert_eq!(settled(&gateway, fits).await["dead_lettered"], json!([1]));
}

/// A setting that is none, as SQL may write it: it does not count for those who move dead letters, either.
#[tokio::test]
async fn where_no_dead_letter_queue_is_meant_the_archive_is() {
    let long = "x".repeat(48);
    for named in ["q", "a;b", "a--b", "", &long] {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        let settings = json!({"max_receives": 1, "dead_letter_queue": named});
        gateway
            .database
            .execute(&format!("UPDATE pgmq_gateway.queue_settings SET settings = '{settings}'"))
            .await;
        eventually("it is known", async || {
            let shown = gateway.get("/queues/q").await.expect(200).json();
            (shown["settings"]["max_receives"] == 1).then_some(())
        })
        .await;
        for n in 1..=2 {
            gateway.send("q", &json!({"message": n}).to_string()).await;
        }
        let settle = r#"{"dead_letter":[{"msg_id":2}]}"#;
        let settled = gateway.post("/queues/q/messages/settle", settle).await.expect(200).json();
        assert_eq!(settled["dead_lettered"], json!([2]), "{named}: {settled}");
        let mut delivered = 0;
        eventually("it is delivered no more", async || {
            let received = gateway.receive("q", "vt=0").await;
            delivered += received.len();
            received.is_empty().then_some(())
        })
        .await;
        assert!(delivered > 0, "{named}");
        let archived = gateway.get("/queues/q/archive").await.expect(200).messages();
        assert_eq!(archived.len(), 2, "{named}: {archived:?}");
        assert!(gateway.all("q").await.is_empty(), "{named}");
    }
}
