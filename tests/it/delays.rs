//! As far ahead as PGMQ takes it: people schedule months ahead.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Client, TestGateway};

const LONGEST: i64 = 315_360_000;

/// Whether a message becomes visible so many seconds from now, give or take a minute.
#[track_caller]
fn is_hidden_for(message: &Value, seconds: i64) {
    let vt: DateTime<Utc> = message["vt"].as_str().expect("a time").parse().expect("a time");
    let off = vt - Utc::now() - TimeDelta::seconds(seconds);
    assert!(off.num_seconds().abs() < 60, "{message}");
}

async fn only(client: &Client, queue: &str) -> Value {
    client.all(queue).await.remove(0)
}

#[tokio::test]
async fn messages_are_hidden_for_up_to_ten_years() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", &json!({"message": 1, "delay": LONGEST}).to_string()).await;
    is_hidden_for(&only(&gateway, "q").await, LONGEST);
    gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    // A client that waits beside what is due in ten years is told of what comes.
    is_hidden_for(&gateway.receive_one("q", &format!("vt={LONGEST}")).await, LONGEST);
    let (received, _) = tokio::join!(
        gateway.receive_one("q", "wait=20"),
        gateway.send("q", r#"{"message":"now"}"#)
    );
    assert_eq!(received["message"], "now");
    let patched = gateway.patch("/queues/q/messages/1", &json!({"vt": LONGEST}).to_string()).await;
    is_hidden_for(&patched.expect(200).json(), LONGEST);
    let settle = json!({"retry": [{"msg_id": 1, "delay": LONGEST}], "delete": [{"msg_id": 2}]});
    gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200);
    is_hidden_for(&only(&gateway, "q").await, LONGEST);
    for set in [json!({"vt": LONGEST}), json!({"visible_at": Utc::now() + TimeDelta::days(3_600)})]
    {
        let mut set_vt = set;
        (set_vt["queue"], set_vt["msg_id"]) = ("q".into(), 1.into());
        let body = json!({"operations": [{"set_vt": set_vt}]}).to_string();
        gateway.post("/transactions", &body).await.expect(200);
    }
    is_hidden_for(&only(&gateway, "q").await, 3_600 * 86_400);
}

#[tokio::test]
async fn a_queue_can_hide_and_delay_for_as_long() {
    let gateway = TestGateway::start().await;
    let settings = json!({"delay": LONGEST, "visibility_timeout": LONGEST});
    gateway.create_with("q", &json!({"settings": settings})).await;
    gateway.send("q", r#"{"message":1}"#).await;
    is_hidden_for(&only(&gateway, "q").await, LONGEST);
    let soon = json!({"message": 2, "visible_at": Utc::now() + TimeDelta::days(3_640)});
    gateway.send("q", &soon.to_string()).await;
    is_hidden_for(&gateway.all("q").await[1], 3_640 * 86_400);
    let transacted =
        json!({"operations": [{"send": {"queue": "q", "message": 3, "delay": LONGEST}}]});
    gateway.post("/transactions", &transacted.to_string()).await.expect(200);
    is_hidden_for(&gateway.all("q").await[2], LONGEST);
    gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    is_hidden_for(&gateway.receive_one("q", "").await, LONGEST);
}

#[tokio::test]
async fn what_is_further_ahead_is_refused() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let later = Utc::now() + TimeDelta::seconds(LONGEST + 3_600);
    for answer in [
        gateway
            .post("/queues/q/messages", &json!({"message": 1, "delay": LONGEST + 1}).to_string())
            .await,
        gateway
            .post("/queues/q/messages", &json!({"message": 1, "visible_at": later}).to_string())
            .await,
        gateway.patch("/queues/q/messages/1", &json!({"visible_at": later}).to_string()).await,
        gateway.get(&format!("/queues/q/messages?vt={}", LONGEST + 1)).await,
    ] {
        let detail = answer.problem(400, "invalid_request").detail();
        assert!(detail.contains("315360000"), "{detail}");
    }
}
