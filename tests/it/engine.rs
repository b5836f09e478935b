//! What requests that come together share, and what they don't.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use pgmq_gateway::config::ReadMode;
use serde_json::json;
use sqlx::{Connection, Executor};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{TestDatabase, TestGateway, eventually};

async fn committed(database: &TestDatabase) -> i64 {
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    database.value(sql).await
}

/// A send, a receive that finds something, and a delete are one transaction each, and so one
/// statement.
#[tokio::test]
async fn the_happy_path_is_one_round_trip() {
    let gateway = TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 0).await;
    gateway.create("q").await;
    let run = async |rounds: i64| {
        for _ in 0..rounds {
            gateway.send("q", r#"{"message":1}"#).await;
            let id = &gateway.receive("q", "").await[0]["msg_id"];
            gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
        }
    };
    run(5).await;
    // Counters come in some time after the transactions.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = committed(&gateway.database).await;
    run(50).await;
    let after = eventually("the counters have arrived", async || {
        let now = committed(&gateway.database).await;
        (now - before >= 150).then_some(now)
    })
    .await;
    // Each look at the counters is a few transactions itself.
    let more = after - before - 150;
    assert!(more < 100, "{more} transactions more than requests");
}

/// Senders that come together share statements, and each gets the id of its own message.
#[tokio::test]
async fn a_crowd_shares_statements() {
    let gateway = TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 0).await;
    gateway.create("q").await;
    let before = committed(&gateway.database).await;
    let mut senders = JoinSet::new();
    for sender in 0..50 {
        let client = gateway.client.clone();
        senders.spawn(async move {
            let mut ids = Vec::new();
            for n in 0..10 {
                let name = format!("{sender}-{n}");
                ids.push((client.send_message("q", &*name).await, name));
            }
            assert!(ids.is_sorted(), "what one client sends keeps its order");
            ids
        });
    }
    let mut sent = BTreeMap::new();
    while let Some(sender) = senders.join_next().await {
        sent.extend(sender.expect("no panic"));
    }
    assert_eq!(sent.len(), 500);
    let sql = "SELECT coalesce(string_agg(msg_id || message::text, ',' ORDER BY msg_id), '') FROM pgmq.q_q";
    let stored: String = gateway.database.value(sql).await;
    let expected: Vec<String> = sent.iter().map(|(id, name)| format!("{id}\"{name}\"")).collect();
    assert_eq!(stored, expected.join(","));
    let statements = committed(&gateway.database).await - before;
    assert!(statements < 500, "{statements} transactions for 500 sends");
}

/// One message that PostgreSQL refuses fails its own sender and nobody else.
#[tokio::test]
async fn one_bad_message_fails_alone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut senders = JoinSet::new();
    for n in 0..40 {
        let client = gateway.client.clone();
        senders.spawn(async move {
            // Nested more deeply than PostgreSQL takes, which only PostgreSQL knows.
            let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            let message = if n % 10 == 0 { deep } else { n.to_string() };
            let body = format!(r#"{{"message":{message}}}"#);
            (n, client.post("/queues/q/messages", &body).await)
        });
    }
    while let Some(sender) = senders.join_next().await {
        let (n, answer) = sender.expect("no panic");
        if n % 10 == 0 {
            answer.problem(422, "message_rejected");
        } else {
            answer.expect(201);
        }
    }
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], 36);
}

/// Deletes that come together are each told of their own message.
#[tokio::test]
async fn deletes_are_told_apart() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let messages: Vec<_> = (0..20).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let mut deletes = JoinSet::new();
    for id in 1..=40 {
        for _ in 0..2 {
            let client = gateway.client.clone();
            deletes.spawn(async move {
                let answer = client.delete(&format!("/queues/q/messages/{id}")).await;
                (id, answer.status)
            });
        }
    }
    let mut statuses: BTreeMap<i32, Vec<u16>> = BTreeMap::new();
    while let Some(delete) = deletes.join_next().await {
        let (id, status) = delete.expect("no panic");
        statuses.entry(id).or_default().push(status);
    }
    for (id, mut statuses) in statuses {
        statuses.sort_unstable();
        assert_eq!(statuses, if id <= 20 { [204, 404] } else { [404, 404] }, "message {id}");
    }
}

