//! Functions of another version of the gateway may say words that this one does not know: nothing is taken
//! for done then.

use serde_json::json;

use crate::support::{Answer, TestGateway};

/// Replaces the body of a function, whose signature stays.
async fn replace(gateway: &TestGateway, name: &str, body: &str) {
    let definition = "SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'pgmq_gateway'::regnamespace AND proname = ";
    let definition: String = gateway.database.value(&format!("{definition} '{name}'")).await;
    let (head, _) = definition.split_once("AS $function$").expect("a body");
    gateway.database.execute(&format!("{head} AS $$ BEGIN {body} END $$")).await;
}

#[tokio::test]
async fn word_that_is_not_known_is_no_success() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute("ALTER TABLE pgmq.q_q ADD CHECK (message <> '0')").await;
    for n in 1..=8 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let receipt =
        gateway.receive_one("q", "vt=600").await["receipt"].as_str().expect("one").to_owned();
    let outcomes = "RETURN QUERY SELECT w.id, 'perhaps'::text FROM unnest(ids) w (id);";
    for name in ["delete", "archive"] {
        replace(&gateway, name, outcomes).await;
    }
    let places = "RETURN QUERY SELECT w.place, 'perhaps'::text, NULL::text, NULL::timestamptz
        FROM unnest(ids) WITH ORDINALITY w (id, place);";
    replace(&gateway, "settle", places).await;
    let places = "RETURN QUERY SELECT n, NULL::bigint[], 'perhaps'::text, NULL::text, NULL::text
        FROM generate_series(1, cardinality(sizes)) n;";
    replace(&gateway, "send_each", places).await;
    replace(&gateway, "transact", "outcome := 'perhaps'; results := '[{\"msg_id\": 1}]';").await;
    replace(&gateway, "bind", "outcome := 'perhaps';").await;
    replace(&gateway, "unbind", "RETURN 'perhaps';").await;
    replace(&gateway, "put_queue", "outcome := 'perhaps';").await;

    let settle = json!({"delete": [{"msg_id": 3}], "archive": [{"msg_id": 4}]}).to_string();
    let transaction = r#"{"operations":[{"delete":{"queue":"q","msg_id":1}}]}"#;
    let requests = [
        ("DELETE", "/queues/q/messages/1".to_owned(), ""),
        ("DELETE", format!("/queues/q/messages/1?receipt={receipt}"), ""),
        ("POST", "/queues/q/messages/2/archive".to_owned(), ""),
        ("POST", format!("/queues/q/messages/1/archive?receipt={receipt}"), ""),
        ("PATCH", "/queues/q/messages/1".to_owned(), r#"{"vt":1}"#),
        ("POST", "/queues/q/messages/settle".to_owned(), &*settle),
        ("POST", "/queues/q/messages".to_owned(), r#"{"message":0}"#),
        ("POST", "/transactions".to_owned(), transaction),
        ("POST", "/queues/q/bindings".to_owned(), r#"{"pattern":"t.*"}"#),
        ("DELETE", "/queues/q/bindings?pattern=t.*".to_owned(), ""),
        ("PUT", "/queues/new".to_owned(), ""),
    ];
    for (method, path, body) in requests {
        let answer = Answer::of(gateway.request(method, &path).body(body.to_owned())).await;
        assert_eq!(answer.status, 500, "{method} {path}: {}", answer.text);
        let answer = answer.problem(500, "internal_error");
        assert!(!answer.text.contains("perhaps"), "{}", answer.text);
    }
    let metrics = gateway.get("/metrics").await.text;
    for (what, count) in [("deleted", 0), ("archived", 0), ("sent", 8)] {
        let name = format!("pgmq_gateway_messages_{what}_total{{queue=\"q\"}}");
        let line = metrics.lines().find(|line| line.starts_with(&name));
        assert_eq!(
            line.map_or("0", |line| line.rsplit(' ').next().expect("a number")),
            count.to_string()
        );
    }
}
