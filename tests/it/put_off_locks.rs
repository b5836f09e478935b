//! Checks that PostgreSQL puts off to the commit, where no function of the gateway's is at work any more: they wait for
//! what somebody else has locked, or say anything. Who is meant is told so, soon, and nobody else.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::locks::{fill, ids};
use crate::support::{
    Answer, Holder, TestDatabase, TestGateway,
    guarded::together,
    holder::LOCK_LIMIT,
    process::{Program, program},
};

/// How many come at once, and which of them is meant.
const CROWD: i64 = 12;
const BAD: i64 = 5;

const CONSTRAINTS: [(&str, &str); 2] = [
    (
        "ALTER TABLE pgmq.q_q ADD CONSTRAINT once UNIQUE (message) DEFERRABLE INITIALLY DEFERRED",
        "INSERT INTO pgmq.q_q (vt, message) VALUES (now() + interval '1 h', '{\"n\": 5}')",
    ),
    (
        "CREATE TABLE public.owners AS SELECT n FROM generate_series(0, 99) n;
         ALTER TABLE public.owners ADD PRIMARY KEY (n);
         ALTER TABLE pgmq.q_q ADD COLUMN n int GENERATED ALWAYS AS ((message->>'n')::int) STORED;
         ALTER TABLE pgmq.q_q ADD FOREIGN KEY (n) REFERENCES public.owners DEFERRABLE INITIALLY DEFERRED",
        "SELECT FROM public.owners WHERE n = 5 FOR UPDATE",
    ),
];

async fn gateway(sql: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("other").await;
    gateway.database.execute(sql).await;
    gateway
}

/// A trigger that is put off to the commit, and raises an error about the message that says 5.
fn raises(table: &str, event: &str, code: &str) -> String {
    format!(
        "CREATE FUNCTION public.says() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (coalesce(NEW, OLD)).message->>'n' = '5' THEN
                 RAISE EXCEPTION 's3cr3t' USING ERRCODE = '{code}';
             END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER says AFTER {event} ON pgmq.{table} DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION public.says()"
    )
}

/// All at once, of which one is told the status and the code, and the others succeed.
async fn crowd(
    gateway: &TestGateway,
    method: &str,
    request: impl Fn(i64) -> (String, Value),
    expected: (u16, &str),
) -> Answer {
    let began = Instant::now();
    let answers = together(CROWD, |n| {
        let (path, body) = request(n);
        let request = gateway.request(method, &path);
        Answer::of(if body.is_null() { request } else { request.body(body.to_string()) })
    })
    .await;
    assert!(began.elapsed() < LOCK_LIMIT);
    let mut bad = None;
    for (n, answer) in (0..).zip(answers) {
        if n == BAD {
            bad = Some(answer.problem(expected.0, expected.1));
        } else {
            assert!((200..300).contains(&answer.status), "{n}: {}", answer.text);
        }
    }
    bad.expect("one that is bad")
}

fn send(n: i64) -> (String, Value) {
    ("/queues/q/messages".to_owned(), json!({"message": {"n": n}}))
}

fn transaction(n: i64) -> (String, Value) {
    let send = |queue: &str| json!({"send": {"queue": queue, "message": {"n": n}}});
    ("/transactions".to_owned(), json!({"operations": [send("other"), send("q")]}))
}

#[tokio::test]
async fn who_waits_for_a_lock_at_the_commit_waits_alone() {
    for (constraint, lock) in CONSTRAINTS {
        let gateway = gateway(constraint).await;
        let holder = Holder::of(&gateway.database, lock).await;
        crowd(&gateway, "POST", send, (503, "overloaded")).await;
        assert_eq!(gateway.all("q").await.len(), 11);
        gateway.post("/queues/q/purge", "").await.expect(200);
        crowd(&gateway, "POST", transaction, (503, "overloaded")).await;
        assert_eq!(gateway.all("q").await.len(), 11);
        assert_eq!(gateway.all("other").await.len(), 11);
        holder.rollback().await;
        let (path, body) = send(BAD);
        gateway.post(&path, &body.to_string()).await.expect(201);
    }
}

