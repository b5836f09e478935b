//! `/transactions`: several operations, all or nothing.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::{Answer, Client, TestGateway};

async fn with_queues(queues: &[&str]) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in queues {
        gateway.create(queue).await;
    }
    gateway
}

async fn transact(client: &Client, operations: Value) -> Answer {
    client.post("/transactions", &json!({"operations": operations}).to_string()).await
}

/// The results of operations that succeed.
async fn results(client: &Client, operations: Value) -> Value {
    let answer = transact(client, operations).await.expect(200).json();
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
    answer["results"].clone()
}

/// Insists on a problem with one of the operations.
#[track_caller]
fn failed_at(answer: Answer, index: usize, status: u16, code: &str) {
    let answer = answer.problem(status, code);
    assert_eq!(answer.json()["index"], index, "{}", answer.text);
    let detail = answer.detail();
    assert!(detail.contains(&format!("operations[{index}]")), "{detail}");
}

async fn values(client: &Client, queue: &str) -> Vec<Value> {
    client.all(queue).await.iter().map(|message| message["message"].clone()).collect()
}

#[tokio::test]
async fn results_come_in_the_order_of_the_operations() {
    let gateway = with_queues(&["a", "b"]).await;
    for n in 1..=3 {
        gateway.send("a", &json!({"message": n}).to_string()).await;
    }
    let before = Utc::now();
    let results = results(
        &gateway,
        json!([
            {"send": {"queue": "b", "message": "first", "headers": {"h": 1}}},
            {"delete": {"queue": "a", "msg_id": 2}},
            {"set_vt": {"queue": "a", "msg_id": 3, "vt": 600}},
            {"send": {"queue": "b", "message": "second", "delay": 600}},
            {"archive": {"queue": "a", "msg_id": 1}},
            {"send": {"queue": "a", "message": "third"}},
        ]),
    );
    let results = results.await;
    for (index, id) in [(0, 1), (1, 2), (3, 2), (4, 1), (5, 4)] {
        assert_eq!(results[index], json!({"msg_id": id}), "{results}");
    }
    assert_eq!(results[2]["msg_id"], 3);
    let vt: DateTime<Utc> = results[2]["vt"].as_str().expect("a vt").parse().expect("a time");
    let moved = vt - before - TimeDelta::seconds(600);
    assert!((-2..60).contains(&moved.num_seconds()), "{results}");
    assert_eq!(results.as_array().map(Vec::len), Some(6));

    assert_eq!(gateway.receive_one("a", "qty=10").await["message"], "third");
    let first = gateway.receive_one("b", "qty=10").await;
    assert_eq!((&first["message"], &first["headers"]), (&json!("first"), &json!({"h": 1})));
    assert_eq!(values(&gateway, "a").await, [json!(3), json!("third")]);
    assert_eq!(values(&gateway, "b").await, [json!("first"), json!("second")]);
    let archived: i64 = gateway.database.value("SELECT msg_id FROM pgmq.a_a").await;
    assert_eq!(archived, 1);
}

