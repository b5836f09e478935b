//! Ids that several messages of a queue have, as where it is partitioned by time: each of these is a message of its own.

use serde_json::{Value, json};

use crate::support::TestGateway;

/// A queue `q` with an archive and a queue `dead`, whose tables take an id twice, with what the statements put there.
async fn gateway(sql: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in ["q", "dead"] {
        gateway.create(queue).await;
        for table in [format!("q_{queue}"), format!("a_{queue}")] {
            let drop = format!("ALTER TABLE pgmq.{table} DROP CONSTRAINT {table}_pkey");
            gateway.database.execute(&drop).await;
        }
    }
    gateway.database.execute(sql).await;
    gateway
}

/// What these messages say, in order of that.
fn said(messages: &[Value]) -> Vec<String> {
    let mut said: Vec<String> =
        messages.iter().map(|m| m["message"].as_str().expect("a text").to_owned()).collect();
    said.sort_unstable();
    said
}

/// What the messages of a table say of which a condition holds.
async fn stored(gateway: &TestGateway, table: &str, condition: &str) -> Vec<String> {
    let sql = format!(
        "SELECT coalesce(array_agg(message #>> '{{}}' ORDER BY message), '{{}}') FROM pgmq.{table} WHERE {condition}"
    );
    gateway.database.value(&sql).await
}

/// The path of message 1 at the delivery of this one.
fn by_receipt(message: &Value) -> String {
    format!("/queues/q/messages/1?receipt={}", message["receipt"].as_str().expect("a receipt"))
}

const FOUR: &str =
    "INSERT INTO pgmq.q_q (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE VALUES
    (1, now() - interval '4 s', '\"a1\"', '{\"x-pgmq-group\":\"a\"}'),
    (1, now() - interval '3 s', '\"b1\"', '{\"x-pgmq-group\":\"b\"}'),
    (2, now() - interval '2 s', '\"c1\"', '{\"x-pgmq-group\":\"c\"}'),
    (3, now() - interval '1 s', '\"b2\"', '{\"x-pgmq-group\":\"b\"}')";

#[tokio::test]
async fn reads_in_groups_lease_each_message_once() {
    for mode in ["fifo=grouped", "fifo=head", "fifo=round_robin"] {
        let gateway = gateway(FOUR).await;
        let mut received = Vec::new();
        for _ in 0..3 {
            received.push(gateway.receive_one("q", &format!("{mode}&vt=600")).await);
        }
        assert_eq!(said(&received), ["a1", "b1", "c1"], "{mode}");
        assert_eq!(stored(&gateway, "q_q", "vt > now() AND read_ct = 1").await, ["a1", "b1", "c1"]);
        assert!(gateway.receive("q", mode).await.is_empty(), "{mode}: b2 is behind b1");
        // Each receipt is for its own.
        let b1 = received.iter().find(|m| m["message"] == "b1").expect("received");
        gateway.delete(&by_receipt(b1)).await.expect(204);
        assert_eq!(stored(&gateway, "q_q", "true").await, ["a1", "b2", "c1"], "{mode}");
        assert_eq!(said(&gateway.receive("q", &format!("{mode}&qty=9")).await), ["b2"], "{mode}");
    }
}

#[tokio::test]
async fn nothing_of_a_group_comes_ahead_of_others_of_the_id_before_it() {
    let gateway = gateway(
        "INSERT INTO pgmq.q_q (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
         SELECT 1 + i / 2, now(), to_jsonb(i::text), '{\"x-pgmq-group\":\"a\"}' FROM generate_series(0, 2) i",
    )
    .await;
    let received = gateway.receive("q", "fifo=grouped&qty=9&vt=600").await;
    assert!(received.len() == 1 && received[0]["msg_id"] == 1, "{received:?}");
    gateway.delete(&by_receipt(&received[0])).await.expect(204);
    let received = gateway.receive("q", "fifo=grouped&qty=9&vt=600").await;
    let ids: Vec<&Value> = received.iter().map(|message| &message["msg_id"]).collect();
    assert_eq!(ids, [1, 2]);
}

#[tokio::test]
async fn groups_that_take_turns_lease_each_message_once() {
    let gateway = gateway(FOUR).await;
    gateway.configure("q", json!({"fair": true})).await.expect(200);
    let mut received = gateway.receive("q", "qty=9&vt=600").await;
    received.extend(gateway.receive("q", "qty=9&vt=600").await);
    assert_eq!(said(&received), ["a1", "b1", "b2", "c1"]);
    assert_eq!(stored(&gateway, "q_q", "vt <= now() OR read_ct <> 1").await, [""; 0]);
}

