//! Tables of queues that are no longer as PGMQ made them: what is answered is what happened, and to those messages
//! alone.

use serde_json::{Value, json};

use crate::support::{Answer, TestGateway, guarded::together, sqs::Sqs};

async fn gateway(sql: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    for queue in ["q", "dead"] {
        gateway.create(queue).await;
    }
    gateway.database.execute(sql).await;
    gateway
}

fn ids(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["msg_id"].as_i64().expect("an id")).collect()
}

async fn stored(gateway: &TestGateway, table: &str) -> Vec<i64> {
    let sql =
        format!("SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{{}}') FROM pgmq.{table}");
    gateway.database.value(&sql).await
}

#[tokio::test]
async fn what_a_trigger_archives_under_other_ids_is_told_to_be_archived() {
    let gateway = gateway(
        "CREATE FUNCTION public.renumber() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN new.msg_id := new.msg_id + 1000; RETURN new; END';
         CREATE TRIGGER t BEFORE INSERT ON pgmq.a_q FOR EACH ROW EXECUTE FUNCTION public.renumber();
         INSERT INTO pgmq.q_q (vt, message) SELECT now(), to_jsonb(i) FROM generate_series(1, 5) i",
    )
    .await;
    gateway.post("/queues/q/messages/1/archive", "").await.expect(204);
    let settle = json!({"archive": [{"msg_id": 2}, {"msg_id": 3}], "delete": [{"msg_id": 4}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!((&settled["archived"], &settled["failed"]), (&json!([2, 3]), &json!([])));
    let archive = json!({"operations": [{"archive": {"queue": "q", "msg_id": 5}}]});
    gateway.post("/transactions", &archive.to_string()).await.expect(200);
    assert_eq!(stored(&gateway, "a_q").await, [1001, 1002, 1003, 1005]);
    assert_eq!(stored(&gateway, "q_q").await, [0_i64; 0]);
}

/// The first row of a table that inherits stands where the first one of the queue's own does.
#[tokio::test]
async fn a_leased_message_of_a_table_that_inherits_is_not_given_again() {
    let gateway = gateway(
        "CREATE TABLE public.child () INHERITS (pgmq.q_q);
         INSERT INTO public.child (msg_id, read_ct, enqueued_at, vt, message)
         VALUES (100, 0, now(), now() + interval '1 hour', '1');
         INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '2'), (now() + interval '1 hour', '3')",
    )
    .await;
    assert_eq!(ids(&gateway.receive("q", "qty=10&vt=60").await), [1]);
    gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await.expect(200).messages();
    assert_eq!(ids(&popped), [1]);
    assert_eq!(stored(&gateway, "q_q").await, [2, 100]);
}

/// As a queue that is partitioned by time can have, once its sequence was set back.
#[tokio::test]
async fn an_id_that_is_there_twice_is_settled_and_told_once() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q DROP CONSTRAINT q_q_pkey;
         INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE
         SELECT 1 + i / 2, now(), to_jsonb(i) FROM generate_series(0, 7) i",
    )
    .await;
    let shown = gateway.patch("/queues/q/messages/4", r#"{"vt":60}"#).await.expect(200).json();
    assert_eq!(shown["msg_id"], 4);
    let settle = json!({"delete": [{"msg_id": 1}], "archive": [], "retry": [{"msg_id": 2, "delay": 60}, {"msg_id": 9}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!((&settled["deleted"], &settled["retried"]), (&json!([1]), &json!([2])));
    assert_eq!(settled["failed"][0]["msg_id"], 9);
    assert_eq!(ids(&gateway.receive("q", "qty=10&vt=60").await), [3, 3]);
    assert_eq!(stored(&gateway, "q_q").await, [2, 2, 3, 3, 4, 4]);
}

#[tokio::test]
async fn a_redrive_that_a_queue_refuses_names_that_queue() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q ADD CONSTRAINT small CHECK (message <> '2');
         INSERT INTO pgmq.q_dead (vt, message, headers) VALUES (now(), '2', '{\"x-dead-letter-queue\": \"q\"}')",
    )
    .await;
    let refused = gateway.post("/queues/dead/redrive", "{}").await;
    refused.clone().problem(422, "message_rejected");
    assert!(refused.text.contains("`small` of the table of queue `q`"), "{}", refused.text);
    assert_eq!(stored(&gateway, "q_dead").await, [1]);
}

#[tokio::test]
async fn a_purge_that_deletes_nothing_forgets_no_id_that_was_sent() {
    let gateway = gateway("SELECT 1").await;
    let sqs = Sqs(&gateway);
    let url = sqs
        .create("f.fifo", &json!({"FifoQueue": "true", "ContentBasedDeduplication": "true"}))
        .await;
    let send =
        |body: &'static str| json!({"QueueUrl": url, "MessageBody": body, "MessageGroupId": "g"});
    let first = sqs.done("SendMessage", &send("first")).await;
    sqs.done("SendMessage", &send("second")).await;
    let taken = sqs.receive(&url).await;
    sqs.done(
        "DeleteMessage",
        &json!({"QueueUrl": url, "ReceiptHandle": taken[0]["ReceiptHandle"]}),
    )
    .await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER t BEFORE DELETE ON pgmq.\"q_f.fifo\" FOR EACH ROW EXECUTE FUNCTION public.keep()",
        )
        .await;
    let (code, _) = sqs.error("PurgeQueue", &json!({"QueueUrl": url})).await;
    assert_eq!(code, "AccessDenied");
    let again = sqs.done("SendMessage", &send("first")).await;
    assert_eq!(again["MessageId"], first["MessageId"]);
    assert_eq!(stored(&gateway, "\"q_f.fifo\"").await, [2]);
}

/// SQL clients can give a message a group that no index takes.
#[tokio::test]
async fn an_index_that_cannot_be_made_is_told_so_and_leaves_nothing() {
    let gateway = gateway(
        "INSERT INTO pgmq.q_q (vt, message, headers) SELECT now(), '1', jsonb_build_object('x-pgmq-group',
             (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i))",
    )
    .await;
    let count = "SELECT count(*) FROM pg_index WHERE indrelid = 'pgmq.q_q'::regclass";
    let before: i64 = gateway.database.value(count).await;
    let refused = gateway.patch("/queues/q", r#"{"fifo":true}"#).await;
    refused.clone().problem(409, "queue_conflict");
    assert!(refused.text.contains("x-pgmq-group"), "{}", refused.text);
    gateway.configure("q", json!({"fair": true})).await.problem(409, "queue_conflict");
    let shown = gateway.get("/queues/q").await.expect(200).json();
    assert_eq!((&shown["fifo"], &shown["settings"]["fair"]), (&json!(false), &json!(false)));
    assert_eq!(gateway.database.value::<i64>(count).await, before);
    gateway.database.execute("UPDATE pgmq.q_q SET headers = NULL").await;
    gateway.patch("/queues/q", r#"{"fifo":true}"#).await.expect(200);
}

/// A message without what every one has cannot be read once it is deleted.
#[tokio::test]
async fn a_pop_leaves_what_could_not_be_read() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q ALTER read_ct DROP NOT NULL, ALTER enqueued_at DROP NOT NULL;
         INSERT INTO pgmq.q_q (vt, message, read_ct, enqueued_at)
         VALUES (now(), '1', NULL, now()), (now(), '2', 0, NULL), (now(), '3', 0, now())",
    )
    .await;
    let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await.expect(200).messages();
    assert_eq!(ids(&popped), [3]);
    assert_eq!(stored(&gateway, "q_q").await, [1, 2]);
}

