//! JSON of every kind: what the gateway takes PostgreSQL keeps, what PostgreSQL refuses it refuses.

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::json;
use sqlx::Connection;

use crate::support::TestGateway;

/// Numbers as no library would write them.
fn number() -> impl Strategy<Value = String> {
    let exponent = prop_oneof![
        4 => "",
        3 => "[eE][+-]?[0-9]{1,3}",
        1 => "[eE][+-]?0{0,3}(16383|16384|131071|131072|999999999999)",
    ];
    ("-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?", exponent).prop_map(|(n, e)| n + &e)
}

/// Strings with every escape there is, and halves of characters.
fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[a-zA-Z \u{e9}\u{4e2d}\u{1f600}\u{7f}\u{2028}]{1,4}",
        3 => "\\\\[bfnrt/\\\\\"]",
        2 => "\\\\u[0-9a-fA-F]{4}",
        1 => "\\\\ud83d\\\\ude00",
        1 => "\\\\u(0000|d800|DBFF|dc00|dfff|ffff|FEFF)",
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// Any JSON text.
fn any_json() -> impl Strategy<Value = String> {
    let space = "[ \t\r\n]{0,2}";
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number(),
        string()
    ];
    leaf.prop_recursive(6, 24, 5, move |inner| {
        let entry = (string(), space, inner.clone()).prop_map(|(k, s, v)| format!("{k}{s}:{s}{v}"));
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec(entry, 0..5).prop_map(|items| format!("{{{}}}", items.join(","))),
            (inner, 0..40_usize).prop_map(|(v, n)| "[".repeat(n) + &v + &"]".repeat(n)),
        ]
    })
}

/// PostgreSQL's own word: the text that it would give back, or that it refuses.
async fn kept(connection: &mut sqlx::PgConnection, json: &str) -> Option<String> {
    let cast = sqlx::query_scalar("SELECT ($1::text)::jsonb::text").bind(json);
    cast.fetch_one(connection).await.ok()
}

