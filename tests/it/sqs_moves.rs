//! Tasks that move dead letters back, and the queues that they belong to.

use serde_json::json;

use crate::support::{TestGateway, eventually, guarded::Guarded, sqs::Sqs};

const ARN: &str = "arn:aws:sqs:us-east-1:000000000000:dead";

/// A queue with a dead letter of `work` in it.
const FILL: &str = "SELECT pgmq.send('dead', to_jsonb(n), '{\"x-dead-letter-queue\": \"work\"}'::jsonb) \
                    FROM generate_series(1, 5) n";

/// Whoever drops it: what comes under its name is another queue.
#[tokio::test]
async fn a_task_ends_with_its_queue() {
    for by_sql in [false, true] {
        let gateway = TestGateway::start().await;
        let sqs = Sqs(&gateway);
        let dead = sqs.create("dead", &json!({})).await;
        let settings = json!({"max_receives": 3, "dead_letter_queue": "dead"});
        gateway.create_with("work", &json!({"settings": settings})).await;
        gateway.database.execute(FILL).await;
        let slowly = json!({"SourceArn": ARN, "MaxNumberOfMessagesPerSecond": 1});
        let list = json!({"SourceArn": ARN, "MaxResults": 10});
        let renew = async || {
            if by_sql {
                let again = "SELECT pgmq.drop_queue('dead')";
                gateway.database.execute(again).await;
                gateway.database.execute("SELECT pgmq.create('dead')").await;
            } else {
                sqs.done("DeleteQueue", &json!({"QueueUrl": dead})).await;
                sqs.create("dead", &json!({})).await;
            }
        };
        let old = sqs.done("StartMessageMoveTask", &slowly).await;
        eventually("a message is back", async || {
            (!gateway.all("work").await.is_empty()).then_some(())
        })
        .await;
        renew().await;
        assert_eq!(sqs.done("ListMessageMoveTasks", &list).await, json!({}), "{by_sql}");
        let cancel = json!({"TaskHandle": old["TaskHandle"]});
        assert_eq!(
            sqs.error("CancelMessageMoveTask", &cancel).await.0,
            "ResourceNotFoundException"
        );
        // One that runs is in nobody's way.
        gateway.database.execute(FILL).await;
        sqs.done("StartMessageMoveTask", &slowly).await;
        let listed = sqs.done("ListMessageMoveTasks", &list).await["Results"].clone();
        assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(listed[0]["Status"], "RUNNING", "{listed}");
        assert_eq!(listed[0]["ApproximateNumberOfMessagesToMove"], 5, "{listed}");
        // One that was not noticed to be over moves nothing.
        renew().await;
        let before = gateway.all("work").await.len();
        gateway.database.execute(FILL).await;
        let ended = "SELECT count(*) FROM pgmq_gateway.move_tasks WHERE status = 'FAILED' \
                     AND failure = 'queue_not_found'";
        eventually("both are over", async || {
            (gateway.database.value::<i64>(ended).await == 2).then_some(())
        })
        .await;
        let (left, back) = (gateway.all("dead").await.len(), gateway.all("work").await.len());
        assert!(left >= 4 && left + back == before + 5, "{before}: {left}, {back}");
        sqs.done("StartMessageMoveTask", &json!({"SourceArn": ARN})).await;
        eventually("all are back", async || gateway.all("dead").await.is_empty().then_some(()))
            .await;
    }
}

/// Far back is a message that takes longer to read than a statement may: all of them cannot be counted.
const UNCOUNTABLE: &str =
    "INSERT INTO pgmq.q_q (vt, message) SELECT now(), '1' FROM generate_series(1, 100200);
    ANALYZE pgmq.q_q;
    CREATE FUNCTION public.slow() RETURNS boolean LANGUAGE plpgsql COST 1000000 AS
    'BEGIN PERFORM pg_sleep(60); RETURN true; END';
    ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY all_of_them ON pgmq.q_q USING (msg_id <= 100150 OR public.slow())";

/// What is about so many everywhere else need not be exact here.
#[tokio::test]
async fn a_queue_that_cannot_be_counted_has_about_so_many_messages() {
    let gateway = Guarded::with(UNCOUNTABLE, |settings| {
        settings.database.statement_timeout_ms = 2_000;
    })
    .await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "q"});
    gateway.configure("other", settings).await.expect(200);
    gateway.get("/queues/q/metrics").await.problem(503, "database_unavailable");
    let sqs = Sqs(&gateway);
    let mut input = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await;
    input["AttributeNames"] = json!(["All"]);
    let attributes = sqs.done("GetQueueAttributes", &input).await["Attributes"].clone();
    let visible = attributes["ApproximateNumberOfMessages"].as_str().expect("a number");
    assert!(visible.parse::<i64>().expect("a number") > 100_000, "{attributes}");
    assert_eq!(attributes["ApproximateNumberOfMessagesNotVisible"], "0", "{attributes}");
    let source = json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:q"});
    sqs.done("StartMessageMoveTask", &source).await;
    let tasks = sqs.done("ListMessageMoveTasks", &source).await["Results"].clone();
    assert!(
        tasks[0]["ApproximateNumberOfMessagesToMove"].as_i64().expect("a number") > 100_000,
        "{tasks}"
    );
}
