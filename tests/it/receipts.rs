//! Receipts: settling a message only while it is one's own.

use pgmq_gateway::config::{ReadMode, Settings, Strategy};
use serde_json::{Value, json};

use crate::support::{Answer, Client, TestGateway};

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

#[track_caller]
fn receipt(message: &Value) -> String {
    message["receipt"].as_str().expect("a receipt").to_owned()
}

/// A paused consumer's receipt and the message in the hands of its new holder.
async fn stale_and_current(client: &Client) -> (String, Value) {
    let paused = client.receive_one("q", "vt=0").await;
    let current = client.receive_one("q", "vt=600").await;
    assert_eq!(paused["msg_id"], current["msg_id"]);
    (receipt(&paused), current)
}

/// A delete, an archive and a visibility change, each with this receipt.
async fn settle_each_way(client: &Client, id: i64, receipt: &str) -> [Answer; 3] {
    let path = format!("/queues/q/messages/{id}");
    [
        client.delete(&format!("{path}?receipt={receipt}")).await,
        client.post(&format!("{path}/archive?receipt={receipt}"), "").await,
        client.patch(&format!("{path}?receipt={receipt}"), r#"{"vt":0}"#).await,
    ]
}

#[tokio::test]
async fn a_receipt_is_url_safe_and_of_one_delivery() {
    let gateway = with_queue().await;
    for n in 0..20 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let mut receipts = Vec::new();
    for _ in 0..2 {
        receipts.extend(gateway.receive("q", "qty=20&vt=0").await.iter().map(receipt));
    }
    assert_eq!(receipts.len(), 40);
    let unreserved = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    assert!(receipts.iter().all(|r| !r.is_empty() && r.chars().all(unreserved)), "{receipts:?}");
    receipts.sort();
    receipts.dedup();
    assert_eq!(receipts.len(), 40, "each delivery has its own");
}

#[tokio::test]
async fn every_way_of_receiving_gives_a_receipt() {
    let ways: [fn(&mut Settings); 3] = [
        |_| {},
        |settings| settings.engine.read = ReadMode::Pgmq,
        |settings| settings.long_poll.strategy = Strategy::ReadWithPoll,
    ];
    for way in ways {
        let gateway = TestGateway::with(way).await;
        gateway.create("q").await;
        for parameters in ["", "wait=20", "filter=%7B%22a%22%3A1%7D", "wait=20&vt=60"] {
            let id = gateway.send("q", r#"{"message":{"a":1}}"#).await;
            let receipt = receipt(&gateway.receive_one("q", parameters).await);
            let path = format!("/queues/q/messages/{id}?receipt={receipt}");
            gateway.delete(&path).await.expect(204);
        }
    }
}

#[tokio::test]
async fn a_valid_receipt_deletes() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    let receipt = receipt(&gateway.receive_one("q", "").await);
    gateway.delete(&format!("/queues/q/messages/1?receipt={receipt}")).await.expect(204);
    gateway.get("/queues/q/messages/1").await.problem(404, "message_not_found");
}

#[tokio::test]
async fn a_valid_receipt_archives() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    let receipt = receipt(&gateway.receive_one("q", "").await);
    gateway.post(&format!("/queues/q/messages/1/archive?receipt={receipt}"), "").await.expect(204);
    let archived: i64 = gateway.database.value("SELECT msg_id FROM pgmq.a_q").await;
    assert_eq!(archived, 1);
}

#[tokio::test]
async fn a_receipt_outlives_a_change_of_visibility() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    let receipt = receipt(&gateway.receive_one("q", "vt=60").await);
    let path = format!("/queues/q/messages/1?receipt={receipt}");
    for vt in [600, 1200, 0] {
        let changed = gateway.patch(&path, &json!({"vt": vt}).to_string()).await.expect(200).json();
        assert_eq!((&changed["msg_id"], &changed["read_ct"]), (&json!(1), &json!(1)));
        assert_eq!(changed["receipt"], receipt, "the delivery is still the same");
    }
    gateway.delete(&path).await.expect(204);
}

#[tokio::test]
async fn a_paused_consumer_cannot_disturb_the_new_holder() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let (stale, current) = stale_and_current(&gateway).await;
    for refused in settle_each_way(&gateway, id, &stale).await {
        refused.problem(409, "receipt_stale");
    }
    let shown = gateway.get(&format!("/queues/q/messages/{id}")).await.expect(200).json();
    assert_eq!((&shown["vt"], &shown["read_ct"]), (&current["vt"], &json!(2)), "undisturbed");
    let archived: i64 = gateway.database.value("SELECT count(*) FROM pgmq.a_q").await;
    assert_eq!(archived, 0);
    let path = format!("/queues/q/messages/{id}?receipt={}", receipt(&current));
    gateway.patch(&path, r#"{"vt":60}"#).await.expect(200);
    gateway.delete(&path).await.expect(204);
}

