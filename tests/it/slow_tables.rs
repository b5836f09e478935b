//! Tables of queues that take long for every row: what goes in the time goes, and what is left is told.

use std::time::Duration;

use pgmq_gateway::config::Settings;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::dashboard_actions::said;
use crate::support::{Browser, TestDatabase, TestGateway, eventually, sqs::Sqs};

/// Letters, for all of which together a statement has not got the time.
const LETTERS: i64 = 120;
const DEAD: &str = "arn:aws:sqs:us-east-1:000000000000:dead";

/// A statement has 1.5 s, a request that goes step by step about 3 s.
fn short_of_time(settings: &mut Settings) {
    settings.database.statement_timeout_ms = 1_500;
    settings.server.request_timeout_seconds = 6;
    settings.maintenance.interval_ms = 100;
}

/// Has a table of PGMQ's take 40 ms for each row that comes or goes: LETTERS of them take about 5 s.
async fn slow_down(database: &TestDatabase, event: &str, table: &str) {
    let sql = format!(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN PERFORM pg_sleep(0.04); RETURN coalesce(NEW, OLD); END';
         CREATE TRIGGER slow BEFORE {event} ON pgmq.{table} FOR EACH ROW EXECUTE FUNCTION public.slow()"
    );
    database.execute(&sql).await;
}

/// Queues `q` and `dead`, where dead letters of `q` go; letters of `q` in `table`.
async fn start(table: &str) -> TestGateway {
    let gateway = TestGateway::with(short_of_time).await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    let (id, ids) = if table.starts_with('a') { ("msg_id,", "n,") } else { ("", "") };
    let fill = format!(
        "INSERT INTO pgmq.{table} ({id} enqueued_at, vt, message, headers)
         SELECT {ids} now() - interval '1 hour', now(), to_jsonb(n), '{{\"x-dead-letter-queue\":\"q\"}}'
         FROM generate_series(1, {LETTERS}) n"
    );
    gateway.database.execute(&fill).await;
    gateway
}

async fn count(gateway: &TestGateway, table: &str) -> i64 {
    gateway.database.value(&format!("SELECT count(*) FROM pgmq.{table}")).await
}

/// Asks until there is no `next` any more; the answers.
async fn ask(gateway: &TestGateway, path: &str) -> Vec<Value> {
    let (mut answers, mut body) = (Vec::new(), json!({}));
    loop {
        let answer = gateway.post(path, &body.to_string()).await.expect(200).json();
        let next = answer["next"].clone();
        answers.push(answer);
        if next.is_null() {
            return answers;
        }
        body["after"] = next;
    }
}

fn sum(answers: &[Value], told: &str) -> i64 {
    answers.iter().map(|answer| answer[told].as_i64().expect("a number")).sum()
}

#[tokio::test]
async fn archived_messages_are_replayed_as_far_as_the_time_goes() {
    let gateway = start("a_q").await;
    slow_down(&gateway.database, "INSERT", "q_q").await;
    let answers = ask(&gateway, "/queues/q/archive/replay").await;
    assert!(answers.len() > 1, "one request is too short: {answers:?}");
    assert_eq!(sum(&answers, "replayed"), LETTERS, "{answers:?}");
    assert_eq!(count(&gateway, "q_q").await, LETTERS);
}

#[tokio::test]
async fn dead_letters_are_redriven_as_far_as_the_time_goes() {
    let gateway = start("q_dead").await;
    slow_down(&gateway.database, "INSERT", "q_q").await;
    let answers = ask(&gateway, "/queues/dead/redrive").await;
    assert!(answers.len() > 1, "one request is too short: {answers:?}");
    assert_eq!(sum(&answers, "moved"), LETTERS, "{answers:?}");
    assert_eq!(count(&gateway, "q_q").await, LETTERS);
}

