//! Tasks that move dead letters back, and the queues that they belong to.

use serde_json::{Value, json};

use crate::{
    slow_queues::GATE,
    support::{Holder, TestGateway, eventually, gateway::patient, guarded::Guarded, sqs::Sqs},
};

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

/// A task of a gateway where dead letters of `work` go to `dead`, once it is over.
async fn task_of(gateway: &TestGateway, input: &Value, meanwhile: &str) -> Value {
    let sqs = Sqs(gateway);
    let settings = json!({"max_receives": 3, "dead_letter_queue": "dead"});
    gateway.create_with("work", &json!({"settings": settings})).await;
    sqs.done("StartMessageMoveTask", input).await;
    if !meanwhile.is_empty() {
        let queue = input.get("DestinationArn").map_or("work", |_| "other");
        let some = format!("SELECT EXISTS (SELECT FROM pgmq.q_{queue})");
        eventually("some are moved", async || {
            gateway.database.value::<bool>(&some).await.then_some(())
        })
        .await;
        gateway.database.execute(meanwhile).await;
    }
    let list = json!({"SourceArn": ARN});
    eventually("the task is over", async || {
        let tasks = sqs.done("ListMessageMoveTasks", &list).await;
        (tasks["Results"][0]["Status"] != "RUNNING").then(|| tasks["Results"][0].clone())
    })
    .await
}

/// So many that they take several steps of each part of the task.
#[tokio::test]
async fn a_task_whose_destination_is_dropped_midway_says_so() {
    for to_other in [true, false] {
        let gateway = TestGateway::start().await;
        for queue in ["dead", "other"] {
            gateway.create(queue).await;
        }
        let fill = FILL.replace("1, 5", "1, 20000");
        gateway.database.execute(&fill).await;
        let mut input = json!({"SourceArn": ARN});
        if to_other {
            input["DestinationArn"] = ARN.replace("dead", "other").into();
        }
        let queue = if to_other { "other" } else { "work" };
        let drop = format!("SELECT pgmq.drop_queue('{queue}')");
        let task = task_of(&gateway, &input, &drop).await;
        assert_eq!(task["Status"], "FAILED", "{task}");
        assert_eq!(task["FailureReason"], "AWS.SimpleQueueService.NonExistentQueue", "{task}");
        let moved = task["ApproximateNumberOfMessagesMoved"].as_i64().expect("a number");
        let left = "SELECT count(*) FROM pgmq.q_dead";
        assert_eq!(moved + gateway.database.value::<i64>(left).await, 20_000, "{task}");
    }
}

/// A gateway with five letters in `dead`, and a trigger that waits for as long as there is a row in `gate`.
async fn gated(trigger: &str) -> TestGateway {
    let gateway = TestGateway::with(patient).await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 3, "dead_letter_queue": "dead"});
    gateway.create_with("work", &json!({"settings": settings})).await;
    for statement in [FILL, GATE] {
        gateway.database.execute(statement).await;
    }
    let trigger = format!("CREATE TRIGGER slow {trigger} EXECUTE FUNCTION wait_at_gate()");
    gateway.database.execute(&trigger).await;
    gateway
}

#[tokio::test]
async fn what_a_task_has_moved_is_counted_as_soon_as_it_can_be_received() {
    let gateway = gated(
        "BEFORE UPDATE ON pgmq_gateway.move_tasks FOR EACH ROW WHEN (new.status = 'COMPLETED')",
    )
    .await;
    let sqs = Sqs(&gateway);
    let source = json!({"SourceArn": ARN});
    sqs.done("StartMessageMoveTask", &source).await;
    gateway.receive("work", "qty=1&wait=20").await;
    let task = &sqs.done("ListMessageMoveTasks", &source).await["Results"][0];
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], 5, "{task}");
    assert_eq!(task["Status"], "RUNNING", "{task}");
    gateway.database.execute("DELETE FROM gate").await;
    eventually("it is over", async || {
        let task = sqs.done("ListMessageMoveTasks", &source).await["Results"][0].clone();
        (task["Status"] == "COMPLETED").then_some(())
    })
    .await;
}

