//! Which queue it is: after it was made anew, moved to another server, or lost for a while; and what a crash
//! of the server leaves of its settings.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::postgres::PgListener;

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, gateway::try_start, postgres,
};

fn settings() -> Value {
    json!({"max_receives": 3, "message_retention": 86_400, "delay": 0, "visibility_timeout": 45})
}

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::with(|settings| settings.maintenance.interval_ms = 50).await;
    gateway.create_with("q", &json!({"settings": settings()})).await;
    gateway
}

async fn idempotent(client: &Client) -> Answer {
    let request = client.request("POST", "/queues/q/messages").header("idempotency-key", "once");
    Answer::of(request.body(r#"{"message":1}"#)).await.expect(201)
}

/// A receipt of message 1.
async fn receipt(client: &Client) -> String {
    let message = client.receive_one("q", "vt=600").await;
    message["receipt"].as_str().expect("a receipt").to_owned()
}

async fn shown(client: &Client) -> Value {
    client.get("/queues/q").await.expect(200).json()["settings"].clone()
}

async fn round_of_maintenance(database: &TestDatabase) {
    let past = "INSERT INTO pgmq_gateway.idempotency_keys (scope, key, fingerprint, created_at, queue_id) \
                VALUES ('past', 'past', '', '2000-01-01', 0)";
    let left = "SELECT count(*) FROM pgmq_gateway.idempotency_keys WHERE key = 'past'";
    // The first may have begun before.
    for _ in 0..2 {
        database.execute(past).await;
        eventually("a round", async || (database.value::<i64>(left).await == 0).then_some(()))
            .await;
    }
}

const ANEW: [&str; 3] = [
    "SELECT pgmq.drop_queue('q'); SELECT pgmq.create('q')",
    "BEGIN; SELECT pgmq.drop_queue('q'); SELECT pgmq.create('q'); COMMIT",
    // In one statement, and twice in one transaction.
    "DO $$ BEGIN PERFORM pgmq.drop_queue('q'); PERFORM pgmq.create('q'); \
     PERFORM pgmq.drop_queue('q'); PERFORM pgmq.create('q'); END $$",
];

#[tokio::test]
async fn a_queue_that_sql_made_anew_is_another_one() {
    for anew in ANEW {
        for (before, after) in [(false, false), (true, false), (false, true)] {
            let gateway = with_queue().await;
            assert_eq!(idempotent(&gateway).await.header("idempotency-replayed"), "");
            let receipt = receipt(&gateway).await;
            if before {
                round_of_maintenance(&gateway.database).await;
            }
            gateway.database.execute(anew).await;
            if after {
                round_of_maintenance(&gateway.database).await;
            }
            // The same id, of another message.
            gateway.database.execute("SELECT pgmq.send('q', '\"new\"')").await;
            gateway.receive_one("q", "vt=600").await;
            let path = format!("/queues/q/messages/1?receipt={receipt}");
            gateway.delete(&path).await.problem(409, "receipt_stale");
            gateway.patch(&path, r#"{"vt":0}"#).await.problem(409, "receipt_stale");
            let settle = json!({"archive": [{"receipt": receipt}]}).to_string();
            let settled =
                gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
            assert_eq!(settled["failed"][0]["code"], "receipt_stale", "{settled}");
            let sent = idempotent(&gateway).await;
            assert_eq!(sent.header("idempotency-replayed"), "", "stored in another queue");
            assert_eq!(sent.json()["msg_id"], 2);
            assert_eq!(idempotent(&gateway).await.header("idempotency-replayed"), "true");
            assert_eq!(shown(&gateway).await["max_receives"], json!(null), "{anew}");
            gateway.configure("q", json!({"delay": 1})).await.expect(200);
            assert_eq!(shown(&gateway).await["message_retention"], json!(null), "{anew}");
        }
    }
}

/// As after pg_upgrade, or the promotion of a copy: the rows are the same, the server is another.
#[tokio::test]
async fn a_database_that_moves_to_another_server_keeps_its_queues() {
    let gateway = with_queue().await;
    idempotent(&gateway).await;
    let receipt = receipt(&gateway).await;
    let database = gateway.database.clone();
    let elsewhere = "UPDATE pgmq_gateway.queue_settings SET database_stamp = '1/2'";
    for renamed in [false, true] {
        database.execute(elsewhere).await;
        if renamed {
            round_of_maintenance(&database).await;
        }
        assert_eq!(shown(&gateway).await["max_receives"], 3);
        assert_eq!(idempotent(&gateway).await.header("idempotency-replayed"), "true");
        let path = format!("/queues/q/messages/1?receipt={receipt}");
        gateway.patch(&path, r#"{"vt":600}"#).await.expect(200);
    }
    // From then on it is at home there: a queue that is made anew is another one.
    database.execute(ANEW[0]).await;
    assert_eq!(shown(&gateway).await["max_receives"], json!(null));
    assert_eq!(idempotent(&gateway).await.header("idempotency-replayed"), "");
}

/// While data is loaded, there may be no queue for a while, whatever looks meanwhile.
#[tokio::test]
async fn settings_wait_for_a_queue_that_is_gone_for_a_while() {
    let gateway = with_queue().await;
    let receipt = receipt_of_one(&gateway).await;
    let database = &gateway.database;
    database.execute("CREATE TABLE kept AS TABLE pgmq.meta; DELETE FROM pgmq.meta").await;
    round_of_maintenance(database).await;
    round_of_maintenance(database).await;
    gateway.get("/queues/q").await.problem(404, "queue_not_found");
    database.execute("INSERT INTO pgmq.meta TABLE kept").await;
    round_of_maintenance(database).await;
    assert_eq!(shown(&gateway).await["max_receives"], 3);
    gateway.delete(&format!("/queues/q/messages/1?receipt={receipt}")).await.expect(204);

    // Not for ever. A round that a lock or the like has cut short is made up for by the next one.
    database.execute("DELETE FROM pgmq.meta").await;
    let left = async |which: &str| {
        let left = format!("SELECT count(*) FROM pgmq_gateway.queue_settings {which}");
        (database.value::<i64>(&left).await == 0).then_some(())
    };
    let noted = async || left("WHERE missing_since IS NULL").await;
    eventually("it is noted since when there is no queue", noted).await;
    let age =
        "UPDATE pgmq_gateway.queue_settings SET missing_since = missing_since - interval '2 days'";
    database.execute(age).await;
    eventually("its settings are forgotten", async || left("").await).await;
}

async fn receipt_of_one(gateway: &TestGateway) -> String {
    gateway.send("q", r#"{"message":1}"#).await;
    receipt(gateway).await
}

/// What was left of a queue that was gone already when the dump was made is not that of a new one.
#[tokio::test]
async fn what_a_dump_has_of_a_queue_that_was_gone_counts_for_none() {
    let gateway = with_queue().await;
    let database = &gateway.database;
    database.execute("SELECT pgmq.drop_queue('q')").await;
    round_of_maintenance(database).await;
    database.execute("UPDATE pgmq_gateway.queue_settings SET database_stamp = '1/2'").await;
    round_of_maintenance(database).await;
    gateway.create("q").await;
    assert_eq!(shown(&gateway).await["max_receives"], json!(null));
    database.execute(ANEW[0]).await;
    assert_eq!(shown(&gateway).await["max_receives"], json!(null));
}

/// A dump of the tables that earlier gateways had, loaded as data.
#[tokio::test]
async fn rows_of_an_earlier_schema_are_taken_over() {
    let gateway = TestGateway::with(|settings| settings.maintenance.interval_ms = 50).await;
    gateway.database.execute("SELECT pgmq.create('q')").await;
    let copy = "INSERT INTO pgmq_gateway.queue_settings (queue_name, queue_created_at, settings) \
                VALUES ('q', '2026-01-02', '{\"max_receives\": 3}')";
    gateway.database.execute(copy).await;
    assert_eq!(shown(&gateway).await["max_receives"], 3);
    round_of_maintenance(&gateway.database).await;
    assert_eq!(shown(&gateway).await["max_receives"], 3);
}

/// An immediate shutdown: as if the power had failed.
fn crash(directory: &Path) {
    let file = fs::read_to_string(directory.join("data/postmaster.pid")).expect("running");
    let pid = file.lines().next().and_then(|line| line.parse().ok()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("signalled");
}

/// The database answers, on every connection that there is.
async fn is_back(client: &Client) {
    let mut in_a_row = 0;
    eventually("it is back", async || {
        let answers = client.get("/queues").await.status == 200;
        in_a_row = if answers { in_a_row + 1 } else { 0 };
        (in_a_row == 20).then_some(())
    })
    .await;
}

/// PGMQ keeps the throttle of its notifications in a table that a crash empties.
#[tokio::test]
async fn notifications_survive_a_crash_of_the_server() {
    let directory = postgres::new_directory();
    let server = postgres::start(&directory, &[]).await;
    let url = server.url().expose().to_owned();
    let gateway = try_start(&url, |settings| {
        settings.maintenance.interval_ms = 50;
        settings.database.acquire_timeout_ms = 500;
    });
    let gateway = gateway.await.expect("started");
    let client = Client::new(&gateway.url());
    client.create_with("q", &json!({"settings": {"notify": {"throttle_ms": 77}}})).await;
    let database = TestDatabase::at(&url);
    database.execute("SELECT pgmq.create('sql'), pgmq.enable_notify_insert('sql', 88)").await;
    client.create_with("retained", &json!({"settings": {"message_retention": 1000}})).await;

    crash(&directory);
    drop(server);
    let server = postgres::start(&directory, &[]).await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pgmq.notify_insert_throttle").await, 0);
    is_back(&client).await;
    assert_eq!(shown(&client).await["notify"], json!({"throttle_ms": 77}));
    // What SQL chose was nowhere else; PGMQ's default is next to it.
    let sql = client.get("/queues/sql").await.expect(200).json();
    assert_eq!(sql["settings"]["notify"], json!({"throttle_ms": 250}), "{sql}");

    let throttles = "SELECT count(*) FROM pgmq.notify_insert_throttle";
    client.send("retained", r#"{"message":1}"#).await;
    eventually("the throttles are back", async || {
        (database.value::<i64>(throttles).await == 2).then_some(())
    })
    .await;
    let mut listener = PgListener::connect(&url).await.expect("connected");
    listener.listen("pgmq.q_q.INSERT").await.expect("listens");
    client.send("q", r#"{"message":1}"#).await;
    tokio::time::timeout(crate::support::PATIENCE, listener.recv())
        .await
        .expect("in time")
        .expect("notified");

    crash(&directory);
    drop(server);
    let server = postgres::start(&directory, &[]).await;
    is_back(&client).await;
    // At once, whatever the janitor has done by then.
    for queue in ["q", "sql"] {
        let off = client.configure(queue, json!({"notify": null})).await.expect(200).json();
        assert_eq!(off["settings"]["notify"], json!(null), "{queue}");
    }
    let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'trigger_notify%'";
    assert_eq!(database.value::<i64>(triggers).await, 0);
    assert_eq!(database.value::<i64>(throttles).await, 0);
    server.stop().await;
}
