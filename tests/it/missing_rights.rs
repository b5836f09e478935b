//! Rights that an administrator takes away while the gateway is at work: that is said, and of that queue alone.

use pgmq_gateway::{app::Database, config::Secret};
use serde_json::json;

use crate::support::{
    Answer, TestGateway,
    guarded::{Guarded, allow},
};

async fn change(gateway: &Guarded, how: &str) {
    let sql =
        format!("DO $$ BEGIN EXECUTE format('{how}', 'guarded_' || current_database()); END $$");
    gateway.database.execute(&sql).await;
}

#[tokio::test]
async fn what_is_missing_is_a_right_and_no_policy() {
    let gateway = Guarded::start("SELECT pgmq.send('q', '1')").await;
    let send = ("POST", "/queues/q/messages", r#"{"message":1}"#);
    let transact = r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#;
    let transact = ("POST", "/transactions", transact);
    let receive = ("GET", "/queues/q/messages?vt=0", "");
    let pop = ("POST", "/queues/q/messages/pop", "");
    let delete = ("POST", "/queues/q/messages/settle", r#"{"delete":[{"msg_id":1}]}"#);
    let peek = ("GET", "/queues/q/peek", "");
    for (right, requests) in [
        ("INSERT", &[send, transact][..]),
        ("UPDATE", &[receive, pop]),
        ("DELETE", &[pop, delete]),
        ("SELECT", &[send, transact, receive, pop, delete, peek]),
    ] {
        change(&gateway, &format!("REVOKE {right} ON pgmq.q_q FROM %I")).await;
        for (method, path, body) in requests {
            let answer = Answer::of(gateway.request(method, path).body(*body)).await;
            let text = format!("{right}, {method} {path}: {}", answer.text);
            assert_eq!(answer.status, 403, "{text}");
            let answer = answer.problem(403, "forbidden");
            assert!(answer.detail().contains("role may not do this to"), "{text}");
        }
        gateway.send("other", r#"{"message":1}"#).await;
        change(&gateway, &format!("GRANT {right} ON pgmq.q_q TO %I")).await;
    }
    assert_eq!(gateway.receive("q", "vt=0").await[0]["msg_id"], 1);
}

/// As an administrator does who makes the extension anew.
#[tokio::test]
async fn pgmq_that_is_gone_is_waited_for() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.database.execute("DROP SCHEMA pgmq CASCADE").await;
    for (method, path, body) in [
        ("POST", "/queues/q/messages", json!({"message": 1}).to_string()),
        ("GET", "/queues/q/messages", String::new()),
        ("GET", "/queues/q/peek", String::new()),
        ("GET", "/queues", String::new()),
        ("GET", "/bindings", String::new()),
        ("GET", "/queues/q/bindings", String::new()),
        ("GET", "/topics/a/queues", String::new()),
        ("PUT", "/queues/new", String::new()),
        ("GET", "/readyz", String::new()),
    ] {
        let answer = Answer::of(gateway.request(method, path).body(body)).await;
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text);
    }
    let mut settings = pgmq_gateway::config::Settings::default();
    settings.database.url = Some(Secret::new(gateway.database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, None).await.expect("migrated");
    gateway.create("q").await;
    assert_eq!(gateway.send("q", r#"{"message":1}"#).await, 1);
    assert_eq!(gateway.receive_one("q", "").await["msg_id"], 1);
}

/// Nor is a right on the archive that is missing.
#[tokio::test]
async fn a_right_on_the_archive_that_is_missing_is_told() {
    let gateway = Guarded::start("SELECT pgmq.send('q', '1'), pgmq.send('q', '2')").await;
    change(&gateway, "REVOKE INSERT ON pgmq.a_q FROM %I").await;
    let settle = r#"{"archive":[{"msg_id":1}]}"#;
    for (path, body) in [("1/archive", ""), ("settle", settle)] {
        let answer = gateway.post(&format!("/queues/q/messages/{path}"), body).await;
        let detail = answer.problem(403, "forbidden").detail();
        assert!(detail.contains("role may not do this to"), "{detail}");
    }
    let settle = r#"{"archive":[{"msg_id":1}],"delete":[{"msg_id":2}]}"#;
    let settled = gateway.post("/queues/q/messages/settle", settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([2]), "that is not its business");
    assert_eq!(gateway.ids("q_q").await, [1]);
}

/// As the plain calls say it, with the operation that is to blame.
#[tokio::test]
async fn a_transaction_says_which_operation_lacks_a_right() {
    let gateway = Guarded::start("SELECT pgmq.send('q', '1'), pgmq.send('q', '2')").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let send = json!({"send": {"queue": "q", "message": 1}});
    let [delete, archive] =
        ["delete", "archive"].map(|what| json!({what: {"queue": "q", "msg_id": 2}}));
    let hide = json!({"set_vt": {"queue": "q", "msg_id": 2, "vt": 0}});
    for (right, table, operations) in [
        ("INSERT", "q_q", &[&send][..]),
        ("DELETE", "q_q", &[&delete, &archive]),
        ("UPDATE", "q_q", &[&delete, &archive, &hide]),
        ("INSERT", "a_q", &[&archive]),
        ("SELECT", "q_q", &[&send, &delete, &archive, &hide]),
    ] {
        change(&gateway, &format!("REVOKE {right} ON pgmq.{table} FROM %I")).await;
        for operation in operations {
            let first = json!({"send": {"queue": "other", "message": 1}});
            let body = json!({"operations": [first, operation]}).to_string();
            let answer = gateway.post("/transactions", &body).await.problem(403, "forbidden");
            let text = format!("{right} on {table}, {operation}: {}", answer.text);
            assert_eq!(answer.json()["index"], 1, "{text}");
            assert!(answer.detail().contains("role may not do this to queue `q`"), "{text}");
        }
        if operations.contains(&&send) {
            let answer = gateway.post("/topics/t/messages", r#"{"message":1}"#).await;
            let detail = answer.problem(403, "forbidden").detail();
            assert!(detail.contains("role may not do this to queue `q`"), "{detail}");
        }
        change(&gateway, &format!("GRANT {right} ON pgmq.{table} TO %I")).await;
    }
    assert_eq!(gateway.ids("q_q").await, [1, 2]);
    assert_eq!(gateway.ids("q_other").await, [0; 0]);
    // What a policy keeps is kept by a policy.
    gateway.database.execute(&allow("q_q", &["SELECT", "UPDATE", "INSERT"])).await;
    let body = json!({"operations": [delete]}).to_string();
    let detail = gateway.post("/transactions", &body).await.problem(403, "forbidden").detail();
    assert!(detail.contains("keeps message 2"), "{detail}");
}

/// It is the gateway's table that the right is missing on, and no queue's.
#[tokio::test]
async fn a_right_on_the_table_of_keys_that_is_missing_is_told() {
    let gateway = Guarded::start("").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let message = json!({"message": 1});
    let transaction = json!({"operations": [{"send": {"queue": "q", "message": 1}}]});
    for right in ["INSERT", "UPDATE", "SELECT"] {
        change(&gateway, &format!("REVOKE {right} ON pgmq_gateway.idempotency_keys FROM %I")).await;
        for (path, body) in [
            ("/queues/q/messages", &message),
            ("/transactions", &transaction),
            ("/topics/t/messages", &message),
        ] {
            let keyed = gateway.request("POST", path).header("idempotency-key", "k");
            let answer = Answer::of(keyed.body(body.to_string())).await;
            if answer.status < 300 && right == "UPDATE" {
                continue;
            }
            let detail = answer.problem(403, "forbidden").detail();
            let says =
                detail.contains("pgmq_gateway.idempotency_keys") && detail.contains("--grant-to");
            assert!(says && !detail.contains("queue's tables"), "{right}, {path}: {detail}");
        }
        change(&gateway, &format!("GRANT {right} ON pgmq_gateway.idempotency_keys TO %I")).await;
    }
}

/// The role may look at them, and no more.
#[tokio::test]
async fn a_queue_is_emptied_without_the_right_to_forget_what_was_sent_to_it() {
    let gateway = Guarded::start("SELECT pgmq.send('q', '1'), pgmq.send('other', '1')").await;
    change(&gateway, "REVOKE DELETE ON pgmq_gateway.deduplication_ids FROM %I").await;
    change(&gateway, "REVOKE TRUNCATE ON pgmq.q_q FROM %I").await;
    change(&gateway, "GRANT TRUNCATE ON pgmq.q_other TO %I").await;
    for queue in ["q", "other"] {
        let purged = gateway.post(&format!("/queues/{queue}/purge"), "").await.expect(200).json();
        assert_eq!(purged["purged"], 1, "{queue}");
    }
}

/// The table has one column more, which is nobody's business.
#[tokio::test]
async fn rights_on_the_columns_of_pgmq_are_enough() {
    let note = "ALTER TABLE pgmq.q_q ADD note text; ALTER TABLE pgmq.a_q ADD note text";
    let gateway = Guarded::start(note).await;
    let columns = "msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers";
    for (table, columns) in [("q_q", columns), ("a_q", &format!("{columns}, archived_at"))] {
        change(&gateway, &format!("REVOKE SELECT ON pgmq.{table} FROM %I")).await;
        change(&gateway, &format!("GRANT SELECT ({columns}) ON pgmq.{table} TO %I")).await;
    }
    gateway.send("q", r#"{"message":1}"#).await;
    let delivered = gateway.receive_one("q", "vt=600").await;
    let receipt = delivered["receipt"].as_str().expect("a receipt");
    let messages: Vec<_> = (2..=8).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let shown = gateway.patch("/queues/q/messages/1", r#"{"vt":60}"#).await.expect(200).json();
    assert_eq!(shown["read_ct"], 1, "{shown}");
    gateway.delete(&format!("/queues/q/messages/1?receipt={receipt}")).await.expect(204);
    let entries = json!({
        "delete": [{"msg_id": 2}], "archive": [{"msg_id": 3}], "retry": [{"msg_id": 4, "delay": 0}],
        "dead_letter": [{"msg_id": 5, "reason": "bad"}],
    });
    let settled = gateway.post("/queues/q/messages/settle", &entries.to_string()).await;
    assert_eq!(settled.expect(200).json()["failed"], json!([]));
    assert_eq!(gateway.ids("a_q").await, [3, 5]);
    let replayed = gateway.post("/queues/q/archive/replay", r#"{"msg_ids":[3]}"#).await;
    assert_eq!(replayed.expect(200).json()["replayed"], 1);

    // What was delivered twice goes elsewhere.
    let rule = json!({"max_receives": 2, "dead_letter_queue": "other"});
    gateway.configure("q", rule).await.expect(200);
    for query in ["vt=0&qty=10", "vt=0&qty=10&fifo=grouped"] {
        assert_eq!(gateway.receive("q", query).await.len(), 5, "{query}");
    }
    assert_eq!(gateway.receive("q", "vt=0&qty=10").await.len(), 0);
    assert_eq!(gateway.ids("q_other").await.len(), 5);
    let moved = gateway.post("/queues/other/redrive", "").await.expect(200).json();
    assert_eq!(moved["moved"], 5, "{moved}");
    let popped = gateway.post("/queues/q/messages/pop?qty=2", "").await.expect(200).json();
    assert_eq!(popped["messages"].as_array().map(Vec::len), Some(2), "{popped}");
}