/// The same with leases that run out by themselves.
#[tokio::test]
async fn a_lease_that_ran_out_counts_until_somebody_else_receives() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    let first = receipt(&gateway.receive_one("q", "vt=1").await);
    let second = receipt(&gateway.receive_one("q", "vt=1&wait=20").await);
    let path = "/queues/q/messages/1?receipt=";
    gateway.delete(&format!("{path}{first}")).await.problem(409, "receipt_stale");
    let third = receipt(&gateway.receive_one("q", "vt=600&wait=20").await);
    gateway.delete(&format!("{path}{second}")).await.problem(409, "receipt_stale");
    gateway.delete(&format!("{path}{third}")).await.expect(204);
}

#[tokio::test]
async fn a_lease_that_ran_out_and_was_not_taken_is_still_ones_own() {
    let gateway = with_queue().await;
    for _ in 0..3 {
        gateway.send("q", r#"{"message":1}"#).await;
    }
    let mut ours = gateway.receive("q", "vt=0&qty=3").await.into_iter();
    let mut path = || {
        let message = ours.next().expect("three were received");
        (format!("/queues/q/messages/{}", message["msg_id"]), receipt(&message))
    };
    let (message, receipt) = path();
    gateway.delete(&format!("{message}?receipt={receipt}")).await.expect(204);
    let (message, receipt) = path();
    gateway.post(&format!("{message}/archive?receipt={receipt}"), "").await.expect(204);
    let (message, receipt) = path();
    let more_time = gateway.patch(&format!("{message}?receipt={receipt}"), r#"{"vt":600}"#).await;
    assert_eq!(more_time.expect(200).json()["receipt"], receipt);
    assert!(gateway.receive("q", "qty=10").await.is_empty());
}

#[tokio::test]
async fn a_message_that_was_given_back_and_taken_is_no_longer_ones_own() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let given_back = receipt(&gateway.receive_one("q", "vt=600").await);
    let path = format!("/queues/q/messages/{id}?receipt={given_back}");
    gateway.patch(&path, r#"{"vt":0}"#).await.expect(200);
    gateway.receive_one("q", "vt=600").await;
    for refused in settle_each_way(&gateway, id, &given_back).await {
        refused.problem(409, "receipt_stale");
    }
}

/// An SQL client's delivery counts like any other.
#[tokio::test]
async fn a_message_that_an_sql_client_read_since_is_no_longer_ones_own() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let stale = receipt(&gateway.receive_one("q", "vt=0").await);
    gateway.database.execute("SELECT pgmq.read('q', 600, 1)").await;
    for refused in settle_each_way(&gateway, id, &stale).await {
        refused.problem(409, "receipt_stale");
    }
}

#[tokio::test]
async fn what_is_no_receipt_is_refused() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let good = receipt(&gateway.receive_one("q", "vt=600").await);
    let flipped = |at: usize| -> String {
        let flip = |c| if c == '0' { '1' } else { '0' };
        good.chars().enumerate().map(|(n, c)| if n == at { flip(c) } else { c }).collect()
    };
    let garbage = ["", "garbage", "0", "AAAA", "%00", "..", "a%20b", "%F0%9F%98%80"];
    let mut wrong: Vec<String> = garbage.iter().map(ToString::to_string).collect();
    wrong.extend((0..good.len()).map(flipped));
    wrong.push(good[1..].to_owned());
    wrong.push(good[..good.len() - 1].to_owned());
    wrong.push(format!("{good}{good}"));
    wrong.push("x".repeat(4_000));
    for wrong in wrong {
        for refused in settle_each_way(&gateway, id, &wrong).await {
            assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
            assert!(refused.problem(400, "invalid_request").detail().contains("receipt"));
        }
    }
    gateway.delete(&format!("/queues/q/messages/{id}?receipt={good}")).await.expect(204);
}

