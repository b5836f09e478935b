//! Batches of SQS where somebody in the database has locked something.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Holder, TestDatabase, TestGateway, guarded::Guarded, sqs::Sqs};

fn entry(body: &str, group: &str) -> Value {
    json!({"Id": body, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": body})
}

/// The ids of what was stored, and of what was not.
fn ids(sent: &Value) -> [Vec<&str>; 2] {
    ["Successful", "Failed"].map(|which| {
        let entries = sent[which].as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter_map(|entry| entry["Id"].as_str()).collect()
    })
}

/// Messages with `locked` wait for each other.
const LOCKS: &str =
    "CREATE UNIQUE INDEX ON pgmq.\"q_q.fifo\" ((true)) WHERE message::text LIKE '%locked%';
    ALTER TABLE pgmq.\"q_q.fifo\" ADD CHECK (message::text NOT LIKE '%refused%')";

#[tokio::test]
async fn a_batch_for_a_locked_queue_takes_as_long_as_a_message() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let fifo = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let standard = sqs.create("q", &json!({})).await;
    let tables = ["q_q.fifo", "q_q"];
    let holder = Holder::of_tables(&gateway.database, &tables, "ACCESS EXCLUSIVE").await;
    let began = Instant::now();
    let one = json!({"QueueUrl": fifo, "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "x"});
    sqs.json("SendMessage", &one).await.expect(503);
    let of_one = began.elapsed();
    let of_groups = |url: &str, groups: [&str; 10]| {
        let entries = groups.iter().enumerate().map(|(n, group)| entry(&n.to_string(), group));
        json!({"QueueUrl": url, "Entries": entries.collect::<Vec<_>>()})
    };
    let plain = (0..10).map(|n| json!({"Id": n.to_string(), "MessageBody": "x"}));
    for batch in [
        of_groups(&fifo, ["g"; 10]),
        of_groups(&fifo, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
        json!({"QueueUrl": standard, "Entries": plain.collect::<Vec<_>>()}),
    ] {
        let began = Instant::now();
        let sent = sqs.done("SendMessageBatch", &batch).await;
        assert_eq!(ids(&sent)[1].len(), 10, "{sent}");
        assert!(began.elapsed() < of_one.mul_f64(1.7), "{:?}, {of_one:?}", began.elapsed());
    }
    holder.rollback().await;
    for queue in ["q.fifo", "q"] {
        assert!(gateway.all(queue).await.is_empty());
    }
    // Whoever comes next finds nothing in the way.
    sqs.done("SendMessage", &one).await;
}

/// Its sender sends it again: those behind it are to stay behind it.
#[tokio::test]
async fn what_is_behind_a_locked_message_of_its_group_is_not_stored_before_it() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    gateway.database.execute(LOCKS).await;
    let insert = "INSERT INTO pgmq.\"q_q.fifo\" (vt, message) VALUES (now(), '\"locked\"')";
    let holder = Holder::of(&gateway.database, insert).await;
    let entries = [
        entry("refused", "g"),
        entry("first", "g"),
        entry("locked", "g"),
        entry("other", "h"),
        entry("behind", "g"),
        entry("last", "g"),
    ];
    let batch = json!({"QueueUrl": url, "Entries": entries});
    let sent = sqs.done("SendMessageBatch", &batch).await;
    let [stored, failed] = ids(&sent);
    assert_eq!(stored, ["first", "other"], "{sent}");
    assert_eq!(failed, ["refused", "locked", "behind", "last"], "{sent}");
    let faults: Vec<_> =
        sent["Failed"].as_array().expect("some").iter().map(|one| &one["SenderFault"]).collect();
    assert_eq!(faults, [true, false, false, false], "{sent}");
    holder.rollback().await;
    let again = json!({"QueueUrl": url, "Entries": &entries[1..]});
    assert_eq!(ids(&sqs.done("SendMessageBatch", &again).await)[1], Vec::<&str>::new());
    let all = gateway.all("q.fifo").await;
    let order = ["first", "other", "locked", "behind", "last"];
    assert_eq!(all.len(), order.len(), "{all:?}");
    for (message, expected) in all.iter().zip(order) {
        assert!(message["message"].to_string().contains(expected), "{all:?}");
    }
}

const BOTH: [&str; 2] = ["VisibilityTimeout", "ReceiveMessageWaitTimeSeconds"];

/// Two attributes: one of a queue's settings, and one that is kept beside them.
fn both(timeout: u32, wait: u32) -> Value {
    json!({"VisibilityTimeout": timeout.to_string(), "ReceiveMessageWaitTimeSeconds": wait.to_string()})
}

#[tokio::test]
async fn attributes_are_set_together_or_not_at_all() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &both(30, 1)).await;
    let queue = json!({"QueueUrl": url, "AttributeNames": BOTH});
    let row = "SELECT FROM pgmq_gateway.queue_attributes WHERE queue_name = 'q' FOR UPDATE";
    let holder = Holder::of(&gateway.database, row).await;
    let set = json!({"QueueUrl": url, "Attributes": both(77, 5)});
    let (code, message) = sqs.error("SetQueueAttributes", &set).await;
    assert_eq!(code, "ServiceUnavailable", "{message}");
    let there = sqs.done("GetQueueAttributes", &queue).await;
    assert_eq!(there["Attributes"], both(30, 1), "{message}");
    holder.rollback().await;
    sqs.done("SetQueueAttributes", &set).await;
    assert_eq!(sqs.done("GetQueueAttributes", &queue).await["Attributes"], both(77, 5));
}

/// What a queue is like by then is not told, so that nobody waits for that.
#[tokio::test]
async fn attributes_that_are_set_are_said_to_be_though_the_table_is_locked() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &both(30, 1)).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
    sqs.done("SetQueueAttributes", &json!({"QueueUrl": url, "Attributes": both(77, 5)})).await;
    holder.rollback().await;
    let queue = json!({"QueueUrl": url, "AttributeNames": BOTH});
    assert_eq!(sqs.done("GetQueueAttributes", &queue).await["Attributes"], both(77, 5));
}