#[tokio::test]
async fn what_goes_with_another_message_is_told_to_be_gone() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q ADD COLUMN parent bigint REFERENCES pgmq.q_q (msg_id) ON DELETE CASCADE;
         INSERT INTO pgmq.q_q (vt, message) SELECT now(), to_jsonb(i) FROM generate_series(1, 4) i;
         UPDATE pgmq.q_q SET parent = 1 WHERE msg_id = 2",
    )
    .await;
    let settle = json!({"delete": [{"msg_id": 1}], "archive": [{"msg_id": 2}, {"msg_id": 3}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!((&settled["deleted"], &settled["archived"]), (&json!([1]), &json!([3])));
    let failed = &settled["failed"][0];
    assert_eq!((&failed["msg_id"], &failed["code"]), (&json!(2), &json!("message_not_found")));
    assert_eq!(stored(&gateway, "q_q").await, [4]);
}

/// Under its id there would be none any more: it stays as it is, and that is a matter of its own client.
#[tokio::test]
async fn a_message_that_a_trigger_renumbers_is_told_to_be_kept() {
    let gateway = gateway(
        "CREATE FUNCTION public.renumber() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF old.msg_id % 3 = 0 THEN new.msg_id := new.msg_id + 1000; END IF; RETURN new; END';
         CREATE TRIGGER t BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.renumber();
         INSERT INTO pgmq.q_q (vt, message) SELECT now(), to_jsonb(i) FROM generate_series(1, 12) i",
    )
    .await;
    let answers = together(12, |n| {
        let client = gateway.client.clone();
        async move { client.patch(&format!("/queues/q/messages/{}", n + 1), r#"{"vt":600}"#).await }
    })
    .await;
    for (id, answer) in (1..).zip(answers) {
        answer.expect(if id % 3 == 0 { 403 } else { 200 });
    }
    let settle = json!({"retry": [{"msg_id": 2, "delay": 600}, {"msg_id": 3, "delay": 600}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!(settled["retried"], json!([2]), "{settled}");
    assert_eq!(settled["failed"][0]["code"], "forbidden", "{settled}");
    let hide = json!({"operations": [{"set_vt": {"queue": "q", "msg_id": 3, "vt": 600}}]});
    gateway.post("/transactions", &hide.to_string()).await.problem(403, "forbidden");
    assert_eq!(stored(&gateway, "q_q").await, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn ids_below_those_of_pgmq_are_moved_and_purged_as_others() {
    let gateway = gateway(
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END';
         CREATE TRIGGER t BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.nothing();
         INSERT INTO pgmq.q_dead (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
         SELECT id, now(), '1', '{\"x-dead-letter-queue\": \"q\"}' FROM unnest('{-7,0,3}'::bigint[]) id;
         INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE
         SELECT id, now(), '2' FROM unnest('{-5,0}'::bigint[]) id",
    )
    .await;
    for list in ["all", "waiting"] {
        let page = gateway.get(&format!("/ui/queues/q/messages?list={list}")).await.expect(200);
        assert!(page.text.contains(">-5<"), "{list}: {}", page.text);
    }
    let redriven = gateway.post("/queues/dead/redrive", "").await.expect(200).json();
    assert_eq!(redriven["moved"], 3);
    let purged = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!((&purged["purged"], stored(&gateway, "q_q").await), (&json!(5), vec![]));
}

/// A sequence may count down: what is new is not taken for a duplicate.
#[tokio::test]
async fn ids_that_are_negative_are_told_as_they_are() {
    let gateway =
        gateway("ALTER SEQUENCE pgmq.q_q_msg_id_seq INCREMENT -1 MINVALUE -100 RESTART WITH -1")
            .await;
    assert_eq!(gateway.send("q", r#"{"message":1}"#).await, -1);
    let batch = r#"{"messages":[{"message":2},{"message":3,"headers":{"a":1}}]}"#;
    let sent = gateway.post("/queues/q/messages/batch", batch).await.expect(201);
    assert_eq!(sent.json(), json!({"msg_ids": [-2, -3]}));
    assert_eq!(sent.header("idempotency-replayed"), "");
    let received = gateway.receive("q", "qty=5").await;
    let receipts: Vec<_> = received.iter().map(|m| json!({"receipt": m["receipt"]})).collect();
    let settle = json!({"delete": receipts}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
    assert_eq!(settled["deleted"].as_array().map(Vec::len), Some(3), "{settled}");
}

/// Whatever is missing of it, it is there.
#[tokio::test]
async fn a_message_that_lacks_something_is_settled_and_seen() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q ALTER read_ct DROP NOT NULL, ALTER enqueued_at DROP NOT NULL, ALTER vt DROP NOT NULL;
         INSERT INTO pgmq.q_q (vt, message, read_ct, enqueued_at)
         VALUES (now(), '1', NULL, now()), (now(), '2', 0, NULL), (NULL, '3', 0, now()), (now(), '4', 0, now())",
    )
    .await;
    for list in ["waiting", "all"] {
        gateway.get(&format!("/ui/queues/q/messages?list={list}")).await.expect(200);
    }
    for id in [1, 2] {
        let path = format!("/queues/q/messages/{id}");
        gateway.patch(&path, r#"{"vt":60}"#).await.problem(422, "message_rejected");
        gateway.get(&path).await.problem(422, "message_rejected");
    }
    let hidden = "SELECT count(*) FROM pgmq.q_q WHERE vt > now()";
    assert_eq!(gateway.database.value::<i64>(hidden).await, 0, "refused is not done");
    let settle =
        json!({"retry": [{"msg_id": 1}], "delete": [{"msg_id": 2}, {"msg_id": 3}, {"msg_id": 9}]});
    let settled =
        gateway.post("/queues/q/messages/settle", &settle.to_string()).await.expect(200).json();
    assert_eq!((&settled["retried"], &settled["deleted"]), (&json!([1]), &json!([2, 3])));
    assert_eq!(settled["failed"][0]["msg_id"], 9);
    gateway.delete("/queues/q/messages/1").await.expect(204);
    assert_eq!(ids(&gateway.receive("q", "qty=5").await), [4]);
}

/// Behind those that an answer has room for.
#[tokio::test]
async fn a_message_that_lacks_something_behind_a_full_answer_is_no_matter_of_the_others() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 500_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
    })
    .await;
    gateway.create("q").await;
    let fill = |table: &str, more: &str| {
        format!(
            "ALTER TABLE pgmq.{table} ALTER read_ct DROP NOT NULL;
             INSERT INTO pgmq.{table} ({more} vt, message, read_ct)
             SELECT {} now(), to_jsonb(repeat('x', 400000)), CASE WHEN i NOT IN (4, 6) THEN 0 END
             FROM generate_series(1, 7) i",
            if more.is_empty() { "" } else { "i," }
        )
    };
    gateway.database.execute(&fill("q_q", "")).await;
    gateway.database.execute(&fill("a_q", "msg_id,")).await;
    for path in ["peek", "archive"] {
        let (mut after, mut seen) = ("0".to_owned(), Vec::new());
        loop {
            let path = format!("/queues/q/{path}?limit=100&after={after}");
            let page = gateway.get(&path).await.expect(200).json();
            seen.extend(ids(page["messages"].as_array().expect("messages")));
            let Some(next) = page["next"].as_str() else { break };
            after = next.to_owned();
        }
        assert_eq!(seen, [1, 2, 3, 5, 7], "{path}");
    }
    let mut received = Vec::new();
    while received.len() < 5 {
        let messages = gateway.receive("q", "qty=30&vt=600&wait=20").await;
        assert!(!messages.is_empty(), "after {received:?}");
        received.extend(ids(&messages));
    }
    received.sort_unstable();
    assert_eq!(received, [1, 2, 3, 5, 7]);
}

/// What a DELETE would leave, a purge leaves.
#[tokio::test]
async fn what_belongs_to_a_queues_table_is_not_emptied_past_what_keeps_it() {
    const CHILD: &str = "
        CREATE TABLE pgmq.child (PRIMARY KEY (msg_id)) INHERITS (pgmq.q_q);
        INSERT INTO pgmq.child (msg_id, vt, message) VALUES (100, now(), '1')";
    const KEPT: [&str; 2] = [
        "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER t BEFORE DELETE ON pgmq.child FOR EACH ROW EXECUTE FUNCTION public.keep()",
        "CREATE TABLE public.refers (id bigint REFERENCES pgmq.child (msg_id));
         INSERT INTO public.refers VALUES (100)",
    ];
    for keeps in KEPT {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        gateway.database.execute(CHILD).await;
        gateway.database.execute(keeps).await;
        for n in 0..2 {
            gateway.send("q", &json!({"message": n}).to_string()).await;
        }
        let purged = gateway.post("/queues/q/purge", "").await.expect(200).json();
        assert_eq!(purged["purged"], 2, "{keeps}");
        let ids = "SELECT array_agg(msg_id) FROM pgmq.q_q";
        assert_eq!(gateway.database.value::<Vec<i64>>(ids).await, [100], "{keeps}");
    }
}

/// PGMQ lists it, so that it is there, whatever it is.
#[tokio::test]
async fn a_queue_that_is_a_view_is_not_told_to_be_missing() {
    let gateway = gateway(
        "ALTER TABLE pgmq.q_q RENAME TO was; CREATE VIEW pgmq.q_q AS SELECT * FROM pgmq.was;
         INSERT INTO pgmq.was (vt, message) VALUES (now(), '1')",
    )
    .await;
    let send = r#"{"message":1}"#;
    let operations = json!({"operations": [{"send": {"queue": "dead", "message": 1}},
                                           {"send": {"queue": "q", "message": 1}}]});
    let calls = [
        ("GET", "/queues/q", ""),
        ("PUT", "/queues/q", "{}"),
        ("PATCH", "/queues/q", r#"{"settings":{"delay":1}}"#),
        ("DELETE", "/queues/q", ""),
        ("POST", "/queues/q/bindings", r#"{"pattern":"a"}"#),
        ("POST", "/queues/q/messages", send),
        ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":1},{"message":2}]}"#),
        ("GET", "/queues/q/messages", ""),
        ("GET", "/queues/q/messages?fifo=grouped", ""),
        ("POST", "/queues/q/messages/pop", ""),
        ("GET", "/queues/q/messages/1", ""),
        ("PATCH", "/queues/q/messages/1", r#"{"vt":1}"#),
        ("DELETE", "/queues/q/messages/1", ""),
        ("POST", "/queues/q/messages/1/archive", ""),
        ("POST", "/queues/q/purge", ""),
        ("POST", "/transactions", &operations.to_string()),
    ];
    for (method, path, body) in calls {
        let request = gateway.request(method, path).body(body.to_owned());
        let told = Answer::of(request).await;
        assert_eq!(told.status, 409, "{method} {path}: {}", told.text);
        told.problem(409, "queue_conflict");
    }
    assert_eq!(stored(&gateway, "was").await, [1]);
    assert_eq!(stored(&gateway, "q_dead").await, [0_i64; 0]);
    // What is a queue beside it is one.
    gateway.send("dead", send).await;
}

/// The message is not to blame, and its sender is not to throw it away.
#[tokio::test]
async fn a_table_that_has_no_place_for_any_message_is_told_to_be_so() {
    let partitioned = "ALTER TABLE pgmq.q_q RENAME TO was;
        CREATE TABLE pgmq.q_q (LIKE pgmq.was INCLUDING DEFAULTS INCLUDING IDENTITY) PARTITION BY RANGE (enqueued_at);
        CREATE TABLE pgmq.early PARTITION OF pgmq.q_q FOR VALUES FROM (MINVALUE) TO ('2020-01-01')";
    for (sql, what) in [
        (partitioned, "the partition"),
        ("ALTER TABLE pgmq.q_q ALTER msg_id DROP IDENTITY", "what numbers"),
    ] {
        let gateway = gateway(sql).await;
        let fill = "INSERT INTO pgmq.q_dead (vt, message, headers)
            VALUES (now(), '1', '{\"x-dead-letter-queue\": \"q\"}')";
        gateway.database.execute(fill).await;
        gateway.post("/queues/q/bindings", r#"{"pattern":"a"}"#).await.expect(201);
        let one = r#"{"message":1}"#;
        for (path, body) in [
            ("/queues/q/messages", one),
            ("/queues/q/messages/batch", r#"{"messages":[{"message":1},{"message":2}]}"#),
            ("/transactions", r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#),
            ("/topics/a/messages", one),
            ("/queues/dead/redrive", "{}"),
        ] {
            let refused = gateway.post(path, body).await.problem(409, "queue_conflict");
            assert!(refused.text.contains(what), "{path}: {}", refused.text);
        }
    }
    // A trigger that raises the same is about the message.
    let gateway = gateway(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN RAISE check_violation; END';
         CREATE TRIGGER t BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.no()",
    )
    .await;
    gateway.post("/queues/q/messages", r#"{"message":1}"#).await.problem(422, "message_rejected");
}