/// What has been visible for longest comes first, or what was sent first: as is set.
#[tokio::test]
async fn the_order_is_by_visibility_or_by_id() {
    for (read, expected) in [(ReadMode::Indexed, [2, 3, 1]), (ReadMode::Pgmq, [1, 2, 3])] {
        let gateway = TestGateway::with(|settings| settings.engine.read = read).await;
        gateway.create("q").await;
        for n in 1..=3 {
            gateway.send_message("q", n).await;
        }
        gateway.receive("q", "").await;
        gateway.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
        let mut order = Vec::new();
        for _ in 0..3 {
            let received = gateway.receive("q", "vt=600").await;
            order.push(received[0]["msg_id"].as_i64().expect("an id"));
        }
        assert_eq!(order, expected, "{read:?}");
    }
}

/// The read walks the index on vt up to now, and no further.
#[tokio::test]
async fn the_read_uses_the_index() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "SELECT pgmq.create('q'); \
             INSERT INTO pgmq.q_q (vt, message) \
             SELECT now() + interval '1 hour', '{}' FROM generate_series(1, 20000); \
             INSERT INTO pgmq.q_q (vt, message) SELECT now(), '{}' FROM generate_series(1, 100)",
        )
        .await;
    database.execute("ANALYZE pgmq.q_q").await;
    let explain = "LOAD 'auto_explain'; SET client_min_messages = log; \
        SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; \
        SET auto_explain.log_analyze = on; \
        SELECT count(*) FROM pgmq_gateway.receive('q', 30, 200, NULL, false, true, NULL, NULL, false)";
    let psql = Command::new("psql").args(["-X", "-d", &database.url(), "-c", explain]).output();
    let said = String::from_utf8_lossy(&psql.expect("psql").stderr).into_owned();
    assert!(said.contains("Index Cond: (vt <= '"), "{said}");
    assert!(said.contains("Index Cond: (vt > statement_timestamp())"), "{said}");
    assert!(!said.contains("Seq Scan on q_q"), "{said}");
}

