//! Topics: bindings, and messages that go to every queue that is bound.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::support::{Answer, Client, TestGateway};

async fn with_queues(queues: &[&str]) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in queues {
        gateway.create(queue).await;
    }
    gateway
}

async fn bind(client: &Client, queue: &str, pattern: &str) -> Answer {
    let body = json!({"pattern": pattern}).to_string();
    client.post(&format!("/queues/{queue}/bindings"), &body).await
}

/// Bindings as `queue pattern`, in no order.
async fn bindings(client: &Client, path: &str) -> Vec<String> {
    let list = client.get(path).await.expect(200).json();
    let text = |b: &Value| {
        let part = |name: &str| b[name].as_str().expect("text").to_owned();
        format!("{} {}", part("queue"), part("pattern"))
    };
    let mut bindings: Vec<_> =
        list["bindings"].as_array().expect("bindings").iter().map(text).collect();
    bindings.sort();
    bindings
}

/// Publishes, and returns where it went, in order of queue and id.
async fn publish(client: &Client, path: &str, body: &str) -> Vec<(String, i64)> {
    let answer = client.post(&format!("/topics/{path}"), body).await.expect(201).json();
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
    let delivery = |d: &Value| {
        (d["queue"].as_str().expect("a queue").to_owned(), d["msg_id"].as_i64().expect("an id"))
    };
    let mut deliveries: Vec<_> =
        answer["deliveries"].as_array().expect("deliveries").iter().map(delivery).collect();
    deliveries.sort();
    deliveries
}

async fn values(client: &Client, queue: &str) -> Vec<Value> {
    client.all(queue).await.iter().map(|message| message["message"].clone()).collect()
}

/// The names of the queues that a routing key leads to.
async fn route(client: &Client, routing_key: &str) -> Value {
    client.get(&format!("/topics/{routing_key}/queues")).await.expect(200).json()["queues"].clone()
}

#[tokio::test]
async fn a_binding_is_made_once() {
    let gateway = with_queues(&["q"]).await;
    let made = bind(&gateway, "q", "orders.#").await.expect(201);
    assert_eq!(made.header("cache-control"), "no-store");
    bind(&gateway, "q", "orders.#").await.expect(200);
    let list = gateway.get("/bindings").await.expect(200).json();
    assert_eq!(list["bindings"].as_array().map(Vec::len), Some(1), "{list}");
    let binding = &list["bindings"][0];
    assert_eq!((&binding["pattern"], &binding["queue"]), (&json!("orders.#"), &json!("q")));
    let at = binding["bound_at"].as_str().expect("a time");
    assert!(at.len() == 27 && at.ends_with('Z'), "{at}");
    let at: DateTime<Utc> = at.parse().expect("RFC 3339");
    assert!((Utc::now() - at).num_seconds().abs() < 60, "{at}");
    assert_eq!(binding.as_object().map(serde_json::Map::len), Some(3), "{binding}");
}

#[tokio::test]
async fn bindings_are_listed_for_all_and_for_one() {
    let gateway = with_queues(&["a", "b", "c"]).await;
    for (queue, pattern) in [("a", "orders.#"), ("a", "users.*"), ("b", "orders.#")] {
        bind(&gateway, queue, pattern).await.expect(201);
    }
    gateway.database.execute("SELECT pgmq.bind_topic('sql.*', 'b')").await;
    let all = ["a orders.#", "a users.*", "b orders.#", "b sql.*"];
    assert_eq!(bindings(&gateway, "/bindings").await, all);
    assert_eq!(bindings(&gateway, "/queues/a/bindings").await, all[..2]);
    assert_eq!(bindings(&gateway, "/queues/b/bindings").await, all[2..]);
    assert_eq!(bindings(&gateway, "/queues/c/bindings").await, [""; 0]);
    gateway.get("/queues/none/bindings").await.problem(404, "queue_not_found");
}

