//! What is told of queues, and done to them as a whole, while somebody has locked what that takes.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Holder, TestGateway, holder::LOCK_PATIENCE};

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
