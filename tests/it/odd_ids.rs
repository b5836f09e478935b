//! Ids that PGMQ gives no message: SQL may have stored one under any number, and a sequence may count down.

use serde_json::{Value, json};

use super::supabase::call;
use crate::support::{Browser, TestGateway, sqs::Sqs};

/// Two messages under such ids, and one behind them.
fn fill(queue: &str) -> String {
    format!(
        "INSERT INTO pgmq.\"q_{queue}\" (msg_id, vt, message) OVERRIDING SYSTEM VALUE
         SELECT n, now(), to_jsonb(n::text) FROM unnest('{{-7,0,1}}'::bigint[]) n"
    )
}

fn ids(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["msg_id"].as_i64().expect("a number")).collect()
}

#[tokio::test]
async fn messages_under_any_id_are_finished_by_their_handles() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    for (name, attributes) in [("q", json!({})), ("q.fifo", json!({"FifoQueue": "true"}))] {
        let url = sqs.create(name, &attributes).await;
        gateway.database.execute(&fill(name)).await;
        let received = sqs.receive(&url).await;
        let bodies: Vec<&Value> = received.iter().map(|message| &message["Body"]).collect();
        assert_eq!(bodies, ["-7", "0", "1"], "{name}");
        let handle =
            |n: usize| json!({"QueueUrl": url, "ReceiptHandle": received[n]["ReceiptHandle"]});
        let mut hide = handle(0);
        hide["VisibilityTimeout"] = json!(60);
        sqs.done("ChangeMessageVisibility", &hide).await;
        sqs.done("DeleteMessage", &handle(0)).await;
        let entries: Vec<Value> = (1..3)
            .map(|n| json!({"Id": n.to_string(), "ReceiptHandle": received[n]["ReceiptHandle"]}))
            .collect();
        let batch = json!({"QueueUrl": url, "Entries": entries});
        let deleted = sqs.done("DeleteMessageBatch", &batch).await;
        assert_eq!(deleted["Successful"].as_array().map(Vec::len), Some(2), "{deleted}");
        assert!(gateway.all(name).await.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn messages_under_any_id_are_finished_by_their_ids() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute(&fill("q")).await;
    for (function, done) in [("archive", -7), ("delete", 0), ("delete", -1)] {
        let body = json!({"queue_name": "q", "message_id": done});
        let answer = call(&gateway, function, body).await.expect(200);
        assert_eq!(answer.text, (done != -1).to_string(), "{function} {done}");
    }
    assert_eq!(ids(&gateway.all("q").await), [1]);
}

#[tokio::test]
async fn lists_begin_below_every_id() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute(&fill("q")).await;
    gateway
        .post("/queues/q/messages/settle", r#"{"archive":[{"msg_id":-7},{"msg_id":0}]}"#)
        .await
        .expect(200);
    let browser = Browser::new(&gateway.base);
    let shown = browser.get("/ui/queues/q/messages?list=archived").await.expect(200).text;
    assert!(shown.contains("/messages/-7"), "{shown}");
}

/// What was stored under a number below 0 is told from a duplicate.
#[tokio::test]
async fn a_duplicate_has_the_id_of_the_first_whatever_its_sign() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let down = "ALTER TABLE pgmq.\"q_q.fifo\" ALTER msg_id SET INCREMENT -1 SET MINVALUE -1000 SET MAXVALUE 2 \
                SET START 1 RESTART";
    gateway.database.execute(down).await;
    for (n, expected) in [1, 0, -1, -2].into_iter().enumerate() {
        let headers = json!({"x-pgmq-group": "g", "x-deduplication-id": n.to_string()});
        let message = json!({"message": n, "headers": headers});
        for is_again in [false, true] {
            let sent =
                gateway.post("/queues/q.fifo/messages", &message.to_string()).await.expect(201);
            assert_eq!(sent.json()["msg_id"], expected, "{n} {is_again}");
            let replayed = sent.header("idempotency-replayed");
            assert_eq!(replayed == "true", is_again, "{n}: {replayed}");
        }
        // Alone, with others, and in a transaction.
        let both = json!({"messages": [message, message]}).to_string();
        let sent = gateway.post("/queues/q.fifo/messages/batch", &both).await.expect(201).json();
        assert_eq!(sent["msg_ids"], json!([expected, expected]));
        let mut send = message.clone();
        send["queue"] = json!("q.fifo");
        let transaction = json!({"operations": [{"send": send}]}).to_string();
        let done = gateway.post("/transactions", &transaction).await.expect(200).json();
        assert_eq!(done["results"][0]["msg_id"], expected, "{done}");
    }
    let stored = "SELECT array_agg(msg_id ORDER BY msg_id) FROM pgmq.\"q_q.fifo\"";
    assert_eq!(gateway.database.value::<Vec<i64>>(stored).await, [-2, -1, 0, 1]);
}
