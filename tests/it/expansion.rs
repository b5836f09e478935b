//! Messages that are small as they are sent and large as PostgreSQL writes them.

use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use crate::support::{Answer, Client, PATIENCE, TestGateway};

/// JSON of so many numbers that take eight bytes each, and 131 kB each once they are written out.
fn numbers(count: usize) -> String {
    format!("[{}0]", "1e131071,".repeat(count))
}

#[tokio::test]
async fn a_message_counts_as_it_will_be_read() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("bound").await;
    gateway.post("/queues/bound/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    gateway.create("small").await;
    gateway.configure("small", json!({"max_message_bytes": 200_000})).await.expect(200);
    let in_transaction = |queue: &str, message: &str| {
        format!(r#"{{"operations":[{{"send":{{"queue":"{queue}","message":{message}}}}}]}}"#)
    };
    let refused = |answer: Answer, named: &str| {
        let detail = answer.problem(413, "message_too_large").detail();
        assert!(detail.contains("written out in full") && detail.contains(named), "{detail}");
    };
    // 1.1 kB as it is sent, 16.6 MB as it is read.
    let large = numbers(127);
    let one = format!(r#"{{"message":{large}}}"#);
    let headers = format!(r#"{{"message":1,"headers":{{"h":{large}}}}}"#);
    let batch = format!(r#"{{"messages":[{{"message":1}},{one}]}}"#);
    for body in [&one, &headers] {
        refused(gateway.post("/queues/q/messages", body).await, "1048576");
        refused(gateway.post("/topics/t/messages", body).await, "1048576");
    }
    refused(gateway.post("/queues/q/messages/batch", &batch).await, "messages[1]");
    refused(gateway.post("/topics/t/messages/batch", &batch).await, "messages[1]");
    refused(gateway.post("/transactions", &in_transaction("q", &large)).await, "1048576");
    // Both together are over it, and a queue's own limit counts the same.
    let half = numbers(4);
    let both = format!(r#"{{"message":{half},"headers":{{"h":{half}}}}}"#);
    refused(gateway.post("/queues/q/messages", &both).await, "1048576");
    let two = format!(r#"{{"message":{}}}"#, numbers(2));
    refused(gateway.post("/queues/small/messages", &two).await, "200000");
    let sent = gateway.post("/transactions", &in_transaction("small", &numbers(2))).await;
    sent.problem(413, "message_too_large");
    // Each is within it, all of them are not: 20 times 0.9 MB.
    let good = format!(r#"{{"message":{}}}"#, numbers(7));
    let crowd = format!(r#"{{"messages":[{}]}}"#, vec![good.as_str(); 20].join(","));
    refused(gateway.post("/queues/q/messages/batch", &crowd).await, "16777216");
    refused(gateway.post("/topics/t/messages/batch", &crowd).await, "16777216");
    let send = format!(r#"{{"send":{{"queue":"q","message":{}}}}}"#, numbers(7));
    let crowd = format!(r#"{{"operations":[{}]}}"#, vec![send.as_str(); 20].join(","));
    refused(gateway.post("/transactions", &crowd).await, "16777216");
    for queue in ["q", "bound", "small"] {
        assert_eq!(gateway.all(queue).await.len(), 0, "{queue}");
    }
    gateway.send("q", &good).await;
}

/// The ids of an answer's messages, and its `next`. Their numbers are more than the parser of these tests takes.
fn ids(answer: &Answer) -> (Vec<i64>, Option<i64>) {
    assert_eq!(answer.status, 200, "{:.300}", answer.text);
    let id = |rest: &str| rest.split(['"', ',']).next().and_then(|id| id.parse().ok());
    let ids = answer.text.split("\"msg_id\":").skip(1).filter_map(id).collect();
    (ids, answer.text.rsplit_once("\"next\":\"").and_then(|(_, rest)| id(rest)))
}

/// A gateway with 100 messages in a table of `q`, each 16.6 MB once it is written out, and little time for a
/// statement.
async fn with_heavy_messages(table: &str) -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.database.statement_timeout_ms = 4_000;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.server.request_timeout_seconds = 600;
    })
    .await;
    gateway.create("q").await;
    let sql = format!(
        "INSERT INTO pgmq.{table} (msg_id, vt, message) OVERRIDING SYSTEM VALUE \
         SELECT n, now(), ('[' || repeat('1e131071,', 127) || '0]')::jsonb \
         FROM generate_series(1, 100) n"
    );
    gateway.database.execute(&sql).await;
    gateway
}

#[tokio::test]
async fn heavy_messages_are_received_one_at_a_time() {
    let gateway = with_heavy_messages("q_q").await;
    let mut clients = JoinSet::new();
    let patient = Client::patient(&gateway.base);
    for n in 0..8 {
        let client = patient.clone();
        let wait = if n % 2 == 0 { "" } else { "&wait=5" };
        clients.spawn(async move {
            loop {
                let answer = client.get(&format!("/queues/q/messages?qty=20{wait}")).await;
                // On a busy machine even one of them may take longer than a statement has.
                if answer.status == 503 {
                    answer.problem(503, "database_unavailable");
                    continue;
                }
                let received = ids(&answer).0;
                // None while another client's read is at all of them.
                if !received.is_empty() {
                    return received;
                }
            }
        });
    }
    let mut received = Vec::new();
    let all = async {
        while let Some(ids) = clients.join_next().await {
            received.extend(ids.expect("no panic"));
        }
    };
    timeout(4 * PATIENCE, all).await.expect("each has received something");
    received.sort_unstable();
    received.dedup();
    assert_eq!(received.len(), 8, "{received:?}");
}

#[tokio::test]
async fn heavy_messages_are_popped_and_looked_at_one_at_a_time() {
    let gateway = with_heavy_messages("q_q").await;
    let seen = gateway.get("/queues/q/peek?limit=100").await;
    assert_eq!(ids(&seen), (vec![1], Some(1)));
    let popped = gateway.post("/queues/q/messages/pop?qty=100", "").await;
    assert_eq!(ids(&popped).0, [1]);
    let seen = gateway.get("/queues/q/peek?limit=100").await;
    assert_eq!(ids(&seen), (vec![2], Some(2)));
}

#[tokio::test]
async fn a_heavy_archive_is_looked_at_one_message_at_a_time() {
    let gateway = with_heavy_messages("a_q").await;
    let seen = gateway.get("/queues/q/archive?limit=100").await;
    assert_eq!(ids(&seen), (vec![1], Some(1)));
    let next = gateway.get("/queues/q/archive?limit=100&after=1").await;
    assert_eq!(ids(&next), (vec![2], Some(2)));
}
