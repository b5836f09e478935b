//! The way to the server breaks, or the server is full, while commits wait for a standby: what waits does not pile up
//! there, and the gateway is not ready.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{
    Client, eventually, forwarder::Forwarder, gateway::try_start, servers::Server,
};

const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
const MESSAGE: &str = r#"{"message":1}"#;
/// As many senders, which share statements or don't.
const QUEUES: usize = 8;
/// Connections of the gateway's pool.
const POOL: i64 = 4;

async fn wait_for(server: &Server, standby: &str) {
    let alter = format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'");
    server.execute(&alter).await;
    server.execute("SELECT pg_reload_conf()").await;
}

async fn gateway_on(url: &str) -> (pgmq_gateway::app::Gateway, Client) {
    let gateway = try_start(url, |settings| {
        settings.database.max_connections = u32::try_from(POOL).expect("few");
        // Nothing is given up on meanwhile.
        settings.database.statement_timeout_ms = 120_000;
        settings.server.request_timeout_seconds = 150;
    })
    .await
    .expect("gateway started");
    let client = Client::patient(&gateway.url());
    for n in 0..QUEUES {
        client.create(&format!("q{n}")).await;
    }
    client.get("/readyz").await.expect(200);
    (gateway, client)
}

/// Senders, each to a queue of its own, that go on whatever they are told, until this is dropped.
fn senders(client: &Client, count: usize) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for n in 0..count {
        let (client, path) = (client.clone(), format!("/queues/q{n}/messages"));
        senders.spawn(async move {
            loop {
                client.post(&path, MESSAGE).await;
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    senders
}

#[tokio::test]
async fn sessions_that_are_cut_off_do_not_pile_up() {
    let server = Server::new(&[]).await;
    let forwarder = Forwarder::to(&server.socket()).await;
    let (_gateway, client) = gateway_on(&forwarder.url()).await;
    wait_for(&server, "nobody").await;
    let _senders = senders(&client, QUEUES);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgmq-gateway'";
    for _ in 0..3 {
        let now = server.count("SELECT (extract(epoch FROM now()) * 1e6)::int8").await;
        let of_those = |which: &str| {
            format!("{WAITING} AND backend_start {which} to_timestamp({now}::float8 / 1e6)")
        };
        forwarder.cut().await;
        eventually("others wait in their place", async || {
            (server.count(&of_those(">")).await > 0).then_some(())
        })
        .await;
        // One for health, one that tries a commit, one that listens, and one that is being closed.
        let there = server.count(sessions).await;
        assert!(there <= POOL + 4, "{there} sessions");
        eventually("those that were cut off are gone", async || {
            (server.count(&of_those("<=")).await == 0).then_some(())
        })
        .await;
    }
    wait_for(&server, "").await;
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(()))
        .await;
}

#[tokio::test]
async fn a_full_server_whose_commits_wait_is_not_ready() {
    let server = Server::new(&[("max_connections", "20")]).await;
    let (_gateway, client) = gateway_on(&server.url()).await;
    let mut operator = PgConnection::connect(&server.url()).await.expect("connected");
    wait_for(&server, "nobody").await;
    let _senders = senders(&client, 1);
    eventually("it waits", async || (server.count(WAITING).await > 0).then_some(())).await;
    let mut others = Vec::new();
    let mut fill = async || {
        while let Ok(other) = PgConnection::connect(&server.url()).await {
            others.push(other);
        }
    };
    eventually("it is not ready", async || {
        fill().await;
        (client.get("/readyz").await.status == 503).then_some(())
    })
    .await;
    for _ in 0..5 {
        fill().await;
        client.get("/readyz").await.problem(503, "database_unavailable");
        sleep(Duration::from_millis(300)).await;
    }
    drop(others);
    let reset = "ALTER SYSTEM RESET synchronous_standby_names";
    sqlx::query(reset).execute(&mut operator).await.expect("reset");
    sqlx::query("SELECT pg_reload_conf()").execute(&mut operator).await.expect("reloaded");
    eventually("it is ready", async || (client.get("/readyz").await.status == 200).then_some(()))
        .await;
}
