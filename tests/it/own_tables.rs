//! Tables of the gateway's own that do not take a row: what was to be done once is not done without it.

use serde_json::{Value, json};

use crate::support::{Answer, Client, TestDatabase, TestGateway, guarded::together};

const KEYS: &str = "idempotency_keys";
const IDS: &str = "deduplication_ids";

/// What may guard such a table, and what is told of it.
const GUARDS: [(&str, &str); 4] = [
    ("CREATE TRIGGER guard BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION public.drops()", ""),
    (
        "CREATE TRIGGER guard BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION public.raises()",
        "P0001",
    ),
    ("ALTER TABLE {t} ADD CONSTRAINT guard CHECK (false) NOT VALID", "23514"),
    (
        "CREATE TRIGGER guard BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION public.forbids()",
        "42501",
    ),
];

/// Another one. A session that has met it does not notice when it is dropped: of a plan that does nothing PostgreSQL
/// does not know what it was made of.
const RULE: (&str, &str) = ("CREATE RULE guard AS ON INSERT TO {t} DO INSTEAD NOTHING", "");

/// Takes away what any of them made.
const NO_GUARD: &str = "DROP TRIGGER IF EXISTS guard ON {t}; DROP RULE IF EXISTS guard ON {t};
     ALTER TABLE {t} DROP CONSTRAINT IF EXISTS guard";

async fn change(database: &TestDatabase, table: &str, how: &str) {
    database.execute(&how.replace("{t}", &format!("pgmq_gateway.{table}"))).await;
}

/// A queue `q`, read in groups or not, to which the topic `t` leads.
async fn with_queue(fifo: bool) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": fifo})).await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.drops() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE FUNCTION public.raises() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE EXCEPTION ''no''; END';
             CREATE FUNCTION public.forbids() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE insufficient_privilege; END';",
        )
        .await;
    gateway
}

async fn stored(gateway: &TestGateway) -> i64 {
    gateway.database.value("SELECT count(*) FROM pgmq.q_q").await
}

