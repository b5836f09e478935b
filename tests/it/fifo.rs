//! Messages in groups, each delivered in order.

use serde_json::{Value, json};

use crate::support::{Client, TestGateway};

const MODES: [&str; 3] = ["grouped", "round_robin", "head"];

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    gateway
}

/// Sends messages such as `a1`, each in the group that its first letter names; `-` is none.
async fn send(client: &Client, messages: &str) {
    for message in messages.split(' ') {
        let headers = match &message[..1] {
            "-" => Value::Null,
            group => json!({"x-pgmq-group": group}),
        };
        client.send("q", &json!({"message": message, "headers": headers}).to_string()).await;
    }
}

fn names(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|m| m["message"].as_str().expect("text").to_owned()).collect()
}

/// What is received with these parameters, in the order of the answer.
async fn receive(client: &Client, parameters: &str) -> String {
    names(&client.receive("q", parameters).await).join(" ")
}

/// The same in alphabetical order, which is that of each group.
async fn receive_sorted(client: &Client, parameters: &str) -> String {
    let received = names(&client.receive("q", parameters).await);
    let mut sorted = received.clone();
    sorted.sort();
    for group in sorted.chunk_by(|a, b| a[..1] == b[..1]) {
        let of_group: Vec<_> = received.iter().filter(|m| m[..1] == group[0][..1]).collect();
        assert!(of_group.is_sorted(), "each group in its order: {received:?}");
    }
    sorted.join(" ")
}

/// The path of a message that was sent as one of these, in this order.
fn path(messages: &str, name: &str) -> String {
    let index = messages.split(' ').position(|message| message == name);
    format!("/queues/q/messages/{}", index.expect("it was sent") + 1)
}