/// A worker finishes one step and starts the next.
#[tokio::test]
async fn a_step_ends_and_the_next_begins() {
    let gateway = with_queues(&["steps", "next"]).await;
    gateway.send("steps", r#"{"message":1}"#).await;
    let receipt = gateway.receive_one("steps", "").await["receipt"].clone();
    let step = json!([
        {"delete": {"queue": "steps", "receipt": receipt}},
        {"send": {"queue": "next", "message": 2}},
    ]);
    let done = results(&gateway, step.clone()).await;
    assert_eq!(done, json!([{"msg_id": 1}, {"msg_id": 1}]));
    failed_at(transact(&gateway, step).await, 0, 404, "message_not_found");
    assert_eq!(values(&gateway, "steps").await, [0; 0]);
    assert_eq!(values(&gateway, "next").await, [2], "sent once");
}

#[tokio::test]
async fn receipts_settle_in_every_way() {
    let gateway = with_queues(&["q"]).await;
    for n in 1..=3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let received = gateway.receive("q", "qty=3").await;
    let receipt = |id: i64| {
        let message = received.iter().find(|message| message["msg_id"] == id);
        message.expect("received")["receipt"].clone()
    };
    let results = results(
        &gateway,
        json!([
            {"delete": {"queue": "q", "receipt": receipt(1)}},
            {"archive": {"queue": "q", "receipt": receipt(2)}},
            {"set_vt": {"queue": "q", "receipt": receipt(3), "vt": 0}},
        ]),
    );
    let results = results.await;
    let ids: Vec<_> = (0..3).map(|index| results[index]["msg_id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert_eq!(gateway.receive_one("q", "qty=10").await["msg_id"], 3);
}

#[tokio::test]
async fn a_delete_that_fails_undoes_all() {
    let gateway = with_queues(&["a", "b"]).await;
    gateway.send("a", r#"{"message":"kept"}"#).await;
    let kept = gateway.all("a").await;
    let operations = json!([
        {"send": {"queue": "b", "message": 1}},
        {"delete": {"queue": "a", "msg_id": 1}},
        {"delete": {"queue": "a", "msg_id": 99}},
        {"send": {"queue": "b", "message": 2}},
    ]);
    failed_at(transact(&gateway, operations).await, 2, 404, "message_not_found");
    assert_eq!(gateway.all("a").await, kept);
    assert!(gateway.all("b").await.is_empty());
}

#[tokio::test]
async fn every_operation_on_a_missing_message_fails() {
    let gateway = with_queues(&["q"]).await;
    for operation in [
        json!({"delete": {"queue": "q", "msg_id": 99}}),
        json!({"archive": {"queue": "q", "msg_id": 99}}),
        json!({"set_vt": {"queue": "q", "msg_id": 99, "vt": 1}}),
    ] {
        let operations = json!([{"send": {"queue": "q", "message": 1}}, operation]);
        failed_at(transact(&gateway, operations).await, 1, 404, "message_not_found");
        assert!(gateway.all("q").await.is_empty());
    }
}

#[tokio::test]
async fn a_message_can_be_deleted_once() {
    let gateway = with_queues(&["q"]).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let delete = json!({"delete": {"queue": "q", "msg_id": 1}});
    let twice = json!([delete, delete]);
    failed_at(transact(&gateway, twice).await, 1, 404, "message_not_found");
    assert_eq!(values(&gateway, "q").await, [1]);
}

#[tokio::test]
async fn a_stale_receipt_undoes_all() {
    let gateway = with_queues(&["a", "b"]).await;
    gateway.send("a", r#"{"message":1}"#).await;
    let stale = gateway.receive_one("a", "vt=0").await["receipt"].clone();
    let holder = gateway.receive_one("a", "vt=600").await;
    for operation in [
        json!({"delete": {"queue": "a", "receipt": stale}}),
        json!({"archive": {"queue": "a", "receipt": stale}}),
        json!({"set_vt": {"queue": "a", "receipt": stale, "vt": 0}}),
    ] {
        let operations = json!([{"send": {"queue": "b", "message": 1}}, operation]);
        failed_at(transact(&gateway, operations).await, 1, 409, "receipt_stale");
    }
    assert!(gateway.all("b").await.is_empty());
    assert_eq!(gateway.all("a").await[0]["vt"], holder["vt"], "the holder is undisturbed");
    let garbage = json!([{"delete": {"queue": "a", "receipt": "garbage"}}]);
    transact(&gateway, garbage).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn a_missing_queue_undoes_all() {
    let gateway = with_queues(&["q"]).await;
    for operation in [
        json!({"send": {"queue": "none", "message": 1}}),
        json!({"delete": {"queue": "none", "msg_id": 1}}),
        json!({"archive": {"queue": "none", "msg_id": 1}}),
        json!({"set_vt": {"queue": "none", "msg_id": 1, "vt": 1}}),
    ] {
        let send = json!({"send": {"queue": "q", "message": 1}});
        let operations = json!([send, operation, send]);
        failed_at(transact(&gateway, operations).await, 1, 404, "queue_not_found");
        assert!(gateway.all("q").await.is_empty());
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_undoes_all() {
    let gateway = with_queues(&["q"]).await;
    gateway.create_with("small", &json!({"settings": {"max_message_bytes": 100}})).await;
    for (queue, message, status, code) in [
        ("q", json!("\u{0}"), 422, "message_rejected"),
        ("small", json!("x".repeat(200)), 413, "message_too_large"),
    ] {
        let operations = json!([
            {"send": {"queue": "q", "message": 1}},
            {"send": {"queue": queue, "message": message}},
        ]);
        failed_at(transact(&gateway, operations).await, 1, status, code);
        assert!(gateway.all("q").await.is_empty());
    }
}

#[tokio::test]
async fn one_to_a_hundred_operations() {
    let gateway = with_queues(&["q"]).await;
    let sends = |count: usize| -> Value {
        (0..count).map(|n| json!({"send": {"queue": "q", "message": n}})).collect()
    };
    for count in [0, 101] {
        let refused = transact(&gateway, sends(count)).await.problem(400, "invalid_request");
        assert!(refused.detail().contains("1 to 100"), "{}", refused.detail());
    }
    assert!(gateway.all("q").await.is_empty());
    let results = results(&gateway, sends(100)).await;
    let expected: Vec<_> = (1..=100).map(|id| json!({"msg_id": id})).collect();
    assert_eq!(results, json!(expected));
    assert_eq!(values(&gateway, "q").await, (0..100).collect::<Vec<_>>(), "in order");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let gateway = with_queues(&["q"]).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let receipt = gateway.receive_one("q", "vt=600").await["receipt"].clone();
    let before = gateway.all("q").await;
    let (send, delete) = (json!({"queue": "q", "message": 1}), json!({"queue": "q", "msg_id": 1}));
    for wrong in [
        json!({}),
        json!({"send": send, "delete": delete}),
        json!({"publish": send}),
        json!({"send": {"queue": "q"}}),
        json!({"send": {"message": 1}}),
        json!({"send": {"queue": "q", "message": 1, "delay": -1}}),
        json!({"send": {"queue": "q", "message": 1, "headers": []}}),
        json!({"send": {"queue": "q", "message": 1, "msg_id": 1}}),
        json!({"send": {"queue": "Q", "message": 1}}),
        json!({"delete": {"queue": "q"}}),
        json!({"delete": {"queue": "q", "msg_id": 1, "receipt": receipt}}),
        json!({"delete": {"queue": "q", "msg_id": 1, "vt": 1}}),
        json!({"archive": {"msg_id": 1}}),
        json!({"set_vt": {"queue": "q", "msg_id": 1}}),
        json!({"set_vt": {"queue": "q", "msg_id": 1, "vt": 315_360_001}}),
        json!("send"),
    ] {
        let refused = transact(&gateway, json!([{"send": send}, wrong])).await;
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains("operations"), "{wrong}: {detail}");
    }
    for body in ["", "[]", "{}", r#"{"operations":{}}"#, r#"{"operations":[],"more":1}"#] {
        gateway.post("/transactions", body).await.problem(400, "invalid_request");
    }
    assert_eq!(gateway.all("q").await, before);
}

#[tokio::test]
async fn who_waits_gets_what_a_transaction_sends() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    for (here, there) in [(&one, &one), (&one, &other)] {
        let waiting = async {
            let received = there.receive_one("q", "wait=20").await;
            there.delete(&format!("/queues/q/messages/{}", received["msg_id"])).await.expect(204);
            received
        };
        let (received, _) = tokio::join!(waiting, async {
            there.wait_for_waiters("q", 1).await;
            results(here, json!([{"send": {"queue": "q", "message": "awaited"}}])).await
        });
        assert_eq!((&received["message"], &received["read_ct"]), (&json!("awaited"), &json!(1)));
    }
}

#[tokio::test]
async fn who_waits_gets_what_a_transaction_gives_back() {
    let gateway = with_queues(&["q"]).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let receipt = gateway.receive_one("q", "vt=600").await["receipt"].clone();
    let (received, _) = tokio::join!(
        gateway.receive_one("q", "wait=20"),
        results(&gateway, json!([{"set_vt": {"queue": "q", "receipt": receipt, "vt": 0}}]))
    );
    assert_eq!(received["read_ct"], 2);
}

#[tokio::test]
async fn messages_keep_every_digit() {
    let gateway = with_queues(&["q"]).await;
    let number = "12345678901234567890.123456789000";
    let body = format!(
        r#"{{"operations":[{{"send":{{"queue":"q","message":{{"n":{number}}},"headers":{{"h":{number}}}}}}}]}}"#
    );
    gateway.post("/transactions", &body).await.expect(200);
    let received = gateway.get("/queues/q/messages").await.expect(200).text;
    let expected = format!(r#""message":{{"n": {number}}},"headers":{{"h": {number}}}"#);
    assert!(received.contains(&expected), "{received}");
}

#[tokio::test]
async fn a_send_takes_the_queues_delay_unless_it_says_one() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"delay": 600}})).await;
    let sends = json!([
        {"send": {"queue": "q", "message": "delayed"}},
        {"send": {"queue": "q", "message": "now", "delay": 0}},
        {"send": {"queue": "q", "message": "later", "visible_at": "2020-01-01T00:00:00Z"}},
    ]);
    results(&gateway, sends).await;
    let received = gateway.receive("q", "qty=10").await;
    assert_eq!(received.len(), 2, "{received:?}");
    assert!(received.iter().all(|message| message["message"] != "delayed"));
}

/// Each takes first what the other takes last: one of them succeeds.
#[tokio::test]
async fn crossing_transactions_do_not_both_fail() {
    let [one, other] = TestGateway::pair().await;
    for queue in ["a", "b"] {
        one.create(queue).await;
    }
    for _ in 0..5 {
        let [a, b] =
            [one.send("a", r#"{"message":1}"#).await, one.send("b", r#"{"message":1}"#).await];
        let (a, b) = (
            json!({"delete": {"queue": "a", "msg_id": a}}),
            json!({"delete": {"queue": "b", "msg_id": b}}),
        );
        let (first, second) =
            tokio::join!(transact(&one, json!([a, b])), transact(&other, json!([b, a])));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        let texts = [first.text, second.text];
        assert!(statuses == [200, 404] || statuses == [200, 503], "{statuses:?}: {texts:?}");
        assert!(one.all("a").await.is_empty() && one.all("b").await.is_empty());
    }
}

/// As elsewhere, it is the last moment there is.
#[tokio::test]
async fn a_moment_that_no_calendar_has_is_told_as_the_last_one() {
    let gateway = with_queues(&["q"]).await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.for_ever() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.vt := 'infinity'; RETURN NEW; END $$;
             CREATE TRIGGER t BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.for_ever()",
        )
        .await;
    gateway.send("q", r#"{"message":1}"#).await;
    let hide = json!([{"set_vt": {"queue": "q", "msg_id": 1, "vt": 60}}]);
    let told = results(&gateway, hide).await[0]["vt"].clone();
    assert_eq!(told, "9999-12-31T00:00:00.000000Z");
    let shown = gateway.patch("/queues/q/messages/1", r#"{"vt":60}"#).await.expect(200).json();
    assert_eq!(shown["vt"], told);
}
