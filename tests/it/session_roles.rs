//! Sessions that act as another role than the one that has logged in, or whose role may see no processes.

use pgmq_gateway::app::Gateway;
use tokio::time::{Duration, sleep};

use crate::{
    sessions::exercise,
    support::{Client, TestDatabase, eventually, gateway::try_start, servers::Server},
};

/// A database of `own`'s, and its address for `login`, who acts as the owner.
async fn owned(server: &Server) -> String {
    let database = TestDatabase::on_server(&server.url(), "app").await;
    database
        .execute(
            "CREATE ROLE own; CREATE ROLE login LOGIN IN ROLE own; ALTER ROLE login SET role = 'own'; \
             ALTER DATABASE app OWNER TO own",
        )
        .await;
    database.url_as("login")
}

async fn gateway_on(url: &str) -> (Gateway, Client) {
    let change = |settings: &mut pgmq_gateway::config::Settings| {
        settings.database.statement_timeout_ms = 500;
    };
    let gateway = try_start(url, change).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    (gateway, client)
}

#[tokio::test]
async fn a_role_that_acts_as_another_may_end_its_own_sessions() {
    let server = Server::new(&[]).await;
    let (_gateway, client) = gateway_on(&owned(&server).await).await;
    exercise(&client).await;
    client.create("s").await;
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    server.execute("SELECT pg_reload_conf()").await;
    let sender = client.clone();
    let send = async move { sender.post("/queues/s/messages", r#"{"message":1}"#).await };
    let sent = tokio::spawn(send);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("it waits for a standby", async || (server.count(waiting).await > 0).then_some(()))
        .await;
    sent.await.expect("no panic").problem(503, "outcome_unknown");
    // Nothing but a cancel ends such a wait.
    eventually("what was given up on ends", async || {
        (server.count(waiting).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_role_that_may_see_no_processes_does_without() {
    let database = TestDatabase::empty().await;
    let role = format!("blind_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {} TO {role}; \
             REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(integer) FROM PUBLIC",
            database.name
        ))
        .await;
    let (_gateway, client) = gateway_on(&database.url_as(&role)).await;
    client.get("/readyz").await.expect(200);
    exercise(&client).await;
}

/// The right may be taken away while sessions are there that know their process.
#[tokio::test]
async fn a_role_that_may_see_no_processes_any_more_goes_on() {
    let database = TestDatabase::empty().await;
    let role = format!("blinded_{}", database.name);
    let grant = format!("CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {}", database.name);
    database.execute(&format!("{grant} TO {role}")).await;
    let (_gateway, client) = gateway_on(&database.url_as(&role)).await;
    database.execute("REVOKE EXECUTE ON FUNCTION pg_stat_get_activity(integer) FROM PUBLIC").await;
    exercise(&client).await;
    let terminate =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    database.execute(&terminate).await;
    eventually("it is ready", async || {
        sleep(Duration::from_millis(20)).await;
        (client.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    exercise(&client).await;
}
