//! Problems word for word, as clients get them: they stand in `snapshots/problem_bodies.txt`.

use std::fmt::Write;

use serde_json::{Value, json};

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Answer, Client, TestGateway, snapshot::assert_snapshot};

/// Characters that are kept of what was asked.
const LINE: usize = 100;

/// Problems as they were asked for, and what was answered.
#[derive(Default)]
struct Problems(String);

impl Problems {
    async fn ask(&mut self, client: &Client, method: &str, path: &str, body: &Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.ask_text(client, method, path, text).await;
    }

    async fn ask_text(&mut self, client: &Client, method: &str, path: &str, body: String) {
        let asked: String = format!("{method} {path} {body}").chars().take(LINE).collect();
        let answer = Answer::of(client.request(method, path).body(body)).await;
        self.note(asked.trim(), &answer);
    }

    /// The id of the request is never the same twice.
    fn note(&mut self, asked: &str, answer: &Answer) {
        assert_eq!(answer.header("content-type"), "application/problem+json", "{}", answer.text);
        let body = answer.text.replace(answer.header("x-request-id"), "(request)");
        let retry = answer.header("retry-after");
        let retry = if retry.is_empty() { String::new() } else { format!(", retry after {retry}") };
        let text = write!(self.0, "{asked}\n{}{retry} {body}\n\n", answer.status);
        text.expect("a text takes what is written");
    }
}

/// With a queue `q` that has message 1, on which a unique index is, and a queue `work` whose dead letters go there.
async fn prepared() -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 2_000;
        settings.long_poll.max_waiters = 0;
    })
    .await;
    gateway.create("q").await;
    gateway.create_with("work", &json!({"settings": {"dead_letter_queue": "q"}})).await;
    gateway.send_message("q", "one").await;
    gateway.database.execute("CREATE UNIQUE INDEX one_of_each ON pgmq.q_q (message)").await;
    gateway
}

#[tokio::test]
async fn problems_are_told_in_the_words_that_are_kept() {
    let gateway = prepared().await;
    let mut problems = Problems::default();
    let nothing = Value::Null;
    for (method, path) in [
        ("GET", "/queues/q/messages?qty=1000"),
        ("GET", "/queues/q/messages?qyt=1"),
        ("GET", "/queues/q/messages?fifo=both"),
        ("GET", "/queues/q/messages?fifo=head&filter=%7B%22a%22:1%7D"),
        ("GET", "/queues/q/archive?since=now"),
        ("GET", "/queues/a;b"),
        ("GET", "/queues/none"),
        ("GET", "/queues/q/messages/99"),
        ("DELETE", "/queues/q/messages/1?receipt=AQAA"),
        ("DELETE", "/queues/q/bindings?pattern=x"),
        ("GET", "/queue"),
        ("PUT", "/queues"),
        ("PUT", "/queues/Orders"),
        ("DELETE", "/queues/q"),
        ("GET", "/queues/q/messages?wait=1&filter=%7B%22a%22:1%7D"),
    ] {
        problems.ask(&gateway, method, path, &nothing).await;
    }
    let send = "/queues/q/messages";
    for (path, body) in [
        (send, json!({"message": 1, "mesage": 2})),
        (send, json!({"message": 1, "delay": -1})),
        (send, json!({"message": 1, "delay": 1, "visible_at": "2026-01-01T00:00:00Z"})),
        (send, json!({"message": 1, "headers": [1]})),
        (send, json!({"message": "x".repeat(2_000)})),
        (send, json!({"message": "a\0b"})),
        (send, json!({"message": "one"})),
        ("/queues/q/messages/batch", json!({"messages": []})),
        ("/queues/q/messages/settle", json!({"delete": [{"msg_id": 1, "receipt": "x"}]})),
        ("/queues/q/messages/receive", json!({"settle": {"delete": [{"msg_id": 1}]}, "wait": 1})),
        ("/queues/q/messages/receive", json!({"fifo": "both"})),
        ("/queues/q/messages/receive", json!({"filter": [1]})),
        ("/transactions", json!({"operations": [{"delete": {"queue": "q", "msg_id": 99}}]})),
        (
            "/transactions",
            json!({"operations": [{"send": {"queue": "q"}, "delete": {"queue": "q"}}]}),
        ),
    ] {
        problems.ask(&gateway, "POST", path, &body).await;
    }
    for (method, path, body) in [
        ("PUT", "/queues/q", json!({"kind": "unlogged"})),
        ("PUT", "/queues/q", json!({"kind": "logged"})),
        ("PUT", "/queues/q", json!({"fifo": true})),
        ("PUT", "/queues/q", json!({"settings": {"max_receives": 0}})),
        ("PATCH", "/queues/q", json!({})),
        ("PATCH", "/queues/q", json!({"settings": {"max_message_bytes": 2_001}})),
        ("PATCH", "/queues/q", json!({"settings": {"notify": [250]}})),
    ] {
        problems.ask(&gateway, method, path, &body).await;
    }
    for broken in ["", "{", "[]", "message=1", r#"{"message":1} x"#] {
        problems.ask_text(&gateway, "POST", send, broken.to_owned()).await;
    }
    assert_snapshot("problem_bodies.txt", &problems.0);
}

/// Whatever takes the name of a queue in a body says the same of one that is none.
#[tokio::test]
async fn a_name_that_is_none_is_refused_alike_at_every_door() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut problems = Problems::default();
    for name in [json!("a;b"), json!(""), json!(7)] {
        let operation = |kind: &str| {
            let mut operation = json!({"queue": name, "msg_id": 1, "vt": 1, "message": 1});
            let fields = operation.as_object_mut().expect("an object");
            fields.retain(|field, _| match kind {
                "send" => ["queue", "message"].contains(&&**field),
                "set_vt" => field != "message",
                _ => ["queue", "msg_id"].contains(&&**field),
            });
            json!({"operations": [{kind: operation}]})
        };
        for (method, path, body) in [
            ("PATCH", "/queues/q", json!({"settings": {"dead_letter_queue": name}})),
            ("POST", "/queues/q/archive/replay", json!({"to": name})),
            ("POST", "/queues/q/redrive", json!({"to": name})),
            ("POST", "/transactions", operation("send")),
            ("POST", "/transactions", operation("delete")),
            ("POST", "/transactions", operation("archive")),
            ("POST", "/transactions", operation("set_vt")),
        ] {
            problems.ask(&gateway, method, path, &body).await;
        }
    }
    assert_snapshot("queue_names.txt", &problems.0);
}

#[tokio::test]
async fn who_may_not_is_told_so_in_the_words_that_are_kept() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys.push(key("reader", "the-key-of-a-reader", &["receive:q"]));
    })
    .await;
    gateway.with_key(ADMIN).create("q").await;
    let mut problems = Problems::default();
    let (stranger, reader) = (gateway.with_key("wrong"), gateway.with_key("the-key-of-a-reader"));
    let one = json!({"message": 1});
    for (client, path) in [
        (&gateway.client, "/queues/q/messages"),
        (&stranger, "/queues/q/messages"),
        (&reader, "/queues/q/messages"),
        (&reader, "/topics/t/messages"),
    ] {
        problems.ask(client, "POST", path, &one).await;
    }
    let settings = json!({"settings": {"dead_letter_queue": "other"}});
    problems.ask(&reader, "PATCH", "/queues/q", &settings).await;
    let send = json!({"operations": [{"send": {"queue": "q", "message": 1}}]});
    problems.ask(&reader, "POST", "/transactions", &send).await;
    problems.ask(&reader, "GET", "/metrics", &Value::Null).await;
    assert_snapshot("forbidden.txt", &problems.0);
}