#[tokio::test]
async fn unbinding_ends_the_deliveries() {
    let gateway = with_queues(&["a", "b"]).await;
    for queue in ["a", "b"] {
        bind(&gateway, queue, "orders.#").await.expect(201);
    }
    bind(&gateway, "a", "orders.*").await.expect(201);
    let path = "/queues/a/bindings?pattern=orders.%23";
    gateway.delete(path).await.expect(204);
    gateway.delete(path).await.expect(404);
    assert_eq!(bindings(&gateway, "/bindings").await, ["a orders.*", "b orders.#"]);
    gateway.delete("/queues/a/bindings?pattern=orders.*").await.expect(204);
    let went = publish(&gateway, "orders.new/messages", r#"{"message":1}"#).await;
    assert_eq!(went, [("b".into(), 1)]);
    gateway.delete("/queues/none/bindings?pattern=a").await.problem(404, "queue_not_found");
    gateway.delete("/queues/b/bindings").await.problem(400, "invalid_request");
    let typo = gateway.delete("/queues/b/bindings?patern=orders.%23").await;
    assert!(typo.problem(400, "invalid_request").detail().contains("patern"));
}

#[tokio::test]
async fn what_is_no_pattern_is_refused() {
    let gateway = with_queues(&["q"]).await;
    let long = "x".repeat(256);
    for wrong in
        ["", ".a", "a.", "a..b", "a b", "a!", "**", "a.##", "a.*#", "'; DROP", "ä", "a\u{0}", &long]
    {
        let refused = bind(&gateway, "q", wrong).await;
        assert_eq!(refused.status, 400, "{wrong:?}: {}", refused.text);
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains("pattern"), "{wrong:?}: {detail}");
    }
    for wrong in ["", "{}", r#"{"pattern":1}"#, r#"{"patern":"a"}"#] {
        let refused = gateway.post("/queues/q/bindings", wrong).await;
        refused.problem(400, "invalid_request");
    }
    bind(&gateway, "none", "a").await.problem(404, "queue_not_found");
    assert_eq!(bindings(&gateway, "/bindings").await, [""; 0]);
    for right in ["a", "A-b_c.1", "*.a.#", "#", "*", &long[1..]] {
        bind(&gateway, "q", right).await.expect(201);
    }
}

#[tokio::test]
async fn a_message_goes_once_to_each_queue_that_is_bound() {
    let gateway = with_queues(&["every", "orders", "other", "twice"]).await;
    for (queue, pattern) in [
        ("every", "#"),
        ("orders", "orders.#"),
        ("other", "users.#"),
        ("twice", "orders.*.new"),
        ("twice", "orders.#"),
        ("twice", "#"),
    ] {
        bind(&gateway, queue, pattern).await.expect(201);
    }
    let body = r#"{"message":{"n":12345678901234567890.10},"headers":{"h":1}}"#;
    let went = publish(&gateway, "orders.eu.new/messages", body).await;
    assert_eq!(went, ["every", "orders", "twice"].map(|queue| (queue.to_owned(), 1)));
    for (queue, id) in &went {
        let received = gateway.get(&format!("/queues/{queue}/messages?qty=10")).await.expect(200);
        assert!(received.text.contains("12345678901234567890.10"), "{}", received.text);
        let messages = received.messages();
        assert_eq!(messages.len(), 1, "{queue}: {messages:?}");
        assert_eq!(
            (&messages[0]["msg_id"], &messages[0]["headers"]),
            (&json!(id), &json!({"h": 1}))
        );
    }
    assert!(gateway.all("other").await.is_empty());
}

