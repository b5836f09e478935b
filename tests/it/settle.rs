//! `/queues/{queue}/messages/settle`: many messages in one call.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Answer, Client, TestGateway};

/// A queue of `count` messages, which have the ids from 1.
async fn with_messages(count: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    send(&gateway, count).await;
    gateway
}

async fn send(client: &Client, count: usize) {
    let messages: Vec<_> = (0..count).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    client.post("/queues/q/messages/batch", &batch).await.expect(201);
}

async fn settle(client: &Client, body: Value) -> Answer {
    client.post("/queues/q/messages/settle", &body.to_string()).await
}

async fn settled(client: &Client, body: Value) -> Value {
    settle(client, body).await.expect(200).json()
}

/// Receives everything, and returns the receipts in order of the ids.
async fn receipts(client: &Client, parameters: &str) -> Vec<String> {
    let mut messages = client.receive("q", &format!("qty=100&{parameters}")).await;
    messages.sort_by_key(|message| message["msg_id"].as_i64());
    let receipt = |message: &Value| message["receipt"].as_str().expect("a receipt").to_owned();
    messages.iter().map(receipt).collect()
}

async fn ids(client: &Client) -> Vec<i64> {
    client.all("q").await.iter().map(|m| m["msg_id"].as_i64().expect("an id")).collect()
}

/// Ids of a list, in no order.
#[track_caller]
fn sorted(list: &Value) -> Vec<i64> {
    let mut ids: Vec<i64> = serde_json::from_value(list.clone()).expect("ids");
    ids.sort_unstable();
    ids
}

/// The failures as (id, code), in no order; each has a detail.
#[track_caller]
fn failures(answer: &Value) -> Vec<(Option<i64>, String)> {
    let failed = answer["failed"].as_array().expect("failed");
    let failure = |failed: &Value| {
        assert!(failed["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{failed}");
        assert_eq!(failed.as_object().map(serde_json::Map::len), Some(3), "{failed}");
        (failed["msg_id"].as_i64(), failed["code"].as_str().expect("a code").to_owned())
    };
    let mut failures: Vec<_> = failed.iter().map(failure).collect();
    failures.sort();
    failures
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_told_so_whatever_is_left_to_do() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for body in
        [json!({}), json!({"delete": [{"receipt": "zz"}]}), json!({"delete": [{"msg_id": 1}]})]
    {
        let path = "/queues/none/messages/settle";
        gateway.post(path, &body.to_string()).await.problem(404, "queue_not_found");
        settle(&gateway, body).await.expect(200);
    }
}

#[tokio::test]
async fn ids_and_receipts_are_settled_together() {
    let gateway = with_messages(7).await;
    let receipts = receipts(&gateway, "vt=600").await;
    let answer = settled(
        &gateway,
        json!({
            "delete": [{"msg_id": 1}, {"receipt": receipts[1]}],
            "archive": [{"receipt": receipts[2]}, {"msg_id": 4}],
            "retry": [{"msg_id": 5, "delay": 0}, {"receipt": receipts[5], "delay": 600}],
        }),
    );
    let answer = answer.await;
    assert_eq!(sorted(&answer["deleted"]), [1, 2]);
    assert_eq!(sorted(&answer["archived"]), [3, 4]);
    assert_eq!(sorted(&answer["retried"]), [5, 6]);
    assert_eq!(answer["failed"], json!([]));
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(5), "{answer}");
    assert_eq!(ids(&gateway).await, [5, 6, 7]);
    let archived = "SELECT string_agg(msg_id::text, ' ' ORDER BY msg_id) FROM pgmq.a_q";
    assert_eq!(gateway.database.value::<String>(archived).await, "3 4");
    assert_eq!(gateway.receive_one("q", "qty=100").await["msg_id"], 5);
}

#[tokio::test]
async fn each_list_can_stand_alone() {
    let gateway = with_messages(3).await;
    let nothing =
        json!({"deleted": [], "archived": [], "dead_lettered": [], "retried": [], "failed": []});
    for (n, list, done) in
        [(1, "delete", "deleted"), (2, "archive", "archived"), (3, "retry", "retried")]
    {
        let mut expected = nothing.clone();
        expected[done] = json!([n]);
        assert_eq!(settled(&gateway, json!({list: [{"msg_id": n}]})).await, expected);
    }
}

