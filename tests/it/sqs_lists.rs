//! Lists of queues for clients of SQS whose key sees some of many.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Client, Holder, TestGateway, holder::blocked_statements, sqs::Sqs};

const SOME: &str = "the-key-of-somebody";

/// More than there are in a page, in front of all others: their dead letters go to `dead`.
const MANY: &str = r#"
    INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged, created_at)
    SELECT format('a%s', n), false, false, now() + n * interval '1 s' FROM generate_series(1, 1100) n;
    INSERT INTO pgmq_gateway.queue_settings
        (queue_name, queue_created_at, bound_created_at, database_stamp, settings, fifo)
    SELECT m.queue_name, m.created_at, m.created_at, pgmq_gateway.database_stamp(),
           '{"dead_letter_queue":"dead"}', false
    FROM pgmq.meta m WHERE m.queue_name LIKE 'a%';
    DO $$ BEGIN
        FOR n IN 1..1100 LOOP
            EXECUTE format('CREATE TABLE pgmq.q_a%s ()', n);
        END LOOP;
    END $$"#;

async fn gateway() -> (TestGateway, Client) {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("some", SOME, &["receive:z*", "receive:dead"])];
    })
    .await;
    let some = gateway.with_key(SOME);
    (gateway, some)
}

/// The names on a page of a list, and what it says of a rest.
fn page(output: &Value, list: &str) -> (Vec<String>, Value) {
    let urls = output[list].as_array().cloned().unwrap_or_default();
    let name = |url: &Value| {
        let url = url.as_str().expect("a URL");
        url.rsplit('/').next().unwrap_or_default().to_owned()
    };
    (urls.iter().map(name).collect(), output["NextToken"].clone())
}

#[tokio::test]
async fn who_sees_few_of_many_queues_is_shown_those_in_whole_pages() {
    let (gateway, some) = gateway().await;
    let admin = gateway.with_key(ADMIN);
    admin.create("dead").await;
    for queue in ["z1", "z2", "z3"] {
        admin.create_with(queue, &json!({"settings": {"dead_letter_queue": "dead"}})).await;
    }
    gateway.database.execute(MANY).await;
    let sqs = Sqs(&some);
    for (action, list, first, last) in [
        ("ListDeadLetterSourceQueues", "queueUrls", ["z1", "z2"], vec!["z3"]),
        ("ListQueues", "QueueUrls", ["dead", "z1"], vec!["z2", "z3"]),
    ] {
        let mut input = json!({"MaxResults": 2});
        if action == "ListDeadLetterSourceQueues" {
            input["QueueUrl"] = json!("dead");
        }
        let (names, next) = page(&sqs.done(action, &input).await, list);
        assert_eq!(names, first, "{action}");
        input["NextToken"] = next;
        let (names, next) = page(&sqs.done(action, &input).await, list);
        assert_eq!(
            (names, next),
            (last.into_iter().map(str::to_owned).collect(), Value::Null),
            "{action}"
        );
    }
}

/// No other action finds them.
#[tokio::test]
async fn queues_without_a_table_are_not_listed() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.create("dead").await;
    for queue in ["q", "gone"] {
        gateway.create_with(queue, &json!({"settings": {"dead_letter_queue": "dead"}})).await;
    }
    gateway.database.execute("DROP TABLE pgmq.q_gone").await;
    let (names, _) = page(&sqs.done("ListQueues", &json!({})).await, "QueueUrls");
    assert_eq!(names, ["dead", "q"]);
    let sources = json!({"QueueUrl": "dead"});
    let sources = sqs.done("ListDeadLetterSourceQueues", &sources).await;
    assert_eq!(page(&sources, "queueUrls").0, ["q"]);
}

/// For each of them all queues are looked at.
#[tokio::test]
async fn few_such_lists_are_made_at_a_time() {
    let (gateway, some) = gateway().await;
    let lock = "LOCK TABLE pgmq_gateway.queue_attributes IN ACCESS EXCLUSIVE MODE";
    let holder = Holder::of(&gateway.database, lock).await;
    let mut lists = JoinSet::new();
    for _ in 0..8 {
        let some = some.clone();
        lists.spawn(async move { Sqs(&some).json("ListQueues", &json!({})).await });
    }
    let (mut most, mut looks) = (0, 0);
    while looks < 30 && !lists.is_empty() {
        let at_once = blocked_statements(&gateway.database, "/* list_aliases */").await;
        most = at_once.max(most);
        looks += u32::from(at_once > 0);
        while lists.try_join_next().is_some() {}
    }
    // A quarter of the connections.
    assert!((1..=2).contains(&most), "{most}");
    holder.rollback().await;
    while let Some(answer) = lists.join_next().await {
        let answer = answer.expect("no panic");
        assert!([200, 503].contains(&answer.status), "{}", answer.text);
    }
}