/// A lane has a bound: past it, callers are told at once.
#[tokio::test]
async fn a_full_lane_is_overload() {
    let gateway = TestGateway::with(|settings| {
        settings.engine.max_pending_rows = 10;
        settings.engine.statements_per_lane = 1;
    })
    .await;
    gateway.create("q").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_q IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let mut senders = JoinSet::new();
    for _ in 0..40 {
        let client = gateway.client.clone();
        senders.spawn(async move { client.post("/queues/q/messages", r#"{"message":1}"#).await });
    }
    let first = senders.join_next().await.expect("a sender").expect("no panic");
    first.problem(503, "overloaded");
    lock.rollback().await.expect("unlocked");
    let mut stored = 0;
    while let Some(sender) = senders.join_next().await {
        stored += i64::from(sender.expect("no panic").status == 201);
    }
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["queue_length"], stored);
    assert!(stored >= 10, "{stored}");
}

/// A queue that is stuck does not take the connections of the others.
#[tokio::test]
async fn a_stuck_queue_holds_up_no_other() {
    let gateway = TestGateway::start().await;
    gateway.create("stuck").await;
    gateway.create("free").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_stuck IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let mut stuck = JoinSet::new();
    for n in 0..100 {
        let client = gateway.client.clone();
        stuck.spawn(async move {
            match n % 5 {
                3 => client.post("/queues/stuck/messages/pop", "").await,
                4 => client.get("/queues/stuck/peek").await,
                0 => client.post("/queues/stuck/messages", r#"{"message":1}"#).await,
                1 => client.get("/queues/stuck/messages").await,
                _ => client.delete("/queues/stuck/messages/1").await,
            }
        });
    }
    for n in 0..20 {
        gateway.send_message("free", n).await;
        assert_eq!(gateway.receive("free", "").await.len(), 1);
    }
    lock.rollback().await.expect("unlocked");
    while let Some(answer) = stuck.join_next().await {
        assert!(answer.expect("no panic").status < 500);
    }
}

/// Senders and receivers, some of whom vanish: nothing that was acknowledged is lost, nothing that
/// was deleted comes back, and no two have a message at the same time.
#[tokio::test]
async fn nothing_is_lost_when_clients_vanish() {
    vanishing_clients(3).await;
}

/// The same for a minute: `cargo test -- --ignored`.
#[tokio::test]
#[ignore = "takes a minute"]
async fn nothing_is_lost_when_clients_vanish_for_a_minute() {
    vanishing_clients(60).await;
}

/// What the clients know.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeSet<String>,
    deleted: BTreeSet<String>,
    leased_until: HashMap<i64, Instant>,
}

async fn vanishing_clients(seconds: u64) {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut clients = JoinSet::new();
    for sender in 0..16 {
        let (client, ledger) = (gateway.client.clone(), Arc::clone(&ledger));
        clients.spawn(async move {
            for n in 0.. {
                if Instant::now() >= end {
                    return;
                }
                let name = format!("{sender}-{n}");
                let body = json!({"message": name}).to_string();
                let send = client.post("/queues/q/messages", &body);
                // Now and then one leaves without having heard.
                let patience = if n % 7 == 0 { 1 + n % 5 } else { 60_000 };
                if let Ok(answer) = timeout(Duration::from_millis(patience), send).await {
                    answer.expect(201);
                    ledger.lock().expect("ledger").acknowledged.insert(name);
                }
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    for receiver in 0..16u64 {
        let (client, ledger) = (gateway.client.clone(), Arc::clone(&ledger));
        clients.spawn(async move {
            for n in 0u64.. {
                if Instant::now() >= end {
                    return;
                }
                let asked = Instant::now();
                let receive = client.receive("q", "qty=3&wait=1&vt=20");
                let patience = if (n + receiver) % 5 == 0 { 1 + n % 9 } else { 60_000 };
                let Ok(messages) = timeout(Duration::from_millis(patience), receive).await else {
                    continue;
                };
                for message in messages {
                    let id = message["msg_id"].as_i64().expect("an id");
                    let name = message["message"].as_str().expect("a name").to_owned();
                    {
                        let mut ledger = ledger.lock().expect("ledger");
                        assert!(!ledger.deleted.contains(&name), "{name} came back");
                        let until = asked + Duration::from_secs(20);
                        if let Some(earlier) = ledger.leased_until.insert(id, until) {
                            assert!(earlier <= Instant::now(), "{name} was leased to two");
                        }
                    }
                    // Some vanish with what they have.
                    if (n + receiver) % 11 != 0 {
                        let path = format!("/queues/q/messages/{id}");
                        client.delete(&path).await.expect(204);
                        ledger.lock().expect("ledger").deleted.insert(name);
                    }
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    let mut left = BTreeSet::new();
    let sql = "SELECT coalesce(json_agg(message), '[]')::text FROM pgmq.q_q";
    let stored: String = gateway.database.value(sql).await;
    left.extend(serde_json::from_str::<Vec<String>>(&stored).expect("names"));
    let ledger = ledger.lock().expect("ledger");
    let lost: Vec<_> = ledger
        .acknowledged
        .iter()
        .filter(|name| !left.contains(*name) && !ledger.deleted.contains(*name))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let back: Vec<_> = ledger.deleted.intersection(&left).collect();
    assert!(back.is_empty(), "deleted and still there: {back:?}");
    assert!(ledger.deleted.len() > 50, "{} went all the way", ledger.deleted.len());
}
