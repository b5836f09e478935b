//! What rarely happens, and must not do harm.

use serde_json::json;

use crate::support::{TestGateway, eventually};

/// A message that an SQL client parked at infinity neither hides others nor breaks what shows it.
#[tokio::test]
async fn a_message_parked_at_infinity_does_no_harm() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("r").await;
    for queue in ["q", "r"] {
        let park = format!("SELECT pgmq.send('{queue}', '1', 'infinity'::timestamptz)");
        gateway.database.execute(&park).await;
    }
    gateway.database.execute("SELECT pgmq.send('r', '2', '-infinity'::timestamptz)").await;
    let parked = gateway.get("/queues/q/messages/1").await.expect(200).json();
    assert_eq!(parked["vt"], "9999-12-31T00:00:00.000000Z");
    assert_eq!(gateway.receive("r", "wait=1&qty=10").await[0]["message"], json!(2));
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.receive("q", "wait=20").await });
    eventually("somebody waits", async || {
        (gateway.get("/queues/q/metrics").await.json()["waiters"] == 1).then_some(())
    })
    .await;
    gateway.database.execute("SELECT pgmq.send('q', '\"by SQL\"')").await;
    assert_eq!(waiting.await.expect("no panic")[0]["message"], "by SQL");
}

/// What was shown can be sent back.
#[tokio::test]
async fn a_queue_can_be_put_as_it_was_shown() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let shown = gateway.get("/queues/q").await.expect(200).json();
    let again =
        json!({"kind": shown["kind"], "fifo": shown["fifo"], "settings": shown["settings"]});
    gateway.put("/queues/q", &again.to_string()).await.expect(200);
}

/// A picture on another site's page leases nothing.
#[tokio::test]
async fn another_sites_page_cannot_receive() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let foreign =
        gateway.request("GET", "/queues/q/messages").header("Sec-Fetch-Site", "cross-site");
    let answer = foreign.send().await.expect("answered");
    assert_eq!(answer.status().as_u16(), 415);
    assert_eq!(gateway.receive("q", "").await[0]["read_ct"], 1);
}

/// A head that is buried makes the next one the head, and that one is delivered once.
#[tokio::test]
async fn a_buried_head_does_not_double_the_next() {
    let gateway = TestGateway::start().await;
    let queue = r#"{"fifo":true,"settings":{"max_receives":1}}"#;
    gateway.put("/queues/q", queue).await.expect(201);
    let insert = r#"INSERT INTO pgmq.q_q (vt, message, headers)
        SELECT now(), '1', '{"x-pgmq-group":"g"}' FROM generate_series(1, 1100)"#;
    gateway.database.execute(insert).await;
    assert_eq!(gateway.receive("q", "fifo=head&vt=0").await.len(), 1);
    let received = gateway.receive("q", "fifo=head&qty=2").await;
    let ids: Vec<_> = received.iter().map(|message| &message["msg_id"]).collect();
    assert_eq!(ids, [&json!(2)]);
}

/// Dead letters that cannot be moved stay where they are, and good messages are delivered.
#[tokio::test]
async fn dead_letters_that_cannot_be_moved_block_nobody() {
    let gateway = TestGateway::start().await;
    gateway.put("/queues/dead", r#"{"fifo":true}"#).await.expect(201);
    let settings = r#"{"settings":{"max_receives":1,"dead_letter_queue":"dead"}}"#;
    gateway.put("/queues/q", settings).await.expect(201);
    // A group that the index cannot take, as it cannot be compressed.
    let group: String = (0..6000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect();
    // Over HTTP it is refused.
    let poison = json!({"x-pgmq-group": group});
    let sql = format!("SELECT pgmq.send('q', '\"poison\"', '{poison}'::jsonb)");
    gateway.database.execute(&sql).await;
    assert_eq!(gateway.receive("q", "vt=0").await.len(), 1);
    gateway.send("q", r#"{"message":"good"}"#).await;
    assert_eq!(gateway.receive("q", "").await[0]["message"], "good");
    let left = gateway.get("/queues/q/messages/1").await.expect(200).json();
    assert_eq!(left["message"], "poison");
}
