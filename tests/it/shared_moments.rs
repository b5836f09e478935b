//! Queues that were made in one transaction, as a migration makes them, and tables that PGMQ does not list: each is one
//! of its own.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway,
    dumps::{dump, load},
    eventually,
    sqs::Sqs,
};

const TWO: &str = "BEGIN; SELECT pgmq.create('a'); SELECT pgmq.create('b'); COMMIT";
const IDENTITIES: &str = "SELECT count(DISTINCT queue_created_at) FROM pgmq_gateway.queue_settings";

/// Whether a message with a deduplication id was stored.
async fn is_stored(client: &Client, queue: &str, id: &str) -> bool {
    let headers = json!({"x-pgmq-group": "g", "x-deduplication-id": id});
    let body = json!({"message": 1, "headers": headers}).to_string();
    let answer = client.post(&format!("/queues/{queue}/messages"), &body).await.expect(201);
    answer.header("idempotency-replayed") != "true"
}

/// Whether a request that is done once is answered as one that was done before.
async fn is_replayed(client: &Client, queue: &str) -> bool {
    let path = format!("/queues/{queue}/messages");
    let request = client.request("POST", &path).header("idempotency-key", "once");
    let body = json!({"message": "x".repeat(2_000)}).to_string();
    let answer = Answer::of(request.body(body)).await.expect(201);
    answer.header("idempotency-replayed") == "true"
}

async fn receipt(client: &Client, queue: &str) -> String {
    let message = client.receive_one(queue, "vt=600").await;
    message["receipt"].as_str().expect("a receipt").to_owned()
}

async fn url(client: &Client, queue: &str) -> Value {
    Sqs(client).done("GetQueueUrl", &json!({"QueueName": queue})).await["QueueUrl"].clone()
}

