//! `/queues/{queue}/archive`: looking, replaying, and how long things are kept.

use chrono::{DateTime, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{Client, TestGateway, eventually};

/// A queue in whose archive stand messages `{"n": 1}` and so on, the odd ones with `"odd": true`.
async fn with_archive(count: i64) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    archive(&gateway, 1, count).await;
    gateway
}

async fn archive(client: &Client, from: i64, to: i64) {
    for n in from..=to {
        let message = if n % 2 == 1 { json!({"n": n, "odd": true}) } else { json!({"n": n}) };
        let body = json!({"message": message, "headers": {"h": n}}).to_string();
        let id = client.send("q", &body).await;
        client.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
}

fn numbers(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["message"]["n"].as_i64().expect("a number")).collect()
}

/// What the archive shows with these parameters.
async fn archived(client: &Client, parameters: &str) -> Vec<i64> {
    let page = client.get(&format!("/queues/q/archive?limit=100&{parameters}")).await;
    numbers(&page.expect(200).messages())
}

/// What is in the queue.
async fn queued(client: &Client) -> Vec<i64> {
    let mut queued = numbers(&client.all("q").await);
    queued.sort_unstable();
    queued
}

async fn replay(client: &Client, body: Value) -> i64 {
    let answer = client.post("/queues/q/archive/replay", &body.to_string()).await;
    let answer = answer.expect(200).json();
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
    answer["replayed"].as_i64().expect("a number")
}

/// A moment for a query; there are some milliseconds around it.
async fn a_moment() -> String {
    let pause = std::time::Duration::from_millis(20);
    sleep(pause).await;
    let now = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    sleep(pause).await;
    now
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn the_archive_shows_messages_as_they_were() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let number = "12345678901234567890.123456789";
    let sent = format!(r#"{{"message":{{"n":{number}}},"headers":{{"h":1}}}}"#);
    gateway.send("q", &sent).await;
    let received = gateway.receive_one("q", "vt=0").await;
    let before = Utc::now();
    gateway.post("/queues/q/messages/1/archive", "").await.expect(204);

    let page = gateway.get("/queues/q/archive").await.expect(200);
    assert_eq!(page.header("cache-control"), "no-store");
    assert!(page.text.contains(number), "{}", page.text);
    assert_eq!(page.json().get("next"), Some(&Value::Null));
    let message = page.messages().remove(0);
    for same in ["msg_id", "read_ct", "enqueued_at", "last_read_at", "message", "headers"] {
        assert_eq!(message[same], received[same], "{same}");
    }
    let text = message["archived_at"].as_str().expect("a time");
    assert!(text.len() == 27 && text.ends_with('Z'), "{text}");
    let at: DateTime<Utc> = text.parse().expect("RFC 3339");
    assert!((at - before).num_seconds().abs() < 60, "{at}");
}

#[tokio::test]
async fn pages_are_stable_and_in_order() {
    let gateway = with_archive(7).await;
    let mut path = "/queues/q/archive?limit=3".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = gateway.get(&path).await.expect(200);
        let messages = page.messages();
        assert!(messages.len() <= 3);
        assert!(messages.iter().map(|m| m["msg_id"].as_i64()).is_sorted());
        seen.extend(numbers(&messages));
        if seen.len() == 3 {
            archive(&gateway, 8, 8).await;
        }
        let next = page.json()["next"].clone();
        let Some(next) = next.as_str() else {
            assert_eq!(next, Value::Null);
            break;
        };
        path = format!("/queues/q/archive?limit=3&after={next}");
    }
    assert_eq!(seen, (1..=8).collect::<Vec<_>>());
    let empty = gateway.get("/queues/q/archive?after=1000").await.expect(200).json();
    assert_eq!(empty, json!({"messages": [], "next": null}));
}

