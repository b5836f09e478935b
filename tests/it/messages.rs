//! `/queues/{queue}/messages`.

use serde_json::json;
use sqlx::{Connection, Executor};

use crate::support::TestGateway;

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

#[tokio::test]
async fn the_location_of_a_message_has_its_queue_as_it_is_called() {
    let gateway = TestGateway::start().await;
    for (queue, shown) in [("eu-west.orders_2", "eu-west.orders_2"), ("my queue", "my%20queue")] {
        gateway.database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
        let path = format!("/queues/{}/messages", queue.replace(' ', "%20"));
        let sent = gateway.post(&path, r#"{"message":1}"#).await.expect(201);
        assert_eq!(sent.header("location"), format!("/queues/{shown}/messages/1"));
        gateway.get(sent.header("location")).await.expect(200);
    }
}

#[tokio::test]
async fn a_message_goes_there_and_back() {
    let gateway = with_queue().await;
    let body = r#"{"message":{"type":"invoice"},"headers":{"trace":"abc"}}"#;
    let sent = gateway.post("/queues/q/messages", body).await.expect(201);
    assert_eq!(sent.json(), json!({"msg_id": 1}));
    assert_eq!(sent.header("location"), "/queues/q/messages/1");
    assert_eq!(sent.header("cache-control"), "no-store");

    let looked_at = gateway.get("/queues/q/messages/1").await.expect(200).json();
    assert_eq!(looked_at["read_ct"], 0);
    assert_eq!(looked_at["last_read_at"], json!(null));

    let received = gateway.receive("q", "vt=60").await;
    assert_eq!(received.len(), 1);
    let message = &received[0];
    assert_eq!(message["msg_id"], 1);
    assert_eq!(message["read_ct"], 1);
    assert_eq!(message["message"], json!({"type": "invoice"}));
    assert_eq!(message["headers"], json!({"trace": "abc"}));
    for time in ["enqueued_at", "last_read_at", "vt"] {
        let text = message[time].as_str().expect("a time");
        assert!(text.len() == 27 && text.ends_with('Z'), "{time}: {text}");
    }
    assert!(gateway.receive("q", "").await.is_empty(), "it is leased");

    gateway.delete("/queues/q/messages/1").await.expect(204);
    gateway.delete("/queues/q/messages/1").await.problem(404, "message_not_found");
    gateway.get("/queues/q/messages/1").await.problem(404, "message_not_found");
}

/// Digit for digit, and whatever JSON value it is.
#[tokio::test]
async fn messages_keep_every_digit() {
    let gateway = with_queue().await;
    for value in [
        r#"{"n": 12345678901234567890.123456789}"#,
        "123456789012345678901234567890",
        "1.10",
        "-0.000000000000000000000000000001",
        "9007199254740993",
        "null",
        "true",
        r#""text with \"quotes\", \\ and 😀""#,
        r#"["a", 1, {"b": []}]"#,
        "{}",
        r#""""#,
    ] {
        gateway.send("q", &format!(r#"{{"message":{value}}}"#)).await;
        let received = gateway.get("/queues/q/messages?vt=0").await.expect(200);
        let message = format!(r#""message":{value},"headers":null"#);
        assert!(received.text.contains(&message), "{value} became {}", received.text);
        let id = &received.messages()[0]["msg_id"];
        gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    }
}

#[tokio::test]
async fn a_deep_message_goes_there_and_back() {
    let gateway = with_queue().await;
    let deep = format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000));
    gateway.send("q", &format!(r#"{{"message":{deep}}}"#)).await;
    let received = gateway.get("/queues/q/messages").await.expect(200);
    assert!(received.text.contains(&deep));
}

#[tokio::test]
async fn a_batch_is_stored_in_order_all_or_none() {
    let gateway = with_queue().await;
    let messages: Vec<_> = (0..1000).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    let sent = gateway.post("/queues/q/messages/batch", &batch).await.expect(201).json();
    let ids: Vec<i64> = serde_json::from_value(sent["msg_ids"].clone()).expect("ids");
    assert_eq!(ids, (1..=1000).collect::<Vec<i64>>());
    let first = gateway.receive("q", "qty=100").await;
    let values: Vec<_> = first.iter().map(|m| m["message"].as_i64().expect("n")).collect();
    assert_eq!(values, (0..100).collect::<Vec<i64>>());

    gateway.post("/queues/q/purge", "").await.expect(200);
    for (batch, status, code, part) in [
        (r#"{"messages":[]}"#.to_owned(), 400, "invalid_request", "1 to 1000"),
        (
            json!({"messages": vec![json!({"message": 1}); 1001]}).to_string(),
            400,
            "invalid_request",
            "1001",
        ),
        (r#"{"messages":[{"message":1},{"mesage":2}]}"#.into(), 400, "invalid_request", "mesage"),
        (
            r#"{"messages":[{"message":1},{"message":2,"headers":[]}]}"#.into(),
            400,
            "invalid_request",
            "messages[1].headers",
        ),
        (
            r#"{"messages":[{"message":1},{"message":2,"delay":-1}]}"#.into(),
            400,
            "invalid_request",
            "messages[1].delay",
        ),
        (
            r#"{"messages":[{"message":1},{"message":"\u0000"}]}"#.into(),
            422,
            "message_rejected",
            "messages[1].message",
        ),
    ] {
        let refused = gateway.post("/queues/q/messages/batch", &batch).await.problem(status, code);
        assert!(refused.detail().contains(part), "{}", refused.detail());
    }
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], 0, "none is stored");
}

/// Each message of a batch has its own delay and headers.
#[tokio::test]
async fn a_batch_of_different_messages() {
    let gateway = with_queue().await;
    let batch = r#"{"messages":[
        {"message":"now","headers":{"n":1}},
        {"message":"later","delay":600},
        {"message":"past","visible_at":"2020-01-01T00:00:00Z","headers":null},
        {"message":null}]}"#;
    gateway.post("/queues/q/messages/batch", batch).await.expect(201);
    let received = gateway.receive("q", "qty=10").await;
    let seen: Vec<_> = received.iter().map(|m| (&m["message"], &m["headers"])).collect();
    let (n, null) = (json!({"n": 1}), json!(null));
    let (now, past) = (json!("now"), json!("past"));
    assert_eq!(seen, [(&now, &n), (&past, &null), (&null, &null)]);
}

#[tokio::test]
async fn delayed_messages_come_later() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":"delayed","delay":1}"#).await;
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(1);
    let at = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    gateway.send("q", &json!({"message": "at", "visible_at": at}).to_string()).await;
    assert!(gateway.receive("q", "qty=10").await.is_empty());
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let received = gateway.receive("q", "qty=10&wait=20").await;
        assert!(!received.is_empty(), "both come within the wait");
        seen.extend(received.into_iter().map(|m| m["message"].clone()));
    }
    assert_eq!(seen, ["delayed", "at"]);

    for (body, part) in [
        (r#"{"message":1,"delay":315360001}"#, "0 to 315360000"),
        (r#"{"message":1,"delay":1.5}"#, "0 to 315360000"),
        (r#"{"message":1,"delay":"5"}"#, "0 to 315360000"),
        (r#"{"message":1,"delay":1,"visible_at":"2026-01-01T00:00:00Z"}"#, "exclude"),
        (r#"{"message":1,"visible_at":"tomorrow"}"#, "visible_at"),
        (r#"{"message":1,"visible_at":"2999-01-01T00:00:00Z"}"#, "315360000 seconds"),
    ] {
        let refused = gateway.post("/queues/q/messages", body).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part), "{body}: {detail}");
    }
}

#[tokio::test]
async fn visibility_can_be_changed() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let path = format!("/queues/q/messages/{id}");
    gateway.receive("q", "vt=600").await;
    let changed = gateway.patch(&path, r#"{"vt":0}"#).await.expect(200).json();
    assert_eq!((&changed["msg_id"], &changed["read_ct"]), (&json!(id), &json!(1)));
    assert_eq!(gateway.receive("q", "vt=600").await.len(), 1, "it was given back");

    gateway.patch(&path, r#"{"visible_at":"2020-01-01T00:00:00+02:00"}"#).await.expect(200);
    assert_eq!(gateway.receive("q", "vt=0").await[0]["read_ct"], 3);
    let later = gateway.patch(&path, r#"{"vt":600}"#).await.expect(200).json();
    assert!(later["vt"].as_str() > changed["vt"].as_str());
    assert!(gateway.receive("q", "").await.is_empty());

    for (body, part) in [
        ("{}", "either"),
        (r#"{"vt":1,"visible_at":"2020-01-01T00:00:00Z"}"#, "either"),
        (r#"{"vt":315360001}"#, "0 to 315360000"),
        (r#"{"visible_at":"2999-01-01T00:00:00Z"}"#, "315360000 seconds"),
        ("", "empty"),
    ] {
        let refused = gateway.patch(&path, body).await.problem(400, "invalid_request");
        assert!(refused.detail().contains(part), "{body}: {}", refused.detail());
    }
    gateway.patch("/queues/q/messages/99", r#"{"vt":0}"#).await.problem(404, "message_not_found");
    gateway.patch("/queues/no/messages/1", r#"{"vt":0}"#).await.problem(404, "queue_not_found");
}

#[tokio::test]
async fn archived_messages_are_in_the_archive() {
    let gateway = with_queue().await;
    let id = gateway.send("q", r#"{"message":{"kept":1},"headers":{"h":2}}"#).await;
    let path = format!("/queues/q/messages/{id}/archive");
    gateway.post(&path, "").await.expect(204);
    gateway.post(&path, "").await.problem(404, "message_not_found");
    let sql = "SELECT message::text || headers::text FROM pgmq.a_q";
    let kept: String = gateway.database.value(sql).await;
    assert_eq!(kept, r#"{"kept": 1}{"h": 2}"#);
}

#[tokio::test]
async fn popped_messages_are_gone() {
    let gateway = with_queue().await;
    for n in 1..=3 {
        gateway.send_message("q", n).await;
    }
    let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages();
    assert_eq!((popped.len(), &popped[0]["message"]), (1, &json!(1)));
    let popped = gateway.post("/queues/q/messages/pop?qty=100", "").await.expect(200).messages();
    assert_eq!(popped.len(), 2);
    assert!(gateway.post("/queues/q/messages/pop", "").await.expect(200).messages().is_empty());
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], 0);
}

#[tokio::test]
async fn peeking_pages_through_everything_and_leases_nothing() {
    let gateway = with_queue().await;
    for n in 1..=5 {
        gateway.send_message("q", n).await;
    }
    gateway.receive("q", "vt=600").await;
    gateway.send("q", r#"{"message":6,"delay":600}"#).await;
    let mut path = "/queues/q/peek?limit=4".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = gateway.get(&path).await.expect(200);
        seen.extend(page.messages().iter().map(|m| m["message"].as_i64().expect("n")));
        let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
        path = format!("/queues/q/peek?limit=4&after={next}");
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    assert_eq!(gateway.receive("q", "qty=10").await.len(), 4, "the rest is still to be had");
}

#[tokio::test]
async fn a_filter_chooses() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":{"type":"a","n":1}}"#).await;
    gateway.send("q", r#"{"message":{"type":"b","n":2}}"#).await;
    gateway.send("q", r#"{"message":"no object"}"#).await;
    let b = gateway.receive("q", "qty=10&filter=%7B%22type%22%3A%22b%22%7D").await;
    assert_eq!((b.len(), &b[0]["message"]["n"]), (1, &json!(2)));
    assert!(gateway.receive("q", "filter=%7B%22type%22%3A%22c%22%7D").await.is_empty());
    let quote = gateway.receive("q", "filter=%7B%22it's%22%3A%22%25L%22%7D").await;
    assert!(quote.is_empty());
    assert_eq!(gateway.receive("q", "qty=10&filter=%7B%7D").await.len(), 2, "{{}} is no filter");
    for wrong in ["filter=type", "filter=[1]", "filter=", "filter=%7B%22a%22%3A%22%5Cu0000%22%7D"] {
        let refused = gateway.get(&format!("/queues/q/messages?{wrong}")).await;
        assert!(refused.problem(400, "invalid_request").detail().contains("filter"));
    }
}

#[tokio::test]
async fn head_leases_nothing() {
    let gateway = with_queue().await;
    gateway.send("q", r#"{"message":1}"#).await;
    let head = gateway.request("HEAD", "/queues/q/messages").send().await.expect("an answer");
    assert_eq!(head.status(), 405);
    let allow = head.headers()["allow"].to_str().expect("text");
    assert!(allow.contains("GET") && allow.contains("POST") && !allow.contains("HEAD"), "{allow}");
    assert_eq!(gateway.receive("q", "").await[0]["read_ct"], 1);
}

#[tokio::test]
async fn what_sql_clients_send_is_received() {
    let gateway = with_queue().await;
    let database = &gateway.database;
    database.execute("SELECT pgmq.send('q', NULL)").await;
    database.execute(r#"SELECT pgmq.send('q', '{"a": 1}', '[1, "no object"]'::jsonb)"#).await;
    let received = gateway.receive("q", "qty=2").await;
    assert_eq!(received[0]["message"], json!(null));
    assert_eq!(received[1]["headers"], json!([1, "no object"]));
    // And the other way round.
    gateway.send("q", r#"{"message":{"from":"http"}}"#).await;
    let sql = "SELECT message->>'from' FROM pgmq.read('q', 30, 1)";
    assert_eq!(database.value::<String>(sql).await, "http");
}

/// An SQL client sends inside its own transaction; an HTTP client gets it after the commit.
#[tokio::test]
async fn nothing_is_received_before_it_is_committed() {
    let gateway = with_queue().await;
    let mut connection = gateway.database.connect().await;
    let mut transaction = connection.begin().await.expect("begun");
    transaction.execute("SELECT pgmq.send('q', '\"committed\"')").await.expect("sent");
    assert!(gateway.receive("q", "wait=1").await.is_empty());
    let waiting = gateway.receive("q", "wait=20");
    let (received, ()) = tokio::join!(waiting, async {
        transaction.commit().await.expect("committed");
    });
    assert_eq!(received[0]["message"], "committed");
}
