//! Row-level security that is about some rows: each is dealt with as its own policy says, the others notice
//! nothing.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestGateway, eventually,
    guarded::{Guarded, together},
    process::{Program, program},
};

/// Everything may be done to messages of tenant `a`, and nothing to others.
const OWN_ROWS: &str = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON pgmq.q_q USING (message->>'tenant' = 'a');";
/// All messages are seen; those of tenant `b` stay as they are.
const OWN_CHANGES: &str = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
    CREATE POLICY s ON pgmq.q_q FOR SELECT USING (true);
    CREATE POLICY i ON pgmq.q_q FOR INSERT WITH CHECK (true);
    CREATE POLICY u ON pgmq.q_q FOR UPDATE USING (message->>'tenant' = 'a');
    CREATE POLICY d ON pgmq.q_q FOR DELETE USING (message->>'tenant' = 'a');";

/// Messages of tenants, as the owner of the tables stores them.
async fn store(gateway: &Guarded, tenants: &str) {
    for tenant in tenants.chars() {
        let message = json!({"tenant": tenant.to_string()}).to_string();
        gateway.database.execute(&format!("SELECT pgmq.send('q', '{message}')")).await;
    }
}

async fn send(client: Client, message: Value) -> Answer {
    client.post("/queues/q/messages", &json!({"message": message}).to_string()).await
}

fn tenants(messages: &[Value]) -> String {
    messages.iter().map(|m| m["message"]["tenant"].as_str().expect("a tenant")).collect()
}

#[tokio::test]
async fn policy_refuses_one_of_twenty_sends_that_came_together() {
    let gateway = Guarded::start(OWN_ROWS).await;
    for round in 0..3 {
        let sent = together(20, |n| {
            let tenant = if n == 7 { "b" } else { "a" };
            send(gateway.client.clone(), json!({"tenant": tenant, "n": n, "round": round}))
        });
        let mut ids = Vec::new();
        for (n, answer) in (0..).zip(sent.await) {
            if n == 7 {
                answer.problem(403, "forbidden");
                continue;
            }
            let id = answer.expect(201).json()["msg_id"].as_i64().expect("an id");
            let stored = gateway.get(&format!("/queues/q/messages/{id}")).await.expect(200).json();
            assert_eq!(
                (&stored["message"]["n"], &stored["message"]["round"]),
                (&json!(n), &json!(round))
            );
            ids.push(id);
        }
        ids.dedup();
        assert_eq!(ids.len(), 19);
    }
    let batch = json!({"messages": [
        {"message": {"tenant": "a"}}, {"message": {"tenant": "b"}}, {"message": {"tenant": "a"}}
    ]});
    let refused = gateway.post("/queues/q/messages/batch", &batch.to_string()).await;
    refused.problem(403, "forbidden");
    assert_eq!(gateway.ids("q_q").await.len(), 57, "of a batch all or nothing");
}

#[tokio::test]
async fn what_is_hidden_is_neither_shown_nor_purged_and_that_is_said() {
    let gateway = Guarded::start(OWN_ROWS).await;
    let shown = async |gateway: &Client, queue: &str| {
        gateway.get(&format!("/queues/{queue}")).await.expect(200).json()
    };
    store(&gateway, "abba").await;
    assert_eq!(shown(&gateway, "q").await["row_security"], true);
    assert_eq!(shown(&gateway, "other").await.get("row_security"), None);
    let list = gateway.get("/queues").await.json();
    let guarded: Vec<bool> = list["queues"]
        .as_array()
        .expect("queues")
        .iter()
        .map(|queue| queue["row_security"] == true)
        .collect();
    assert_eq!(guarded, [false, true]);
    let owner = TestGateway::on(&gateway.database, |_| {}).await;
    assert_eq!(shown(&owner, "q").await.get("row_security"), None, "it holds for others");

    assert_eq!(tenants(&gateway.all("q").await), "aa");
    gateway.get("/queues/q/messages/2").await.problem(404, "message_not_found");
    gateway.delete("/queues/q/messages/2").await.problem(404, "message_not_found");
    gateway.patch("/queues/q/messages/2", r#"{"vt":0}"#).await.problem(404, "message_not_found");
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], 2);
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 2);
    assert_eq!(gateway.ids("q_q").await, [2, 3]);
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 0);
    // With TRUNCATE granted, too, which no policy has a say in.
    let everybody =
        "GRANT TRUNCATE ON pgmq.q_q TO PUBLIC; CREATE POLICY none ON pgmq.q_q AS RESTRICTIVE
        USING (false)";
    gateway.database.execute(everybody).await;
    store(&gateway, "a").await;
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 0);
    assert_eq!(gateway.ids("q_q").await, [2, 3, 5]);
    // The owner's is quick and empties all.
    assert_eq!(owner.post("/queues/q/purge", "").await.expect(200).json()["purged"], 3);
}

