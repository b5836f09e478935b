//! A queue that takes nothing back, whatever the reason: dead letters of the others go home all the same, and it is
//! said which queue it is.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, guarded::Guarded, sqs::Sqs,
};

/// `dead` with a letter of `bad` and two of `good`.
async fn fill(database: &TestDatabase) {
    for queue in ["dead", "bad", "good"] {
        database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
    }
    database
        .execute(
            "INSERT INTO pgmq.q_dead (vt, message, headers)
             SELECT now(), to_jsonb(origin), jsonb_build_object('x-dead-letter-queue', origin)
             FROM unnest('{good,bad,good}'::text[]) AS o (origin)",
        )
        .await;
}

async fn redrive(client: &Client, body: &Value) -> Answer {
    client.post("/queues/dead/redrive", &body.to_string()).await
}

const CANCELS: &str = "CREATE FUNCTION public.cancels() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN RAISE query_canceled; END';
    CREATE TRIGGER t BEFORE INSERT ON pgmq.q_bad FOR EACH ROW EXECUTE FUNCTION public.cancels()";

/// What was done to `bad`, and what is answered where nothing else is moved.
const TROUBLE: [(&str, u16, &str, &str); 4] = [
    ("ALTER TABLE pgmq.q_bad RENAME vt TO visible", 409, "queue_conflict", "column `vt` of"),
    ("ALTER TABLE pgmq.q_bad DROP message", 409, "queue_conflict", "column `message` of"),
    (
        "SELECT setval('pgmq.q_bad_msg_id_seq', 9223372036854775807)",
        500,
        "internal_error",
        "reached its end",
    ),
    (CANCELS, 503, "database_unavailable", "trigger"),
];

#[tokio::test]
async fn letters_of_others_go_home_beside_a_queue_that_takes_none() {
    for (change, status, code, words) in TROUBLE {
        let gateway = TestGateway::start().await;
        fill(&gateway.database).await;
        gateway.database.execute(change).await;
        let moved = redrive(&gateway, &json!({})).await.expect(200).json();
        assert_eq!(moved["moved"], 2, "{change}: {moved}");
        assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_good").await, 2);
        for body in [json!({}), json!({"to": "bad"})] {
            let answer = redrive(&gateway, &body).await.problem(status, code);
            let detail = answer.detail();
            assert!(detail.contains(words) && detail.contains("`bad`"), "{change}: {detail}");
        }
        assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_dead").await, 1);
        let replay = gateway.post("/queues/good/archive/replay", r#"{"to":"bad"}"#).await;
        assert_eq!(replay.expect(200).json()["replayed"], 0, "there is nothing in the archive");
    }
}

#[tokio::test]
async fn a_task_that_moves_letters_ends_and_says_what_keeps_the_rest() {
    let gateway = TestGateway::start().await;
    fill(&gateway.database).await;
    gateway
        .create_with("x", &json!({"settings": {"max_receives": 1, "dead_letter_queue": "dead"}}))
        .await;
    gateway.database.execute("ALTER TABLE pgmq.q_bad RENAME vt TO visible").await;
    let sqs = Sqs(&gateway);
    let source = json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:dead"});
    sqs.done("StartMessageMoveTask", &source).await;
    let task = eventually("the task is over", async || {
        let tasks = sqs.done("ListMessageMoveTasks", &source).await;
        (tasks["Results"][0]["Status"] != "RUNNING").then(|| tasks["Results"][0].clone())
    })
    .await;
    assert_eq!(task["Status"], "FAILED", "{task}");
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], 2, "{task}");
    let reason = task["FailureReason"].as_str().expect("a reason");
    assert!(reason.contains("`bad`") && reason.contains("`vt`"), "{reason}");
}

#[tokio::test]
async fn a_right_that_is_missing_for_one_queue_is_named() {
    let gateway = Guarded::start("SELECT").await;
    fill(&gateway.database).await;
    let role = format!("guarded_{}", gateway.database.name);
    let grant = format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA pgmq TO {role};
         REVOKE INSERT ON pgmq.q_bad FROM {role}"
    );
    gateway.database.execute(&grant).await;
    assert_eq!(redrive(&gateway, &json!({})).await.expect(200).json()["moved"], 2);
    let answer = redrive(&gateway, &json!({})).await.problem(403, "forbidden");
    assert!(answer.detail().contains("role may not do this to queue `bad`"), "{}", answer.text);
}

/// They are not what a limit is about, however many there are.
#[tokio::test]
async fn letters_that_cannot_go_back_are_in_nobodys_way() {
    let gateway = TestGateway::start().await;
    fill(&gateway.database).await;
    let sql = "TRUNCATE pgmq.q_dead;
        INSERT INTO pgmq.q_dead (vt, message, headers)
        SELECT now(), '1', jsonb_build_object('x-dead-letter-queue',
                                              CASE WHEN n <= 40000 THEN 'gone' ELSE 'good' END)
        FROM generate_series(1, 40003) n";
    gateway.database.execute(sql).await;
    let redriven = redrive(&gateway, &json!({"limit": 1})).await.expect(200).json();
    assert_eq!(redriven["moved"], 1);
    let redriven = redrive(&gateway, &json!({})).await.expect(200).json();
    assert_eq!(redriven["moved"], 2);
}

