//! A PGMQ with no more than version 1.4.4 had: what it lacks is said, the rest works.

use serde_json::json;

use crate::support::{TestDatabase, TestGateway};

/// Takes away what came later: the columns `headers` and `last_read_at`, functions with other
/// parameters, notifications, groups and topics.
const REDUCE: &str = r"
    DO $$
    DECLARE
        f record;
        columns text := '^.*(headers JSONB|last_read_at TIMESTAMP WITH TIME ZONE).*$';
    BEGIN
        -- The last column of a table loses the comma before it.
        FOR f IN SELECT p.oid, pg_get_functiondef(p.oid) AS text FROM pg_proc p
                 JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'pgmq'
                 WHERE p.proname IN ('create_non_partitioned', 'create_unlogged', 'archive')
        LOOP
            f.text := regexp_replace(f.text, 'message JSONB,\s*headers JSONB', 'message JSONB', 'g');
            f.text := regexp_replace(f.text, '\s*last_read_at TIMESTAMP WITH TIME ZONE,', '', 'g');
            EXECUTE replace(replace(f.text, ', last_read_at', ''), ', headers', '');
        END LOOP;
        FOR f IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                 JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'pgmq'
                 WHERE p.proname ~ '^(_?send|read|pop|set_vt|metrics|.*topic|.*notify|.*routing|acquire|.*fifo)'
                   AND p.prorettype <> 'trigger'::regtype
                   AND p.oid <> to_regprocedure('pgmq.acquire_queue_lock(text)')
        LOOP
            EXECUTE 'DROP FUNCTION IF EXISTS ' || f.name || ' CASCADE';
        END LOOP;
    END
    $$;
    ALTER FUNCTION pgmq.drop_queue(text) RENAME TO _drop_queue;
    CREATE OR REPLACE FUNCTION pgmq.drop_queue(queue_name text, partitioned boolean)
        RETURNS boolean LANGUAGE sql AS 'SELECT pgmq._drop_queue(queue_name)';
    DROP TABLE pgmq.topic_bindings;
    DROP TABLE pgmq.notify_insert_throttle;
    ALTER TYPE pgmq.message_record DROP ATTRIBUTE headers CASCADE;
    ALTER TYPE pgmq.message_record DROP ATTRIBUTE last_read_at CASCADE;
    DROP TABLE pgmq.__pgmq_migrations
";

async fn reduced() -> TestGateway {
    let database = TestDatabase::new().await;
    database.execute(REDUCE).await;
    TestGateway::on(&database, |_| {}).await
}

