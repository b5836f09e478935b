//! Several clients that ask for the same at once, at two gateways.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Answer, Client, TestGateway};

/// What so many requests at once are answered; what is asked depends on the number.
async fn at_once(
    gateways: &[TestGateway],
    count: usize,
    ask: impl Fn(usize) -> (&'static str, &'static str, String),
) -> BTreeMap<u16, usize> {
    let mut crowd = JoinSet::new();
    for (n, gateway) in gateways.iter().cycle().take(count).enumerate() {
        let (method, path, body) = ask(n);
        let request = gateway.request(method, path).body(body);
        crowd.spawn(async move { Answer::of(request).await });
    }
    let mut answers = BTreeMap::new();
    for answer in crowd.join_all().await {
        assert!(answer.status < 500, "{}", answer.text);
        *answers.entry(answer.status).or_default() += 1;
    }
    answers
}

#[tokio::test]
async fn of_many_one_makes_the_queue_and_one_drops_it() {
    let gateways = TestGateway::pair().await;
    for _ in 0..3 {
        let made = at_once(&gateways, 20, |_| ("PUT", "/queues/q", String::new())).await;
        assert_eq!(made, BTreeMap::from([(200, 19), (201, 1)]));
        let bind = r#"{"pattern":"a.#"}"#;
        let bound =
            at_once(&gateways, 20, |_| ("POST", "/queues/q/bindings", bind.to_owned())).await;
        assert_eq!(bound, BTreeMap::from([(200, 19), (201, 1)]));
        let dropped = at_once(&gateways, 20, |_| ("DELETE", "/queues/q", String::new())).await;
        assert_eq!(dropped, BTreeMap::from([(204, 1), (404, 19)]));
    }
}

#[tokio::test]
async fn settings_are_changed_one_after_the_other() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    for _ in 0..3 {
        let changed = at_once(&gateways, 20, |n| {
            let notify = (n % 3 != 0).then(|| json!({"throttle_ms": n}));
            ("PATCH", "/queues/q", json!({"settings": {"delay": n, "notify": notify}}).to_string())
        });
        assert_eq!(changed.await, BTreeMap::from([(200, 20)]));
    }
}

#[tokio::test]
async fn a_queue_is_emptied_by_many() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    for _ in 0..5 {
        gateways[0].send("q", r#"{"message":1}"#).await;
        let emptied = at_once(&gateways, 20, |_| ("POST", "/queues/q/purge", String::new())).await;
        assert_eq!(emptied, BTreeMap::from([(200, 20)]));
        assert!(gateways[0].all("q").await.is_empty());
    }
}

/// Does all sorts of things to a queue that others drop and make anew meanwhile.
async fn meddle(client: Client) {
    const WISHES: [(&str, &str, &str); 19] = [
        ("PUT", "/queues/q", ""),
        ("PUT", "/queues/q", ""),
        ("DELETE", "/queues/q", ""),
        ("GET", "/queues", ""),
        ("GET", "/queues/q", ""),
        ("GET", "/queues/q/metrics", ""),
        ("PATCH", "/queues/q", r#"{"settings":{"fair":true}}"#),
        (
            "POST",
            "/transactions",
            r#"{"operations":[{"send":{"queue":"q","message":1}},{"send":{"queue":"r","message":2}}]}"#,
        ),
        ("POST", "/queues/q/messages", r#"{"message":1}"#),
        ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":1},{"message":2}]}"#),
        ("GET", "/queues/q/messages?qty=3&vt=0", ""),
        ("GET", "/queues/q/messages?fifo=grouped&qty=3&vt=0", ""),
        ("POST", "/queues/q/purge", ""),
        ("PATCH", "/queues/q", r#"{"settings":{"max_receives":2}}"#),
        (
            "POST",
            "/queues/q/messages/settle",
            r#"{"delete":[{"msg_id":1}],"archive":[{"msg_id":2}]}"#,
        ),
        ("POST", "/queues/q/archive/replay", ""),
        ("POST", "/queues/q/bindings", r#"{"pattern":"key"}"#),
        ("POST", "/topics/key/messages", r#"{"message":1}"#),
        (
            "POST",
            "/transactions",
            r#"{"operations":[{"send":{"queue":"q","message":1}},{"send":{"queue":"q","message":2}}]}"#,
        ),
    ];
    for _ in 0..60 {
        let (method, path, body) = WISHES[rand::random_range(0..WISHES.len())];
        let answer = Answer::of(client.request(method, path).body(body)).await;
        // Who stood in the way of others may be asked to try again; no table has what would refuse a message.
        let is_clear = answer.status < 500 && answer.status != 422 || answer.status == 503;
        assert!(is_clear, "{method} {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_queue_that_comes_and_goes_is_there_or_not_found() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("r").await;
    let mut crowd = JoinSet::new();
    for gateway in gateways.iter().cycle().take(16) {
        crowd.spawn(meddle(gateway.client.clone()));
    }
    crowd.join_all().await;
}
