//! Row-level security on the tables of queues: what a policy keeps is not done, and is told so, alone.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, eventually,
    guarded::{Guarded, allow, together},
};

/// `count` messages in `q`, with the ids from 1.
async fn send(client: &Client, count: i64) {
    let messages: Vec<Value> = (1..=count).map(|n| json!({"message": {"n": n}})).collect();
    let batch = json!({"messages": messages}).to_string();
    client.post("/queues/q/messages/batch", &batch).await.expect(201);
}

async fn settle(client: &Client, entries: Value) -> Value {
    let settled = client.post("/queues/q/messages/settle", &entries.to_string()).await;
    settled.expect(200).json()
}

/// The codes of those that failed, in order.
fn codes(settled: &Value) -> Vec<&str> {
    let failed = settled["failed"].as_array().expect("failed");
    failed.iter().map(|entry| entry["code"].as_str().expect("a code")).collect()
}

async fn transact(client: &Client, operations: Value) -> Answer {
    client.post("/transactions", &json!({"operations": operations}).to_string()).await
}

#[tokio::test]
async fn without_a_policy_for_delete_nobody_is_told_that_something_is_deleted() {
    let gateway = Guarded::start(&allow("q_q", &["SELECT", "INSERT", "UPDATE"])).await;
    send(&gateway, 12).await;
    let delivered = gateway.receive_one("q", "vt=600").await;
    let receipt = delivered["receipt"].as_str().expect("a receipt").to_owned();
    let of_one = format!("/queues/q/messages/{}", delivered["msg_id"]);

    for query in ["", &format!("?receipt={receipt}")] {
        gateway.delete(&format!("{of_one}{query}")).await.problem(403, "forbidden");
        gateway.post(&format!("{of_one}/archive{query}"), "").await.problem(403, "forbidden");
    }
    gateway.delete("/queues/q/messages/4711").await.problem(404, "message_not_found");
    // What may be done is done.
    gateway.patch(&of_one, r#"{"vt":600}"#).await.expect(200);

    let settled = settle(
        &gateway,
        json!({
            "delete": [{"receipt": receipt}, {"msg_id": 5}, {"msg_id": 4711}, {"msg_id": 5}],
            "archive": [{"msg_id": 6}, {"msg_id": 5}],
            "retry": [{"msg_id": 7, "delay": 600}],
        }),
    );
    let settled = settled.await;
    assert_eq!((&settled["deleted"], &settled["archived"]), (&json!([]), &json!([])), "{settled}");
    assert_eq!(settled["retried"], json!([7]));
    let (kept, missing) = ("forbidden", "message_not_found");
    assert_eq!(codes(&settled), [kept, kept, missing, kept, kept, kept], "{settled}");

    for method in ["delete", "archive"] {
        let answers = together(12, |n| {
            let (client, path) = (gateway.client.clone(), format!("/queues/q/messages/{}", n + 1));
            async move {
                match method {
                    "delete" => client.delete(&path).await,
                    _ => client.post(&format!("{path}/archive"), "").await,
                }
            }
        });
        for answer in answers.await {
            answer.problem(403, "forbidden");
        }
    }
    assert_eq!(
        gateway.post("/queues/q/messages/pop?qty=5", "").await.expect(200).messages(),
        [0; 0]
    );
    gateway.post("/queues/q/purge", "").await.problem(403, "forbidden");
    assert_eq!(gateway.ids("q_q").await, (1..=12).collect::<Vec<_>>());
    assert!(gateway.ids("a_q").await.is_empty());
    // Nobody else has any of this to suffer from.
    assert_eq!(gateway.receive("q", "qty=100").await.len(), 10, "those that are not hidden");
    let metrics = gateway.get("/metrics").await.text;
    for done in ["deleted", "archived"] {
        let line = format!("pgmq_gateway_messages_{done}_total{{queue=\"q\"}}");
        let counted = metrics.lines().find(|l| l.starts_with(&line) && !l.ends_with(" 0"));
        assert_eq!(counted, None);
    }
}

#[tokio::test]
async fn transaction_with_something_that_a_policy_keeps_does_nothing() {
    let gateway = Guarded::start(&allow("q_q", &["SELECT", "INSERT", "UPDATE"])).await;
    send(&gateway, 2).await;
    let delivered = gateway.receive_one("q", "vt=600").await;
    for end in ["delete", "archive"] {
        for by in ["msg_id", "receipt"] {
            let send = json!({"send": {"queue": "other", "message": 1}});
            let end = json!({end: {"queue": "q", by: delivered[by]}});
            let refused = transact(&gateway, json!([send, end, send])).await;
            let refused = refused.problem(403, "forbidden").json();
            assert_eq!(refused["index"], 1, "{refused}");
        }
    }
    let both = json!([
        {"set_vt": {"queue": "q", "msg_id": 2, "vt": 600}}, {"send": {"queue": "other", "message": 2}}
    ]);
    transact(&gateway, both).await.expect(200);
    assert_eq!(gateway.ids("q_q").await, [1, 2]);
    assert!(gateway.ids("a_q").await.is_empty());
    let sent: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_other").await;
    assert_eq!(sent, 1, "by the transaction that could be done");
}

#[tokio::test]
async fn without_a_policy_for_delete_nothing_is_moved() {
    let tables = ["q_q", "a_q"].map(|table| allow(table, &["SELECT", "INSERT", "UPDATE"]));
    let archived =
        "SELECT pgmq.send_batch('q', ARRAY['1', '2', '3']::jsonb[]); SELECT pgmq.archive('q', 1);";
    let gateway = Guarded::with(&(archived.to_owned() + &tables.concat()), |settings| {
        settings.maintenance.interval_ms = 50;
    })
    .await;
    gateway.post("/queues/q/archive/replay", "").await.problem(403, "forbidden");
    gateway.post("/queues/q/archive/replay", r#"{"to":"other"}"#).await.problem(403, "forbidden");
    gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.problem(403, "forbidden");

    // Dead letters stay, and are not delivered.
    assert_eq!(gateway.receive("q", "qty=10&vt=0").await.len(), 2);
    for target in [json!(null), json!("other")] {
        let settings = json!({"max_receives": 1, "dead_letter_queue": target, "message_retention": 1,
                              "archive_retention": 1});
        gateway.configure("q", settings).await.expect(200);
        let gone = async || gateway.receive("q", "qty=10&vt=0").await.is_empty().then_some(());
        eventually("what was delivered often enough is not delivered", gone).await;
        assert!(gateway.receive("q", "qty=10&vt=0&wait=1").await.is_empty());
        assert!(gateway.receive("q", "qty=10&vt=0&wait=1&fifo=grouped").await.is_empty());
    }
    // Others are, beside them; and retention has had its turn.
    gateway.send("q", r#"{"message":4}"#).await;
    assert_eq!(gateway.receive_one("q", "vt=600&wait=5").await["message"], 4);
    gateway.create_with("third", &json!({"settings": {"message_retention": 1}})).await;
    for _ in 0..2 {
        gateway.send("third", r#"{"message":1}"#).await;
        let gone = async || gateway.all("third").await.is_empty().then_some(());
        eventually("a round of retention", gone).await;
    }
    assert_eq!(gateway.ids("q_q").await, [2, 3, 4]);
    assert_eq!(gateway.ids("a_q").await, [1]);
    assert!(gateway.ids("q_other").await.is_empty());
}

#[tokio::test]
async fn without_a_policy_for_update_nothing_is_delivered_or_hidden_and_the_rest_is_done() {
    let gateway = Guarded::start(&allow("q_q", &["SELECT", "INSERT", "DELETE"])).await;
    send(&gateway, 8).await;
    assert!(gateway.receive("q", "qty=10").await.is_empty());
    assert!(gateway.receive("q", "qty=10&wait=1").await.is_empty());
    for fifo in ["grouped", "round_robin", "head"] {
        assert!(gateway.receive("q", &format!("qty=10&fifo={fifo}")).await.is_empty());
    }
    let hidden = together(8, |n| {
        let (client, path) = (gateway.client.clone(), format!("/queues/q/messages/{}", n + 1));
        async move { client.patch(&path, r#"{"vt":600}"#).await }
    });
    for answer in hidden.await {
        answer.problem(403, "forbidden");
    }
    let entries =
        json!({"retry": [{"msg_id": 1}], "delete": [{"msg_id": 2}], "archive": [{"msg_id": 3}]});
    let settled = settle(&gateway, entries).await;
    assert_eq!(codes(&settled), ["forbidden"], "{settled}");
    assert_eq!((&settled["deleted"], &settled["archived"]), (&json!([2]), &json!([3])));
    let hide = json!({"set_vt": {"queue": "q", "msg_id": 1, "vt": 0}});
    let delete = json!({"delete": {"queue": "q", "msg_id": 4}});
    let refused = transact(&gateway, json!([delete, hide])).await.problem(403, "forbidden").json();
    assert_eq!(refused["index"], 1, "{refused}");
    transact(&gateway, json!([delete])).await.expect(200);
    gateway.delete("/queues/q/messages/5").await.expect(204);
    gateway.post("/queues/q/messages/6/archive", "").await.expect(204);
    assert_eq!(
        gateway.post("/queues/q/redrive", r#"{"to":"other","limit":1}"#).await.json()["moved"],
        1
    );
    assert_eq!(gateway.ids("q_q").await, [7, 8]);
    // A lock takes a policy for updates, a delete does not.
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 2);
    assert_eq!(gateway.ids("a_q").await, [3, 6]);
}

#[tokio::test]
async fn without_a_policy_for_insert_nothing_is_stored() {
    let gateway = Guarded::start(&allow("q_q", &["SELECT", "UPDATE", "DELETE"])).await;
    let sent = together(12, |n| {
        let client = gateway.client.clone();
        async move { client.post("/queues/q/messages", &json!({"message": n}).to_string()).await }
    });
    for answer in sent.await {
        answer.problem(403, "forbidden");
    }
    let batch = r#"{"messages":[{"message":1},{"message":2}]}"#;
    gateway.post("/queues/q/messages/batch", batch).await.problem(403, "forbidden");
    let bind = r#"{"pattern":"t.*"}"#;
    for queue in ["other", "q"] {
        gateway.post(&format!("/queues/{queue}/bindings"), bind).await.expect(201);
    }
    let publish = gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await;
    assert!(publish.problem(403, "forbidden").detail().contains("`q`"));
    let operations = json!([
        {"send": {"queue": "other", "message": 1}}, {"send": {"queue": "q", "message": 1}}
    ]);
    let refused = transact(&gateway, operations).await.problem(403, "forbidden").json();
    assert_eq!(refused["index"], 1, "{refused}");
    assert!(gateway.ids("q_q").await.is_empty() && gateway.ids("q_other").await.is_empty());
}

#[tokio::test]
async fn policy_on_the_archive_keeps_what_it_is_about_and_nothing_else() {
    let sql = "ALTER TABLE pgmq.a_q ENABLE ROW LEVEL SECURITY;
        CREATE POLICY s ON pgmq.a_q FOR SELECT USING (true);
        CREATE POLICY i ON pgmq.a_q FOR INSERT WITH CHECK (message->>'n' <> '3');
        CREATE POLICY d ON pgmq.a_q FOR DELETE USING (message->>'n' <> '5');";
    let gateway = Guarded::start(sql).await;
    send(&gateway, 9).await;
    let archived = together(9, |n| {
        let (client, path) =
            (gateway.client.clone(), format!("/queues/q/messages/{}/archive", n + 1));
        async move { client.post(&path, "").await }
    });
    for (n, answer) in (1..).zip(archived.await) {
        match n {
            3 => drop(answer.problem(403, "forbidden")),
            _ => assert_eq!(answer.status, 204, "{n}: {}", answer.text),
        }
    }
    assert_eq!(gateway.ids("q_q").await, [3]);
    let replayed = gateway.post("/queues/q/archive/replay", "").await.expect(200).json();
    assert_eq!(replayed["replayed"], 7, "all but the one that may not be deleted there");
    assert_eq!(gateway.ids("a_q").await, [5]);
    let last = gateway.ids("q_q").await[7];
    let settled = settle(&gateway, json!({"archive": [{"msg_id": 3}, {"msg_id": last}]})).await;
    assert_eq!((codes(&settled), &settled["archived"]), (vec!["forbidden"], &json!([last])));
    // As dead letters, too, the one stays that the archive does not take, and is delivered no more.
    gateway.configure("q", json!({"max_receives": 1})).await.expect(200);
    assert_eq!(gateway.receive("q", "qty=100&vt=0").await.len(), 7, "3 and what was replayed");
    let moved = async || {
        assert!(gateway.receive("q", "qty=100&vt=0").await.is_empty());
        (gateway.ids("q_q").await == [3]).then_some(())
    };
    eventually("the others are moved", moved).await;
}
