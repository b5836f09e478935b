//! Writing down which queues there are, beside what a policy, a trigger or another role has to say.

use serde_json::json;

use crate::support::{TestDatabase, TestGateway, eventually, guarded::Guarded};

/// Of how many of the queues with these names it is known that they are there.
async fn known(database: &TestDatabase, queues: &str) -> i64 {
    let count = format!(
        "SELECT count(*) FROM pgmq_gateway.queue_settings WHERE queue_name = ANY ('{{{queues}}}')"
    );
    database.value(&count).await
}

/// What is in its way to notifications is in the way of nothing else.
#[tokio::test]
async fn a_policy_on_throttles_keeps_no_queue_from_being_known() {
    let notify = "SELECT pgmq.enable_notify_insert('q')";
    let gateway = Guarded::with(notify, |settings| settings.maintenance.interval_ms = 50).await;
    let role = format!("guarded_{}", gateway.database.name);
    for (queue, how, undo) in [
        (
            "hidden",
            "ALTER TABLE pgmq.notify_insert_throttle ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE pgmq.notify_insert_throttle DISABLE ROW LEVEL SECURITY",
        ),
        (
            "unseen",
            &*format!("REVOKE SELECT ON pgmq.notify_insert_throttle FROM {role}"),
            &*format!("GRANT SELECT ON pgmq.notify_insert_throttle TO {role}"),
        ),
    ] {
        gateway.database.execute(how).await;
        gateway.database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
        eventually(how, async || (known(&gateway.database, queue).await == 1).then_some(())).await;
        // Notifications are as wished.
        let same = json!({"notify": {"throttle_ms": 250}});
        gateway.configure("q", same).await.expect(200);
        gateway.get("/queues").await.expect(200);
        gateway.database.execute(undo).await;
    }
}

#[tokio::test]
async fn a_queue_whose_row_is_refused_keeps_no_other_from_being_known() {
    let gateway = TestGateway::start().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                  'BEGIN IF NEW.queue_name = ''b'' THEN RAISE EXCEPTION ''no''; END IF; RETURN NEW; END'; \
                  CREATE TRIGGER refuse BEFORE INSERT ON pgmq_gateway.queue_settings \
                  FOR EACH ROW EXECUTE FUNCTION refuse()";
    gateway.database.execute(refuse).await;
    gateway.database.execute("SELECT pgmq.create(q) FROM unnest('{a,b,c}'::text[]) q").await;
    let register = "SELECT kept_code FROM pgmq_gateway.register_queues()";
    assert_eq!(gateway.database.value::<String>(register).await, "P0001");
    assert_eq!(known(&gateway.database, "a,c").await, 2);
    assert_eq!(known(&gateway.database, "b").await, 0);
}

/// One that may not ask which server this is takes what another one has written down for what it is.
#[tokio::test]
async fn roles_that_know_this_database_by_more_or_less_write_nothing_anew() {
    let gateway = Guarded::start(
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC; \
         SELECT pgmq_gateway.register_queues()",
    )
    .await;
    let database = &gateway.database;
    let written = "SELECT string_agg(concat_ws(' ', queue_name, database_stamp, xmin), ',' ORDER BY queue_name) \
                   FROM pgmq_gateway.queue_settings";
    let before: String = database.value(written).await;
    assert!(!before.contains('?') && before.contains("other"), "{before}");
    let role = format!("guarded_{}", database.name);
    for role in [&*role, "postgres"] {
        let register = format!("SET ROLE {role}; SELECT pgmq_gateway.register_queues()");
        database.execute(&register).await;
        assert_eq!(database.value::<String>(written).await, before, "{role}");
    }
    // Nor do they for one that is new since.
    database.execute("SELECT pgmq.create('new')").await;
    database.execute(&format!("SET ROLE {role}; SELECT pgmq_gateway.register_queues()")).await;
    let before: String = database.value(written).await;
    assert!(before.contains("new ?/"), "{before}");
    let restored = "SELECT restored FROM pgmq_gateway.register_queues()";
    assert!(database.value::<Vec<String>>(restored).await.is_empty());
    assert_eq!(database.value::<String>(written).await, before);
}
