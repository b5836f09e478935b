//! Tables of queues whose columns were dropped, renamed or given another type: that is said, with one code at every
//! door, and concerns nobody else.

use serde_json::json;

use crate::support::{Answer, TestGateway, guarded::together, sqs::Sqs};

async fn gateway(change: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
    }
    let fill =
        "INSERT INTO pgmq.q_q (vt, message) SELECT now(), to_jsonb(i) FROM generate_series(1, 6) i";
    gateway.database.execute(fill).await;
    gateway.database.execute(change).await;
    gateway
}

#[tokio::test]
async fn what_was_altered_is_named_whatever_is_asked() {
    let hide =
        json!({"operations": [{"set_vt": {"queue": "q", "msg_id": 6, "vt": 5}}]}).to_string();
    for (change, column, sends) in [
        ("ALTER TABLE pgmq.q_q ALTER vt TYPE text", "vt", true),
        ("ALTER TABLE pgmq.q_q RENAME vt TO visible", "vt", false),
        ("ALTER TABLE pgmq.q_q DROP read_ct", "read_ct", true),
        ("ALTER TABLE pgmq.q_q ALTER read_ct TYPE bigint", "read_ct", true),
    ] {
        let gateway = gateway(change).await;
        let differs = |answer: Answer| {
            let answer = answer.problem(409, "queue_conflict");
            assert!(answer.text.contains(&format!("column `{column}` of")), "{}", answer.text);
        };
        for _ in 0..2 {
            differs(gateway.get("/queues/q/messages?qty=2").await);
            differs(gateway.get("/queues/q/messages/1").await);
            differs(gateway.get("/queues/q/peek").await);
            differs(gateway.get("/queues/q/messages?fifo=grouped").await);
            differs(gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await);
            differs(gateway.post("/queues/q/messages/pop", "").await);
            differs(gateway.post("/transactions", &hide).await);
        }
        let send = gateway.post("/queues/q/messages", r#"{"message":1}"#).await;
        if sends {
            send.expect(201);
        } else {
            differs(send);
            let send = r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#;
            differs(gateway.post("/transactions", send).await);
        }
        for queue in ["q", "other"] {
            gateway.get(&format!("/queues/{queue}")).await.expect(200);
        }
    }
}

/// This PGMQ makes it: none that is newer would help.
#[tokio::test]
async fn a_column_that_came_with_a_later_pgmq_is_named_where_this_one_has_it() {
    let gateway = gateway("ALTER TABLE pgmq.q_q RENAME headers TO other").await;
    let differs = |answer: Answer, column: &str| {
        let answer = answer.problem(409, "queue_conflict");
        assert!(answer.text.contains(&format!("column `{column}` of")), "{}", answer.text);
    };
    let settle = |entry: &str| format!(r#"{{"{entry}}}"#);
    for (path, body) in [
        ("/queues/q/messages", r#"{"message":1,"headers":{"a":1}}"#.to_owned()),
        (
            "/queues/q/messages/batch",
            r#"{"messages":[{"message":1,"headers":{"a":1}}]}"#.to_owned(),
        ),
        (
            "/transactions",
            r#"{"operations":[{"send":{"queue":"q","message":1,"headers":{"a":1}}}]}"#.to_owned(),
        ),
        ("/queues/q/redrive", "{}".to_owned()),
        ("/queues/q/messages/settle", settle(r#"dead_letter":[{"msg_id":1,"reason":"x"}]"#)),
    ] {
        differs(gateway.post(path, &body).await, "headers");
    }
    differs(gateway.get("/queues/q/messages?fifo=grouped").await, "headers");
    differs(gateway.patch("/queues/q", r#"{"fifo":true}"#).await, "headers");
    let sqs = Sqs(&gateway);
    let send = json!({"QueueUrl": "q", "MessageBody": "x"});
    let (code, message) = sqs.error("SendMessage", &send).await;
    assert_eq!(code, "AWS.SimpleQueueService.UnsupportedOperation");
    assert!(message.contains("column `headers` of"), "{message}");
    // Whoever has none needs none.
    gateway.post("/queues/q/messages", r#"{"message":1}"#).await.expect(201);
    gateway.database.execute("ALTER TABLE pgmq.q_other DROP last_read_at").await;
    gateway.send("other", r#"{"message":1}"#).await;
    assert_eq!(gateway.receive("other", "").await.len(), 1);
    let settle = settle(r#"retry":[{"msg_id":1,"uncounted":true}]"#);
    differs(gateway.post("/queues/other/messages/settle", &settle).await, "last_read_at");
}

#[tokio::test]
async fn other_queues_are_served_beside() {
    let gateway = gateway("ALTER TABLE pgmq.q_q RENAME vt TO visible").await;
    for round in 0..2 {
        let answers = together(24, |n| {
            let queue = if n % 3 == 0 { "q" } else { "other" };
            let body =
                json!({"operations": [{"send": {"queue": queue, "message": n}}]}).to_string();
            Answer::of(gateway.request("POST", "/transactions").body(body))
        });
        for (n, answer) in answers.await.into_iter().enumerate() {
            if n % 3 == 0 {
                answer.problem(409, "queue_conflict");
            } else {
                answer.expect(200);
            }
        }
        assert_eq!(gateway.receive("other", "qty=100").await.len(), 16, "{round}");
    }
    gateway.get("/metrics").await.expect(200);
    let sqs = Sqs(&gateway);
    let url = &sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await["QueueUrl"];
    let (code, _) = sqs.error("ReceiveMessage", &json!({"QueueUrl": url})).await;
    assert_eq!(code, "AWS.SimpleQueueService.UnsupportedOperation");
}

#[tokio::test]
async fn an_archive_that_was_altered_is_named() {
    let gateway = gateway("ALTER TABLE pgmq.a_q DROP message").await;
    gateway.post("/queues/q/messages/1/archive", "").await.problem(409, "queue_conflict");
    gateway.get("/queues/q/archive").await.problem(409, "queue_conflict");
    gateway.delete("/queues/q/messages/1").await.expect(204);
}

/// In one statement with those who need what is missing.
#[tokio::test]
async fn whoever_does_not_need_what_is_missing_is_served() {
    let gateway =
        gateway("ALTER TABLE pgmq.a_q DROP message; ALTER TABLE pgmq.q_other RENAME vt TO visible")
            .await;
    gateway.configure("q", json!({"dead_letter_queue": "other"})).await.expect(200);
    let settle = json!({"delete": [{"msg_id": 1}], "archive": [{"msg_id": 2}], "retry": [{"msg_id": 3, "delay": 0}],
                        "dead_letter": [{"msg_id": 4}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!((&settled["deleted"], &settled["retried"]), (&json!([1]), &json!([3])));
    for failed in settled["failed"].as_array().expect("two") {
        assert_eq!(failed["code"], "queue_conflict", "{settled}");
    }
    assert_eq!(settled["failed"].as_array().map(Vec::len), Some(2), "{settled}");
}

/// What is wrong with the queue for dead letters is a matter of those alone.
#[tokio::test]
async fn a_dead_letter_queue_without_numbers_fails_dead_letters_alone() {
    let gateway = gateway("ALTER SEQUENCE pgmq.q_other_msg_id_seq MAXVALUE 2 RESTART WITH 2").await;
    gateway.configure("q", json!({"dead_letter_queue": "other"})).await.expect(200);
    gateway.send("other", r#"{"message":1}"#).await;
    let settle = json!({"delete": [{"msg_id": 1}], "dead_letter": [{"msg_id": 2}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([1]), "{settled}");
    assert_eq!(settled["failed"][0]["code"], "database_unavailable", "{settled}");
    gateway.get("/queues/q/messages/2").await.expect(200);
}