/// The ids by which senders are told that something was sent before.
#[tokio::test]
async fn what_a_purge_is_not_shown_is_not_forgotten() {
    let gateway = Guarded::start(OWN_ROWS).await;
    store(&gateway, "abba").await;
    let note = "INSERT INTO pgmq_gateway.deduplication_ids (queue_id, key, msg_id, sent_at) \
                SELECT pgmq_gateway.queue_id('q'), m.msg_id::text, m.msg_id, now() FROM pgmq.q_q m";
    gateway.database.execute(note).await;
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 2);
    let noted = "SELECT array_agg(msg_id ORDER BY msg_id) FROM pgmq_gateway.deduplication_ids";
    assert_eq!(gateway.database.value::<Vec<i64>>(noted).await, [2, 3]);
}

#[tokio::test]
async fn what_policies_keep_is_left_and_the_others_are_dealt_with() {
    let gateway = Guarded::start(OWN_CHANGES).await;
    store(&gateway, "babab").await;
    for qty in [1, 10] {
        let received = gateway.receive("q", &format!("qty={qty}&vt=0&wait=5")).await;
        assert_eq!(tenants(&received), "aa"[..received.len()]);
    }
    let all: Vec<Value> = (1..=5).map(|id| json!({"msg_id": id})).collect();
    let settled =
        gateway.post("/queues/q/messages/settle", &json!({"retry": all}).to_string()).await;
    assert_eq!(settled.json()["retried"], json!([2, 4]), "{}", settled.text);
    let deleted = together(5, |n| {
        let client = gateway.client.clone();
        async move { client.delete(&format!("/queues/q/messages/{}", n + 1)).await }
    });
    let statuses: Vec<u16> = deleted.await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [403, 204, 403, 204, 403]);
    store(&gateway, "a").await;
    let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200).messages();
    assert_eq!(tenants(&popped), "a", "past those that stay");
    store(&gateway, "ab").await;
    assert_eq!(gateway.post("/queues/q/purge", "").await.expect(200).json()["purged"], 1);
    assert_eq!(gateway.ids("q_q").await, [1, 3, 5, 8]);
    gateway.post("/queues/q/purge", "").await.problem(403, "forbidden");
}