#[tokio::test]
async fn patterns_match_as_they_should() {
    let gateway = with_queues(&["q"]).await;
    for (pattern, matching, others) in [
        (
            "orders.new",
            &["orders.new"][..],
            &["orders", "orders.new.eu", "orders-new", "Orders.new"][..],
        ),
        ("orders.*", &["orders.a", "orders.b-c"], &["orders", "orders.a.b", "x.orders.a"]),
        ("*.new", &["a.new", "b_c.new"], &["new", "a.b.new"]),
        ("orders.#", &["orders.a", "orders.a.b.c"], &["users.a", "ordersx.a"]),
        ("a.*.c.#", &["a.b.c.d", "a.b.c.d.e"], &["a.c.d", "a.b.d.c"]),
        ("#", &["a", "a.b.c"], &[]),
    ] {
        bind(&gateway, "q", pattern).await.expect(201);
        for routing_key in matching {
            assert_eq!(route(&gateway, routing_key).await, json!(["q"]), "{pattern} {routing_key}");
        }
        for routing_key in others {
            assert_eq!(route(&gateway, routing_key).await, json!([]), "{pattern} {routing_key}");
        }
        let path = format!("/queues/q/bindings?pattern={}", pattern.replace('#', "%23"));
        gateway.delete(&path).await.expect(204);
    }
}

