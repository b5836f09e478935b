//! What a key may do, and what it may not by any way around.

use serde_json::json;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Answer, TestGateway};

#[tokio::test]
async fn a_key_does_what_it_was_granted_and_nothing_else() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            key("producer", "the-key-of-a-producer", &["send:orders"]),
            key("manager", "the-key-of-a-manager", &["manage,receive:eu-*", "receive:dead"]),
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["orders", "eu-west", "dead", "secret"] {
        admin.create(queue).await;
    }
    let producer = gateway.with_key("the-key-of-a-producer");
    producer.send("orders", r#"{"message":1}"#).await;
    let refused = producer.get("/queues/orders/messages").await.problem(403, "forbidden");
    assert!(refused.detail().contains("`receive` on queue `orders`"), "{}", refused.text);
    producer.post("/queues/secret/messages", r#"{"message":1}"#).await.problem(403, "forbidden");
    producer.get("/queues/none").await.problem(403, "forbidden");
    producer.get("/queues/orders").await.expect(200);
    producer.get("/metrics").await.problem(403, "forbidden");

    // What moves messages elsewhere needs the right to send there.
    let manager = gateway.with_key("the-key-of-a-manager");
    let elsewhere = json!({"max_receives": 1, "dead_letter_queue": "secret"});
    manager.configure("eu-west", elsewhere).await.problem(403, "forbidden");
    let with_dead = r#"{"settings":{"dead_letter_queue":"secret"}}"#;
    manager.put("/queues/eu-new", with_dead).await.problem(403, "forbidden");
    let replay = r#"{"to":"secret"}"#;
    manager.post("/queues/eu-west/archive/replay", replay).await.problem(403, "forbidden");
    manager.post("/queues/eu-west/redrive", replay).await.problem(403, "forbidden");
    manager.put("/queues/eu-new", "").await.expect(201);
    manager.put("/queues/us-new", "").await.problem(403, "forbidden");
}

#[tokio::test]
async fn lists_show_what_the_key_may_see() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            key("some", "the-key-of-somebody", &["send:b*", "receive:d"]),
            key("reader", "the-key-of-a-reader", &["receive:*"]),
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["a", "b1", "b2", "c", "d"] {
        admin.create(queue).await;
        let bind = json!({"pattern": "t.#"}).to_string();
        admin.post(&format!("/queues/{queue}/bindings"), &bind).await.expect(201);
    }
    let some = gateway.with_key("the-key-of-somebody");
    let names = |answer: Answer, list: &str, field: &str| -> Vec<String> {
        let list = answer.expect(200).json()[list].as_array().expect("a list").clone();
        let name = |entry: &serde_json::Value| entry[field].as_str().expect("a name").to_owned();
        list.iter().map(name).collect()
    };
    assert_eq!(names(some.get("/queues").await, "queues", "queue"), ["b1", "b2", "d"]);
    let page = some.get("/queues?limit=2").await;
    assert_eq!(page.json()["next"], "b2");
    assert_eq!(names(page, "queues", "queue"), ["b1", "b2"]);
    assert_eq!(names(some.get("/queues?limit=2&after=b2").await, "queues", "queue"), ["d"]);
    assert_eq!(names(some.get("/bindings").await, "bindings", "queue"), ["b1", "b2", "d"]);
    let route = some.get("/topics/t.x/queues").await.expect(200);
    assert_eq!(route.json()["queues"], json!(["b1", "b2", "d"]));

    // Of a topic's queues those get the message to which the key may send: whoever binds theirs to
    // everything neither gets it nor stops it.
    let publish = r#"{"message":1}"#;
    let published = some.post("/topics/t.x/messages", publish).await.expect(201);
    let queues = names(Answer { status: 200, ..published }, "deliveries", "queue");
    assert_eq!(queues, ["b1", "b2"]);
    assert!(admin.all("a").await.is_empty());
    let all = admin.post("/topics/t.x/messages", publish).await.expect(201).json();
    assert_eq!(all["deliveries"].as_array().map(Vec::len), Some(5), "{all}");
    let reader = gateway.with_key("the-key-of-a-reader");
    reader.post("/topics/t.x/messages", publish).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_transaction_needs_every_right_that_it_uses() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("worker", "the-key-of-a-worker", &["receive:a", "send:b"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("a").await;
    admin.create("b").await;
    let id = admin.send("a", r#"{"message":1}"#).await;
    let worker = gateway.with_key("the-key-of-a-worker");
    let wrong = json!({"operations": [
        {"delete": {"queue": "a", "msg_id": id}}, {"send": {"queue": "a", "message": 2}}
    ]});
    let refused = worker.post("/transactions", &wrong.to_string()).await.problem(403, "forbidden");
    assert_eq!(refused.json()["index"], 1, "{}", refused.text);
    assert_eq!(admin.all("a").await.len(), 1);
    let right = json!({"operations": [
        {"delete": {"queue": "a", "msg_id": id}}, {"send": {"queue": "b", "message": 2}}
    ]});
    worker.post("/transactions", &right.to_string()).await.expect(200);
}

#[tokio::test]
async fn dead_letters_go_back_only_to_where_the_key_may_send() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        let grants = ["manage,send:a.c*", "manage,receive,send:dead"];
        settings.auth.keys = vec![key("manager", "the-key-of-a-manager", &grants)];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    // The pattern means the first of these, and neither as a regular expression nor in the middle.
    let queues = ["a.c1", "abc1", "xa.c1"];
    for queue in queues.iter().chain(&["dead"]) {
        admin.create(queue).await;
    }
    for queue in queues {
        let headers = json!({"x-dead-letter-queue": queue});
        admin.send("dead", &json!({"message": queue, "headers": headers}).to_string()).await;
    }
    let manager = gateway.with_key("the-key-of-a-manager");
    let moved = manager.post("/queues/dead/redrive", "").await.expect(200).json();
    assert_eq!(moved["moved"], 1, "{moved}");
    assert_eq!(admin.all("a.c1").await.len(), 1);
    assert_eq!(admin.post("/queues/dead/redrive", "").await.json()["moved"], 2);
}

#[tokio::test]
async fn nobody_claims_that_a_message_comes_from_where_they_may_not_send() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("some", "the-key-of-somebody", &["send:dead", "send:mine"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("dead").await;
    let some = gateway.with_key("the-key-of-somebody");
    for headers in [
        r#"{"x-dead-letter-queue":"theirs"}"#,
        r#"{"x-dead-letter\u002dqueue":"theirs"}"#,
        r#"{"x-dead-letter-queue":"mine","x-dead-letter-queue":"theirs"}"#,
        r#"{"x-dead-letter-queue":["theirs"]}"#,
    ] {
        let one = format!(r#"{{"message":1,"headers":{headers}}}"#);
        let send = format!(r#"{{"queue":"dead","message":1,"headers":{headers}}}"#);
        for (path, body) in [
            ("/queues/dead/messages", one.clone()),
            ("/queues/dead/messages/batch", format!(r#"{{"messages":[{one}]}}"#)),
            ("/topics/t/messages", one.clone()),
            ("/transactions", format!(r#"{{"operations":[{{"send":{send}}}]}}"#)),
        ] {
            let refused = some.post(path, &body).await.problem(403, "forbidden");
            assert!(refused.detail().contains("headers"), "{path} {}", refused.text);
        }
    }
    some.send("dead", r#"{"message":1,"headers":{"x-dead-letter-queue":"mine","a":1}}"#).await;
    admin.send("dead", r#"{"message":1,"headers":{"x-dead-letter-queue":"theirs"}}"#).await;
}

#[tokio::test]
async fn who_may_not_receive_from_a_queue_has_nothing_of_it_moved_elsewhere() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        let grants = ["manage,send:orders", "admin:mine"];
        settings.auth.keys = vec![key("manager", "the-key-of-a-manager", &grants)];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("orders").await;
    admin.create("mine").await;
    let manager = gateway.with_key("the-key-of-a-manager");
    let to_mine = r#"{"to":"mine"}"#;
    manager.post("/queues/orders/redrive", to_mine).await.problem(403, "forbidden");
    manager.post("/queues/orders/redrive", "").await.problem(403, "forbidden");
    manager.post("/queues/orders/archive/replay", to_mine).await.problem(403, "forbidden");
    // How many there are that fit a filter tells what is in them.
    for body in ["", r#"{"dry_run":true}"#, r#"{"dry_run":true,"filter":{"card":"4711"}}"#] {
        let refused = manager.post("/queues/orders/archive/replay", body).await;
        let detail = refused.problem(403, "forbidden").detail();
        assert!(detail.contains("`receive` on queue `orders`"), "{detail}");
    }
    let bury = json!({"max_receives": 1, "dead_letter_queue": "mine"});
    manager.configure("orders", bury).await.problem(403, "forbidden");
}

#[tokio::test]
async fn an_idempotency_key_is_its_owners_own() {
    let gateway = TestGateway::with(|settings| {
        settings.auth.keys = vec![
            key("one", "the-key-of-the-one", &["admin"]),
            key("other", "the-key-of-the-other", &["admin"]),
        ];
    })
    .await;
    gateway.with_key("the-key-of-the-one").create("q").await;
    let mut ids = Vec::new();
    for secret in ["the-key-of-the-one", "the-key-of-the-other"] {
        let client = gateway.with_key(secret);
        let body = json!({"message": secret}).to_string();
        for _ in 0..2 {
            let send = client.request("POST", "/queues/q/messages").body(body.clone());
            let sent = Answer::of(send.header("idempotency-key", "order-42")).await.expect(201);
            ids.push(sent.json()["msg_id"].as_i64().expect("an id"));
        }
    }
    assert_eq!(ids, [1, 1, 2, 2]);
}
