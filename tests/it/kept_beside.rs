//! Triggers on what is kept beside the messages: settings, attributes, tasks, and what PGMQ knows of queues. What they
//! keep from being stored is not told to be.

use serde_json::{Value, json};

use crate::support::{Answer, TestDatabase, TestGateway, eventually, sqs::Sqs};

/// Two functions for triggers: one that drops the row, and one that leaves it as it was.
const FUNCTIONS: &str =
    "CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE FUNCTION public.leaves() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END'";

const DROPS: &str = "BEFORE INSERT OR UPDATE";

async fn gateway() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.database.execute(FUNCTIONS).await;
    gateway
}

/// Has a trigger on a table do as the function says, in place of the one before.
async fn trigger(database: &TestDatabase, table: &str, when: &str, function: &str) {
    let sql = format!(
        "DROP TRIGGER IF EXISTS t ON {table};
         CREATE TRIGGER t {when} ON {table} FOR EACH ROW EXECUTE FUNCTION public.{function}()"
    );
    database.execute(&sql).await;
}

/// Insists on an error that names the table.
async fn is_denied(sqs: &Sqs<'_>, action: &str, input: &Value, table: &str) {
    let (code, message) = sqs.error(action, input).await;
    assert_eq!(code, "AccessDenied", "{action}: {message}");
    let named = format!("a trigger, a rule or a policy on {table} is in the way");
    assert!(message.contains(&named), "{action}: {message}");
}

/// What is told of a queue of SQS.
async fn told(sqs: &Sqs<'_>, url: &str) -> (Value, Value) {
    let of = json!({"QueueUrl": url, "AttributeNames": ["All"]});
    let mut attributes = sqs.done("GetQueueAttributes", &of).await["Attributes"].clone();
    for odd in ["LastModifiedTimestamp", "CreatedTimestamp"] {
        attributes[odd].take();
    }
    (attributes, sqs.done("ListQueueTags", &json!({"QueueUrl": url})).await)
}

#[tokio::test]
async fn what_is_not_kept_of_a_queue_is_not_said_to_be() {
    const TABLE: &str = "pgmq_gateway.queue_attributes";
    let gateway = gateway().await;
    let sqs = Sqs(&gateway);
    gateway.create("made-elsewhere").await;
    let url = &sqs.create("q", &json!({"ReceiveMessageWaitTimeSeconds": "2"})).await;
    let policy = r#"{"Statement":[]}"#;
    for function in ["drops", "leaves"] {
        sqs.done("TagQueue", &json!({"QueueUrl": url, "Tags": {"a": "1"}})).await;
        let before = told(&sqs, url).await;
        let when = if function == "drops" { DROPS } else { "BEFORE UPDATE" };
        trigger(&gateway.database, TABLE, when, function).await;
        for (action, mut input) in [
            ("TagQueue", json!({"Tags": {"b": "2"}})),
            ("UntagQueue", json!({"TagKeys": ["a"]})),
            ("SetQueueAttributes", json!({"Attributes": {"Policy": policy}})),
            ("SetQueueAttributes", json!({"Attributes": {"Policy": policy, "DelaySeconds": "7"}})),
            (
                "AddPermission",
                json!({"Label": "l", "AWSAccountIds": ["123456789012"], "Actions": ["*"]}),
            ),
        ] {
            input["QueueUrl"] = url.as_str().into();
            is_denied(&sqs, action, &input, TABLE).await;
        }
        assert_eq!(told(&sqs, url).await, before, "{function}");
        if function == "drops" {
            for name in ["new", "Upper", "made-elsewhere"] {
                let wait = json!({"ReceiveMessageWaitTimeSeconds": "3"});
                is_denied(
                    &sqs,
                    "CreateQueue",
                    &json!({"QueueName": name, "Attributes": wait}),
                    TABLE,
                )
                .await;
            }
            gateway.get("/queues/new").await.problem(404, "queue_not_found");
        }
        gateway.database.execute(&format!("DROP TRIGGER t ON {TABLE}")).await;
    }
    // A purge that cannot be noted is done.
    gateway.send("q", r#"{"message":1}"#).await;
    trigger(&gateway.database, TABLE, DROPS, "drops").await;
    sqs.done("PurgeQueue", &json!({"QueueUrl": url})).await;
    assert!(gateway.all("q").await.is_empty());
}

/// SQL may have written anything there.
#[tokio::test]
async fn what_is_no_object_is_kept_as_one() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let odd = r#"UPDATE pgmq_gateway.queue_attributes SET tags = '[1]', attributes = '"odd"'"#;
    gateway.database.execute(odd).await;
    sqs.done("TagQueue", &json!({"QueueUrl": url, "Tags": {"a": "1"}})).await;
    let wait = json!({"ReceiveMessageWaitTimeSeconds": "3"});
    sqs.done("SetQueueAttributes", &json!({"QueueUrl": url, "Attributes": wait})).await;
    let (attributes, tags) = told(&sqs, &url).await;
    assert_eq!(tags, json!({"Tags": {"a": "1"}}));
    assert_eq!(attributes["ReceiveMessageWaitTimeSeconds"], "3");
}