/// Codes that the gateway gives a meaning to, and those that are about servers and connections.
#[tokio::test]
async fn what_is_raised_at_the_commit_is_about_its_message_alone() {
    const REJECTED: (u16, &str) = (422, "message_rejected");
    const KEPT: (u16, &str) = (403, "forbidden");
    const AWAY: (u16, &str) = (503, "database_unavailable");
    for (code, sent, settled) in [
        ("PGW40", REJECTED, KEPT),
        ("PGW44", REJECTED, KEPT),
        ("PGW55", REJECTED, KEPT),
        ("PGW97", REJECTED, KEPT),
        ("PGW54", REJECTED, KEPT),
        ("25006", REJECTED, KEPT),
        ("55000", REJECTED, KEPT),
        ("XX000", REJECTED, KEPT),
        ("22021", REJECTED, KEPT),
        ("0A000", REJECTED, KEPT),
        ("2200H", REJECTED, KEPT),
        ("53300", AWAY, AWAY),
        ("57P01", AWAY, AWAY),
        ("08006", AWAY, AWAY),
    ] {
        let gateway = gateway(&raises("q_q", "INSERT", code)).await;
        let told = crowd(&gateway, "POST", send, sent).await;
        assert!(!told.text.contains("s3cr3t"), "{code}: {}", told.text);
        assert_eq!(gateway.all("q").await.len(), 11, "{code}");
        let told = crowd(&gateway, "POST", transaction, sent).await;
        assert!(told.detail().contains("operations[1]"), "{code}: {}", told.text);
        assert_eq!(gateway.all("other").await.len(), 11, "{code}");

        gateway
            .database
            .execute("DROP TRIGGER says ON pgmq.q_q; DROP FUNCTION public.says()")
            .await;
        gateway
            .database
            .execute(
                "TRUNCATE pgmq.q_q RESTART IDENTITY; INSERT INTO pgmq.q_q (vt, message)
             SELECT now(), jsonb_build_object('n', n - 1) FROM generate_series(1, 20) n",
            )
            .await;
        gateway.database.execute(&raises("q_q", "UPDATE OR DELETE", code)).await;
        let delete = |n: i64| (format!("/queues/q/messages/{}", n + 1), Value::Null);
        crowd(&gateway, "DELETE", delete, settled).await;
        assert_eq!(gateway.receive("q", "qty=100&vt=0").await.len(), 8, "{code}");
        let popped =
            gateway.post("/queues/q/messages/pop?qty=100", "").await.expect(200).messages();
        assert_eq!(popped.len(), 8, "{code}");
        assert_eq!(ids(&gateway.all("q").await), [6], "{code}");
        gateway.post("/queues/q/purge", "").await.problem(settled.0, settled.1);
    }
}

/// A trigger may say so of a sequence of its own, when it is asked and at the commit.
#[tokio::test]
async fn the_end_of_a_triggers_sequence_is_about_its_message_alone() {
    let gateway = gateway(
        "CREATE SEQUENCE public.numbers MAXVALUE 2; SELECT nextval('public.numbers'), nextval('public.numbers');
         CREATE FUNCTION public.number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (coalesce(NEW, OLD)).message->>'n' = '5' THEN PERFORM nextval('public.numbers'); END IF;
             RETURN coalesce(NEW, OLD);
         END $$;
         CREATE TRIGGER number BEFORE INSERT OR UPDATE ON pgmq.q_q
         FOR EACH ROW EXECUTE FUNCTION public.number()",
    )
    .await;
    crowd(&gateway, "POST", send, (422, "message_rejected")).await;
    crowd(&gateway, "POST", transaction, (422, "message_rejected")).await;
    gateway.database.execute(
        "ALTER TABLE pgmq.q_q DISABLE TRIGGER number; INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '{\"n\": 5}');
         ALTER TABLE pgmq.q_q ENABLE TRIGGER number").await;
    assert_eq!(gateway.receive("q", "qty=100").await.len(), 22);
}

/// Of a message that a row refers to which somebody is about to delete: it stays, the others go.
#[tokio::test]
async fn what_refers_to_a_message_and_is_locked_keeps_no_other_from_being_popped() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 20).await;
    gateway
        .database
        .execute(
            "CREATE TABLE public.refs (id bigint REFERENCES pgmq.q_q (msg_id)); INSERT INTO public.refs VALUES (5)",
        )
        .await;
    let holder = Holder::of(&gateway.database, "DELETE FROM public.refs").await;
    let pop = || gateway.request("POST", "/queues/q/messages/pop?qty=2");
    let popped = together(9, |_| Answer::of(pop())).await;
    let popped: usize = popped.into_iter().map(|answer| answer.expect(200).messages().len()).sum();
    assert_eq!(popped, 18);
    let last = gateway.post("/queues/q/messages/pop?qty=5", "").await.expect(200).messages();
    assert_eq!(last.len(), 1);
    assert_eq!(ids(&gateway.all("q").await), [5]);
    holder.commit().await;
    let last = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages();
    assert_eq!(ids(&last), [5]);
}