#[tokio::test]
async fn a_retry_moves_the_visibility() {
    let gateway = with_messages(2).await;
    let receipts = receipts(&gateway, "vt=30").await;
    let before = Utc::now();
    let retry = json!([{"msg_id": 1, "delay": 600}, {"receipt": receipts[1], "delay": 6_000}]);
    settled(&gateway, json!({"retry": retry})).await;
    for (message, delay) in gateway.all("q").await.iter().zip([600, 6_000]) {
        let vt: DateTime<Utc> = message["vt"].as_str().expect("a time").parse().expect("a time");
        let moved = vt - before - TimeDelta::seconds(delay);
        assert!((-2..60).contains(&moved.num_seconds()), "{message}");
        assert_eq!(message["read_ct"], 1, "that is no delivery");
    }
}

/// A retry that says no delay gives the message back at once.
#[tokio::test]
async fn a_retry_wakes_who_waits() {
    let gateway = with_messages(1).await;
    let receipts = receipts(&gateway, "vt=600").await;
    let (received, answer) = tokio::join!(
        gateway.receive_one("q", "wait=20"),
        settled(&gateway, json!({"retry": [{"receipt": receipts[0]}]}))
    );
    assert_eq!(answer["retried"], json!([1]));
    assert_eq!(received["read_ct"], 2);
}

#[tokio::test]
async fn a_bad_entry_fails_alone() {
    let gateway = with_messages(4).await;
    let stale = receipts(&gateway, "vt=0").await;
    let current = receipts(&gateway, "vt=600").await;
    let answer = settled(
        &gateway,
        json!({
            "delete": [{"msg_id": 99}, {"receipt": stale[0]}, {"receipt": current[1]}],
            "archive": [{"receipt": "garbage"}, {"receipt": current[2]}],
            "retry": [{"receipt": stale[3], "delay": 0}, {"msg_id": 98, "delay": 0}],
        }),
    );
    let answer = answer.await;
    assert_eq!((&answer["deleted"], &answer["archived"]), (&json!([2]), &json!([3])));
    assert_eq!(answer["retried"], json!([]));
    let expected = [
        (None, "invalid_request".to_owned()),
        (Some(1), "receipt_stale".to_owned()),
        (Some(4), "receipt_stale".to_owned()),
        (Some(98), "message_not_found".to_owned()),
        (Some(99), "message_not_found".to_owned()),
    ];
    assert_eq!(failures(&answer), expected);
    assert_eq!(ids(&gateway).await, [1, 4]);
    assert!(gateway.receive("q", "qty=100").await.is_empty(), "the holders keep theirs");
}