#[tokio::test]
async fn letters_that_were_chosen_are_moved_as_far_as_the_time_goes() {
    for (table, list, action) in [("q_dead", "dead", "redrive"), ("a_q", "archived", "replay")] {
        let gateway = start(table).await;
        slow_down(&gateway.database, "INSERT", "q_q").await;
        let browser = Browser::new(&gateway.base);
        let ids: Vec<String> = (1..=LETTERS).map(|id| id.to_string()).collect();
        let mut fields = vec![("action", action), ("list", list)];
        if list == "dead" {
            fields.push(("at", "dead"));
        }
        fields.extend(ids.iter().map(|id| ("ids", &**id)));
        let done = browser.post("/ui/queues/q/do", &fields).await.expect(200);
        let moved = count(&gateway, "q_q").await;
        assert!(moved > 0, "{}", said(&done));
        let left = LETTERS - moved;
        let told = format!(" {moved} of {LETTERS}: {left} were left, as the time was up.");
        assert!(said(&done).ends_with(&told), "{told} {}", said(&done));
    }
}

/// The task once it is over. A part of it that ran into a bound of time on a busy machine is tried again after a pause of
/// ten times what that took, a minute at most.
async fn ended_task(sqs: &Sqs<'_>) -> Value {
    let ended = async || {
        loop {
            let tasks = sqs.done("ListMessageMoveTasks", &json!({"SourceArn": DEAD})).await;
            let task = &tasks["Results"][0];
            if task["Status"] != "RUNNING" {
                return task.clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(300), ended()).await.expect("the task ends")
}

#[tokio::test]
async fn a_task_moves_letters_into_a_slow_table_and_counts_them() {
    let gateway = start("q_dead").await;
    slow_down(&gateway.database, "INSERT", "q_q").await;
    let sqs = Sqs(&gateway);
    sqs.done("StartMessageMoveTask", &json!({"SourceArn": DEAD})).await;
    let task = ended_task(&sqs).await;
    assert_eq!(task["Status"], "COMPLETED", "{task}");
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], LETTERS, "{task}");
    assert_eq!(count(&gateway, "q_q").await, LETTERS);
}

#[tokio::test]
async fn a_queue_is_purged_as_far_as_the_time_goes() {
    let gateway = start("q_q").await;
    slow_down(&gateway.database, "DELETE", "q_q").await;
    let mut purged = 0;
    loop {
        let answer = gateway.post("/queues/q/purge", "").await.expect(200).json();
        purged += answer["purged"].as_i64().expect("a number");
        if answer["more"] != true {
            break;
        }
        assert_eq!(count(&gateway, "q_q").await, LETTERS - purged);
    }
    assert_eq!(purged, LETTERS);
}

/// To ask again would begin with the same messages.
#[tokio::test]
async fn a_purge_that_deletes_nothing_in_its_time_says_why() {
    let gateway = start("q_q").await;
    let keep = "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_sleep(0.04); RETURN NULL; END';
                CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()";
    gateway.database.execute(keep).await;
    gateway.post("/queues/q/purge", "").await.problem(403, "forbidden");
    assert_eq!(count(&gateway, "q_q").await, LETTERS);
}

/// It has no other way to say that there are more.
#[tokio::test]
async fn a_queue_that_is_purged_in_part_over_sqs_is_asked_for_again() {
    let gateway = start("q_q").await;
    slow_down(&gateway.database, "DELETE", "q_q").await;
    let sqs = Sqs(&gateway);
    let url = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await;
    let mut answers = Vec::new();
    while answers.last() != Some(&200) {
        answers.push(sqs.json("PurgeQueue", &url).await.status);
    }
    assert!(answers.len() > 1, "one request is too short: {answers:?}");
    assert!(answers.iter().all(|status| [200, 503].contains(status)), "{answers:?}");
    assert_eq!(count(&gateway, "q_q").await, 0);
}

