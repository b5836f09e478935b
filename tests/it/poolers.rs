//! What stands between the gateway and the database.

use pgmq_gateway::{app::StartError, config::Settings};

use crate::{
    sessions::exercise,
    support::{Client, TestDatabase, gateway::try_start, pooler::Pooler},
};

async fn start(url: &str, change: impl FnOnce(&mut Settings)) -> Result<Client, StartError> {
    let gateway = try_start(url, change).await?;
    let client = Client::new(&gateway.url());
    // It serves for as long as the test runs.
    std::mem::forget(gateway);
    Ok(client)
}

/// Behind the pooler, with a way past it.
fn pooled(database: &TestDatabase) -> impl FnOnce(&mut Settings) + use<> {
    let direct = database.url();
    move |settings| {
        settings.database.transaction_pooler = true;
        settings.database.direct_url = Some(pgmq_gateway::config::Secret::new(direct));
    }
}

async fn refusal(url: &str, change: impl FnOnce(&mut Settings)) -> String {
    let refused = start(url, change).await.expect_err("it will not do").to_string();
    assert_eq!(refused.lines().count(), 1, "{refused}");
    refused
}

/// One that loses prepared statements runs them with the parameters of others.
#[tokio::test]
async fn a_pooler_that_loses_prepared_statements_is_refused() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database, "pool_mode = transaction").await;
    if Pooler::keeps_prepared_statements() {
        let client = start(pooler.url(), pooled(&database)).await.expect("gateway started");
        return exercise(&client).await;
    }
    for pool_size in [1, 2, 20] {
        let settings = format!("pool_mode = transaction\ndefault_pool_size = {pool_size}");
        for order in [0, 1] {
            let settings = format!("{settings}\nserver_round_robin = {order}");
            let pooler = Pooler::start(&database, &settings).await;
            let refused = refusal(pooler.url(), pooled(&database)).await;
            assert!(refused.contains("PgBouncer 1.21"), "{refused}");
        }
    }
}

/// A gateway that does not know of the pooler would set things for other clients' sessions.
#[tokio::test]
async fn a_pooler_in_transaction_mode_is_found_out() {
    let database = TestDatabase::new().await;
    for ignored in ["", "ignore_startup_parameters = options"] {
        let pooler = Pooler::start(&database, &format!("pool_mode = transaction\n{ignored}")).await;
        let refused = refusal(pooler.url(), |_| {}).await;
        let wanted = if Pooler::keeps_prepared_statements() {
            "database.transaction_pooler = true"
        } else {
            "PgBouncer 1.21"
        };
        assert!(refused.contains(wanted), "{refused}");
        let direct = pgmq_gateway::config::Secret::new(pooler.url());
        let refused = refusal(&database.url(), |settings| {
            settings.database.direct_url = Some(direct);
        })
        .await;
        assert!(refused.contains(wanted) || refused.contains("direct_url"), "{refused}");
    }
}

#[tokio::test]
async fn a_pooler_in_statement_mode_is_refused() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database, "pool_mode = statement").await;
    let refused = refusal(pooler.url(), pooled(&database)).await;
    assert!(refused.contains("pool_mode = statement"), "{refused}");
}

/// Nothing has to be listed in `ignore_startup_parameters`.
#[tokio::test]
async fn a_pooler_in_session_mode_will_do() {
    let database = TestDatabase::new().await;
    let pooler = Pooler::start(&database, "pool_mode = session\ndefault_pool_size = 40").await;
    let client = start(pooler.url(), |_| {}).await.expect("gateway started");
    exercise(&client).await;
    let url = format!("{}?options=-c%20jit%3Doff", pooler.url());
    let refused = refusal(&url, |settings| settings.database.connect_timeout_seconds = 0).await;
    assert!(refused.contains("ignore_startup_parameters"), "{refused}");
}

/// Where nothing can be set for a session, defaults that do harm are named.
#[tokio::test]
async fn harmful_defaults_behind_a_pooler_are_named() {
    for (name, value) in [
        ("default_transaction_isolation", "serializable"),
        ("standard_conforming_strings", "off"),
        ("search_path", "public, pg_catalog"),
    ] {
        let database = TestDatabase::new().await;
        let set = format!("ALTER DATABASE {} SET {name} = {value}", database.name);
        database.execute(&set).await;
        let refused = refusal(&database.url(), pooled(&database)).await;
        assert!(refused.contains(name) && refused.contains("ALTER ROLE"), "{refused}");
        // Without a pooler it is of no concern.
        start(&database.url(), |_| {}).await.expect("gateway started");
    }
    let database = TestDatabase::new().await;
    let client = start(&database.url(), pooled(&database)).await.expect("gateway started");
    exercise(&client).await;
}