/// That a message may be changed may depend on what it would become.
#[tokio::test]
async fn policy_on_what_an_update_makes_of_a_row_keeps_that_row_alone() {
    let sql = "ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
        CREATE POLICY all_rows ON pgmq.q_q USING (true);
        CREATE POLICY twice ON pgmq.q_q AS RESTRICTIVE FOR UPDATE USING (true)
            WITH CHECK (read_ct <= 2 OR message->>'tenant' = 'a');";
    let gateway = Guarded::start(sql).await;
    store(&gateway, "bab").await;
    for _ in 0..2 {
        assert_eq!(gateway.receive("q", "qty=10&vt=0").await.len(), 3);
    }
    for parameters in
        ["qty=10&vt=0", "qty=1&vt=0", "qty=1&vt=0&wait=5", "qty=10&vt=0&fifo=round_robin"]
    {
        let expected = if parameters.contains("fifo") { "" } else { "a" };
        assert_eq!(tenants(&gateway.receive("q", parameters).await), expected, "{parameters}");
    }
    // Nor may its delivery be put off, which is an update, too.
    let hidden = together(3, |n| {
        let client = gateway.client.clone();
        async move { client.patch(&format!("/queues/q/messages/{}", n + 1), r#"{"vt":600}"#).await }
    });
    let statuses: Vec<u16> = hidden.await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200], "it has been read twice, and no more");
    gateway.database.execute("UPDATE pgmq.q_q SET read_ct = 5").await;
    let hidden = together(3, |n| {
        let client = gateway.client.clone();
        async move { client.patch(&format!("/queues/q/messages/{}", n + 1), r#"{"vt":0}"#).await }
    });
    let statuses: Vec<u16> = hidden.await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [403, 200, 403]);
}

#[tokio::test]
async fn dead_letters_that_their_target_does_not_take_stay_and_the_others_move() {
    let sql = "ALTER TABLE pgmq.q_other ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON pgmq.q_other USING (message->>'tenant' = 'a');";
    let gateway = Guarded::start(sql).await;
    store(&gateway, "baba").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "other"});
    gateway.configure("q", settings).await.expect(200);
    assert_eq!(gateway.receive("q", "qty=10&vt=0").await.len(), 4);
    let moved = async || {
        assert!(gateway.receive("q", "qty=10&vt=0").await.is_empty());
        (gateway.ids("q_q").await == [1, 3]).then_some(())
    };
    eventually("those that may be moved are moved", moved).await;
    store(&gateway, "a").await;
    assert_eq!(tenants(&gateway.receive("q", "qty=10&vt=600&wait=5").await), "a");
    // And back: what one may be given back is.
    assert_eq!(gateway.post("/queues/other/redrive", "").await.expect(200).json()["moved"], 2);
    assert_eq!(gateway.post("/queues/q/redrive", r#"{"to":"other"}"#).await.json()["moved"], 2);
    assert_eq!(gateway.ids("q_q").await.len(), 3, "b, b, and what somebody has in hand");
}

#[tokio::test]
async fn retention_deletes_what_policies_allow_and_goes_on() {
    let sql = format!(
        "{OWN_CHANGES} ALTER TABLE pgmq.a_q ENABLE ROW LEVEL SECURITY;
         CREATE POLICY s ON pgmq.a_q FOR SELECT USING (true);
         CREATE POLICY d ON pgmq.a_q FOR DELETE USING (message->>'tenant' = 'a');
         SELECT pgmq.send_batch('q', ARRAY['{{\"tenant\":\"a\"}}', '{{\"tenant\":\"b\"}}']::jsonb[]);
         SELECT pgmq.archive('q', ARRAY[1, 2]::bigint[]);"
    );
    let gateway = Guarded::with(&sql, |settings| settings.maintenance.interval_ms = 50).await;
    store(&gateway, "baab").await;
    let settings = json!({"message_retention": 1, "archive_retention": 1});
    gateway.configure("q", settings).await.expect(200);
    let done = async || {
        let left = (gateway.ids("q_q").await, gateway.ids("a_q").await);
        // Somebody who asks for it has the settings read.
        gateway.receive("other", "").await;
        (left == (vec![3, 6], vec![2])).then_some(())
    };
    eventually("what may be deleted is", done).await;
}

#[tokio::test]
async fn log_says_once_that_row_level_security_is_in_force() {
    let gateway = Guarded::start(OWN_ROWS).await;
    let role = format!("guarded_{}", gateway.database.name);
    let url = gateway.database.url_as(&role);
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut started = Program::start(program(&[], &environment));
    let client = started.client().await;
    let lines = |started: &Program| {
        let log = started.log();
        let about = log.lines().filter(|line| line.contains("row-level security"));
        about.map(str::to_owned).collect::<Vec<_>>()
    };
    let said = async || (!lines(&started).is_empty()).then_some(());
    eventually("it is said without anybody asking", said).await;
    for _ in 0..3 {
        client.get("/queues/q").await.expect(200);
        client.get("/queues").await.expect(200);
    }
    let lines = lines(&started);
    assert!(lines.len() == 1 && lines[0].contains("queue=\"q\""), "{lines:?}");
}
