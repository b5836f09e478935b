//! Tables that somebody dropped, or that cannot be read: what is missing is named, and nothing else stops.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Answer, TestGateway,
    guarded::Guarded,
    holder::{Holder, wait_for_blocked},
};

async fn settle(gateway: &TestGateway, entries: Value) -> Value {
    let settled = gateway.post("/queues/q/messages/settle", &entries.to_string()).await;
    settled.expect(200).json()
}

/// Insists that an answer says that the archive is missing, and doesn't say that the queue is.
#[track_caller]
fn names_the_archive(answer: Answer) -> Answer {
    assert!(answer.status >= 500, "{}", answer.text);
    let (status, code) =
        (answer.status, answer.json()["code"].as_str().expect("a code").to_owned());
    let answer = answer.problem(status, &code);
    let detail = answer.detail();
    assert!(detail.contains("archive") && detail.contains("`q`"), "{detail}");
    answer
}

#[tokio::test]
async fn queue_without_its_archive_goes_on_and_says_what_is_missing() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.create("other").await;
    for n in 1..=9 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    gateway.post("/queues/q/messages/9/archive", "").await.expect(204);
    gateway.database.execute("DROP TABLE pgmq.a_q").await;

    for n in [1, 4711] {
        names_the_archive(gateway.post(&format!("/queues/q/messages/{n}/archive"), "").await);
    }
    let mut crowd = JoinSet::new();
    for n in 1..=6 {
        let client = gateway.client.clone();
        crowd.spawn(async move {
            match n {
                1 => client.delete("/queues/q/messages/1").await.expect(204),
                2 => client.patch("/queues/q/messages/2", r#"{"vt":0}"#).await.expect(200),
                3 => client.post("/queues/q/messages", r#"{"message":10}"#).await.expect(201),
                4 => client.get("/queues/q/messages/5").await.expect(200),
                _ => names_the_archive(client.post("/queues/q/messages/5/archive", "").await),
            }
        });
    }
    crowd.join_all().await;
    let delivered = gateway.receive_one("q", "vt=600").await;
    let entries = json!({
        "delete": [{"receipt": delivered["receipt"]}], "archive": [{"msg_id": 5}, {"msg_id": 4711}],
        "retry": [{"msg_id": 6, "delay": 600}],
    });
    let settled = settle(&gateway, entries).await;
    assert_eq!(settled["deleted"], json!([delivered["msg_id"]]), "{settled}");
    assert_eq!((&settled["archived"], &settled["retried"]), (&json!([]), &json!([6])), "{settled}");
    let failed = settled["failed"].as_array().expect("failed");
    assert!(failed[0]["detail"].as_str().is_some_and(|d| d.contains("archive")), "{settled}");
    assert_eq!(failed[1]["code"], "message_not_found", "{settled}");

    let operations = json!({"operations": [
        {"send": {"queue": "other", "message": 1}}, {"archive": {"queue": "q", "msg_id": 5}}
    ]});
    let refused = names_the_archive(gateway.post("/transactions", &operations.to_string()).await);
    assert_eq!(refused.json()["index"], 1, "{}", refused.text);
    assert!(gateway.all("other").await.is_empty());
    names_the_archive(gateway.get("/queues/q/archive").await);
    for body in ["", r#"{"dry_run":true}"#, r#"{"to":"other"}"#] {
        names_the_archive(gateway.post("/queues/q/archive/replay", body).await);
    }
    for path in ["/queues/q", "/queues/q/metrics", "/queues/q/peek", "/queues"] {
        gateway.get(path).await.expect(200);
    }
    // Dead letters have no place to go to, and are in nobody's way.
    let settings = json!({"max_receives": 1, "archive_retention": 5, "message_retention": 86_400});
    gateway.configure("q", settings).await.expect(200);
    let rest = gateway.all("q").await.len();
    gateway.database.execute("UPDATE pgmq.q_q SET vt = now(), read_ct = 0").await;
    assert_eq!(gateway.receive("q", "qty=100&vt=0").await.len(), rest);
    gateway.send("q", r#"{"message":"new"}"#).await;
    let next = gateway.receive_one("q", "qty=100&vt=600&wait=5").await;
    assert_eq!(next["message"], "new");
    gateway.post("/queues/q/redrive", r#"{"to":"other","limit":1}"#).await.expect(200);
    gateway.post("/queues/q/purge", "").await.expect(200);
    assert!(gateway.post("/queues/q/messages/pop", "").await.expect(200).messages().is_empty());
    gateway.delete("/queues/q").await.expect(204);
    gateway.put("/queues/q", "").await.expect(201);
    let id = gateway.send("q", r#"{"message":1}"#).await;
    gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
}

#[tokio::test]
async fn queue_whose_table_is_gone_is_not_found_by_any_way() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
        gateway
            .post(&format!("/queues/{queue}/bindings"), r#"{"pattern":"t.*"}"#)
            .await
            .expect(201);
    }
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let receipt =
        gateway.receive_one("q", "vt=0").await["receipt"].as_str().expect("one").to_owned();
    gateway.send("q", r#"{"message":2}"#).await;
    gateway.post("/queues/q/messages/2/archive", "").await.expect(204);
    let client = gateway.client.clone();
    let waiter =
        tokio::spawn(
            async move { client.get("/queues/q/messages?wait=20&filter={%22a%22:1}").await },
        );
    gateway.wait_for_waiters("q", 1).await;
    gateway.database.execute("DROP TABLE pgmq.q_q").await;
    waiter.await.expect("no panic").problem(404, "queue_not_found");

    let message = format!("/queues/q/messages/{id}");
    let requests: [(&str, &str, &str); 26] = [
        ("GET", "/queues/q", ""),
        ("GET", "/queues/q/bindings", ""),
        ("POST", "/queues/q/bindings", r#"{"pattern":"u.*"}"#),
        ("PATCH", "/queues/q", r#"{"settings":{"delay":1}}"#),
        ("GET", "/queues/q/metrics", ""),
        ("POST", "/queues/q/purge", ""),
        ("POST", "/queues/q/messages", r#"{"message":1}"#),
        ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":1}]}"#),
        ("GET", "/queues/q/messages", ""),
        ("GET", "/queues/q/messages?wait=1", ""),
        ("GET", "/queues/q/messages?fifo=grouped", ""),
        ("GET", "/queues/q/messages?filter={%22a%22:1}", ""),
        ("POST", "/queues/q/messages/pop", ""),
        ("POST", "/queues/q/messages/pop?qty=5", ""),
        ("GET", &message, ""),
        ("GET", "/queues/q/peek", ""),
        ("DELETE", &message, ""),
        ("DELETE", &format!("{message}?receipt={receipt}"), ""),
        ("PATCH", &message, r#"{"vt":1}"#),
        ("POST", &format!("{message}/archive"), ""),
        ("POST", &format!("{message}/archive?receipt={receipt}"), ""),
        (
            "POST",
            "/queues/q/messages/settle",
            r#"{"delete":[{"msg_id":1}],"archive":[{"msg_id":2}]}"#,
        ),
        ("POST", "/queues/q/redrive", r#"{"to":"other"}"#),
        ("POST", "/queues/q/archive/replay", ""),
        ("POST", "/queues/other/archive/replay", r#"{"to":"q"}"#),
        ("POST", "/queues/other/redrive", r#"{"to":"q"}"#),
    ];
    for (method, path, body) in requests {
        let answer = Answer::of(gateway.request(method, path).body(body.to_owned())).await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text);
        answer.problem(404, "queue_not_found");
    }
    let once = gateway.request("POST", "/queues/q/messages").header("Idempotency-Key", "k");
    Answer::of(once.body(r#"{"message":1}"#)).await.problem(404, "queue_not_found");
    for operation in [
        json!({"send": {"queue": "q", "message": 1}}),
        json!({"delete": {"queue": "q", "msg_id": 1}}),
        json!({"archive": {"queue": "q", "receipt": receipt}}),
        json!({"set_vt": {"queue": "q", "msg_id": 1, "vt": 1}}),
    ] {
        let operations =
            json!({"operations": [{"send": {"queue": "other", "message": 1}}, operation]});
        let refused = gateway.post("/transactions", &operations.to_string()).await;
        assert_eq!(refused.problem(404, "queue_not_found").json()["index"], 1);
    }
    // Others notice nothing, and what is there can still be looked at.
    assert!(gateway.all("other").await.is_empty());
    gateway.get("/queues").await.expect(200);
    let sent = gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await.expect(201).json();
    assert_eq!(sent["deliveries"][0]["queue"], "other", "{sent}");
    assert_eq!(sent["deliveries"].as_array().map(Vec::len), Some(1), "{sent}");

    // PUT makes it, as the 404 says.
    let detail = gateway.get("/queues/q/messages").await.problem(404, "queue_not_found").detail();
    assert!(detail.contains("PUT /queues/q creates it"), "{detail}");
    gateway.put("/queues/q", "").await.expect(201);
    let id = gateway.send("q", r#"{"message":1}"#).await;
    assert_eq!(id, 3, "behind what is in the archive");
    let stale = gateway.delete(&format!("/queues/q/messages/1?receipt={receipt}")).await;
    assert!([404, 409].contains(&stale.status), "{}", stale.text);
    gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    assert_eq!(gateway.get("/queues/q/archive").await.messages().len(), 2);
}

/// What a policy reckons with may fail for a message that is there.
#[tokio::test]
async fn queue_that_cannot_be_read_does_not_blame_its_clients() {
    let sql = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
        CREATE POLICY even ON pgmq.q_q USING ((message->>'n')::int % 2 = 0);
        SELECT pgmq.send('q', '{\"n\":\"s3cr3t\"}')";
    let gateway = Guarded::start(sql).await;
    for (method, path, body) in [
        ("GET", "/queues/q/messages", ""),
        ("GET", "/queues/q/messages?wait=1", ""),
        ("GET", "/queues/q/messages?fifo=grouped", ""),
        ("GET", "/queues/q/peek", ""),
        ("GET", "/queues/q/messages/1", ""),
        ("GET", "/queues/q/metrics", ""),
        ("POST", "/queues/q/messages/pop?qty=5", ""),
        ("POST", "/queues/q/purge", ""),
        ("POST", "/queues/q/redrive", r#"{"to":"other"}"#),
    ] {
        let answer = Answer::of(gateway.request(method, path).body(body)).await;
        assert!(answer.status >= 500, "{method} {path}: {}", answer.text);
        let code = answer.json()["code"].as_str().expect("a code").to_owned();
        let status = answer.status;
        let answer = answer.problem(status, &code);
        assert!(answer.detail().contains("policy"), "{method} {path}: {}", answer.text);
        assert!(!answer.text.contains("s3cr3t"), "{}", answer.text);
    }
    for (method, path, body) in [
        ("DELETE", "/queues/q/messages/1", ""),
        ("PATCH", "/queues/q/messages/1", r#"{"vt":1}"#),
        ("POST", "/queues/q/messages/1/archive", ""),
    ] {
        let answer = Answer::of(gateway.request(method, path).body(body)).await;
        assert!([403, 500].contains(&answer.status), "{method} {path}: {}", answer.text);
    }
    gateway.send("other", r#"{"message":1}"#).await;
    assert_eq!(gateway.receive("other", "").await.len(), 1);
}

/// A view, a part of another table or a sequence where a queue has a table: nothing is forgotten, nor dropped.
#[tokio::test]
async fn what_stands_in_place_of_a_queues_table_is_named_and_left() {
    const PLACES: [(&str, &str, &str); 4] = [
        (
            "q_q",
            "ALTER TABLE pgmq.q_q RENAME TO kept; CREATE VIEW pgmq.q_q AS TABLE pgmq.kept",
            "view",
        ),
        ("q_q", "DROP TABLE pgmq.q_q; CREATE SEQUENCE pgmq.q_q", "sequence"),
        (
            "q_q",
            "CREATE TABLE public.all_of_them (LIKE pgmq.q_q) PARTITION BY LIST (msg_id);
             ALTER TABLE pgmq.q_q ALTER msg_id DROP IDENTITY;
             ALTER TABLE public.all_of_them ATTACH PARTITION pgmq.q_q DEFAULT",
            "part",
        ),
        (
            "a_q",
            "ALTER TABLE pgmq.a_q RENAME TO kept; CREATE VIEW pgmq.a_q AS TABLE pgmq.kept",
            "archive",
        ),
    ];
    for (name, sql, what) in PLACES {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        gateway.send("q", r#"{"message":1}"#).await;
        gateway.database.execute(sql).await;
        let known = "SELECT count(*) FROM pgmq.meta WHERE queue_name = 'q'";
        if name == "q_q" {
            let answer = gateway.put("/queues/q", "").await.problem(409, "queue_conflict");
            assert!(answer.detail().contains("`q_q`"), "{what}: {}", answer.text);
            assert_eq!(gateway.database.value::<i64>(known).await, 1, "{what}");
        }
        let answer = gateway.delete("/queues/q").await.problem(409, "queue_conflict");
        assert!(answer.detail().contains(&format!("`{name}`")), "{what}: {}", answer.text);
        assert_eq!(gateway.database.value::<i64>(known).await, 1, "{what}");
        let tables = "SELECT count(*) FROM pg_class WHERE relname IN ('q_q', 'a_q', 'kept')";
        assert!(gateway.database.value::<i64>(tables).await >= 2, "{what}");
    }
}

/// Its messages can be stored and read, so a transaction about them is no other matter.
#[tokio::test]
async fn a_table_that_pgmq_does_not_list_is_that_of_a_queue_for_transactions_too() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute("DELETE FROM pgmq.meta").await;
    let id = gateway.send("q", r#"{"message":1}"#).await;
    let operations = json!({"operations": [
        {"delete": {"queue": "q", "msg_id": id}},
        {"send": {"queue": "q", "message": 2}},
    ]});
    gateway.post("/transactions", &operations.to_string()).await.expect(200);
    let left = gateway.all("q").await;
    assert_eq!((left.len(), &left[0]["message"]), (1, &json!(2)));
    // A queue that is listed goes by its own name alone.
    gateway.database.execute("SELECT pgmq.create('Listed')").await;
    let send = r#"{"operations":[{"send":{"queue":"listed","message":1}}]}"#;
    gateway.post("/transactions", send).await.problem(404, "queue_not_found");
}

#[tokio::test]
async fn messages_go_into_and_out_of_a_table_that_pgmq_does_not_list() {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    gateway.create("q").await;
    gateway.database.execute("DELETE FROM pgmq.meta WHERE queue_name = 'q'").await;
    let nonsense = r#"{"delete":[{"receipt":"nonsense"}]}"#;
    let settled = gateway.post("/queues/q/messages/settle", nonsense).await.expect(200).json();
    assert_eq!(settled["failed"].as_array().map(Vec::len), Some(1), "{settled}");
    let id = gateway.send("q", r#"{"message":1}"#).await;
    gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    let replayed = gateway.post("/queues/q/archive/replay", "").await.expect(200).json();
    assert_eq!(replayed["replayed"], 1, "{replayed}");
    gateway.send("dead", r#"{"message":2}"#).await;
    let redriven = gateway.post("/queues/dead/redrive", r#"{"to":"q"}"#).await.expect(200).json();
    assert_eq!(redriven["moved"], 1, "{redriven}");
    assert_eq!(gateway.all("q").await.len(), 2);
    for path in ["/queues/none/messages/settle", "/queues/Dead/messages/settle"] {
        gateway.post(path, nonsense).await.problem(404, "queue_not_found");
    }
    gateway.post("/queues/dead/redrive", r#"{"to":"none"}"#).await.problem(404, "queue_not_found");
}

/// As after a restore on a server that has no pg_partman.
#[tokio::test]
async fn a_partitioned_queue_is_dropped_where_pg_partman_is_gone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "DROP TABLE pgmq.q_q;
             CREATE TABLE pgmq.q_q (
                 msg_id bigint GENERATED ALWAYS AS IDENTITY, read_ct integer NOT NULL DEFAULT 0,
                 enqueued_at timestamptz NOT NULL DEFAULT now(), last_read_at timestamptz,
                 vt timestamptz NOT NULL, message jsonb, headers jsonb) PARTITION BY RANGE (msg_id);
             CREATE TABLE pgmq.q_q_default PARTITION OF pgmq.q_q DEFAULT;
             UPDATE pgmq.meta SET is_partitioned = true",
        )
        .await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.delete("/queues/q").await.expect(204);
    let left = "SELECT count(*) FROM pg_class c WHERE c.relname LIKE '_\\_q%' \
                AND c.relnamespace = 'pgmq'::regnamespace";
    assert_eq!(gateway.database.value::<i64>(left).await, 0);
    gateway.create("q").await;
}

/// It is the queue that they were to go to, and not the one that they come from.
#[tokio::test]
async fn a_queue_that_goes_while_messages_are_on_their_way_there_is_named() {
    let gateway = TestGateway::start().await;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
    }
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.post("/queues/q/messages/1/archive", "").await.expect(204);
    let holder = Holder::of_tables(&gateway.database, &["a_q"], "ACCESS EXCLUSIVE").await;
    let client = gateway.client.clone();
    let replay =
        tokio::spawn(
            async move { client.post("/queues/q/archive/replay", r#"{"to":"other"}"#).await },
        );
    wait_for_blocked(&gateway.database, "/* replay */").await;
    gateway.database.execute("SELECT pgmq.drop_queue('other')").await;
    holder.rollback().await;
    let refused = replay.await.expect("no panic").problem(404, "queue_not_found").detail();
    assert!(refused.contains("`other`"), "{refused}");
    assert_eq!(gateway.get("/queues/q/archive").await.expect(200).messages().len(), 1);
}