#[tokio::test]
async fn a_queue_whose_attributes_cannot_be_kept_is_not_made() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let table = "LOCK TABLE pgmq_gateway.queue_attributes IN SHARE MODE";
    let holder = Holder::of(&gateway.database, table).await;
    let attributes = json!({
        "FifoQueue": "true", "ContentBasedDeduplication": "true", "VisibilityTimeout": "99",
    });
    let new = json!({"QueueName": "q.fifo", "Attributes": attributes, "tags": {"a": "b"}});
    let (code, message) = sqs.error("CreateQueue", &new).await;
    assert_eq!(code, "ServiceUnavailable", "{message}");
    gateway.get("/queues/q.fifo").await.problem(404, "queue_not_found");
    holder.rollback().await;
    let mut made = sqs.done("CreateQueue", &new).await;
    assert_eq!(sqs.done("ListQueueTags", &made).await["Tags"], json!({"a": "b"}));
    made["AttributeNames"] = json!(["ContentBasedDeduplication", "VisibilityTimeout"]);
    let there = sqs.done("GetQueueAttributes", &made).await["Attributes"].clone();
    assert_eq!(there, json!({"ContentBasedDeduplication": "true", "VisibilityTimeout": "99"}));
}

/// A role may have been granted less than it needs.
#[tokio::test]
async fn a_role_that_may_keep_no_attributes_changes_nothing() {
    let gateway = Guarded::start("SELECT").await;
    let sqs = Sqs(&gateway);
    let role = format!("guarded_{}", gateway.database.name);
    let grant = format!(
        "GRANT CREATE ON SCHEMA pgmq TO {role};
         REVOKE INSERT, UPDATE ON pgmq_gateway.queue_attributes FROM {role}"
    );
    gateway.database.execute(&grant).await;
    let set = json!({"QueueUrl": "q", "Attributes": both(77, 5)});
    assert_eq!(sqs.error("SetQueueAttributes", &set).await.0, "AccessDenied");
    let queue = json!({"QueueUrl": "q", "AttributeNames": BOTH});
    assert_eq!(sqs.done("GetQueueAttributes", &queue).await["Attributes"], both(30, 0));
    let new = json!({"QueueName": "new", "Attributes": both(77, 5)});
    assert_eq!(sqs.error("CreateQueue", &new).await.0, "AccessDenied");
    gateway.get("/queues/new").await.problem(404, "queue_not_found");
}

/// What does not count any more, each time a row that somebody has locked and one that nobody has.
const EXPIRED: &str = "
    INSERT INTO pgmq_gateway.deduplication_ids (queue_id, key, msg_id, sent_at)
    SELECT 1, k, 1, now() - interval '1 hour' FROM unnest('{free,locked}'::text[]) k;
    INSERT INTO pgmq_gateway.move_tasks (id, source, status, to_move, started_at)
    SELECT k, k, 'COMPLETED', 1, now() - interval '8 days' FROM unnest('{free,locked}'::text[]) k;
    INSERT INTO pgmq_gateway.queue_attributes (queue_name, queue_id, alias, modified_at)
    SELECT k, 1, k, now() - interval '2 days' FROM unnest('{free,locked}'::text[]) k";
const LOCKED: &str = "
    SELECT FROM pgmq_gateway.deduplication_ids WHERE key = 'locked' FOR UPDATE;
    SELECT FROM pgmq_gateway.move_tasks WHERE id = 'locked' FOR UPDATE;
    SELECT FROM pgmq_gateway.queue_attributes WHERE queue_name = 'locked' FOR UPDATE";
const LEFT: &str =
    "SELECT concat_ws(' ', (SELECT string_agg(key, ' ') FROM pgmq_gateway.deduplication_ids),
    (SELECT string_agg(id, ' ') FROM pgmq_gateway.move_tasks),
    (SELECT string_agg(queue_name, ' ') FROM pgmq_gateway.queue_attributes))";

#[tokio::test]
async fn a_row_that_is_locked_is_cleaned_up_later_and_the_others_are_at_once() {
    let database = TestDatabase::new().await;
    database.execute(EXPIRED).await;
    let holder = Holder::of(&database, LOCKED).await;
    database.execute("SELECT pgmq_gateway.delete_expired_attributes(100)").await;
    assert_eq!(database.value::<String>(LEFT).await, "locked locked locked");
    holder.rollback().await;
    database.execute("SELECT pgmq_gateway.delete_expired_attributes(100)").await;
    assert_eq!(database.value::<String>(LEFT).await, "");
}
