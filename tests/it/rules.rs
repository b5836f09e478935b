//! Rules on tables of queues, which have a statement do more than it says, or something else.

use serde_json::json;

use crate::support::{Answer, TestGateway, guarded::together};

/// A queue `q` with six messages, and these rules on its table.
async fn gateway(rules: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in ["q", "dead", "other"] {
        gateway.create(queue).await;
    }
    let fill = "INSERT INTO pgmq.q_q (vt, message, headers)
        SELECT now(), to_jsonb(i), '{\"x-pgmq-group\": \"g\"}' FROM generate_series(1, 6) i";
    gateway.database.execute(fill).await;
    gateway.database.execute(rules).await;
    gateway
}

async fn count(gateway: &TestGateway, what: &str) -> i64 {
    gateway.database.value(&format!("SELECT count(*) FROM {what}")).await
}

#[tokio::test]
async fn a_rule_that_does_more_is_in_nobodys_way() {
    let gateway = gateway(
        "CREATE TABLE public.log (what text);
         CREATE RULE i AS ON INSERT TO pgmq.q_q DO ALSO INSERT INTO public.log VALUES ('i');
         CREATE RULE u AS ON UPDATE TO pgmq.q_q DO ALSO INSERT INTO public.log VALUES ('u');
         CREATE RULE d AS ON DELETE TO pgmq.q_q DO ALSO INSERT INTO public.log VALUES ('d')",
    )
    .await;
    gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    gateway.post("/queues/q/messages/1/archive", "").await.expect(204);
    let settle = json!({"delete": [{"msg_id": 2}], "archive": [{"msg_id": 3}], "retry": [{"msg_id": 4, "delay": 0}],
                        "dead_letter": [{"msg_id": 5}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    let done = json!({"deleted": [2], "archived": [3], "dead_lettered": [5], "retried": [4], "failed": []});
    assert_eq!(settled, done);
    let transaction = json!({"operations": [{"archive": {"queue": "q", "msg_id": 4}},
        {"send": {"queue": "q", "message": 7}}, {"send": {"queue": "other", "message": 1}}]});
    let results = gateway.post("/transactions", &transaction.to_string()).await.expect(200).json();
    assert_eq!(results["results"][1]["msg_id"], 7);
    assert_eq!(gateway.receive_one("q", "fifo=grouped").await["msg_id"], 6);
    gateway.post("/queues/q/bindings", r#"{"pattern":"a"}"#).await.expect(201);
    let published = gateway.post("/topics/a/messages", r#"{"message":8}"#).await.expect(201).json();
    assert_eq!(published["deliveries"], json!([{"queue": "q", "msg_id": 8}]));
    gateway.post("/queues/q/archive/replay", "{}").await.expect(200);
    assert_eq!(gateway.all("q").await.len(), 7);
    for (what, least) in [("i", 3), ("u", 2), ("d", 5)] {
        assert!(
            count(&gateway, &format!("public.log WHERE what = '{what}'")).await >= least,
            "{what}"
        );
    }
}

#[tokio::test]
async fn what_a_rule_keeps_is_told_to_be_kept_alone() {
    let gateway = gateway(
        "CREATE RULE u AS ON UPDATE TO pgmq.q_q DO INSTEAD NOTHING;
         CREATE RULE d AS ON DELETE TO pgmq.q_dead DO INSTEAD NOTHING;
         CREATE RULE i AS ON INSERT TO pgmq.q_dead DO INSTEAD NOTHING;
         INSERT INTO pgmq.a_dead (msg_id, vt, message) VALUES (1, now(), '1')",
    )
    .await;
    let settle = json!({"delete": [{"msg_id": 1}], "retry": [{"msg_id": 2, "delay": 0}],
                        "dead_letter": [{"msg_id": 3}]});
    gateway.configure("q", json!({"dead_letter_queue": "dead"})).await.expect(200);
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([1]));
    let failed: Vec<_> = settled["failed"]
        .as_array()
        .expect("some")
        .iter()
        .map(|one| (&one["msg_id"], &one["code"]))
        .collect();
    let forbidden = &json!("forbidden");
    assert_eq!(failed, [(&json!(3), forbidden), (&json!(2), forbidden)], "{settled}");
    gateway.patch("/queues/q/messages/2", r#"{"vt":0}"#).await.problem(403, "forbidden");
    let refused = gateway.post("/queues/dead/messages", r#"{"message":1}"#).await;
    refused.clone().problem(422, "message_rejected");
    assert!(refused.text.contains("a rule"), "{}", refused.text);
    let send = json!({"operations": [{"send": {"queue": "dead", "message": 7}}]}).to_string();
    let answers = together(12, |n| {
        let other = r#"{"operations":[{"send":{"queue":"other","message":7}}]}"#;
        let body = if n % 4 == 0 { send.clone() } else { other.to_owned() };
        Answer::of(gateway.request("POST", "/transactions").body(body))
    });
    for (n, answer) in answers.await.into_iter().enumerate() {
        if n % 4 == 0 {
            answer.problem(422, "message_rejected");
        } else {
            answer.expect(200);
        }
    }
    assert_eq!(count(&gateway, "pgmq.q_other").await, 9);
    assert_eq!(count(&gateway, "pgmq.q_q").await, 5);
    let fill = "ALTER TABLE pgmq.q_dead DISABLE RULE i; INSERT INTO pgmq.q_dead (vt, message) VALUES (now(), '1')";
    gateway.database.execute(fill).await;
    gateway.post("/queues/dead/purge", "").await.problem(403, "forbidden");
    assert_eq!(count(&gateway, "pgmq.q_dead").await, 1);
}

/// What a rule does in place of deleting.
const INSTEAD: [&str; 2] =
    ["NOTHING", "UPDATE pgmq.q_q SET vt = 'infinity' WHERE msg_id = old.msg_id RETURNING q_q.*"];

/// Another command is no more a deletion than nothing is, though it returns rows.
#[tokio::test]
async fn what_a_rule_does_in_place_of_deleting_is_no_failure_of_the_database() {
    for instead in INSTEAD {
        let gateway =
            gateway(&format!("CREATE RULE d AS ON DELETE TO pgmq.q_q DO INSTEAD {instead}")).await;
        gateway.configure("q", json!({"dead_letter_queue": "dead"})).await.expect(200);
        let receipt = gateway.receive_one("q", "").await["receipt"].clone();
        let path = format!("/queues/q/messages/1?receipt={}", receipt.as_str().expect("one"));
        gateway.delete(&path).await.problem(403, "forbidden");
        gateway.delete("/queues/q/messages/2").await.problem(403, "forbidden");
        gateway.post("/queues/q/messages/3/archive", "").await.problem(403, "forbidden");
        let settle = json!({"delete": [{"msg_id": 2}], "dead_letter": [{"msg_id": 3}],
                            "retry": [{"msg_id": 4, "delay": 600}]});
        let settled =
            gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
        let codes: Vec<_> = settled["failed"]
            .as_array()
            .expect("some")
            .iter()
            .map(|one| (&one["msg_id"], &one["code"]))
            .collect();
        let forbidden = &json!("forbidden");
        assert_eq!(codes, [(&json!(2), forbidden), (&json!(3), forbidden)], "{instead}: {settled}");
        assert_eq!(settled["retried"], json!([4]), "{instead}");
        let both = json!({"settle": {"delete": [{"msg_id": 2}]}, "qty": 1}).to_string();
        let both = gateway.post("/queues/q/messages/receive", &both).await.expect(200);
        assert_eq!(both.json()["settled"]["failed"][0]["code"], "forbidden", "{instead}");
        assert_eq!(both.messages().len(), 1, "{instead}");
        let end = r#"{"operations":[{"send":{"queue":"other","message":1}},{"delete":{"queue":"q","msg_id":5}}]}"#;
        let refused = gateway.post("/transactions", end).await.problem(403, "forbidden");
        assert_eq!(refused.json()["index"], 1, "{instead}: {}", refused.text);
        let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await;
        assert!(popped.status < 500, "{instead}: {}", popped.text);
        gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.problem(403, "forbidden");
        gateway.post("/queues/q/purge", "").await.problem(403, "forbidden");
        assert_eq!(count(&gateway, "pgmq.q_q").await, 6, "{instead}");
        assert_eq!(count(&gateway, "pgmq.q_other").await, 0, "{instead}");
    }
}

#[tokio::test]
async fn what_a_rule_does_in_place_of_storing_is_told_as_a_rule() {
    for instead in ["NOTHING", "UPDATE pgmq.q_q SET read_ct = read_ct RETURNING q_q.*"] {
        let gateway =
            gateway(&format!("CREATE RULE i AS ON INSERT TO pgmq.q_q DO INSTEAD {instead}")).await;
        gateway.post("/queues/q/bindings", r#"{"pattern":"a"}"#).await.expect(201);
        let one = r#"{"message":1}"#;
        let many = r#"{"messages":[{"message":1},{"message":2}]}"#;
        let other = r#"{"send":{"queue":"other","message":1}}"#;
        let both = format!(r#"{{"operations":[{other},{{"send":{{"queue":"q","message":1}}}}]}}"#);
        for (path, body) in [
            ("/queues/q/messages", one),
            ("/queues/q/messages/batch", many),
            ("/transactions", &both),
            ("/topics/a/messages", one),
        ] {
            let refused = gateway.post(path, body).await.problem(422, "message_rejected");
            assert!(refused.text.contains("a rule of"), "{instead}: {}", refused.text);
            let keyed = gateway.request("POST", path).header("Idempotency-Key", "k");
            Answer::of(keyed.body(body.to_owned())).await.problem(422, "message_rejected");
        }
        assert_eq!(count(&gateway, "pgmq.q_q").await, 6, "{instead}");
        assert_eq!(count(&gateway, "pgmq.q_other").await, 0, "{instead}");
    }
}

#[tokio::test]
async fn what_a_rule_does_in_place_of_a_delivery_leaves_the_message() {
    for instead in ["NOTHING", "DELETE FROM pgmq.q_other RETURNING q_other.*"] {
        let gateway =
            gateway(&format!("CREATE RULE u AS ON UPDATE TO pgmq.q_q DO INSTEAD {instead}")).await;
        for how in ["", "fifo=grouped", "fifo=round_robin"] {
            let received = gateway.get(&format!("/queues/q/messages?{how}")).await;
            assert!(received.status < 500, "{instead}, {how}: {}", received.text);
        }
        gateway.patch("/queues/q/messages/2", r#"{"vt":0}"#).await.problem(403, "forbidden");
        assert_eq!(count(&gateway, "pgmq.q_q WHERE read_ct = 0").await, 6, "{instead}");
    }
}