#[tokio::test]
async fn a_partitioned_queue_gives_no_message_that_somebody_has() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "ALTER TABLE pgmq.q_q RENAME TO was;
             CREATE TABLE pgmq.q_q (LIKE pgmq.was INCLUDING DEFAULTS INCLUDING IDENTITY) PARTITION BY RANGE (enqueued_at);
             CREATE TABLE pgmq.early PARTITION OF pgmq.q_q FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
             CREATE TABLE pgmq.late PARTITION OF pgmq.q_q FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
             INSERT INTO pgmq.q_q (msg_id, enqueued_at, read_ct, vt, message) OVERRIDING SYSTEM VALUE VALUES
             (1, '2019-01-01', 0, now(), '\"a\"'), (1, now(), 1, now() + interval '1 h', '\"held\"'),
             (1, now(), 0, now(), '\"b\"'), (2, now(), 0, now(), '\"c\"')",
        )
        .await;
    let mut received = vec![gateway.receive_one("q", "vt=600").await];
    assert_eq!(stored(&gateway, "q_q", "vt > now()").await.len(), 2);
    received.extend(gateway.post("/queues/q/messages/pop", "").await.expect(200).messages());
    assert_eq!(stored(&gateway, "q_q", "vt > now()").await.len(), 2);
    received.extend(gateway.receive("q", "qty=9&vt=600").await);
    assert_eq!(said(&received), ["a", "b", "c"]);
    let left = stored(&gateway, "q_q", "true").await;
    assert!(left.len() == 3 && left.contains(&"held".to_owned()), "{left:?}");
}

#[tokio::test]
async fn what_is_given_back_is_that_delivery_alone() {
    let gateway = gateway(FOUR).await;
    let received = gateway.receive("q", "qty=2&vt=600").await;
    assert_eq!(said(&received), ["a1", "b1"]);
    gateway
        .database
        .execute(
            "SELECT pgmq_gateway.release('q', '{1}', '{1}', ARRAY[
                 (extract(epoch FROM last_read_at) * 1000000)::bigint & 4294967295])
             FROM pgmq.q_q WHERE message = '\"b1\"'",
        )
        .await;
    assert_eq!(stored(&gateway, "q_q", "read_ct = 1 AND vt > now()").await, ["a1"]);
}