#[tokio::test]
async fn a_queue_says_that_it_is_fifo() {
    let gateway = with_queue().await;
    assert_eq!(gateway.get("/queues/q").await.expect(200).json()["fifo"], true);
    gateway.put("/queues/q", r#"{"fifo":true}"#).await.expect(200);
    gateway.create("plain").await;
    assert_eq!(gateway.get("/queues/plain").await.expect(200).json()["fifo"], false);
    gateway.put("/queues/plain", r#"{"fifo":true}"#).await.problem(409, "queue_conflict");
    gateway.put("/queues/bad", r#"{"fifo":"yes"}"#).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn grouped_takes_as_much_as_it_can_of_the_oldest_group() {
    for (qty, expected) in [
        (1, "a1"),
        (2, "a1 a2"),
        (3, "a1 a2 a3"),
        (4, "a1 a2 a3 b1"),
        (6, "a1 a2 a3 b1 b2 c1"),
        (100, "a1 a2 a3 b1 b2 c1 c2"),
    ] {
        let gateway = with_queue().await;
        send(&gateway, "a1 b1 a2 c1 b2 a3 c2").await;
        let received = receive_sorted(&gateway, &format!("fifo=grouped&qty={qty}")).await;
        assert_eq!(received, expected, "{qty}");
    }
}

#[tokio::test]
async fn round_robin_interleaves_the_groups() {
    for (qty, expected) in [
        (1, "a1"),
        (3, "a1 b1 c1"),
        (4, "a1 b1 c1 a2"),
        (6, "a1 b1 c1 a2 b2 c2"),
        (100, "a1 b1 c1 a2 b2 c2 a3"),
    ] {
        let gateway = with_queue().await;
        send(&gateway, "a1 a2 a3 b1 b2 c1 c2").await;
        let received = receive(&gateway, &format!("fifo=round_robin&qty={qty}")).await;
        assert_eq!(received, expected, "{qty}");
    }
}

#[tokio::test]
async fn head_takes_one_of_each_group() {
    let gateway = with_queue().await;
    send(&gateway, "a1 a2 b1 a3 c1 b2").await;
    assert_eq!(receive_sorted(&gateway, "fifo=head&qty=2&vt=0").await, "a1 b1", "oldest first");
    assert_eq!(receive_sorted(&gateway, "fifo=head&qty=100").await, "a1 b1 c1");
    assert_eq!(receive(&gateway, "fifo=head&qty=100").await, "");
}

/// What stands behind a hidden message of its group stays there.
#[tokio::test]
async fn nothing_overtakes_a_hidden_message() {
    let messages = "a1 a2 a3 b1 b2";
    for (mode, around_the_middle, behind_the_head) in [
        ("grouped", "a1 b1 b2", "b1 b2"),
        ("round_robin", "a1 b1 b2", "b1 b2"),
        ("head", "a1 b1", "b1"),
    ] {
        let parameters = format!("fifo={mode}&qty=10&vt=0");
        let gateway = with_queue().await;
        send(&gateway, messages).await;
        gateway.patch(&path(messages, "a2"), r#"{"vt":600}"#).await.expect(200);
        assert_eq!(receive_sorted(&gateway, &parameters).await, around_the_middle, "{mode}");
        gateway.patch(&path(messages, "a1"), r#"{"vt":600}"#).await.expect(200);
        gateway.patch(&path(messages, "a2"), r#"{"vt":0}"#).await.expect(200);
        assert_eq!(receive_sorted(&gateway, &parameters).await, behind_the_head, "{mode}");
    }
}

#[tokio::test]
async fn a_group_is_with_one_consumer_at_a_time() {
    for mode in MODES {
        let [one, other] = TestGateway::pair().await;
        one.create_with("q", &json!({"fifo": true})).await;
        send(&one, "a1 a2 b1 b2").await;
        assert_eq!(receive(&one, &format!("fifo={mode}&qty=1")).await, "a1");
        let rest = receive(&other, &format!("fifo={mode}&qty=10")).await;
        assert_eq!(rest, if mode == "head" { "b1" } else { "b1 b2" }, "{mode}");
        for (client, mode) in [(&one, "grouped"), (&other, "round_robin"), (&one, "head")] {
            assert_eq!(receive(client, &format!("fifo={mode}&qty=10")).await, "");
        }
    }
}

#[tokio::test]
async fn a_delete_lets_the_group_go_on() {
    let messages = "a1 a2 a3";
    for mode in MODES {
        let [one, other] = TestGateway::pair().await;
        one.create_with("q", &json!({"fifo": true})).await;
        send(&one, messages).await;
        let parameters = format!("fifo={mode}&qty=1&wait=20");
        assert_eq!(receive(&one, &parameters).await, "a1");
        // Somebody waits here and is woken by a delete, here and at the other gateway.
        for (deleter, gone, next) in [(&one, "a1", "a2"), (&other, "a2", "a3")] {
            let (received, ()) = tokio::join!(receive(&one, &parameters), async {
                one.wait_for_waiters("q", 1).await;
                deleter.delete(&path(messages, gone)).await.expect(204);
            });
            assert_eq!(received, next, "{mode}");
        }
    }
}

#[tokio::test]
async fn an_archive_and_a_return_let_the_group_go_on() {
    let messages = "a1 a2";
    let gateway = with_queue().await;
    send(&gateway, messages).await;
    for (wait, expected) in [("", "a1"), ("&wait=20", "a1"), ("&wait=20", "a2")] {
        let parameters = format!("fifo=head&qty=5&vt=600{wait}");
        let (received, ()) = tokio::join!(receive(&gateway, &parameters), async {
            if expected == "a2" {
                gateway.post(&format!("{}/archive", path(messages, "a1")), "").await.expect(204);
            } else if !wait.is_empty() {
                gateway.patch(&path(messages, "a1"), r#"{"vt":0}"#).await.expect(200);
            }
        });
        assert_eq!(received, expected);
    }
}

#[tokio::test]
async fn a_lease_that_runs_out_lets_the_group_begin_again() {
    for mode in MODES {
        let gateway = with_queue().await;
        send(&gateway, "a1 a2").await;
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=1&vt=1")).await, "a1");
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=1&wait=20")).await, "a1", "{mode}");
    }
}

#[tokio::test]
async fn a_message_that_is_sent_wakes_who_waits() {
    for mode in MODES {
        let gateway = with_queue().await;
        let parameters = format!("fifo={mode}&wait=20");
        let (received, ()) = tokio::join!(receive(&gateway, &parameters), send(&gateway, "a1"));
        assert_eq!(received, "a1", "{mode}");
    }
}

#[tokio::test]
async fn messages_without_the_header_are_one_group() {
    for mode in MODES {
        let gateway = with_queue().await;
        send(&gateway, "-1 -2 a1").await;
        gateway.send("q", r#"{"message":"-3","headers":{"other":1}}"#).await;
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=1")).await, "-1");
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=10")).await, "a1", "{mode}");
    }
}

#[tokio::test]
async fn a_queue_without_the_index_works_too() {
    let gateway = TestGateway::start().await;
    for mode in MODES {
        gateway.create("q").await;
        send(&gateway, "a1 a2 b1").await;
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=1")).await, "a1");
        assert_eq!(receive(&gateway, &format!("fifo={mode}&qty=10")).await, "b1", "{mode}");
        gateway.delete("/queues/q").await.expect(204);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let gateway = with_queue().await;
    send(&gateway, "a1").await;
    for (wrong, part) in [
        ("fifo=head&filter=%7B%22a%22%3A1%7D", "filter"),
        ("fifo=heads", "fifo"),
        ("fifo=", "fifo"),
        ("fifo=true", "round_robin"),
    ] {
        let refused = gateway.get(&format!("/queues/q/messages?{wrong}")).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.contains(part), "{wrong}: {detail}");
    }
    let missing = gateway.get("/queues/none/messages?fifo=head").await;
    missing.problem(404, "queue_not_found");
    assert_eq!(gateway.all("q").await[0]["read_ct"], 0);
}

#[tokio::test]
async fn a_poison_head_is_moved_and_its_group_goes_on() {
    for mode in MODES {
        let gateway = TestGateway::start().await;
        gateway.create("dlq").await;
        let settings = json!({"max_receives": 2, "dead_letter_queue": "dlq"});
        gateway.create_with("q", &json!({"fifo": true, "settings": settings})).await;
        send(&gateway, "a1 a2 a3").await;
        let parameters = format!("fifo={mode}&qty=1&vt=0");
        for _ in 0..2 {
            assert_eq!(receive(&gateway, &parameters).await, "a1");
        }
        let received = receive(&gateway, &format!("fifo={mode}&qty=1&vt=600&wait=20")).await;
        assert_eq!(received, "a2", "{mode}");
        let dead = gateway.all("dlq").await;
        assert_eq!(names(&dead), ["a1"]);
        assert_eq!(dead[0]["headers"]["x-pgmq-group"], "a");
        assert_eq!(receive(&gateway, &parameters).await, "", "the group is with one consumer");
    }
}

/// A name that the index cannot take would keep its message from ever being moved into such a queue.
#[tokio::test]
async fn the_name_of_a_group_is_bounded_at_every_door() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let doors = |group: &Value| {
        let message = json!({"message": 1, "headers": {"x-pgmq-group": group}});
        let mut send = message.clone();
        send["queue"] = "q".into();
        let batch = json!({"messages": [{"message": 2}, message]});
        [
            ("/queues/q/messages", message.clone(), ""),
            ("/queues/q/messages/batch", batch.clone(), "messages[1]"),
            ("/topics/t/messages", message, ""),
            ("/topics/t/messages/batch", batch, "messages[1]"),
            ("/transactions", json!({"operations": [{"send": send}]}), "operations[0]"),
        ]
    };
    let within = ["g".repeat(255).into(), json!("ü".repeat(127)), json!(7), Value::Null];
    let beyond = ["g".repeat(256).into(), json!("ü".repeat(128)), json!(["g".repeat(256)])];
    for group in beyond {
        for (door, body, at) in doors(&group) {
            let refused = gateway.post(door, &body.to_string()).await;
            let detail = refused.problem(400, "invalid_request").detail();
            let named = detail.contains("`x-pgmq-group` must have at most 255 bytes");
            assert!(named && detail.contains(at), "{door}: {detail}");
        }
    }
    assert!(gateway.all("q").await.is_empty());
    for group in &within {
        for (door, body, _) in doors(group) {
            let sent = gateway.post(door, &body.to_string()).await;
            assert!([200, 201].contains(&sent.status), "{door}: {}", sent.text);
        }
    }
}

/// A head that is buried makes the next one the head, and that one is delivered once.
#[tokio::test]
async fn a_buried_head_does_not_double_the_next() {
    let gateway = TestGateway::start().await;
    let queue = r#"{"fifo":true,"settings":{"max_receives":1}}"#;
    gateway.put("/queues/q", queue).await.expect(201);
    let insert = r#"INSERT INTO pgmq.q_q (vt, message, headers)
        SELECT now(), '1', '{"x-pgmq-group":"g"}' FROM generate_series(1, 1100)"#;
    gateway.database.execute(insert).await;
    assert_eq!(gateway.receive("q", "fifo=head&vt=0").await.len(), 1);
    let received = gateway.receive("q", "fifo=head&qty=2").await;
    let ids: Vec<_> = received.iter().map(|message| &message["msg_id"]).collect();
    assert_eq!(ids, [&json!(2)]);
}