#[tokio::test]
async fn what_leads_nowhere_is_no_error() {
    let gateway = with_queues(&["q"]).await;
    bind(&gateway, "q", "orders.#").await.expect(201);
    for (path, body) in [
        ("users.new/messages", r#"{"message":1}"#),
        ("users.new/messages/batch", r#"{"messages":[{"message":1}]}"#),
    ] {
        assert_eq!(publish(&gateway, path, body).await, []);
    }
    assert_eq!(route(&gateway, "users.new").await, json!([]));
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn a_batch_goes_to_every_queue_in_order() {
    let gateway = with_queues(&["a", "b"]).await;
    for queue in ["a", "b"] {
        bind(&gateway, queue, "orders.#").await.expect(201);
    }
    let batch = r#"{"messages":[{"message":1,"headers":{"h":1}},{"message":2},
        {"message":3,"delay":600}]}"#;
    let went = publish(&gateway, "orders.new/messages/batch", batch).await;
    let expected = ["a", "b"].map(|queue| [1, 2, 3].map(|id| (queue.to_owned(), id)));
    assert_eq!(went, expected.concat());
    for queue in ["a", "b"] {
        assert_eq!(values(&gateway, queue).await, [1, 2, 3]);
        let received = gateway.receive(queue, "qty=10").await;
        let seen: Vec<_> = received.iter().map(|m| (&m["message"], &m["headers"])).collect();
        let (one, two, h, null) = (json!(1), json!(2), json!({"h": 1}), Value::Null);
        assert_eq!(seen, [(&one, &h), (&two, &null)], "the third is delayed");
    }
}

#[tokio::test]
async fn delays_hold_in_every_queue() {
    let gateway = with_queues(&["a", "b"]).await;
    for queue in ["a", "b"] {
        bind(&gateway, queue, "#").await.expect(201);
    }
    publish(&gateway, "x/messages", r#"{"message":"later","delay":600}"#).await;
    let at = (Utc::now() + chrono::TimeDelta::seconds(600)).to_rfc3339();
    let body = json!({"message": "at", "visible_at": at}).to_string();
    publish(&gateway, "x/messages", &body).await;
    publish(&gateway, "x/messages", r#"{"message":"now"}"#).await;
    for queue in ["a", "b"] {
        assert_eq!(gateway.receive_one(queue, "qty=10").await["message"], "now");
        assert_eq!(gateway.all(queue).await.len(), 3);
    }
}

#[tokio::test]
async fn it_says_where_a_message_would_go() {
    let gateway = with_queues(&["b", "a", "c"]).await;
    for (queue, pattern) in [("b", "orders.#"), ("a", "#"), ("a", "orders.*"), ("c", "users.#")] {
        bind(&gateway, queue, pattern).await.expect(201);
    }
    assert_eq!(route(&gateway, "orders.new").await, json!(["a", "b"]), "each once, in order");
    assert!(gateway.all("a").await.is_empty(), "nothing is sent");
}

#[tokio::test]
async fn what_is_no_routing_key_is_refused() {
    let gateway = with_queues(&["q"]).await;
    bind(&gateway, "q", "#").await.expect(201);
    let long = "x".repeat(256);
    for wrong in ["a..b", ".a", "a.", "a%20b", "orders.*", "%23", "a%2Fb", "%C3%A4", "a%00", &long]
    {
        let refused = [
            gateway.post(&format!("/topics/{wrong}/messages"), r#"{"message":1}"#).await,
            gateway
                .post(&format!("/topics/{wrong}/messages/batch"), r#"{"messages":[{"message":1}]}"#)
                .await,
            gateway.get(&format!("/topics/{wrong}/queues")).await,
        ];
        for refused in refused {
            assert_eq!(refused.status, 400, "{wrong}: {}", refused.text);
            let detail = refused.problem(400, "invalid_request").detail();
            assert!(detail.contains("routing"), "{wrong}: {detail}");
        }
    }
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn what_is_no_message_goes_nowhere() {
    let gateway = with_queues(&["a", "b"]).await;
    for queue in ["a", "b"] {
        bind(&gateway, queue, "#").await.expect(201);
    }
    for (path, body, status, code) in [
        ("messages", r#"{"mesage":1}"#, 400, "invalid_request"),
        ("messages", r#"{"message":1,"delay":-1}"#, 400, "invalid_request"),
        ("messages", r#"{"message":1,"headers":[]}"#, 400, "invalid_request"),
        ("messages", r#"{"message":"\u0000"}"#, 422, "message_rejected"),
        ("messages/batch", r#"{"messages":[]}"#, 400, "invalid_request"),
        (
            "messages/batch",
            r#"{"messages":[{"message":1},{"message":1,"dely":1}]}"#,
            400,
            "invalid_request",
        ),
        (
            "messages/batch",
            r#"{"messages":[{"message":1},{"message":"\u0000"}]}"#,
            422,
            "message_rejected",
        ),
    ] {
        let refused = gateway.post(&format!("/topics/x/{path}"), body).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.text);
        refused.problem(status, code);
    }
    for queue in ["a", "b"] {
        assert!(gateway.all(queue).await.is_empty());
    }
}

#[tokio::test]
async fn who_waits_on_a_bound_queue_is_woken() {
    let [one, other] = TestGateway::pair().await;
    for queue in ["a", "b"] {
        one.create(queue).await;
        bind(&one, queue, "orders.#").await.expect(201);
    }
    let (here, there, _) =
        tokio::join!(one.receive_one("a", "wait=20"), other.receive_one("b", "wait=20"), async {
            for (gateway, queue) in [(&one, "a"), (&other, "b")] {
                gateway.wait_for_waiters(queue, 1).await;
            }
            publish(&one, "orders.new/messages", r#"{"message":"awaited"}"#).await
        });
    assert_eq!((&here["message"], &there["message"]), (&json!("awaited"), &json!("awaited")));
}

#[tokio::test]
async fn a_binding_counts_at_every_gateway_at_once() {
    let [one, other] = TestGateway::pair().await;
    one.create("q").await;
    let body = r#"{"message":1}"#;
    assert_eq!(publish(&other, "orders.new/messages", body).await, []);
    bind(&one, "q", "orders.#").await.expect(201);
    assert_eq!(publish(&other, "orders.new/messages", body).await.len(), 1);
    one.delete("/queues/q/bindings?pattern=orders.%23").await.expect(204);
    assert_eq!(publish(&other, "orders.new/messages", body).await, []);
}

#[tokio::test]
async fn a_queue_that_is_dropped_is_no_longer_bound() {
    let gateway = with_queues(&["a", "b"]).await;
    for queue in ["a", "b"] {
        bind(&gateway, queue, "orders.#").await.expect(201);
    }
    gateway.delete("/queues/a").await.expect(204);
    assert_eq!(bindings(&gateway, "/bindings").await, ["b orders.#"]);
    let went = publish(&gateway, "orders.new/messages", r#"{"message":1}"#).await;
    assert_eq!(went, [("b".into(), 1)]);
    gateway.create("a").await;
    assert_eq!(bindings(&gateway, "/queues/a/bindings").await, [""; 0]);
}