#[tokio::test]
async fn what_is_sent_to_one_is_no_duplicate_of_what_is_sent_to_another() {
    let gateway = TestGateway::start().await;
    gateway.database.execute(TWO).await;
    let moments = "SELECT count(DISTINCT created_at) FROM pgmq.meta";
    assert_eq!(gateway.database.value::<i64>(moments).await, 1);
    for queue in ["a", "b"] {
        gateway.patch(&format!("/queues/{queue}"), r#"{"fifo":true}"#).await.expect(200);
    }
    for is_first in [true, false] {
        for queue in ["a", "b"] {
            assert_eq!(is_stored(&gateway, queue, "x").await, is_first, "{queue}");
        }
    }
    gateway.post("/queues/a/purge", "").await.expect(200);
    assert!(!is_stored(&gateway, "b", "x").await, "only the other one was emptied");
    assert!(is_stored(&gateway, "a", "x").await);
    assert_eq!(gateway.all("b").await.len(), 1);
}

/// As PGMQ before 1.10 has it: there, no time of a delivery tells one from another.
#[tokio::test]
async fn a_receipt_and_an_id_stand_for_a_message_of_one_queue() {
    for unlisted in [false, true] {
        let gateway = TestGateway::start().await;
        gateway.database.execute(TWO).await;
        gateway
            .database
            .execute(
                "ALTER TABLE pgmq.q_a DROP last_read_at; ALTER TABLE pgmq.q_b DROP last_read_at",
            )
            .await;
        if unlisted {
            gateway.database.execute("DELETE FROM pgmq.meta").await;
        }
        let mut receipts = Vec::new();
        for queue in ["a", "b"] {
            assert_eq!(gateway.send(queue, r#"{"message":1}"#).await, 1);
            receipts.push(receipt(&gateway, queue).await);
        }
        let path = format!("/queues/b/messages/1?receipt={}", receipts[0]);
        gateway.patch(&path, r#"{"vt":0}"#).await.problem(409, "receipt_stale");
        gateway.delete(&path).await.problem(409, "receipt_stale");
        for (queue, receipt) in ["a", "b"].into_iter().zip(&receipts) {
            let path = format!("/queues/{queue}/messages/1?receipt={receipt}");
            gateway.delete(&path).await.expect(204);
        }
        if unlisted {
            continue;
        }
        let sqs = Sqs(&gateway);
        let mut ids = Vec::new();
        for queue in ["a", "b"] {
            gateway.send(queue, r#"{"message":2}"#).await;
            let url = url(&gateway, queue).await;
            ids.push(sqs.receive(url.as_str().expect("a URL")).await[0]["MessageId"].clone());
        }
        assert_ne!(ids[0], ids[1]);
    }
}

/// What makes a gateway of before: queues of one moment have one identity, and tables that PGMQ does not list have none.
const EARLIER: &str = "
    CREATE OR REPLACE FUNCTION pgmq_gateway.separate_queues(max_queues integer)
        RETURNS integer LANGUAGE sql AS 'SELECT 0';
    CREATE OR REPLACE FUNCTION pgmq_gateway.own_id(queue text, made timestamptz)
        RETURNS bigint LANGUAGE sql STABLE AS 'SELECT pgmq_gateway.queue_id_of(made)'";
const QUEUES: &str = "
    BEGIN; SELECT pgmq.create(n) FROM unnest('{a,b,x.fifo,y.fifo}'::text[]) n; COMMIT;
    SELECT pgmq.create('u'), pgmq.create('v');
    DELETE FROM pgmq.meta WHERE queue_name IN ('u', 'v');
    SELECT pgmq_gateway.register_queues()";
/// As rows of before are.
const COLLIDE: &str = "UPDATE pgmq_gateway.queue_settings \
                       SET queue_created_at = bound_created_at, former_created_at = NULL";

#[tokio::test]
async fn what_was_promised_while_they_had_one_identity_is_kept() {
    let earlier = TestGateway::start().await;
    let database = earlier.database.clone();
    for sql in [EARLIER, QUEUES, COLLIDE] {
        database.execute(sql).await;
    }
    let mut receipts = Vec::new();
    for queue in ["a", "b", "u", "v"] {
        assert!(!is_replayed(&earlier, queue).await);
        receipts.push((queue, receipt(&earlier, queue).await));
    }
    for queue in ["x.fifo", "y.fifo"] {
        earlier.patch(&format!("/queues/{queue}"), r#"{"fifo":true}"#).await.expect(200);
    }
    assert!(is_stored(&earlier, "x.fifo", "x").await);
    assert!(!is_stored(&earlier, "y.fifo", "x").await, "as it was");
    let fifo = url(&earlier, "x.fifo").await;
    let handle = Sqs(&earlier).receive(fifo.as_str().expect("a URL")).await;
    let handle = &handle[0]["ReceiptHandle"];
    let tagged = url(&earlier, "b").await;
    let tags = json!({"QueueUrl": tagged, "Tags": {"team": "red"}});
    Sqs(&earlier).done("TagQueue", &tags).await;

    database.execute("UPDATE pgmq_gateway.functions_in_force SET hash = 'another'").await;
    let upgraded = TestGateway::on(&database, |_| {}).await;
    assert_eq!(database.value::<i64>(IDENTITIES).await, 4);
    let sqs = Sqs(&upgraded);
    assert!(is_stored(&upgraded, "y.fifo", "x").await, "it was another queue's");
    assert!(!is_stored(&upgraded, "x.fifo", "x").await);
    sqs.done("DeleteMessage", &json!({"QueueUrl": fifo, "ReceiptHandle": handle})).await;
    assert!(upgraded.all("x.fifo").await.is_empty());
    let tags = sqs.done("ListQueueTags", &json!({"QueueUrl": tagged})).await;
    assert_eq!(tags["Tags"], json!({"team": "red"}));
    for (queue, receipt) in &receipts {
        assert!(is_replayed(&upgraded, queue).await, "{queue}");
        if ["a", "b"].contains(queue) {
            upgraded.configure(queue, json!({"max_message_bytes": 1_024})).await.expect(200);
            assert!(is_replayed(&upgraded, queue).await, "{queue}, which takes less by now");
        }
        let path = format!("/queues/{queue}/messages/1?receipt={receipt}");
        upgraded.patch(&path, r#"{"vt":600}"#).await.expect(200);
        upgraded.delete(&path).await.expect(204);
    }
    // It is still at work.
    assert_eq!(earlier.send("a", r#"{"message":2}"#).await, 2);
    let receipt = receipt(&earlier, "a").await;
    upgraded.delete(&format!("/queues/a/messages/2?receipt={receipt}")).await.expect(204);
}

#[tokio::test]
async fn a_dump_carries_which_is_which() {
    let source = TestGateway::start().await;
    source.database.execute(TWO).await;
    let mut receipts = Vec::new();
    for queue in ["a", "b"] {
        assert!(!is_replayed(&source, queue).await);
        receipts.push((queue, receipt(&source, queue).await));
    }
    let target = TestDatabase::empty().await;
    assert_eq!(load(&target.url(), &dump(&source.database.url(), &[])), "");
    let restored = TestGateway::on(&target, |_| {}).await;
    for (queue, receipt) in &receipts {
        assert!(is_replayed(&restored, queue).await, "{queue}");
        let path = format!("/queues/{queue}/messages/1?receipt={receipt}");
        restored.delete(&path).await.expect(204);
    }
    assert_eq!(target.value::<i64>(IDENTITIES).await, 2);
}

/// As a restore of data brings them that an earlier gateway wrote.
#[tokio::test]
async fn rows_that_have_one_identity_are_told_apart_when_they_are_seen() {
    let gateway = TestGateway::with(|settings| settings.maintenance.interval_ms = 50).await;
    gateway.database.execute(TWO).await;
    gateway.database.execute("SELECT pgmq_gateway.register_queues()").await;
    gateway.database.execute(COLLIDE).await;
    eventually("they are told apart", async || {
        (gateway.database.value::<i64>(IDENTITIES).await == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn very_many_queues_are_written_down_some_at_a_time() {
    let database = TestDatabase::new().await;
    database.execute("SELECT pgmq.create('q' || n) FROM generate_series(1, 120) n").await;
    let more: bool = database.value("SELECT more FROM pgmq_gateway.register_queues()").await;
    let count = "SELECT count(*) FROM pgmq_gateway.queue_settings";
    assert!(more && database.value::<i64>(count).await == 50);
    let _gateway = TestGateway::on(&database, |_| {}).await;
    eventually("all are written down", async || {
        (database.value::<i64>(count).await == 120).then_some(())
    })
    .await;
    assert_eq!(database.value::<i64>(IDENTITIES).await, 120);
}
