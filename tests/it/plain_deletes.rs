//! Deletes that need no more than that, and what else there is to do to such as are in their way.

use serde_json::{Value, json};

use crate::support::{Answer, Holder, TestGateway};

/// A queue of `count` messages, which have the ids from 1, and the receipts of them all.
async fn delivered(count: usize, vt: u32) -> (TestGateway, Vec<String>) {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let messages: Vec<_> = (0..count).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let receipts = receipts(&gateway, vt).await;
    (gateway, receipts)
}

async fn receipts(gateway: &TestGateway, vt: u32) -> Vec<String> {
    let messages = gateway.receive("q", &format!("qty=100&vt={vt}")).await;
    let receipt = |m: &Value| m["receipt"].as_str().expect("a receipt").to_owned();
    messages.iter().map(receipt).collect()
}

/// Both ways to ask for it, by turns.
async fn delete(gateway: &TestGateway, entries: Value, with_next: bool) -> Value {
    let settle = json!({"delete": entries});
    let ask = async |path: &str, body: Value| -> Answer {
        gateway.post(path, &body.to_string()).await.expect(200)
    };
    if with_next {
        let answer = ask("/queues/q/messages/receive", json!({"settle": settle, "vt": 0})).await;
        answer.json()["settled"].clone()
    } else {
        ask("/queues/q/messages/settle", settle).await.json()
    }
}

fn failures(settled: &Value) -> Vec<(i64, &str)> {
    let failed = settled["failed"].as_array().expect("failed");
    let failure = |one: &'_ Value| one["msg_id"].as_i64().expect("an id");
    failed.iter().map(|one| (failure(one), one["code"].as_str().expect("a code"))).collect()
}

#[tokio::test]
async fn what_cannot_be_deleted_is_told_and_nothing_else_is() {
    let (gateway, first) = delivered(12, 0).await;
    let second = receipts(&gateway, 600).await;
    for (n, with_next) in [(0, false), (3, true), (6, false)] {
        let entries = json!([{"receipt": second[n]}, {"msg_id": 77}, {"receipt": first[n + 1]},
                             {"msg_id": n + 3}]);
        let settled = delete(&gateway, entries, with_next).await;
        assert_eq!(settled["deleted"], json!([n + 1, n + 3]), "{settled}");
        let stale = i64::try_from(n).expect("small") + 2;
        let expected = [(77, "message_not_found"), (stale, "receipt_stale")];
        assert_eq!(failures(&settled), expected);
    }
    let twice = delete(&gateway, json!([{"msg_id": 10}, {"msg_id": 10}]), true).await;
    assert_eq!(twice["deleted"], json!([10]), "{twice}");
    assert_eq!(failures(&twice), [(10, "message_not_found")]);
    assert_eq!(gateway.all("q").await.len(), 5);
}

#[tokio::test]
async fn one_that_is_locked_waits_for_itself() {
    let (gateway, receipts) = delivered(4, 600).await;
    let all: Vec<_> = receipts[1..].iter().map(|receipt| json!({"receipt": receipt})).collect();
    delete(&gateway, json!([{"receipt": receipts[0]}]), true).await;
    let locked = "SELECT FROM pgmq.q_q WHERE msg_id = 3 FOR UPDATE";
    let holder = Holder::of(&gateway.database, locked).await;
    let settled = delete(&gateway, json!(all), true).await;
    assert_eq!(settled["deleted"], json!([2, 4]), "{settled}");
    assert_eq!(failures(&settled).len(), 1, "{settled}");
    assert_eq!(failures(&settled)[0].0, 3);
    holder.rollback().await;
}

/// What was known of the table counts until it changes.
#[tokio::test]
async fn what_a_trigger_keeps_is_not_said_to_be_deleted() {
    let (gateway, receipts) = delivered(6, 600).await;
    delete(&gateway, json!([{"receipt": receipts[0]}]), true).await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN RETURN CASE WHEN old.msg_id % 2 = 0 THEN NULL ELSE old END; END';
             CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
    for (n, with_next) in [(1, true), (3, false)] {
        let entries = json!([{"receipt": receipts[n]}, {"receipt": receipts[n + 1]}]);
        let settled = delete(&gateway, entries, with_next).await;
        assert_eq!(settled["deleted"], json!([n + 2]), "{settled}");
        let kept = i64::try_from(n).expect("small") + 1;
        assert_eq!(failures(&settled), [(kept, "forbidden")], "{settled}");
    }
}
