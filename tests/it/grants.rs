//! `migrate --grant-to` as somebody who may not grant all of it.

use crate::support::{TestDatabase, process::program};

/// Whether granting to `app` went well, and what was said.
fn grant(database: &TestDatabase, by: &str, app: &str) -> (bool, String) {
    let url = database.url_as(by);
    let output = program(&["migrate", "--grant-to", app], &[("DATABASE_URL", &url)]).output();
    let output = output.expect("it ran");
    let said = String::from_utf8(output.stderr).expect("text");
    (output.status.success(), said.lines().last().unwrap_or_default().to_owned())
}

/// Whether the role may do this with a table.
async fn may(database: &TestDatabase, role: &str, table: &str, privilege: &str) -> bool {
    let sql = format!("SELECT has_table_privilege('{role}', '{table}', '{privilege}')");
    database.value(&sql).await
}

/// Roles for a test, which belong to the whole server.
async fn roles<const N: usize>(database: &TestDatabase, names: [&str; N]) -> [String; N] {
    let roles = names.map(|name| format!("{name}_{}", database.name));
    for role in &roles {
        database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    }
    roles
}

/// PostgreSQL only warns then.
#[tokio::test]
async fn rights_that_are_held_without_the_right_to_pass_them_on_are_missing() {
    let database = TestDatabase::new().await;
    let [deploy, app] = roles(&database, ["deploy", "app"]).await;
    let allow = format!(
        "SELECT pgmq.create('q'); DROP SCHEMA pgmq_gateway CASCADE; \
         GRANT CREATE ON DATABASE {} TO {deploy}; GRANT ALL ON SCHEMA pgmq TO {deploy}; \
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {deploy}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA pgmq TO {deploy}",
        database.name
    );
    database.execute(&allow).await;
    let (fine, said) = grant(&database, &deploy, &app);
    assert!(!fine && said.contains("USAGE on schema pgmq of postgres"), "{said}");
    assert!(said.contains("on table pgmq.q_q of postgres") && said.contains(&deploy), "{said}");
    assert!(!said.contains("pgmq_gateway."), "{said}");
    // What it owns is granted.
    assert!(may(&database, &app, "pgmq_gateway.queue_settings", "INSERT").await);
    assert!(!may(&database, &app, "pgmq_gateway.master_key", "SELECT").await);
    assert!(!may(&database, &app, "pgmq.q_q", "SELECT").await);

    let by_owner = format!(
        "GRANT ALL ON SCHEMA pgmq TO {app}; GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {app}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA pgmq TO {app}"
    );
    database.execute(&by_owner).await;
    let (fine, said) = grant(&database, &deploy, &app);
    assert!(fine, "{said}");
}

#[tokio::test]
async fn a_queue_of_another_owner_keeps_no_others_from_being_granted() {
    let database = TestDatabase::empty().await;
    let [deploy, other, app] = roles(&database, ["deploy", "other", "app"]).await;
    let allow = format!("GRANT CREATE ON DATABASE {} TO {deploy}", database.name);
    database.execute(&allow).await;
    let (fine, said) = grant(&database, &deploy, &app);
    assert!(fine, "{said}");
    let queues = format!(
        "SET ROLE {deploy}; SELECT pgmq.create('a'), pgmq.create('b'), pgmq.create('c'); RESET ROLE; \
         REVOKE ALL ON ALL TABLES IN SCHEMA pgmq FROM {app}; ALTER TABLE pgmq.q_b OWNER TO {other}; \
         REVOKE ALL ON pgmq.q_b FROM {deploy}; CREATE TABLE pgmq.notes (); ALTER TABLE pgmq.notes OWNER TO {other}"
    );
    database.execute(&queues).await;
    let (fine, said) = grant(&database, &deploy, &app);
    assert!(!fine && said.contains(&format!("on table pgmq.q_b of {other}")), "{said}");
    for untold in ["q_a", "a_b", "q_c", "notes", "schema pgmq"] {
        assert!(!said.contains(&format!("{untold} of")), "{untold}: {said}");
    }
    for table in ["meta", "q_a", "a_b", "q_c"] {
        assert!(may(&database, &app, &format!("pgmq.{table}"), "TRUNCATE").await, "{table}");
    }
    assert!(!may(&database, &app, "pgmq.q_b", "SELECT").await);
}
