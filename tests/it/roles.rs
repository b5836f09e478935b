//! What a gateway finds in a database, and what it may do there.

use pgmq_gateway::{
    app::Database,
    config::{Secret, Settings},
};

use crate::support::{Client, TestDatabase, TestGateway, eventually, gateway::try_start};

/// Makes a role that may log in and nothing else; roles belong to the whole server.
async fn role(database: &TestDatabase, name: &str) -> String {
    let role = format!("{name}_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    database.execute(&format!("REVOKE CREATE ON SCHEMA public FROM {role}")).await;
    role
}

async fn migrate(database: &TestDatabase, grant_to: Option<&str>) -> String {
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, grant_to).await.expect("migrated").to_string()
}

#[tokio::test]
async fn a_role_with_just_its_grants_will_do() {
    let database = TestDatabase::empty().await;
    let role = role(&database, "app").await;
    migrate(&database, Some(&role)).await;
    database.execute("SELECT pgmq.create('by_admin')").await;

    let gateway = try_start(&database.url_as(&role), |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.get("/readyz").await.expect(200);
    for queue in ["by_admin", "by_gateway"] {
        client.put(&format!("/queues/{queue}"), "").await;
        let id = client.send(queue, r#"{"message":1}"#).await;
        assert_eq!(client.receive(queue, "vt=0").await[0]["msg_id"], id);
        client.patch(&format!("/queues/{queue}/messages/{id}"), r#"{"vt":0}"#).await.expect(200);
        client.post(&format!("/queues/{queue}/messages/{id}/archive"), "").await.expect(204);
        client.send(queue, r#"{"message":2}"#).await;
        client.get(&format!("/queues/{queue}/metrics")).await.expect(200);
        client.post(&format!("/queues/{queue}/purge"), "").await.expect(200);
    }
    client.delete("/queues/by_gateway").await.expect(204);
    let refused = client.delete("/queues/by_admin").await.problem(403, "forbidden");
    assert!(refused.detail().contains("owner"), "{}", refused.detail());
}

#[tokio::test]
async fn missing_rights_are_named_with_what_would_help() {
    let database = TestDatabase::empty().await;
    let role = role(&database, "poor").await;
    let error = try_start(&database.url_as(&role), |_| {}).await.expect_err("may not install");
    let wanted = format!("GRANT CREATE ON DATABASE {} TO {role}", database.name);
    assert!(error.to_string().contains(&wanted), "{error}");

    migrate(&database, None).await;
    let error = try_start(&database.url_as(&role), |_| {}).await.expect_err("may not use");
    let wanted = format!("pgmq-gateway migrate --grant-to {role}");
    assert!(error.to_string().contains(&wanted), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);

    migrate(&database, Some(&role)).await;
    try_start(&database.url_as(&role), |_| {}).await.expect("gateway started");
}

#[tokio::test]
async fn installing_can_be_forbidden() {
    let database = TestDatabase::empty().await;
    let forbid = |settings: &mut Settings| settings.database.install_pgmq = false;
    let error = try_start(&database.url(), forbid).await.expect_err("nothing there");
    assert!(error.to_string().contains("CREATE EXTENSION pgmq"), "{error}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgmq%'";
    assert_eq!(database.value::<i64>(schemas).await, 0, "nothing was left behind");
    assert_eq!(migrate(&database, None).await, "1.11.1 (installed by SQL)");
    try_start(&database.url(), forbid).await.expect("gateway started");
}

/// PGMQ that somebody loaded with psql has no history, and is left as it is.
#[tokio::test]
async fn pgmq_loaded_by_hand_is_used() {
    let database = TestDatabase::new().await;
    database.execute("DROP TABLE pgmq.__pgmq_migrations; DROP SCHEMA pgmq_gateway CASCADE").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    assert_eq!(gateway.send("q", r#"{"message":1}"#).await, 1);
    assert_eq!(migrate(&database, None).await, "of unknown version (loaded by hand)");
}

#[tokio::test]
async fn pgmq_that_is_too_old_is_named() {
    let database = TestDatabase::new().await;
    database.execute("DROP FUNCTION pgmq.format_table_name").await;
    let error = try_start(&database.url(), |_| {}).await.expect_err("too old").to_string();
    assert!(error.contains("1.4.4 or later"), "{error}");
}

/// A later gateway may have migrated further: this one still works with it.
#[tokio::test]
async fn a_newer_schema_is_accepted() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "INSERT INTO pgmq_gateway._sqlx_migrations \
             SELECT 9999, 'later', now(), true, checksum, 0 \
             FROM pgmq_gateway._sqlx_migrations LIMIT 1",
        )
        .await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.get("/readyz").await.expect(200);
}

#[tokio::test]
async fn readiness_notices_that_the_schema_is_gone() {
    let gateway = TestGateway::start().await;
    gateway.get("/readyz").await.expect(200);
    gateway.database.execute("DROP SCHEMA pgmq_gateway CASCADE").await;
    let not_ready = eventually("it looks again", async || {
        let answer = gateway.get("/readyz").await;
        (answer.status != 200).then_some(answer)
    })
    .await
    .problem(503, "database_unavailable");
    assert!(not_ready.detail().contains("migrate"), "{}", not_ready.detail());
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_named_without_the_password() {
    let url = "postgres://user:hunter2@127.0.0.1:1/nowhere";
    let give_up = |settings: &mut Settings| settings.database.connect_timeout_seconds = 0;
    let error = try_start(url, give_up).await.expect_err("nobody listens").to_string();
    assert!(error.contains("nowhere") && error.contains("127.0.0.1:1"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_function_of_postgresql_that_nobody_may_call_is_named_with_what_would_help() {
    let database = TestDatabase::empty().await;
    let role = role(&database, "hardened").await;
    database
        .execute(&format!(
            "GRANT CREATE ON DATABASE {} TO {role};
             REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            database.name
        ))
        .await;
    let error = try_start(&database.url_as(&role), |_| {}).await.expect_err("may not install");
    let wanted = format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {role}");
    assert!(error.to_string().contains(&wanted), "{error}");
    database.execute(&wanted).await;
    try_start(&database.url_as(&role), |_| {}).await.expect("gateway started");
}