#[tokio::test]
async fn a_receipt_of_another_queue_is_stale() {
    let gateway = with_messages(1).await;
    gateway.create("other").await;
    gateway.send("other", r#"{"message":1}"#).await;
    receipts(&gateway, "").await;
    let other = gateway.receive_one("other", "").await;
    let answer = settled(&gateway, json!({"delete": [{"receipt": other["receipt"]}]})).await;
    assert_eq!(answer["deleted"], json!([]));
    assert_eq!(answer["failed"][0]["code"], "receipt_stale");
    assert_eq!((gateway.all("q").await.len(), gateway.all("other").await.len()), (1, 1));
}

#[tokio::test]
async fn the_same_id_twice_is_deleted_once() {
    let gateway = with_messages(1).await;
    let answer = settled(&gateway, json!({"delete": [{"msg_id": 1}, {"msg_id": 1}]})).await;
    assert_eq!(answer["deleted"], json!([1]));
    assert_eq!(failures(&answer), [(Some(1), "message_not_found".into())]);
}

#[tokio::test]
async fn the_same_message_by_receipt_and_by_id_is_archived_once() {
    let gateway = with_messages(1).await;
    let receipts = receipts(&gateway, "").await;
    let both = json!({"archive": [{"receipt": receipts[0]}, {"msg_id": 1}]});
    let answer = settled(&gateway, both).await;
    assert_eq!(answer["archived"], json!([1]));
    assert_eq!(failures(&answer), [(Some(1), "message_not_found".into())]);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.a_q").await, 1);
}

#[tokio::test]
async fn a_thousand_entries_are_settled_in_all() {
    let gateway = with_messages(999).await;
    let entries = |from: i64, to: i64| -> Value {
        (from..=to).map(|id| json!({"msg_id": id})).collect::<Vec<_>>().into()
    };
    let body = |last: i64| {
        json!({"delete": entries(1, 400), "archive": entries(401, 800),
               "retry": entries(801, last)})
    };
    let refused = settle(&gateway, body(1001)).await.problem(400, "invalid_request");
    assert!(refused.detail().contains("1000"), "{}", refused.detail());
    assert_eq!(ids(&gateway).await.first(), Some(&1), "nothing was done");
    let answer = settled(&gateway, body(1000)).await;
    assert_eq!(sorted(&answer["deleted"]), (1..=400).collect::<Vec<_>>());
    assert_eq!(sorted(&answer["archived"]), (401..=800).collect::<Vec<_>>());
    assert_eq!(sorted(&answer["retried"]), (801..=999).collect::<Vec<_>>());
    assert_eq!(failures(&answer), [(Some(1000), "message_not_found".into())]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_whole() {
    let gateway = with_messages(1).await;
    let good = receipts(&gateway, "vt=0").await.remove(0);
    for (wrong, part) in [
        (json!({"delete": [{"msg_id": 1}, {}]}), "delete"),
        (json!({"delete": [{"msg_id": 1}, {"msg_id": 1, "receipt": good}]}), "delete"),
        (json!({"archive": [{}], "delete": [{"msg_id": 1}]}), "archive"),
        (json!({"retry": [{"delay": 1}], "delete": [{"msg_id": 1}]}), "retry"),
        (json!({"retry": [{"msg_id": 1, "delay": -1}]}), "delay"),
        (json!({"retry": [{"msg_id": 1, "delay": 315_360_001}]}), "delay"),
        (json!({"delete": [{"msg_id": 1, "delay": 1}]}), "delay"),
        (json!({"delete": [{"msg_id": 1, "recipt": good}]}), "recipt"),
        (json!({"delete": [{"msg_id": "1"}]}), "msg_id"),
        (json!({"delete": [{"receipt": 1}]}), "receipt"),
        (json!({"delete": [1]}), "delete"),
        (json!({"delete": {"msg_id": 1}}), "delete"),
        (json!({"delete": [{"msg_id": 1}], "remove": []}), "remove"),
    ] {
        let refused = settle(&gateway, wrong.clone()).await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part), "{wrong}: {detail}");
    }
    gateway.post("/queues/q/messages/settle", "").await.problem(400, "invalid_request");
    assert_eq!(ids(&gateway).await, [1]);
    let missing = gateway.post("/queues/none/messages/settle", r#"{"delete":[{"msg_id":1}]}"#);
    missing.await.problem(404, "queue_not_found");
}

/// SQL clients give messages any id. One that is not there is in nobody's way either.
#[tokio::test]
async fn ids_below_one_are_like_others() {
    let gateway = with_messages(2).await;
    let insert = "INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE
                  VALUES (-5, now(), '1'), (0, now(), '1')";
    gateway.database.execute(insert).await;
    let entry = |id: i64| json!({"msg_id": id});
    let answer = settled(
        &gateway,
        json!({
            "delete": [entry(1), entry(-5), entry(-9)],
            "retry": [{"msg_id": 0, "delay": 600}], "archive": [entry(i64::MIN)],
        }),
    )
    .await;
    assert_eq!(sorted(&answer["deleted"]), [-5, 1], "{answer}");
    assert_eq!(answer["retried"], json!([0]), "{answer}");
    let missing = |id| (Some(id), "message_not_found".to_owned());
    assert_eq!(failures(&answer), [missing(i64::MIN), missing(-9)]);
    let body = r#"{"delete":[{"msg_id":2},{"msg_id":9223372036854775808}]}"#;
    let refused = gateway.post("/queues/q/messages/settle", body).await;
    let detail = refused.problem(400, "invalid_request").detail();
    assert!(detail.contains("msg_id"), "{detail}");
    // As JSON has it.
    let answer = settled(&gateway, json!({"delete": [{"msg_id": 2.0}]})).await;
    assert_eq!(answer["deleted"], json!([2]));
}

/// Both ask for everything, at two gateways: each message is deleted by one of them.
#[tokio::test]
async fn crossing_calls_share_the_messages() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    for _ in 0..5 {
        send(&one, 100).await;
        let ids = ids(&one).await;
        let forwards: Vec<_> = ids.iter().map(|id| json!({"msg_id": id})).collect();
        let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
        let (first, second) = tokio::join!(
            settled(&one, json!({"delete": forwards})),
            settled(&other, json!({"delete": backwards}))
        );
        let mut deleted = sorted(&first["deleted"]);
        deleted.extend(sorted(&second["deleted"]));
        deleted.sort_unstable();
        assert_eq!(deleted, ids);
        assert_eq!(failures(&first).len() + failures(&second).len(), 100);
    }
}