#[tokio::test]
async fn a_receipt_is_for_one_of_them() {
    let gateway = gateway(FOUR).await;
    gateway
        .database
        .execute(
            "INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE
             SELECT 1, now(), to_jsonb('d' || i) FROM generate_series(1, 4) i",
        )
        .await;
    let received = gateway.receive("q", "qty=9&vt=600").await;
    let receipt = |what: &str| {
        let message = received.iter().find(|m| m["message"] == what).expect("received");
        message["receipt"].as_str().expect("a receipt").to_owned()
    };
    let path = |what: &str, action: &str| {
        format!("/queues/q/messages/1{action}?receipt={}", receipt(what))
    };
    gateway.delete(&path("a1", "")).await.expect(204);
    gateway.post(&path("b1", "/archive"), "").await.expect(204);
    assert_eq!(stored(&gateway, "a_q", "true").await, ["b1"]);
    let shown = gateway.patch(&path("d1", ""), r#"{"vt":0}"#).await.expect(200).json();
    assert_eq!(shown["message"], "d1");
    assert_eq!(stored(&gateway, "q_q", "vt <= now()").await, ["d1"]);
    let settle = json!({"delete": [{"receipt": receipt("d2")}, {"receipt": receipt("d3")}, {"receipt": receipt("a1")}]});
    let settled = gateway.post("/queues/q/messages/settle", &settle.to_string()).await;
    let settled = settled.expect(200).json();
    assert_eq!(settled["deleted"], json!([1, 1]));
    assert_eq!(settled["failed"][0]["code"], "receipt_stale", "{settled}");
    let end = json!({"operations": [{"delete": {"queue": "q", "receipt": receipt("d4")}}]});
    gateway.post("/transactions", &end.to_string()).await.expect(200);
    assert_eq!(stored(&gateway, "q_q", "true").await, ["b2", "c1", "d1"]);
}

#[tokio::test]
async fn what_was_delivered_in_vain_takes_no_other_along() {
    let gateway = gateway(
        "INSERT INTO pgmq.q_q (msg_id, read_ct, vt, message) OVERRIDING SYSTEM VALUE VALUES
         (1, 5, now(), '\"dead\"'), (1, 5, now() + interval '1 h', '\"held\"'), (1, 0, now(), '\"new\"')",
    )
    .await;
    let settings = json!({"max_receives": 2, "dead_letter_queue": "dead"});
    gateway.configure("q", settings).await.expect(200);
    assert_eq!(said(&gateway.receive("q", "qty=9&vt=600").await), ["new"]);
    assert_eq!(stored(&gateway, "q_dead", "true").await, ["dead"]);
    assert_eq!(stored(&gateway, "q_q", "true").await, ["held", "new"]);
}

#[tokio::test]
async fn a_replay_counts_messages_and_takes_no_more_than_are_meant() {
    let gateway = gateway(
        "INSERT INTO pgmq.a_q (msg_id, vt, message)
         SELECT 1 + i / 3, now(), jsonb_build_object('n', i) FROM generate_series(0, 8) i",
    )
    .await;
    let replay = async |body: Value| {
        let answer = gateway.post("/queues/q/archive/replay", &body.to_string()).await;
        answer.expect(200).json()["replayed"].as_i64().expect("a number")
    };
    let left = "SELECT count(*) FROM pgmq.a_q";
    assert_eq!(replay(json!({"limit": 2})).await, 2);
    assert_eq!(gateway.database.value::<i64>(left).await, 7);
    assert_eq!(replay(json!({"limit": 3})).await, 3);
    assert_eq!(replay(json!({"filter": {"n": 7}})).await, 1);
    assert_eq!(gateway.database.value::<i64>(left).await, 3);
    // More of one id than a step takes.
    let many = "INSERT INTO pgmq.a_q (msg_id, vt, message) SELECT 2, now(), '1' FROM generate_series(1, 1100)";
    gateway.database.execute(many).await;
    assert_eq!(replay(json!({})).await, 1103);
    let queued = "SELECT count(*) FROM pgmq.q_q";
    assert_eq!(gateway.database.value::<i64>(queued).await, 1109);
}

#[tokio::test]
async fn a_redrive_counts_messages_and_leaves_what_somebody_has() {
    let gateway = gateway(
        "INSERT INTO pgmq.q_dead (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
         SELECT 1 + i / 3, now() + CASE i WHEN 1 THEN interval '1 h' ELSE interval '0' END, to_jsonb(i::text),
                '{\"x-dead-letter-queue\": \"q\"}' FROM generate_series(0, 5) i",
    )
    .await;
    for (body, moved) in [(r#"{"limit":1}"#, 1), (r#"{"limit":2}"#, 2), ("{}", 2), ("{}", 0)] {
        let answer = gateway.post("/queues/dead/redrive", body).await.expect(200).json();
        assert_eq!(answer["moved"], moved, "{body}: {answer}");
    }
    assert_eq!(stored(&gateway, "q_dead", "true").await, ["1"]);
    assert_eq!(stored(&gateway, "q_q", "true").await, ["0", "2", "3", "4", "5"]);
}

/// One of them is refused where it goes: those of its id stay, and no other.
#[tokio::test]
async fn what_a_queue_refuses_keeps_those_of_its_id_alone() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q ADD CONSTRAINT small CHECK (message <> '\"2\"');
         INSERT INTO pgmq.q_dead (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
         SELECT 1 + i / 3, now(), to_jsonb(i::text), '{\"x-dead-letter-queue\": \"q\"}'
         FROM generate_series(0, 5) i",
    )
    .await;
    let answer = gateway.post("/queues/dead/redrive", "{}").await.expect(200).json();
    assert_eq!(answer["moved"], 3, "{answer}");
    assert_eq!(stored(&gateway, "q_dead", "true").await, ["0", "1", "2"]);
    assert_eq!(stored(&gateway, "q_q", "true").await, ["3", "4", "5"]);
}

#[tokio::test]
async fn pages_leave_none_of_them_out() {
    let rows = "SELECT 1 + i / 3, now(), to_jsonb(i::text) FROM generate_series(0, 8) i";
    let gateway = gateway(&format!(
        "INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE {rows};
         INSERT INTO pgmq.a_q (msg_id, vt, message) {rows}"
    ))
    .await;
    for list in ["peek", "archive"] {
        let (mut seen, mut after) = (Vec::new(), "0".to_owned());
        loop {
            let path = format!("/queues/q/{list}?limit=2&after={after}");
            let page = gateway.get(&path).await.expect(200);
            seen.extend(page.messages());
            let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
            after = next;
        }
        assert_eq!(said(&seen), ["0", "1", "2", "3", "4", "5", "6", "7", "8"], "{list}");
    }
}
