//! Publications for logical replication, which need to know which row is updated or deleted.

use serde_json::json;

use crate::support::{Answer, TestDatabase, TestGateway, postgres};

/// What a publication of everything takes, as the answers name it.
fn statements(answer: &Answer) -> Vec<String> {
    let detail = answer.detail();
    let rest = detail.split("ALTER TABLE ").skip(1);
    rest.map(|rest| format!("ALTER TABLE {}", rest.split(';').next().expect("a statement")))
        .collect()
}

async fn published() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("dlq").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t.*"}"#).await.expect(201);
    gateway.database.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    gateway
}

#[tokio::test]
async fn publication_of_all_tables_stops_drops_and_unbinds_until_it_is_put_right() {
    let gateway = published().await;
    let unbind = "/queues/q/bindings?pattern=t.*";
    for _ in 0..2 {
        for path in ["/queues/q", unbind] {
            let refused = gateway.delete(path).await.problem(501, "not_supported");
            assert!(statements(&refused).len() >= 2, "{}", refused.text);
        }
    }
    // Nothing is half done.
    let bindings = gateway.get("/queues/q/bindings").await.expect(200).json();
    assert_eq!(bindings["bindings"].as_array().map(Vec::len), Some(1), "{bindings}");
    let published =
        gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await.expect(201).json();
    assert_eq!(published["deliveries"].as_array().map(Vec::len), Some(1), "{published}");
    gateway.get("/queues/q").await.expect(200);
    gateway.get("/queues/q/archive").await.expect(200);

    let refused = gateway.delete("/queues/q").await.problem(501, "not_supported");
    for statement in statements(&refused) {
        gateway.database.execute(&statement).await;
    }
    gateway.delete(unbind).await.expect(204);
    gateway.post("/queues/q/bindings", r#"{"pattern":"t.*"}"#).await.expect(201);
    gateway.delete("/queues/q").await.expect(204);
    let left = "SELECT count(*) FROM pgmq.meta WHERE queue_name = 'q'";
    assert_eq!(gateway.database.value::<i64>(left).await, 0);
    gateway.put("/queues/q", "").await.expect(201);
}

/// Everything else needs nothing.
#[tokio::test]
async fn publication_of_all_tables_is_in_the_way_of_nothing_else() {
    let gateway = published().await;
    gateway.create_with("new", &json!({"fifo": true, "settings": {"delay": 0}})).await;
    gateway.put("/queues/new", "").await.expect(200);
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dlq", "message_retention": 86_400,
                          "notify": {"throttle_ms": 0}});
    gateway.configure("q", settings).await.expect(200);
    let once = gateway.request("POST", "/queues/q/messages").header("Idempotency-Key", "k");
    Answer::of(once.body(r#"{"message":1}"#)).await.expect(201);
    for n in 2..=5 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let received = gateway.receive("q", "qty=10&vt=0").await;
    assert_eq!(received.len(), 5);
    gateway.patch("/queues/q/messages/1", r#"{"vt":600}"#).await.expect(200);
    gateway.delete("/queues/q/messages/1").await.expect(204);
    gateway.post("/queues/q/messages/2/archive", "").await.expect(204);
    assert!(gateway.receive("q", "qty=10").await.is_empty(), "they are dead letters now");
    assert_eq!(gateway.post("/queues/dlq/redrive", "").await.expect(200).json()["moved"], 3);
    assert_eq!(
        gateway.post("/queues/q/archive/replay", "").await.expect(200).json()["replayed"],
        1
    );
    let popped = gateway.post("/queues/q/messages/pop?qty=2", "").await.expect(200).messages();
    assert_eq!(popped.len(), 2);
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 2);
    gateway.post("/queues/dlq/bindings", r#"{"pattern":"d.*"}"#).await.expect(201);
    gateway.configure("q", json!({"notify": null})).await.expect(200);
    gateway.get("/readyz").await.expect(200);
}

/// The tables of a queue may be in the way, too, as those are that are partitioned by time.
#[tokio::test]
async fn queue_without_replica_identity_is_named() {
    let gateway = published().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    gateway.database.execute("ALTER TABLE pgmq.q_q REPLICA IDENTITY NOTHING").await;
    let message = format!("/queues/q/messages/{id}");
    for answer in [
        gateway.get("/queues/q/messages").await,
        gateway.delete(&message).await,
        gateway.patch(&message, r#"{"vt":0}"#).await,
        gateway.post(&format!("{message}/archive"), "").await,
        gateway.post("/queues/q/messages/pop", "").await,
        gateway
            .post("/queues/q/messages/settle", &json!({"delete": [{"msg_id": id}]}).to_string())
            .await,
    ] {
        let refused = answer.problem(501, "not_supported");
        let statements = statements(&refused);
        assert_eq!(
            statements,
            ["ALTER TABLE pgmq.\"q_q\" REPLICA IDENTITY FULL"],
            "{}",
            refused.text
        );
    }
    // Sending is no matter of this.
    gateway.send("q", r#"{"message":2}"#).await;
    gateway.database.execute("ALTER TABLE pgmq.q_q REPLICA IDENTITY FULL").await;
    assert_eq!(gateway.receive("q", "qty=10").await.len(), 2);
}

/// With a server that does replicate.
#[tokio::test]
async fn server_that_replicates_says_the_same() {
    let directory = postgres::new_directory();
    let server = postgres::start(&directory, &[("wal_level", "logical"), ("fsync", "off")]).await;
    let database = TestDatabase::at(server.url().expose());
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    let slot = "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')";
    database.execute(slot).await;
    database.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let refused = gateway.delete("/queues/q").await.problem(501, "not_supported");
    for statement in statements(&refused) {
        database.execute(&statement).await;
    }
    gateway.delete("/queues/q").await.expect(204);
}