#[tokio::test]
async fn what_it_has_works() {
    let gateway = reduced().await;
    let settings = r#"{"settings":{"visibility_timeout":60,"delay":0}}"#;
    gateway.put("/queues/q", settings).await.expect(201);
    gateway.put("/queues/u", r#"{"kind":"unlogged"}"#).await.expect(201);
    assert_eq!(gateway.send("q", r#"{"message":{"n":1.5}}"#).await, 1);
    let batch = r#"{"messages":[{"message":2},{"message":3,"delay":600}]}"#;
    gateway.post("/queues/q/messages/batch", batch).await.expect(201);
    let received = gateway.receive("q", "qty=10&wait=1").await;
    assert_eq!(received.len(), 2, "{received:?}");
    assert_eq!(received[0]["message"], json!({"n": 1.5}));
    assert_eq!(received[0]["headers"], json!(null));
    assert_eq!(received[0]["last_read_at"], json!(null));
    let receipt = received[0]["receipt"].as_str().expect("a receipt");
    gateway.delete(&format!("/queues/q/messages/1?receipt={receipt}")).await.expect(204);
    gateway.patch("/queues/q/messages/2", r#"{"vt":0}"#).await.expect(200);
    gateway.post("/queues/q/messages/2/archive", "").await.expect(204);
    let archived = gateway.get("/queues/q/archive").await.expect(200).json();
    assert_eq!(archived["messages"][0]["message"], json!(2));
    gateway.post("/queues/q/archive/replay", "{}").await.expect(200);
    gateway.get("/queues/q/peek").await.expect(200);
    for page in ["/ui/queues/q", "/ui/queues/q/messages", "/ui/queues/q/messages/3"] {
        gateway.get(page).await.expect(200);
    }
    let metrics = gateway.get("/queues/q/metrics").await.expect(200).json();
    assert_eq!((&metrics["queue_length"], &metrics["total_messages"]), (&json!(2), &json!(4)));
    gateway.post("/queues/q/messages/pop", "").await.expect(200);
    let transaction = r#"{"operations":[{"send":{"queue":"u","message":1}}]}"#;
    gateway.post("/transactions", transaction).await.expect(200);
    assert_eq!(gateway.get("/queues?prefix=").await.expect(200).json()["queues"][0]["queue"], "q");
    gateway.post("/queues/q/purge", "").await.expect(200);
    gateway.delete("/queues/q").await.expect(204);
    gateway.get("/queues/q").await.problem(404, "queue_not_found");
}

/// A message that was sent by SQL wakes a client that waits.
#[tokio::test]
async fn waiting_works() {
    let gateway = reduced().await;
    gateway.create("q").await;
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.receive("q", "wait=20").await });
    gateway.wait_for_waiters("q", 1).await;
    gateway.database.execute("INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '1')").await;
    assert_eq!(waiting.await.expect("no panic").len(), 1);
}

#[tokio::test]
async fn dead_letters_work_without_headers() {
    let gateway = reduced().await;
    gateway.create("dead").await;
    let settings = r#"{"settings":{"max_receives":1,"dead_letter_queue":"dead"}}"#;
    gateway.put("/queues/q", settings).await.expect(201);
    gateway.send("q", r#"{"message":"poison"}"#).await;
    assert_eq!(gateway.receive("q", "vt=0").await.len(), 1);
    assert_eq!(gateway.receive("q", "vt=0").await.len(), 0);
    let moved = gateway.post("/queues/dead/redrive", r#"{"to":"q"}"#).await.expect(200);
    assert_eq!(moved.json()["moved"], 1);
    assert_eq!(gateway.receive("q", "").await[0]["message"], "poison");
}

/// All workers that stop give back what they have not begun, together with what they have done.
#[tokio::test]
async fn entries_that_it_lacks_something_for_fail_alone() {
    let gateway = reduced().await;
    gateway.create("q").await;
    for settle_first in [false, true] {
        let batch = r#"{"messages":[{"message":1},{"message":2},{"message":3},{"message":4}]}"#;
        gateway.post("/queues/q/messages/batch", batch).await.expect(201);
        let received = gateway.receive("q", "qty=10&vt=600").await;
        let [a, b, c, d] = &*received else { panic!("{received:?}") };
        let settle = json!({
            "delete": [{"receipt": a["receipt"]}],
            "dead_letter": [{"receipt": c["receipt"], "reason": "none"}],
            "retry": [{"receipt": b["receipt"], "uncounted": true}, {"receipt": d["receipt"]}],
        });
        let settled = if settle_first {
            let body = json!({"settle": settle, "wait": 0});
            let answer = gateway.post("/queues/q/messages/receive", &body.to_string()).await;
            answer.expect(200).json()["settled"].clone()
        } else {
            let answer = gateway.post("/queues/q/messages/settle", &settle.to_string()).await;
            answer.expect(200).json()
        };
        assert_eq!(settled["deleted"], json!([a["msg_id"]]), "{settled}");
        assert_eq!(settled["retried"], json!([d["msg_id"]]), "{settled}");
        for (entry, version) in [(c, "1.5.0"), (b, "1.10.0")] {
            let failed = settled["failed"].as_array().expect("a list");
            let failed = failed.iter().find(|failed| failed["msg_id"] == entry["msg_id"]);
            let failed = failed.unwrap_or_else(|| panic!("{settled}"));
            assert_eq!(failed["code"], "not_supported", "{settled}");
            assert!(failed["detail"].as_str().expect("text").contains(version), "{settled}");
        }
        let left = json!([b["msg_id"], c["msg_id"], d["msg_id"]]);
        let all: Vec<_> = gateway.all("q").await.iter().map(|m| m["msg_id"].clone()).collect();
        assert_eq!(json!(all), left, "the others are as they were");
        gateway.post("/queues/q/purge", "").await.expect(200);
    }
}

#[tokio::test]
async fn what_it_lacks_names_the_version_that_has_it() {
    let gateway = reduced().await;
    gateway.create("q").await;
    let with_headers = r#"{"message":1,"headers":{"a":1}}"#;
    for (method, path, body, version) in [
        ("POST", "/queues/q/messages", with_headers, "1.5.0"),
        ("GET", "/queues/q/messages?fifo=grouped", "", "1.5.0"),
        ("PUT", "/queues/f", r#"{"fifo":true}"#, "1.5.0"),
        ("PATCH", "/queues/q", r#"{"settings":{"notify":{"throttle_ms":250}}}"#, "1.7.0"),
        ("POST", "/queues/q/redrive", "", "1.5.0"),
        ("GET", "/bindings", "", "1.11.0"),
        ("POST", "/queues/q/bindings", r#"{"pattern":"a"}"#, "1.11.0"),
        ("DELETE", "/queues/q/bindings?pattern=a", "", "1.11.0"),
        ("POST", "/topics/a/messages", r#"{"message":1}"#, "1.11.0"),
        ("GET", "/topics/a/queues", "", "1.11.0"),
    ] {
        let answer = gateway.request(method, path).body(body).send().await.expect("answered");
        let status = answer.status().as_u16();
        let problem: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!((status, &problem["code"]), (501, &json!("not_supported")), "{path}: {problem}");
        assert!(problem["detail"].as_str().expect("text").contains(version), "{path}: {problem}");
    }
    gateway.get("/queues/f").await.problem(404, "queue_not_found");
}