#[tokio::test]
async fn a_receipt_is_for_the_message_in_the_path() {
    let gateway = with_queue().await;
    for _ in 0..2 {
        gateway.send("q", r#"{"message":1}"#).await;
    }
    let received = gateway.receive("q", "qty=2").await;
    let of_the_first = received.iter().find(|m| m["msg_id"] == 1).expect("the first");
    for id in [2, 99] {
        for refused in settle_each_way(&gateway, id, &receipt(of_the_first)).await {
            refused.problem(400, "invalid_request");
        }
    }
    assert_eq!(gateway.all("q").await.len(), 2);
}

/// The new queue has a message with the same id that was delivered as often.
#[tokio::test]
async fn a_receipt_ends_with_its_queue() {
    let gateway = with_queue().await;
    for by_sql in [false, true] {
        gateway.send("q", r#"{"message":"old"}"#).await;
        let old = gateway.receive_one("q", "vt=600").await;
        if by_sql {
            let again = "SELECT pgmq.drop_queue('q'); SELECT pgmq.create('q')";
            gateway.database.execute(again).await;
        } else {
            gateway.delete("/queues/q").await.expect(204);
            gateway.create("q").await;
        }
        let id = gateway.send("q", r#"{"message":"new"}"#).await;
        let new = gateway.receive_one("q", "vt=600").await;
        assert_eq!((&old["msg_id"], &old["read_ct"]), (&new["msg_id"], &new["read_ct"]));
        for refused in settle_each_way(&gateway, id, &receipt(&old)).await {
            refused.problem(409, "receipt_stale");
        }
        let path = format!("/queues/q/messages/{id}?receipt={}", receipt(&new));
        gateway.delete(&path).await.expect(204);
        gateway.delete("/queues/q").await.expect(204);
        gateway.create("q").await;
    }
}

#[tokio::test]
async fn a_receipt_is_for_its_own_queue() {
    let gateway = with_queue().await;
    gateway.create("other").await;
    for queue in ["q", "other"] {
        gateway.send(queue, r#"{"message":1}"#).await;
    }
    gateway.receive_one("q", "").await;
    let other = receipt(&gateway.receive_one("other", "").await);
    for refused in settle_each_way(&gateway, 1, &other).await {
        refused.problem(409, "receipt_stale");
    }
    gateway.delete(&format!("/queues/other/messages/1?receipt={other}")).await.expect(204);
}

#[tokio::test]
async fn a_receipt_works_at_every_gateway() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    let id = one.send("q", r#"{"message":1}"#).await;
    let stale = receipt(&one.receive_one("q", "vt=0").await);
    let current = receipt(&other.receive_one("q", "vt=600").await);
    for client in [&one, &other] {
        for refused in settle_each_way(client, id, &stale).await {
            refused.problem(409, "receipt_stale");
        }
    }
    let path = format!("/queues/q/messages/{id}?receipt={current}");
    assert_eq!(one.patch(&path, r#"{"vt":60}"#).await.expect(200).json()["receipt"], current);
    one.delete(&path).await.expect(204);
    other.delete(&path).await.problem(404, "message_not_found");
}

#[tokio::test]
async fn a_message_that_is_gone_is_not_found() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let receipt = receipt(&gateway.receive_one("q", "").await);
    gateway.delete(&format!("/queues/q/messages/{id}?receipt={receipt}")).await.expect(204);
    for gone in settle_each_way(&gateway, id, &receipt).await {
        gone.problem(404, "message_not_found");
    }
}

#[tokio::test]
async fn only_a_delivery_has_a_receipt() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.receive_one("q", "vt=0").await;
    let shown = gateway.get("/queues/q/messages/1").await.expect(200).json();
    let peeked = gateway.get("/queues/q/peek").await.expect(200).messages().remove(0);
    let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages().remove(0);
    for message in [shown, peeked, popped] {
        assert_eq!(message.get("receipt"), Some(&Value::Null), "{message}");
    }
}

#[tokio::test]
async fn without_a_receipt_the_id_alone_counts() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    stale_and_current(&gateway).await;
    gateway.delete("/queues/q/messages/1").await.expect(204);
}

/// They meet in the same statements, at both gateways.
#[tokio::test]
async fn of_many_deletes_at_once_the_one_with_the_valid_receipt_deletes() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    for _ in 0..10 {
        let id = gateways[0].send("q", r#"{"message":1}"#).await;
        let mut receipts = Vec::new();
        for n in 0..10 {
            let vt = if n < 9 { "vt=0" } else { "vt=600" };
            receipts.push(receipt(&gateways[n % 2].receive_one("q", vt).await));
        }
        let deletes = receipts.iter().zip(gateways.iter().cycle()).map(|(receipt, gateway)| {
            let (client, receipt) = (gateway.client.clone(), receipt.clone());
            let path = format!("/queues/q/messages/{id}?receipt={receipt}");
            tokio::spawn(async move { client.delete(&path).await })
        });
        let mut statuses = Vec::new();
        for delete in deletes.collect::<Vec<_>>() {
            statuses.push(delete.await.expect("no panic").status);
        }
        let valid = statuses.pop();
        assert_eq!(valid, Some(204), "stale ones: {statuses:?}");
        assert!(statuses.iter().all(|status| [409, 404].contains(status)), "{statuses:?}");
    }
}