/// In order of `msg_id`, whatever the order in which they were archived.
#[tokio::test]
async fn the_order_is_that_of_the_ids() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=4 {
        gateway.send("q", &json!({"message": {"n": n}}).to_string()).await;
    }
    for id in [3, 1, 4, 2] {
        gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
    assert_eq!(archived(&gateway, "").await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_filter_and_times_choose() {
    let gateway = with_archive(3).await;
    let middle = encoded(&a_moment().await);
    archive(&gateway, 4, 6).await;
    let odd = encoded(r#"{"odd":true}"#);
    assert_eq!(archived(&gateway, &format!("filter={odd}")).await, [1, 3, 5]);
    assert_eq!(archived(&gateway, &format!("since={middle}")).await, [4, 5, 6]);
    assert_eq!(archived(&gateway, &format!("until={middle}")).await, [1, 2, 3]);
    let both = format!("since={middle}&filter={odd}");
    assert_eq!(archived(&gateway, &both).await, [5]);
    assert_eq!(archived(&gateway, &format!("since={middle}&until={middle}")).await, [0; 0]);
    assert_eq!(archived(&gateway, "since=2020-01-01T02:00:00%2B02:00").await.len(), 6);
    let body = r#"{"message":"no object"}"#;
    let id = gateway.send("q", body).await;
    gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    let everything = gateway.get("/queues/q/archive?filter={}").await.expect(200);
    assert_eq!(everything.messages().len(), 7);
    assert_eq!(replay(&gateway, json!({"filter": {}, "dry_run": true})).await, 7);
    // A filter that chooses few does not end the pages early.
    let path = format!("/queues/q/archive?limit=1&filter={odd}");
    let mut page = gateway.get(&path).await.expect(200).json();
    let mut seen = Vec::new();
    while let Some(next) = page["next"].as_str().map(str::to_owned) {
        seen.extend(numbers(page["messages"].as_array().expect("messages")));
        page = gateway.get(&format!("{path}&after={next}")).await.expect(200).json();
    }
    seen.extend(numbers(page["messages"].as_array().expect("messages")));
    assert_eq!(seen, [1, 3, 5]);
}

#[tokio::test]
async fn wrong_parameters_are_refused_by_name() {
    let gateway = with_archive(1).await;
    for (wrong, name) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("after=x", "after"),
        ("since=yesterday", "since"),
        ("until=1", "until"),
        ("filter=%5B1%5D", "filter"),
        ("sort=asc", "sort"),
    ] {
        let refused = gateway.get(&format!("/queues/q/archive?{wrong}")).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(name), "{wrong}: {detail}");
    }
    for (wrong, name) in [
        (r#"{"msg_ids":[]}x"#, ""),
        (r#"{"msg_ids":1}"#, "msg_ids"),
        (r#"{"msg_ids":["1"]}"#, "msg_ids"),
        (r#"{"since":"yesterday"}"#, "since"),
        (r#"{"filter":[1]}"#, "filter"),
        (r#"{"limit":0}"#, "limit"),
        (r#"{"dry_run":1}"#, "dry_run"),
        (r#"{"to":"Q"}"#, "to"),
        (r#"{"ids":[1]}"#, "ids"),
    ] {
        let refused = gateway.post("/queues/q/archive/replay", wrong).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(name), "{wrong}: {detail}");
    }
    assert_eq!(archived(&gateway, "").await, [1]);
    gateway.get("/queues/none/archive").await.problem(404, "queue_not_found");
    let missing = gateway.post("/queues/none/archive/replay", r#"{"msg_ids":[1]}"#).await;
    missing.problem(404, "queue_not_found");
}

#[tokio::test]
async fn replayed_messages_are_as_new() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"n":1},"headers":{"h":1}}"#).await;
    gateway.receive_one("q", "vt=600").await;
    gateway.post("/queues/q/messages/1/archive", "").await.expect(204);
    assert_eq!(replay(&gateway, json!({"msg_ids": [1]})).await, 1);
    assert_eq!(archived(&gateway, "").await, [0; 0]);
    assert_eq!(gateway.all("q").await[0]["read_ct"], 0);
    let received = gateway.receive_one("q", "").await;
    assert_eq!((&received["read_ct"], &received["headers"]), (&json!(1), &json!({"h": 1})));
    assert_eq!(received["message"], json!({"n": 1}));
    assert_eq!(replay(&gateway, json!({"msg_ids": [1]})).await, 0, "safe to run twice");
    // A new message does not meet it.
    gateway.send("q", r#"{"message":{"n":2}}"#).await;
    assert_eq!(queued(&gateway).await, [1, 2]);
}

#[tokio::test]
async fn a_replay_chooses_by_id_filter_time_and_limit() {
    let gateway = with_archive(4).await;
    let middle = a_moment().await;
    archive(&gateway, 5, 10).await;
    for (body, replayed, left) in [
        (json!({"msg_ids": [2, 4, 99]}), 2, vec![1, 3, 5, 6, 7, 8, 9, 10]),
        (json!({"msg_ids": []}), 0, vec![1, 3, 5, 6, 7, 8, 9, 10]),
        (json!({"until": middle, "limit": 1}), 1, vec![3, 5, 6, 7, 8, 9, 10]),
        (json!({"filter": {"odd": true}, "since": middle}), 3, vec![3, 6, 8, 10]),
        (json!({"limit": 2}), 2, vec![8, 10]),
        (json!({"until": middle}), 0, vec![8, 10]),
        (json!({"filter": {"n": 8}, "msg_ids": [8, 10]}), 1, vec![10]),
        (json!({"since": middle}), 1, vec![]),
    ] {
        assert_eq!(replay(&gateway, body.clone()).await, replayed, "{body}");
        assert_eq!(archived(&gateway, "").await, left, "{body}");
    }
    assert_eq!(queued(&gateway).await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dry_run_counts_and_moves_nothing() {
    let gateway = with_archive(5).await;
    for (body, count) in [
        (json!({"dry_run": true, "filter": {"odd": true}}), 3),
        (json!({"dry_run": true, "msg_ids": [1, 99]}), 1),
        (json!({"dry_run": true, "limit": 2}), 2),
    ] {
        assert_eq!(replay(&gateway, body.clone()).await, count, "{body}");
    }
    assert_eq!(archived(&gateway, "").await, [1, 2, 3, 4, 5]);
    assert_eq!(queued(&gateway).await, [0; 0]);
    let body = json!({"dry_run": false, "filter": {"odd": true}});
    assert_eq!(replay(&gateway, body).await, 3);
}

#[tokio::test]
async fn a_replay_can_go_to_another_queue() {
    let gateway = with_archive(2).await;
    let to_none = r#"{"to":"none","msg_ids":[1]}"#;
    let missing = gateway.post("/queues/q/archive/replay", to_none).await;
    missing.problem(404, "queue_not_found");
    assert_eq!(archived(&gateway, "").await, [1, 2]);

    gateway.create("other").await;
    let (received, replayed) = tokio::join!(
        gateway.receive_one("other", "wait=20"),
        replay(&gateway, json!({"to": "other", "msg_ids": [1]}))
    );
    assert_eq!(replayed, 1);
    assert_eq!((&received["read_ct"], &received["message"]["n"]), (&json!(1), &json!(1)));
    assert_eq!(received["headers"], json!({"h": 1}));
    assert_eq!((archived(&gateway, "").await, queued(&gateway).await), (vec![2], vec![]));
}

#[tokio::test]
async fn replays_at_once_move_each_message_once() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    archive(&one, 1, 20).await;
    let replayed = tokio::join!(
        replay(&one, json!({"since": "2020-01-01T00:00:00Z"})),
        replay(&other, json!({"since": "2020-01-01T00:00:00Z"}))
    );
    assert_eq!(replayed.0 + replayed.1, 20);
    assert_eq!(queued(&other).await, (1..=20).collect::<Vec<_>>());
    assert_eq!(archived(&one, "").await, [0; 0]);
}

/// Old messages go, leased ones only when they are free again, and other queues keep theirs.
#[tokio::test]
async fn messages_past_their_retention_are_deleted() {
    let gateway = TestGateway::start().await;
    gateway.create("kept").await;
    gateway.send("kept", r#"{"message":"kept"}"#).await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"n":1}}"#).await;
    gateway.receive_one("q", "vt=600").await;
    gateway.send("q", r#"{"message":{"n":2}}"#).await;
    gateway.configure("q", json!({"message_retention": 1})).await.expect(200);
    let deleted = async || (queued(&gateway).await == [1]).then_some(());
    eventually("the one that is free is deleted", deleted).await;
    gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    let deleted = async || queued(&gateway).await.is_empty().then_some(());
    eventually("the other is deleted when it is free", deleted).await;
    assert_eq!(archived(&gateway, "").await, [0; 0], "deleted, not archived");
    assert_eq!(gateway.all("kept").await.len(), 1, "off by default");
}

#[tokio::test]
async fn young_messages_are_kept() {
    let gateway = TestGateway::start().await;
    gateway.create_with("young", &json!({"settings": {"message_retention": 3_600}})).await;
    gateway.create_with("q", &json!({"settings": {"message_retention": 1}})).await;
    gateway.send("young", r#"{"message":1}"#).await;
    gateway.send("q", r#"{"message":{"n":1}}"#).await;
    let deleted = async || queued(&gateway).await.is_empty().then_some(());
    eventually("the old one is deleted", deleted).await;
    assert_eq!(gateway.all("young").await.len(), 1);
}

#[tokio::test]
async fn the_archive_past_its_retention_is_deleted() {
    let gateway = TestGateway::start().await;
    gateway.create("kept").await;
    gateway.send("kept", r#"{"message":1}"#).await;
    gateway.post("/queues/kept/messages/1/archive", "").await.expect(204);
    gateway.create_with("q", &json!({"settings": {"archive_retention": 1}})).await;
    gateway.send("q", r#"{"message":{"n":0}}"#).await;
    archive(&gateway, 1, 3).await;
    let deleted = async || archived(&gateway, "").await.is_empty().then_some(());
    eventually("the archive is emptied", deleted).await;
    assert_eq!(queued(&gateway).await, [0], "it is about the archive alone");
    let kept = gateway.get("/queues/kept/archive").await.expect(200).messages();
    assert_eq!(kept.len(), 1, "off by default");
}