/// What comes back while they are moved is not moved again.
#[tokio::test]
async fn what_dies_again_meanwhile_is_left() {
    let gateway = TestGateway::start().await;
    fill(&gateway.database).await;
    let again = "CREATE FUNCTION public.again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO pgmq.q_dead (vt, message, headers)
            VALUES (now(), NEW.message, '{\"x-dead-letter-queue\":\"good\"}');
            INSERT INTO pgmq.a_good (msg_id, vt, read_ct, enqueued_at, message)
            VALUES (NEW.msg_id, now(), 1, now(), NEW.message);
            RETURN NULL;
        END $$;
        CREATE TRIGGER again AFTER INSERT ON pgmq.q_good FOR EACH ROW EXECUTE FUNCTION public.again();
        INSERT INTO pgmq.q_dead (vt, message, headers)
        SELECT now(), '1', '{\"x-dead-letter-queue\":\"good\"}' FROM generate_series(1, 997)";
    gateway.database.execute(again).await;
    let redriven = redrive(&gateway, &json!({})).await.expect(200).json();
    assert_eq!(redriven["moved"], 1000);
    let replayed = gateway.post("/queues/good/archive/replay", "{}").await.expect(200).json();
    assert_eq!(replayed["replayed"], 999);
}

/// What was moved until then is told, and what ended it.
#[tokio::test]
async fn a_destination_that_is_dropped_midway_is_the_reason() {
    const LETTERS: i64 = 20_000;
    for (path, told) in
        [("/queues/dead/redrive", "moved"), ("/queues/dead/archive/replay", "replayed")]
    {
        let gateway = TestGateway::start().await;
        for queue in ["dead", "to"] {
            gateway.create(queue).await;
        }
        let sql = format!(
            "INSERT INTO pgmq.q_dead (vt, message) SELECT now(), '1' FROM generate_series(1, {LETTERS});
             INSERT INTO pgmq.a_dead (msg_id, enqueued_at, vt, message)
             SELECT n, now(), now(), '1' FROM generate_series(1, {LETTERS}) n"
        );
        gateway.database.execute(&sql).await;
        let client = gateway.client.clone();
        let moving = tokio::spawn(async move { client.post(path, r#"{"to":"to"}"#).await });
        eventually("some are moved", async || {
            gateway
                .database
                .value::<bool>("SELECT EXISTS (SELECT FROM pgmq.q_to)")
                .await
                .then_some(())
        })
        .await;
        gateway.database.execute("SELECT pgmq.drop_queue('to')").await;
        let moved = moving.await.expect("no panic").expect(200).json();
        let count = moved[told].as_i64().expect("a number");
        assert!(count > 0 && count < LETTERS && moved["next"].is_i64(), "{moved}");
        assert_eq!(moved["reason"], "there is no queue `to`", "{moved}");
        let rest = format!(r#"{{"to":"to","after":{}}}"#, moved["next"]);
        gateway.post(path, &rest).await.problem(404, "queue_not_found");
    }
}

/// What keeps a message where it is, on the table `t` that is to give it.
const KEEPS: [&str; 4] = [
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER keep BEFORE DELETE ON pgmq.t FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END';
     CREATE TRIGGER keep BEFORE DELETE ON pgmq.t FOR EACH ROW EXECUTE FUNCTION public.keep()",
    "CREATE RULE keep AS ON DELETE TO pgmq.t DO INSTEAD NOTHING",
    "CREATE RULE keep AS ON DELETE TO pgmq.t DO INSTEAD
         UPDATE pgmq.t SET read_ct = read_ct WHERE msg_id = old.msg_id RETURNING t.*",
];

/// Whom nobody keeps from storing is not said to refuse it.
#[tokio::test]
async fn what_its_own_table_keeps_is_not_said_to_be_refused_where_it_was_to_go() {
    for keeps in KEEPS {
        let gateway = TestGateway::start().await;
        fill(&gateway.database).await;
        let archived = "INSERT INTO pgmq.a_bad (msg_id, vt, message) VALUES (1, now(), '1')";
        gateway.database.execute(archived).await;
        gateway
            .database
            .execute(&keeps.replace("t.*", "q_dead.*").replace("pgmq.t", "pgmq.q_dead"))
            .await;
        let refused = redrive(&gateway, &json!({})).await.problem(403, "forbidden").detail();
        assert!(refused.contains("the table of queue `dead` keeps"), "{refused}");
        let again = keeps
            .replace("public.keep", "public.keep_archived")
            .replace("t.*", "a_bad.*")
            .replace("pgmq.t", "pgmq.a_bad");
        gateway.database.execute(&again).await;
        let replay = gateway.post("/queues/bad/archive/replay", r#"{"to":"good"}"#).await;
        let refused = replay.problem(403, "forbidden").detail();
        assert!(refused.contains("the archive of queue `bad` keeps"), "{refused}");
        assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_dead").await, 3);
        assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_good").await, 0);
    }
}

/// Beside those that a foreign key keeps, the others are moved.
#[tokio::test]
async fn a_foreign_key_to_an_archive_is_not_said_to_be_one_of_the_queue_that_gets_its_messages() {
    let gateway = TestGateway::start().await;
    fill(&gateway.database).await;
    let sql = "INSERT INTO pgmq.a_bad (msg_id, vt, message) VALUES (1, now(), '1'), (2, now(), '2');
        CREATE TABLE public.refers (m bigint REFERENCES pgmq.a_bad); INSERT INTO public.refers VALUES (1)";
    gateway.database.execute(sql).await;
    let replay = gateway.post("/queues/bad/archive/replay", r#"{"to":"good"}"#).await.expect(200);
    assert_eq!(replay.json()["replayed"], 1, "{}", replay.text);
    assert!(replay.text.contains("the archive of queue `bad` keeps"), "{}", replay.text);
}