/// A step that is under way moves nothing once it is said how many were moved.
#[tokio::test]
async fn a_task_that_was_cancelled_has_moved_as_many_as_is_said() {
    let gateway =
        gated("BEFORE INSERT ON pgmq.q_work FOR EACH ROW WHEN (new.message = '4'::jsonb)").await;
    let sqs = Sqs(&gateway);
    let slowly = json!({"SourceArn": ARN, "MaxNumberOfMessagesPerSecond": 1});
    let handle = sqs.done("StartMessageMoveTask", &slowly).await;
    let stops = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' \
                 AND datname = current_database())";
    eventually("a step is under way", async || {
        gateway.database.value::<bool>(stops).await.then_some(())
    })
    .await;
    let said = sqs.done("CancelMessageMoveTask", &handle).await;
    assert_eq!(said["ApproximateNumberOfMessagesMoved"], 3, "{said}");
    gateway.database.execute("DELETE FROM gate").await;
    let is_over = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%redrive%' \
                   AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database())";
    eventually("the step is over", async || {
        gateway.database.value::<bool>(is_over).await.then_some(())
    })
    .await;
    assert_eq!((gateway.all("work").await.len(), gateway.all("dead").await.len()), (3, 2));
    let task = &sqs.done("ListMessageMoveTasks", &slowly).await["Results"][0];
    assert_eq!(
        (&task["Status"], &task["ApproximateNumberOfMessagesMoved"]),
        (&"CANCELLED".into(), &3.into())
    );
}

#[tokio::test]
async fn a_task_that_passes_letters_over_says_why() {
    for (headers, moved, reason) in [
        ("NULL", 0, "CouldNotDetermineMessageSource"),
        ("'{\"x-dead-letter-queue\": \"dead\"}'", 0, "CouldNotDetermineMessageSource"),
        ("'{\"x-dead-letter-queue\": \"gone\"}'", 0, "AWS.SimpleQueueService.NonExistentQueue"),
        (
            "CASE WHEN n > 2 THEN '{\"x-dead-letter-queue\": \"work\"}' END",
            3,
            "CouldNotDetermineMessageSource",
        ),
    ] {
        let gateway = TestGateway::start().await;
        gateway.create("dead").await;
        let fill = format!(
            "SELECT pgmq.send('dead', to_jsonb(n), ({headers})::jsonb) FROM generate_series(1, 5) n"
        );
        gateway.database.execute(&fill).await;
        let task = task_of(&gateway, &json!({"SourceArn": ARN}), "").await;
        assert_eq!(task["Status"], "FAILED", "{headers}: {task}");
        assert_eq!(task["FailureReason"], reason, "{headers}: {task}");
        assert_eq!(task["ApproximateNumberOfMessagesMoved"], moved, "{headers}: {task}");
        let redriven = gateway.post("/queues/dead/redrive", "").await.expect(200).json();
        assert_eq!(redriven["moved"], 0, "{headers}: {redriven}");
        assert!(redriven["reason"].as_str().is_some_and(|why| why.contains("it stays")));
        // A destination takes all of them.
        gateway.create("other").await;
        let all = gateway.post("/queues/dead/redrive", r#"{"to":"other"}"#).await;
        assert_eq!(all.expect(200).json(), json!({"moved": 5 - moved}), "{headers}");
    }
}

/// What somebody has locked is to be moved as well, and what is in somebody's hands is not.
#[tokio::test]
async fn a_task_waits_for_letters_that_are_locked_alone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.create("dead").await;
    let settings = json!({"max_receives": 3, "dead_letter_queue": "dead"});
    gateway.create_with("work", &json!({"settings": settings})).await;
    gateway.database.execute(FILL).await;
    let in_hand = gateway.receive("dead", "qty=1&vt=600").await[0]["msg_id"].clone();
    let lock = "SELECT FROM pgmq.q_dead WHERE msg_id = 3 FOR UPDATE";
    let holder = Holder::of(&gateway.database, lock).await;
    let source = json!({"SourceArn": ARN});
    sqs.done("StartMessageMoveTask", &source).await;
    let task = async || sqs.done("ListMessageMoveTasks", &source).await["Results"][0].clone();
    eventually("those are moved that can be", async || {
        (task().await["ApproximateNumberOfMessagesMoved"] == 3).then_some(())
    })
    .await;
    // It looks again, and the lock is still there.
    let pauses =
        "SELECT claimed_until > clock_timestamp() AND moved = 3 FROM pgmq_gateway.move_tasks";
    eventually("it pauses", async || gateway.database.value::<bool>(pauses).await.then_some(()))
        .await;
    assert_eq!(task().await["Status"], "RUNNING");
    holder.rollback().await;
    let over = eventually("it is over", async || {
        let task = task().await;
        (task["Status"] != "RUNNING").then_some(task)
    })
    .await;
    assert_eq!(over["Status"], "COMPLETED", "{over}");
    assert_eq!(over["ApproximateNumberOfMessagesMoved"], 4, "{over}");
    assert_eq!(over["ApproximateNumberOfMessagesToMove"], 4, "{over}");
    let left = gateway.all("dead").await;
    assert_eq!((left.len(), &left[0]["msg_id"]), (1, &in_hand), "{left:?}");
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
