//! What is told of queues, and done to them as a whole, while somebody has locked what that takes.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Executor;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::locks::fill;
use crate::support::{Answer, Holder, TestGateway, holder::LOCK_PATIENCE};

/// Whether it is read in groups is known without a look at the table.
#[tokio::test]
async fn queues_are_shown_while_one_that_is_read_in_groups_is_locked() {
    let gateway = TestGateway::start().await;
    let wishes = json!({"fifo": true, "settings": {"fair": true}}).to_string();
    gateway.put("/queues/q", &wishes).await.expect(201);
    gateway.create("other").await;
    let before = gateway.get("/queues").await.json();
    let holder = Holder::of_tables(&gateway.database, &["q_q", "a_q"], "ACCESS EXCLUSIVE").await;
    let began = Instant::now();
    let during = gateway.get("/queues").await.expect(200).json();
    assert_eq!(during, before);
    let shown = gateway.get("/queues/q").await.expect(200).json();
    assert_eq!((&shown["fifo"], &shown["settings"]["fair"]), (&json!(true), &json!(true)));
    gateway.get("/ui/queues/q").await.expect(200);
    assert!(began.elapsed() < LOCK_PATIENCE, "{:?}", began.elapsed());
    holder.rollback().await;
}

/// Other indexes are not taken for that one, whatever they are called.
#[tokio::test]
async fn an_index_on_something_else_is_not_the_one_of_groups() {
    let gateway = TestGateway::start().await;
    let is_fifo = async || gateway.get("/queues/q").await.json()["fifo"].clone();
    for (index, expected) in [
        ("((coalesce(headers ->> 'x-pgmq-group', '_default_fifo_group')), msg_id)", true),
        ("((coalesce(headers ->> 'x-pgmq-group', '_default_fifo_group')), vt)", false),
        ("((coalesce(headers ->> 'x-pgmq-group', 'default_fifo_group')), msg_id)", false),
        ("((coalesce(headers ->> 'x-pgmq-groups', '_default_fifo_group')), msg_id)", false),
        ("(read_ct, msg_id)", false),
    ] {
        gateway.create("q").await;
        gateway.database.execute(&format!("CREATE INDEX q_q_group_idx ON pgmq.q_q {index}")).await;
        assert_eq!(is_fifo().await, Value::Bool(expected), "{index}");
        gateway.delete("/queues/q").await.expect(204);
    }
}

/// What is asked of PGMQ's lists, which are locked while PGMQ is upgraded, say: method, path, body.
const ASKED: [(&str, &str, &str); 9] = [
    ("GET", "/queues", ""),
    ("PUT", "/queues/q", ""),
    ("GET", "/bindings", ""),
    ("GET", "/queues/q/bindings", ""),
    ("GET", "/topics/t.q/queues", ""),
    ("POST", "/queues/q/archive/replay", r#"{"to":"other"}"#),
    ("POST", "/queues/q/redrive", r#"{"to":"other"}"#),
    ("GET", "/ui/queues/q/table", ""),
    ("GET", "/ui/topics", ""),
];

#[tokio::test]
async fn what_pgmq_knows_of_queues_is_told_once_a_lock_on_it_ends() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
    }
    gateway.post("/queues/q/bindings", r#"{"pattern":"t.#"}"#).await.expect(201);
    for tables in [&["meta"][..], &["topic_bindings"], &["notify_insert_throttle"]] {
        let holder = Holder::of_tables(&gateway.database, tables, "ACCESS EXCLUSIVE").await;
        let mut crowd = JoinSet::new();
        for (method, path, body) in ASKED {
            let request = gateway.request(method, path).body(body);
            crowd.spawn(async move { (path, Answer::of(request).await) });
        }
        for (action, body) in [
            ("GetQueueUrl", json!({"QueueName": "q"})),
            ("ListQueues", json!({})),
            ("SendMessage", json!({"QueueUrl": "http://x/000000000000/q", "MessageBody": "1"})),
        ] {
            let request = gateway.request("POST", "/").body(body.to_string());
            let request = request
                .header("x-amz-target", format!("AmazonSQS.{action}"))
                .header("content-type", "application/x-amz-json-1.0");
            crowd.spawn(async move { (action, Answer::of(request).await) });
        }
        sleep(Duration::from_millis(300)).await;
        holder.rollback().await;
        for (what, answer) in crowd.join_all().await {
            assert_eq!(answer.status, 200, "{tables:?}, {what}: {}", answer.text);
        }
    }
}

/// Of many publications in one statement the first alone waits for what all of them ask.
#[tokio::test]
async fn what_publications_ask_is_waited_for_once() {
    let gateway = TestGateway::start().await;
    let holder =
        Holder::of_tables(&gateway.database, &["topic_bindings"], "ACCESS EXCLUSIVE").await;
    let mut connection = gateway.database.connect().await;
    connection.execute("BEGIN; SET LOCAL lock_timeout = '200ms'").await.expect("set");
    let asked =
        "SELECT pgmq_gateway.few_targets('a.' || n, NULL) IS NULL FROM generate_series(1, 3) n";
    let hindered: Vec<bool> =
        sqlx::query_scalar(asked).fetch_all(&mut connection).await.expect("each says so");
    assert_eq!(hindered, [true; 3]);
    let left: String =
        sqlx::query_scalar("SHOW lock_timeout").fetch_one(&mut connection).await.expect("shown");
    assert_eq!(left, "1ms");
    holder.rollback().await;
}

/// A queue is not said to be locked as somebody has it, or its messages, for a moment.
#[tokio::test]
async fn a_queue_is_emptied_once_a_lock_on_it_ends() {
    let gateway = TestGateway::start().await;
    for lock in ["SELECT FROM pgmq.q_q FOR UPDATE", "LOCK TABLE pgmq.q_q IN SHARE MODE"] {
        fill(&gateway, "q", 20).await;
        let holder = Holder::of(&gateway.database, lock).await;
        let client = gateway.client.clone();
        let purging = tokio::spawn(async move { client.post("/queues/q/purge", "").await });
        sleep(Duration::from_millis(700)).await;
        holder.rollback().await;
        let purged = purging.await.expect("no panic").expect(200).json()["purged"].clone();
        assert_eq!(purged, 20, "{lock}");
        gateway.delete("/queues/q").await.expect(204);
    }
}
