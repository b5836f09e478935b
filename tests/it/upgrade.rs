//! Databases with the schema of earlier gateways.

use pgmq_gateway::config::AuthMode;
use serde_json::json;
use sqlx::Executor;
use tokio::time::Instant;

use crate::support::{
    Holder, PATIENCE, TestDatabase, TestGateway, gateway::try_start, holder::blocked_statements,
};

/// Schema, settings, messages, keys and all, as the last gateway with the first set of migrations (1 to
/// 14) left it.
const SCHEMA_14: &str = include_str!("../fixtures/schema_14.sql");

async fn database_of_schema_14() -> TestDatabase {
    let database = TestDatabase::new().await;
    let mut connection = database.connect().await;
    connection.execute("DROP SCHEMA pgmq_gateway CASCADE").await.expect("dropped");
    sqlx::raw_sql(SCHEMA_14).execute(&mut connection).await.expect("loaded");
    // Messages are kept there for a day.
    connection.execute("UPDATE pgmq.q_orders SET enqueued_at = now()").await.expect("stored today");
    database
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_upgraded_with_everything_in_it() {
    let database = database_of_schema_14().await;
    // There is a key in it, which would be asked for.
    let gateway = TestGateway::on(&database, |settings| settings.auth.mode = AuthMode::None).await;
    let orders = gateway.get("/queues/orders").await.expect(200).json();
    assert_eq!(orders["fifo"], true, "{orders}");
    for (setting, value) in [
        ("max_receives", json!(5)),
        ("dead_letter_queue", json!("dead")),
        ("message_retention", json!(86_400)),
        ("visibility_timeout", json!(45)),
        ("notify", json!({"throttle_ms": 250})),
    ] {
        assert_eq!(orders["settings"][setting], value, "{setting}: {orders}");
    }
    let answer = gateway.get("/queues/orders/messages?fifo=grouped").await.expect(200);
    assert!(answer.text.contains("12345678901234567890.123456789"), "{}", answer.text);
    assert_eq!(gateway.all("plain").await.len(), 2);
    let bindings = gateway.get("/queues/plain/bindings").await.expect(200).json();
    assert_eq!(bindings["bindings"][0]["pattern"], "orders.#", "{bindings}");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pgmq_gateway.api_keys").await, 1);
    assert_eq!(gateway.send("plain", r#"{"message":1}"#).await, 4);
}

#[tokio::test]
async fn functions_of_the_first_schema_that_nothing_calls_are_gone() {
    let database = database_of_schema_14().await;
    try_start(&database.url(), |_| {}).await.expect("upgraded");
    let signatures = "SELECT string_agg(p.oid::regprocedure::text, ' ' \
                      ORDER BY p.oid::regprocedure::text COLLATE \"C\") \
                      FROM pg_proc p WHERE p.pronamespace = 'pgmq_gateway'::regnamespace";
    let fresh = TestDatabase::new().await;
    assert_eq!(database.value::<String>(signatures).await, fresh.value::<String>(signatures).await);
}

/// A gateway with other functions of the same generation replaces them; one of an earlier generation
/// leaves those of a later one alone.
#[tokio::test]
async fn functions_are_replaced_when_they_differ_and_never_by_an_earlier_generation() {
    let database = TestDatabase::new().await;
    let spoil = "DROP FUNCTION pgmq_gateway.lock_queue(text); \
                 UPDATE pgmq_gateway.functions_in_force SET hash = 'another'";
    database.execute(spoil).await;
    try_start(&database.url(), |_| {}).await.expect("started");
    let there = "SELECT to_regprocedure('pgmq_gateway.lock_queue(text)') IS NOT NULL";
    assert!(database.value::<bool>(there).await, "made anew");

    database.execute(spoil).await;
    database.execute("UPDATE pgmq_gateway.functions_in_force SET revision = revision + 1").await;
    try_start(&database.url(), |_| {}).await.expect("started");
    assert!(!database.value::<bool>(there).await, "a later gateway's are left alone");
}

/// As it was before the last step of the tables, which changes one that every statement reads.
const STEP_BACK: &str = "\
    ALTER TABLE pgmq_gateway.queue_settings DROP COLUMN former_created_at; \
    DROP INDEX pgmq_gateway.queue_settings_created_at; \
    DELETE FROM pgmq_gateway._sqlx_migrations WHERE version = 17";
/// A report, or a dump.
const READS: &str =
    "SET LOCAL application_name = 'a report'; SELECT count(*) FROM pgmq_gateway.queue_settings";

#[tokio::test]
async fn an_upgrade_that_has_to_wait_is_in_nobodys_way() {
    let serving = TestGateway::start().await;
    serving.create("q").await;
    serving.send("q", r#"{"message":1}"#).await;
    serving.database.execute(STEP_BACK).await;
    let holder = Holder::of(&serving.database, READS).await;
    let serve = async {
        let began = Instant::now();
        let (mut tries, mut is_trying) = (0, false);
        while tries < 3 {
            assert!(began.elapsed() < PATIENCE, "{tries} tries");
            let blocked = blocked_statements(&serving.database, "%ALTER TABLE").await > 0;
            tries += u32::from(blocked && !is_trying);
            is_trying = blocked;
            serving.send("q", r#"{"message":1}"#).await;
            assert_eq!(serving.receive("q", "vt=0").await.len(), 1);
        }
        holder.rollback().await;
    };
    let (started, ()) = tokio::join!(try_start(&serving.database.url(), |_| {}), serve);
    started.expect("started");
    let version = "SELECT max(version) FROM pgmq_gateway._sqlx_migrations";
    assert_eq!(serving.database.value::<i64>(version).await, 17);
}

#[tokio::test]
async fn an_upgrade_that_waits_in_vain_names_who_is_in_the_way() {
    let database = TestDatabase::new().await;
    database.execute(STEP_BACK).await;
    let holder = Holder::of(&database, READS).await;
    let starting = try_start(&database.url(), |settings| {
        settings.database.connect_timeout_seconds = 1;
    });
    let refused = starting.await.expect_err("not started").to_string();
    assert!(refused.contains("(a report) keeps it locked"), "{refused}");
    holder.rollback().await;
    try_start(&database.url(), |_| {}).await.expect("started");
}

/// While one of them waits, the others wait for their turn.
#[tokio::test]
async fn gateways_that_upgrade_together_all_start() {
    let database = TestDatabase::new().await;
    database.execute(STEP_BACK).await;
    let holder = Holder::of(&database, READS).await;
    let url = database.url();
    let release = async {
        let began = Instant::now();
        while blocked_statements(&database, "%ALTER TABLE").await == 0 {
            assert!(began.elapsed() < PATIENCE, "it is tried");
        }
        holder.rollback().await;
    };
    let start = || try_start(&url, |_| {});
    let (one, another, third, ()) = tokio::join!(start(), start(), start(), release);
    for gateway in [one, another, third] {
        gateway.expect("started");
    }
}