#[tokio::test]
async fn what_is_past_its_retention_goes_though_a_table_is_slow() {
    for (table, retention) in [("q_q", "message_retention"), ("a_q", "archive_retention")] {
        let gateway = start(table).await;
        slow_down(&gateway.database, "DELETE", table).await;
        if table == "a_q" {
            let old = "UPDATE pgmq.a_q SET archived_at = now() - interval '1 hour'";
            gateway.database.execute(old).await;
        }
        gateway.configure("q", json!({retention: 1})).await.expect(200);
        let empty = async || (count(&gateway, table).await == 0).then_some(());
        eventually(table, empty).await;
    }
}

/// Refuses letters slowly, but for the last three.
const REFUSES: &str = "CREATE FUNCTION public.refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.04);
        IF (NEW.message #>> '{}')::integer <= 117 THEN RAISE 'as the test wishes'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuses BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.refuses()";

#[tokio::test]
async fn those_behind_letters_that_are_refused_are_reached() {
    for (table, path, told) in [
        ("q_dead", "/queues/dead/redrive", "moved"),
        ("a_q", "/queues/q/archive/replay", "replayed"),
    ] {
        let gateway = start(table).await;
        gateway.database.execute(REFUSES).await;
        let answers = ask(&gateway, path).await;
        assert!(answers.len() > 1, "one request is too short: {answers:?}");
        assert_eq!(answers[0][told], 0, "{answers:?}");
        let reason = answers[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("`q`") && reason.contains("trigger"), "{reason}");
        assert_eq!(sum(&answers, told), 3, "{answers:?}");
        gateway.database.execute(&format!("DELETE FROM pgmq.{table} WHERE msg_id > 5")).await;
        gateway.post(path, "{}").await.problem(422, "message_rejected");
    }
}

#[tokio::test]
async fn a_task_ends_though_letters_in_front_are_refused() {
    let gateway = start("q_dead").await;
    gateway.database.execute(REFUSES).await;
    let sqs = Sqs(&gateway);
    sqs.done("StartMessageMoveTask", &json!({"SourceArn": DEAD})).await;
    let task = ended_task(&sqs).await;
    assert_eq!(task["Status"], "FAILED", "{task}");
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], 3, "{task}");
    assert!(task["FailureReason"].as_str().expect("a reason").contains("`q`"), "{task}");
    assert_eq!(count(&gateway, "q_q").await, 3);
}

/// One that takes its time holds up no other.
#[tokio::test]
async fn tasks_go_on_beside_one_that_is_slow() {
    let gateway = TestGateway::start().await;
    for (dead, queue, letters) in [("dead", "slow", 1), ("dead2", "quick", 3)] {
        gateway.create(dead).await;
        let settings = json!({"max_receives": 1, "dead_letter_queue": dead});
        gateway.create_with(queue, &json!({"settings": settings})).await;
        let fill = format!(
            "INSERT INTO pgmq.q_{dead} (vt, message, headers)
             SELECT now(), '1', '{{\"x-dead-letter-queue\":\"{queue}\"}}' FROM generate_series(1, {letters})"
        );
        gateway.database.execute(&fill).await;
    }
    // Not as long as a statement may take, and longer than three letters at one in a second.
    let slow = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(12); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_slow FOR EACH ROW EXECUTE FUNCTION public.slow()";
    gateway.database.execute(slow).await;
    let sqs = Sqs(&gateway);
    sqs.done("StartMessageMoveTask", &json!({"SourceArn": DEAD})).await;
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND wait_event = 'PgSleep'";
    eventually("it is at work", async || {
        (gateway.database.value::<i64>(sleeps).await == 1).then_some(())
    })
    .await;
    let other = json!({"SourceArn": format!("{DEAD}2"), "MaxNumberOfMessagesPerSecond": 1});
    sqs.done("StartMessageMoveTask", &other).await;
    eventually("the others are back", async || {
        (count(&gateway, "q_quick").await == 3).then_some(())
    })
    .await;
    assert_eq!(count(&gateway, "q_slow").await, 0, "the slow one is still at its first letter");
    let task = ended_task(&sqs).await;
    assert_eq!((&task["Status"], count(&gateway, "q_slow").await), (&json!("COMPLETED"), 1));
}
