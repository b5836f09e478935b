//! What database roles with few rights put where the gateway, or an administrator, would run it.

use pgmq_gateway::{
    app::{Database, StartError},
    config::{Secret, Settings},
};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{TestDatabase, gateway::try_start};

/// Becomes a superuser by whoever runs it, and says something.
fn evil(schema: &str, role: &str) -> String {
    format!(
        "CREATE FUNCTION {schema}.evil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
         EXECUTE 'ALTER ROLE {role} SUPERUSER'; RETURN '1.0.0'; END $$; \
         GRANT EXECUTE ON FUNCTION {schema}.evil() TO PUBLIC;"
    )
}

/// A role that may log in; roles belong to the whole server.
async fn role(database: &TestDatabase, name: &str) -> String {
    let role = format!("{name}_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    role
}

async fn run_as(database: &TestDatabase, role: &str, sql: &str) {
    let mut connection = PgConnection::connect(&database.url_as(role)).await.expect("connected");
    connection.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn is_superuser(database: &TestDatabase, role: &str) -> bool {
    database.value(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{role}'")).await
}

async fn migrate(url: &str, grant_to: Option<&str>) -> Result<String, StartError> {
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(url));
    let opened = Database::open(&settings).await.expect("configured");
    Ok(opened.migrate(&settings, grant_to).await?.to_string())
}

#[tokio::test]
async fn a_history_that_others_have_put_there_is_not_looked_at() {
    for planted in [
        "CREATE VIEW pgmq.__pgmq_migrations AS SELECT 'x'::text AS name, pgmq.evil() AS version",
        "CREATE MATERIALIZED VIEW pgmq.__pgmq_migrations AS SELECT '1.0.0'::text AS version",
        // The policy is asked when the table is looked at.
        "CREATE TABLE pgmq.__pgmq_migrations (name text, version text); \
         INSERT INTO pgmq.__pgmq_migrations VALUES ('x', '1.0.0'); \
         CREATE POLICY p ON pgmq.__pgmq_migrations USING (pgmq.evil() IS NOT NULL); \
         ALTER TABLE pgmq.__pgmq_migrations ENABLE ROW LEVEL SECURITY",
    ] {
        let database = TestDatabase::new().await;
        let (role, administrator) = (role(&database, "app").await, role(&database, "admin").await);
        migrate(&database.url(), Some(&role)).await.expect("migrated");
        migrate(&database.url(), Some(&administrator)).await.expect("migrated");
        database.execute("DROP TABLE pgmq.__pgmq_migrations").await;
        run_as(&database, &role, &(evil("pgmq", &role) + planted)).await;
        let grant = "GRANT SELECT ON pgmq.__pgmq_migrations TO PUBLIC";
        run_as(&database, &role, grant).await;
        let found = migrate(&database.url(), Some(&role)).await.expect("migrated");
        assert_eq!(found, "of unknown version (loaded by hand)", "{planted}");
        try_start(&database.url(), |_| {}).await.expect("started");
        try_start(&database.url_as(&administrator), |_| {}).await.expect("started");
        assert!(!is_superuser(&database, &role).await, "{planted}");
    }
}

/// Who may make schemas makes PGMQ's, or the gateway's, before these do.
#[tokio::test]
async fn a_schema_that_others_have_prepared_is_not_installed_into() {
    for (schema, planted) in [
        (
            "pgmq",
            "CREATE VIEW pgmq.__pgmq_migrations AS SELECT 'x'::text AS name, pgmq.evil() AS version",
        ),
        ("pgmq", "CREATE VIEW pgmq.meta AS SELECT pgmq.evil() AS queue_name"),
        ("pgmq", "SELECT 1"),
        (
            "pgmq_gateway",
            "CREATE VIEW pgmq_gateway._sqlx_migrations AS SELECT 1 AS version, pgmq_gateway.evil() AS success",
        ),
        (
            "pgmq_gateway",
            "CREATE TABLE pgmq_gateway._sqlx_migrations (version bigint PRIMARY KEY, description text, \
             installed_on timestamptz DEFAULT now(), success boolean, checksum bytea, \
             execution_time bigint, e text DEFAULT pgmq_gateway.evil())",
        ),
    ] {
        let database = TestDatabase::empty().await;
        let role = role(&database, "app").await;
        database.execute(&format!("GRANT CREATE ON DATABASE {} TO {role}", database.name)).await;
        let schema_of_theirs =
            format!("CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC;");
        run_as(&database, &role, &(schema_of_theirs + &evil(schema, &role) + planted)).await;
        let refused = migrate(&database.url(), None).await.expect_err("refused").to_string();
        assert!(refused.contains(schema) && refused.lines().count() == 1, "{refused}");
        try_start(&database.url(), |_| {}).await.expect_err("refused");
        assert!(!is_superuser(&database, &role).await, "{planted}");
    }
    // Who made it may go on with it.
    let database = TestDatabase::empty().await;
    let role = role(&database, "app").await;
    database.execute(&format!("GRANT CREATE ON DATABASE {} TO {role}", database.name)).await;
    run_as(&database, &role, "CREATE SCHEMA pgmq; CREATE SCHEMA pgmq_gateway").await;
    try_start(&database.url_as(&role), |_| {}).await.expect("started");
    // A superuser would run what they add to the tables later.
    let refused = migrate(&database.url(), None).await.expect_err("refused").to_string();
    assert!(refused.contains(&format!("connect as {role}")), "{refused}");
}

/// An upgrade runs PGMQ's functions, by names with which others may have made some of theirs.
#[tokio::test]
async fn pgmq_is_not_upgraded_over_what_others_have_put_beside_it() {
    let database = TestDatabase::new().await;
    let role = role(&database, "app").await;
    migrate(&database.url(), Some(&role)).await.expect("migrated");
    database.execute("UPDATE pgmq.__pgmq_migrations SET version = '1.11.0'").await;
    for (planted, dropped) in [
        (
            "CREATE FUNCTION pgmq.format_table_name(varchar, text) RETURNS text LANGUAGE sql \
             AS 'SELECT ''q_'' || $1'",
            "FUNCTION pgmq.format_table_name(varchar, text)",
        ),
        ("CREATE TABLE pgmq.later (a int)", "TABLE pgmq.later"),
    ] {
        run_as(&database, &role, planted).await;
        let found = migrate(&database.url(), None).await.expect("as it is");
        assert_eq!(found, "1.11.0 (installed by SQL)", "{planted}");
        database.execute(&format!("DROP {dropped}")).await;
    }
    run_as(&database, &role, "SELECT pgmq.create('q')").await;
    let found = migrate(&database.url(), None).await.expect("upgraded");
    assert_eq!(found, "1.11.1 (installed by SQL)");
}