#[tokio::test]
async fn settings_that_stay_as_they_were_are_not_said_to_be_changed() {
    const TABLE: &str = "pgmq_gateway.queue_settings";
    let gateway = gateway().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    for function in ["drops", "leaves"] {
        trigger(&gateway.database, TABLE, "BEFORE UPDATE", function).await;
        let timeout = json!({"VisibilityTimeout": "99"});
        let set = json!({"QueueUrl": url, "Attributes": timeout});
        is_denied(&sqs, "SetQueueAttributes", &set, TABLE).await;
        is_denied(&sqs, "CreateQueue", &json!({"QueueName": "new", "Attributes": timeout}), TABLE)
            .await;
        let refused = gateway.configure("q", json!({"visibility_timeout": 99})).await;
        let refused = refused.problem(403, "forbidden").detail();
        assert!(
            refused.contains("a trigger, a rule or a policy on") && !refused.contains("grant"),
            "{refused}"
        );
        let shown = gateway.get("/queues/q").await.expect(200).json();
        assert_eq!(shown["settings"]["visibility_timeout"], 30);
    }
}

/// Nobody is told to grant a right that is not missing.
#[tokio::test]
async fn what_pgmq_is_kept_from_storing_is_told_with_its_table() {
    let gateway = gateway().await;
    gateway.create("q").await;
    let refused = |answer: Answer, table: &str| {
        let said = answer.problem(403, "forbidden").detail();
        assert!(said.contains(&format!("policy on {table}")) && !said.contains("grant"), "{said}");
    };
    trigger(&gateway.database, "pgmq.meta", DROPS, "drops").await;
    refused(gateway.put("/queues/new", "").await, "pgmq.meta");
    trigger(&gateway.database, "pgmq.topic_bindings", DROPS, "drops").await;
    let bind = r#"{"pattern":"a.*"}"#;
    refused(gateway.post("/queues/q/bindings", bind).await, "pgmq.topic_bindings");
}

/// A task of a dead-letter queue.
fn source(queue: &str) -> Value {
    json!({"SourceArn": format!("arn:aws:sqs:us-east-1:000000000000:{queue}")})
}

/// What a task of a queue is like.
async fn task(sqs: &Sqs<'_>, queue: &str) -> Value {
    sqs.done("ListMessageMoveTasks", &source(queue)).await["Results"][0].clone()
}

#[tokio::test]
async fn a_task_that_is_not_begun_or_ended_is_not_said_to_be() {
    const TABLE: &str = "pgmq_gateway.move_tasks";
    let gateway = gateway().await;
    let sqs = Sqs(&gateway);
    for (work, dead) in [("work", "dead"), ("work2", "dead2")] {
        gateway.create(dead).await;
        gateway.create_with(work, &json!({"settings": {"dead_letter_queue": dead}})).await;
        let fill = format!(
            "SELECT pgmq.send('{dead}', to_jsonb(n), '{{\"x-dead-letter-queue\": \"{work}\"}}'::jsonb)
             FROM generate_series(1, 50) n"
        );
        gateway.database.execute(&fill).await;
    }
    trigger(&gateway.database, TABLE, "BEFORE INSERT", "drops").await;
    is_denied(&sqs, "StartMessageMoveTask", &source("dead"), TABLE).await;
    assert_eq!(task(&sqs, "dead").await, Value::Null);
    gateway.database.execute(&format!("DROP TRIGGER t ON {TABLE}")).await;
    let mut slowly = source("dead");
    slowly["MaxNumberOfMessagesPerSecond"] = 1.into();
    let handle = sqs.done("StartMessageMoveTask", &slowly).await;
    let only = "BEFORE UPDATE ON pgmq_gateway.move_tasks FOR EACH ROW WHEN (old.source = 'dead')
                EXECUTE FUNCTION public.drops()";
    gateway.database.execute(&format!("CREATE TRIGGER t {only}")).await;
    is_denied(&sqs, "CancelMessageMoveTask", &handle, TABLE).await;
    assert_eq!(task(&sqs, "dead").await["Status"], "RUNNING");
    let (code, message) = sqs.error("StartMessageMoveTask", &slowly).await;
    assert!(message.starts_with("There is already a task running."), "{code}: {message}");
    // It is in no other's way, though it cannot be claimed.
    sqs.done("StartMessageMoveTask", &source("dead2")).await;
    eventually("the other one is over", async || {
        (task(&sqs, "dead2").await["Status"] == "COMPLETED").then_some(())
    })
    .await;
    gateway.database.execute(&format!("DROP TRIGGER t ON {TABLE}")).await;
    sqs.done("CancelMessageMoveTask", &handle).await;
}