#[tokio::test]
async fn the_gateway_and_postgresql_agree() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut connection = gateway.database.connect().await;
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..1_500 {
        let json = any_json().new_tree(&mut runner).expect("a tree").current();
        let answer = gateway.post("/queues/q/messages", &format!(r#"{{"message":{json}}}"#)).await;
        let expected = kept(&mut connection, &json).await;
        if answer.status == 422 {
            // What would be too long once it is written out PostgreSQL takes, and never gives back.
            let expands = answer.detail().contains("written out in full");
            assert!(expected.is_none() || expands, "PostgreSQL takes {json}: {}", answer.text);
            refused += 1;
            continue;
        }
        let id = answer.expect(201).json()["msg_id"].clone();
        let expected = expected.unwrap_or_else(|| panic!("PostgreSQL refuses {json}"));
        let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200);
        // Not parsed: a reader of doubles has no use for numbers of 500 digits.
        assert!(popped.text.contains(&format!(r#""msg_id":{id},"#)), "{:.200}", popped.text);
        let text = popped.text.split_once(r#""message":"#).expect("a message").1;
        assert!(text.starts_with(&expected), "{json} became {text}, not {expected}");
        taken += 1;
    }
    assert!(taken > 500 && refused > 100, "both kinds were there: {taken} and {refused}");
    connection.close().await.expect("closed");
}

fn nested(levels: usize, open: &str, inner: &str, close: &str) -> String {
    open.repeat(levels) + inner + &close.repeat(levels)
}

/// At the limit everything that is done to messages works; above it they are refused with it.
#[tokio::test]
async fn levels_have_a_limit() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deepest = nested(10_000, open, "1", close);
        let deeper = nested(10_001, open, "1", close);
        let send = |json: &str| format!(r#"{{"message":{json}}}"#);
        let refused = gateway.post("/queues/q/messages", &send(&deeper)).await;
        let detail = refused.problem(422, "message_rejected").detail();
        assert!(detail.contains("10000 levels"), "{detail}");
        let batch = format!(r#"{{"messages":[{0},{0}]}}"#, send(&deepest));
        gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
        let operation =
            format!(r#"{{"operations":[{{"send":{{"queue":"q","message":{deepest}}}}}]}}"#);
        gateway.post("/transactions", &operation).await.expect(200);
        let received = gateway.get("/queues/q/messages?qty=10&vt=0").await.expect(200);
        assert_eq!(received.text.matches(r#""msg_id""#).count(), 3, "all are given back");
        let peek = gateway.get("/queues/q/peek?limit=1").await.expect(200).text;
        let squeezed = |text: &str| text.replace(' ', "");
        assert!(squeezed(&peek).contains(&deepest), "as it was sent");
        gateway.post("/queues/q/purge", "").await.expect(200);
        let headers =
            format!(r#"{{"message":1,"headers":{{"a":{}}}}}"#, nested(9_999, open, "1", close));
        gateway.post("/queues/q/messages", &headers).await.expect(201);
        let headers = format!(r#"{{"message":1,"headers":{{"a":{deepest}}}}}"#);
        gateway.post("/queues/q/messages", &headers).await.problem(422, "message_rejected");
        gateway.post("/queues/q/purge", "").await.expect(200);
    }

    let low = TestGateway::on(&gateway.database, |settings| settings.limits.max_json_depth = 32);
    let low = low.await;
    low.send("q", &format!(r#"{{"message":{}}}"#, nested(32, "[", "", "]"))).await;
    let refused = format!(r#"{{"message":{}}}"#, nested(33, "[", "", "]"));
    let refused = low.post("/queues/q/messages", &refused).await.problem(422, "message_rejected");
    assert!(refused.detail().contains("32 levels"), "{}", refused.detail());
}

/// Nesting that would end a careless parser, wherever a body is read.
#[tokio::test]
async fn no_nesting_anywhere_ends_the_gateway() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for whole in [nested(1_000_000, open, "1", close), open.repeat(1_000_000)] {
            for (method, path, body) in [
                ("POST", "/queues/q/messages", r#"{"message":@}"#),
                ("POST", "/queues/q/messages", r#"{"message":1,"headers":@}"#),
                ("POST", "/queues/q/messages", r#"{"message":1,"headers":{"a":@}}"#),
                ("POST", "/queues/q/messages", r#"{"message":1,"delay":@}"#),
                ("POST", "/queues/q/messages", r#"{"unknown":@}"#),
                ("POST", "/queues/q/messages", "@"),
                ("POST", "/queues/q/messages/batch", r#"{"messages":@}"#),
                ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":@}]}"#),
                ("POST", "/queues/q/messages/settle", r#"{"delete":@}"#),
                ("POST", "/queues/q/archive/replay", r#"{"filter":@}"#),
                ("POST", "/queues/q/archive/replay", r#"{"msg_ids":@}"#),
                ("POST", "/transactions", r#"{"operations":@}"#),
                ("POST", "/transactions", r#"{"operations":[{"send":{"queue":"q","message":@}}]}"#),
                ("PUT", "/queues/r", r#"{"settings":@}"#),
                ("PUT", "/queues/r", r#"{"partition":@}"#),
                ("PATCH", "/queues/q", r#"{"settings":{"notify":@}}"#),
                ("POST", "/queues/q/bindings", r#"{"pattern":@}"#),
                ("DELETE", "/queues/q", "@"),
            ] {
                let body = body.replace('@', &whole);
                let answer = gateway.request(method, path).body(body).send().await;
                let status = answer.expect("an answer").status().as_u16();
                assert!([400, 413, 422].contains(&status), "{method} {path}: {status}");
            }
        }
        let filter = nested(600, open, "1", close);
        let filter = url::form_urlencoded::byte_serialize(filter.as_bytes()).collect::<String>();
        let filtered = gateway.get(&format!("/queues/q/messages?filter={filter}")).await;
        let is_object = open.starts_with('{');
        assert_eq!(filtered.status, if is_object { 200 } else { 400 }, "{:.200}", filtered.text);
    }
    assert_eq!(gateway.get("/queues").await.expect(200).json()["queues"][0]["queue"], json!("q"));
}