/// All ways to store this message.
fn sends(message: &Value) -> [(&'static str, Value); 5] {
    let mut send = message.clone();
    send["queue"] = json!("q");
    [
        ("/queues/q/messages", message.clone()),
        ("/queues/q/messages/batch", json!({"messages": [message]})),
        ("/transactions", json!({"operations": [{"send": send}]})),
        ("/topics/t/messages", message.clone()),
        ("/topics/t/messages/batch", json!({"messages": [message]})),
    ]
}

async fn once(gateway: &Client, path: &str, body: &Value, key: &str) -> Answer {
    let request = gateway.request("POST", path).header("idempotency-key", key);
    Answer::of(request.body(body.to_string())).await
}

async fn keys_are_refused(gateway: &TestGateway, key: &str, (guard, code): (&str, &str)) {
    change(&gateway.database, KEYS, guard).await;
    for (path, body) in sends(&json!({"message": 1})) {
        for _ in 0..2 {
            let answer = once(gateway, path, &body, key).await;
            let detail = answer.problem(403, "forbidden").detail();
            let about = "idempotency key cannot be written down";
            assert!(detail.contains(about) && detail.contains(KEYS), "{guard}, {path}: {detail}");
            assert!(detail.contains(code), "{guard}, {path}: {detail}");
        }
    }
    change(&gateway.database, KEYS, NO_GUARD).await;
}

#[tokio::test]
async fn a_key_that_is_not_written_down_has_nothing_done() {
    let gateway = with_queue(false).await;
    for (n, guard) in GUARDS.into_iter().enumerate() {
        keys_are_refused(&gateway, &format!("k{n}"), guard).await;
    }
    assert_eq!(stored(&gateway).await, 0);
    for (path, body) in sends(&json!({"message": 1})) {
        let answer = once(&gateway, path, &body, "k0").await;
        assert!(answer.status < 300, "nothing is remembered: {path}: {}", answer.text);
    }
    keys_are_refused(&gateway, "rule", RULE).await;
    assert_eq!(stored(&gateway).await, 5);
}

/// It was written down, and what was answered was not.
#[tokio::test]
async fn an_answer_that_is_not_written_down_has_nothing_done() {
    let gateway = with_queue(true).await;
    for function in ["drops", "raises"] {
        let guard = format!(
            "CREATE TRIGGER guard BEFORE UPDATE ON {{t}} FOR EACH ROW EXECUTE FUNCTION public.{function}()"
        );
        change(&gateway.database, KEYS, &guard).await;
        for (path, body) in sends(&json!({"message": 1})) {
            for _ in 0..2 {
                let answer = once(&gateway, path, &body, function).await;
                let detail = answer.problem(403, "forbidden").detail();
                assert!(detail.contains(KEYS), "{function}, {path}: {detail}");
            }
        }
        change(&gateway.database, KEYS, NO_GUARD).await;
    }
    assert_eq!(stored(&gateway).await, 0);
    let keys = format!("SELECT count(*) FROM pgmq_gateway.{KEYS}");
    assert_eq!(gateway.database.value::<i64>(&keys).await, 0);
}

/// A key that stands there without an answer was not answered by this gateway: what was done is not known.
#[tokio::test]
async fn a_key_without_an_answer_has_nothing_done_again() {
    let gateway = with_queue(false).await;
    for (path, body) in sends(&json!({"message": 1})) {
        let first = once(&gateway, path, &body, "k").await;
        assert!(first.status < 300, "{path}: {}", first.text);
        change(&gateway.database, KEYS, "UPDATE {t} SET answer = NULL").await;
        once(&gateway, path, &body, "k").await.problem(409, "idempotency_conflict");
    }
    assert_eq!(stored(&gateway).await, 5);
}

#[tokio::test]
async fn a_key_that_is_dropped_is_in_the_way_of_nobody_who_shares_the_statement() {
    let gateway = with_queue(false).await;
    let guard = "CREATE TRIGGER guard BEFORE INSERT ON {t} FOR EACH ROW WHEN (new.key LIKE 'bad%') \
                 EXECUTE FUNCTION public.drops()";
    change(&gateway.database, KEYS, guard).await;
    for (path, body) in sends(&json!({"message": 1})) {
        let before = stored(&gateway).await;
        let answers = together(24, |n| {
            let key = format!("{}{n}", if n % 4 == 0 { "bad" } else { "good" });
            let request = gateway.request("POST", path);
            let request = if n % 4 == 1 { request } else { request.header("idempotency-key", key) };
            Answer::of(request.body(body.to_string()))
        });
        for (n, answer) in answers.await.into_iter().enumerate() {
            if n % 4 == 0 {
                answer.problem(403, "forbidden");
            } else {
                assert!(answer.status < 300, "{path}, {n}: {}", answer.text);
            }
        }
        assert_eq!(stored(&gateway).await, before + 18, "{path}");
    }
}

async fn ids_are_refused(gateway: &TestGateway, message: &Value, (guard, code): (&str, &str)) {
    change(&gateway.database, IDS, guard).await;
    for (path, body) in sends(message) {
        for key in [None, Some("k")] {
            let request = gateway.request("POST", path).body(body.to_string());
            let request = match key {
                Some(key) => request.header("idempotency-key", key),
                None => request,
            };
            let detail = Answer::of(request).await.problem(403, "forbidden").detail();
            let about = "queue `q`: the deduplication id cannot be written down";
            assert!(detail.contains(about) && detail.contains(IDS), "{guard}, {path}: {detail}");
            assert!(detail.contains(code), "{guard}, {path}: {detail}");
            let is_placed = detail.contains("operations[0]");
            assert_eq!(is_placed, path == "/transactions", "{detail}");
        }
    }
    change(&gateway.database, IDS, NO_GUARD).await;
}

#[tokio::test]
async fn a_deduplication_id_that_is_not_written_down_has_nothing_stored() {
    let gateway = with_queue(true).await;
    let message = |id: &str| json!({"message": 1, "headers": {"x-deduplication-id": id, "x-pgmq-group": "g"}});
    for guard in GUARDS {
        ids_are_refused(&gateway, &message("d"), guard).await;
    }
    assert_eq!(stored(&gateway).await, 0);
    for (path, body) in sends(&message("d")) {
        let answer = gateway.post(path, &body.to_string()).await;
        assert!(answer.status < 300, "{path}: {}", answer.text);
    }
    ids_are_refused(&gateway, &message("rule"), RULE).await;
    assert_eq!(stored(&gateway).await, 1);
}

#[tokio::test]
async fn a_deduplication_id_that_is_dropped_is_in_the_way_of_nobody_who_shares_the_statement() {
    let gateway = with_queue(true).await;
    let guard = "CREATE TRIGGER guard BEFORE INSERT ON {t} FOR EACH ROW WHEN (new.key LIKE '%bad%') \
                 EXECUTE FUNCTION public.drops()";
    change(&gateway.database, IDS, guard).await;
    let answers = together(24, |n| {
        let id = format!("{}{n}", if n % 4 == 0 { "bad" } else { "good" });
        let headers = json!({"x-deduplication-id": id, "x-pgmq-group": "g"});
        let headers = if n % 4 == 1 { json!({"x-pgmq-group": "g"}) } else { headers };
        let (path, body) = sends(&json!({"message": n, "headers": headers}))
            .into_iter()
            .nth(if n % 8 < 4 { 0 } else { 2 })
            .expect("one of five");
        Answer::of(gateway.request("POST", path).body(body.to_string()))
    });
    for (n, answer) in answers.await.into_iter().enumerate() {
        if n % 4 == 0 {
            answer.problem(403, "forbidden");
        } else {
            assert!(answer.status < 300, "{n}: {}", answer.text);
        }
    }
    assert_eq!(stored(&gateway).await, 18);
}