/// Somebody stores a message that one of those is like: it stays, the others are moved.
#[tokio::test]
async fn what_one_of_many_waits_for_keeps_no_other_from_being_moved() {
    let gateway = TestGateway::start().await;
    gateway.create("other").await;
    fill(&gateway, "q", 6).await;
    gateway.database.execute("CREATE UNIQUE INDEX once ON pgmq.q_other (message)").await;
    let holder = Holder::of(
        &gateway.database,
        "INSERT INTO pgmq.q_other (vt, message) VALUES (now(), '{\"n\": 5}')",
    )
    .await;
    let moved = gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.expect(200).json();
    assert_eq!(moved["moved"], 5);
    assert_eq!(ids(&gateway.all("q").await), [5]);
    gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.problem(503, "overloaded");

    gateway.post("/queues/q/messages/5/archive", "").await.expect(204);
    gateway
        .database
        .execute(
            "INSERT INTO pgmq.a_q (msg_id, vt, message) SELECT n, now(), jsonb_build_object('n', n)
         FROM generate_series(11, 14) n",
        )
        .await;
    let replay = r#"{"to":"other"}"#;
    let replayed = gateway.post("/queues/q/archive/replay", replay).await.expect(200).json();
    assert_eq!(replayed["replayed"], 4);

    gateway
        .database
        .execute(
            "TRUNCATE pgmq.a_q; INSERT INTO pgmq.q_q (vt, read_ct, message)
         SELECT now(), 1, jsonb_build_object('n', n) FROM unnest(ARRAY[5, 21, 22, 23]) n;
         INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '\"good\"')",
        )
        .await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "other"});
    gateway.configure("q", settings).await.expect(200);
    let received = gateway.receive("q", "qty=10").await;
    assert_eq!(received.iter().map(|m| &m["message"]).collect::<Vec<_>>(), ["good"]);
    let left = gateway.all("q").await;
    assert_eq!(
        left.iter().map(|m| &m["message"]).collect::<Vec<_>>(),
        [&json!({"n": 5}), &json!("good")]
    );
    holder.rollback().await;
    assert_eq!(gateway.all("other").await.len(), 12);
}

/// A message that is not stored yet has no number.
#[tokio::test]
async fn a_transaction_that_waits_for_what_it_sends_names_the_queue() {
    let gateway =
        gateway("CREATE UNIQUE INDEX once ON pgmq.q_q (message); SELECT pgmq.bind_topic('a', 'q')")
            .await;
    let _holder = Holder::of(
        &gateway.database,
        "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '{\"n\": 5}')",
    )
    .await;
    let told = crowd(&gateway, "POST", transaction, (503, "overloaded")).await;
    assert!(told.detail().contains("locked queue `q`, or something"), "{}", told.text);
    let publish = |n: i64| {
        (
            "/topics/a/messages".to_owned(),
            json!({"message": {"n": n + if n == BAD { 0 } else { 50 }}}),
        )
    };
    let told = crowd(&gateway, "POST", publish, (503, "overloaded")).await;
    assert!(told.detail().contains("locked queue `q`, or something"), "{}", told.text);
}

/// What a trigger says goes with the error of one that is undone because of others, too.
#[tokio::test]
async fn what_a_trigger_says_of_others_is_not_logged() {
    let database = TestDatabase::new().await;
    let environment = [
        ("DATABASE_URL", &*database.url()),
        ("PGMQ_GATEWAY__SERVER__PORT", "0"),
        ("PGMQ_GATEWAY__LOG__LEVEL", "debug"),
    ];
    let mut started = Program::start(program(&[], &environment));
    let client = started.client().await;
    client.create("q").await;
    for code in ["40001", "40002", "2200H"] {
        database
            .execute(&format!(
                "DROP FUNCTION IF EXISTS public.says() CASCADE; {}",
                raises("q_q", "INSERT", code)
            ))
            .await;
        let send = json!({"send": {"queue": "q", "message": {"n": 5}}});
        for (path, body) in [
            ("/queues/q/messages", json!({"message": {"n": 5}})),
            ("/transactions", json!({"operations": [send]})),
        ] {
            let answer = client.post(path, &body.to_string()).await;
            assert!([422, 503].contains(&answer.status), "{code}: {}", answer.text);
            assert!(!answer.text.contains("s3cr3t"), "{}", answer.text);
        }
    }
    client.get("/livez").await.expect(200);
    let log = started.log();
    assert_eq!(log.lines().find(|line| line.contains("s3cr3t")), None);
    assert!(log.contains("/queues/{queue}/messages"), "requests are logged: {log}");
}
