//! The database goes away, and comes back.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use pgmq_gateway::{app::Gateway, embedded::EmbeddedServer};

use serde_json::json;
use sqlx::Executor;

use crate::support::{Client, TestDatabase, eventually, gateway::try_start, postgres};

/// A gateway on a server of the test's own, which is started on the test's thread and so ends with
/// it.
async fn start(directory: &Path) -> (EmbeddedServer, Gateway, Client) {
    let server = postgres::start(directory, &[]).await;
    let gateway = try_start(server.url().expose(), |settings| {
        settings.database.acquire_timeout_ms = 500;
        settings.database.max_connections = 4;
    });
    let gateway = gateway.await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    (server, gateway, client)
}

#[tokio::test]
async fn without_its_database_the_gateway_says_so_and_recovers() {
    let directory = postgres::new_directory();
    let (server, _gateway, client) = start(&directory).await;
    client.send("q", r#"{"message":1}"#).await;
    client.get("/readyz").await.expect(200);
    server.stop().await;

    client.get("/livez").await.expect(200);
    eventually("it looks again", async || {
        let answer = client.get("/readyz").await;
        (answer.status != 200).then(|| answer.problem(503, "database_unavailable"))
    })
    .await;
    let answers = [
        client.post("/queues/q/messages", r#"{"message":2}"#).await,
        client.get("/queues/q/messages").await,
        client.get("/queues/q/messages?wait=1").await,
        client.delete("/queues/q/messages/1").await,
        client.get("/queues").await,
    ];
    for answer in answers {
        let answer = answer.problem(503, "database_unavailable");
        assert!(!answer.header("retry-after").is_empty());
    }
    client.get("/metrics").await.expect(200);

    let _server = postgres::start(&directory, &[]).await;
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(()))
        .await;
    assert_eq!(client.send("q", r#"{"message":2}"#).await, 2);
    assert_eq!(client.receive("q", "qty=10").await.len(), 2);
}

/// Someone waits while the server restarts: an error, or the message, but no hang.
#[tokio::test]
async fn a_wait_survives_or_fails_but_does_not_hang() {
    let directory = postgres::new_directory();
    let (server, _gateway, client) = start(&directory).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.get("/queues/q/messages?wait=20").await }
    });
    client.wait_for_waiters("q", 1).await;
    server.stop().await;
    waiting.await.expect("no panic").problem(503, "database_unavailable");
}

/// The server crashes under load and comes back: whatever was acknowledged is there, and whatever
/// was not is a 503 that says which.
#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_in_a_crash() {
    let directory = postgres::new_directory();
    let (mut server, _gateway, client) = start(&directory).await;
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let unknown = Arc::new(Mutex::new(BTreeSet::new()));
    let senders: Vec<_> = (0..6)
        .map(|sender| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            let (acknowledged, unknown) = (Arc::clone(&acknowledged), Arc::clone(&unknown));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    let name = format!("{sender}-{n}");
                    let body = json!({"message": name}).to_string();
                    let answer = client.post("/queues/q/messages", &body).await;
                    if answer.status == 201 {
                        acknowledged.lock().expect("set").insert(name);
                        continue;
                    }
                    match answer.expect(503).json()["code"].as_str() {
                        Some("outcome_unknown") => unknown.lock().expect("set").insert(name),
                        Some("database_unavailable" | "overloaded") => false,
                        code => panic!("{code:?}"),
                    };
                }
            })
        })
        .collect();

    let count = || acknowledged.lock().expect("set").len();
    for _ in 0..2 {
        let before = count();
        eventually("messages are stored", async || (count() > before + 50).then_some(())).await;
        crash(&directory);
        server.ended().await.expect("ended");
        drop(server);
        server = postgres::start(&directory, &[]).await;
    }
    let before = count();
    eventually("messages are stored again", async || (count() > before + 50).then_some(())).await;
    stop.store(true, Relaxed);
    for sender in senders {
        sender.await.expect("no panic");
    }

    let mut stored = BTreeSet::new();
    loop {
        let popped = client.post("/queues/q/messages/pop?qty=100", "").await.expect(200).messages();
        if popped.is_empty() {
            break;
        }
        for message in popped {
            let name = message["message"].as_str().expect("text").to_owned();
            assert!(stored.insert(name.clone()), "{name} was stored twice");
        }
    }
    let acknowledged = acknowledged.lock().expect("set");
    let unknown = unknown.lock().expect("set");
    assert!(acknowledged.is_subset(&stored), "lost: {:?}", acknowledged.difference(&stored));
    let surprising: Vec<_> =
        stored.iter().filter(|n| !acknowledged.contains(*n) && !unknown.contains(*n)).collect();
    assert!(surprising.is_empty(), "stored, though it was said not to be: {surprising:?}");
}

/// An immediate shutdown: as if the power had failed.
fn crash(directory: &Path) {
    let file = fs::read_to_string(directory.join("data/postmaster.pid")).expect("running");
    let pid = file.lines().next().and_then(|line| line.parse().ok()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("signalled");
}

/// PostgreSQL keeps notifications until everybody who listens has read them: one who does not come to it fills the room
/// that there is for them.
#[tokio::test]
async fn a_full_queue_of_notifications_is_waited_for() {
    let version = "SELECT current_setting('server_version_num')::integer";
    if TestDatabase::empty().await.value::<i32>(version).await < 170_000 {
        // Before, the room is of gigabytes.
        return;
    }
    let directory = postgres::new_directory();
    let server = postgres::start(&directory, &[("max_notify_queue_pages", "64")]).await;
    let database = TestDatabase::at(server.url().expose());
    let gateway = try_start(server.url().expose(), |_| {}).await.expect("started");
    let client = Client::new(&gateway.url());
    client.create_with("q", &json!({"settings": {"notify": {"throttle_ms": 0}}})).await;
    let mut idle = database.connect().await;
    for statement in ["LISTEN x", "BEGIN", "SELECT 1"] {
        idle.execute(statement).await.expect("done");
    }
    for size in [7_000, 10] {
        let notify = format!(
            "SELECT pg_notify('x', n || repeat('y', {size})) FROM generate_series(1, 10) n"
        );
        while database.connect().await.execute(&*notify).await.is_ok() {}
    }
    let refused = client.post("/queues/q/messages", r#"{"message":1}"#).await;
    refused.problem(503, "database_unavailable");
    assert!(client.all("q").await.is_empty());
    idle.execute("ROLLBACK").await.expect("ended");
    eventually("there is room again", async || {
        let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
        (answer.status == 201).then_some(())
    })
    .await;
    server.stop().await;
}
