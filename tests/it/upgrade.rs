//! Databases with the schema of earlier gateways.

use pgmq_gateway::config::AuthMode;
use serde_json::json;
use sqlx::Executor;

use crate::support::{TestDatabase, TestGateway, gateway::try_start};

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
