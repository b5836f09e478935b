//! Tables of other roles, and functions of PGMQ's that do less than they were asked.

use pgmq_gateway::{
    app::{Database, Gateway},
    config::{Secret, Settings},
};
use serde_json::{Value, json};

use crate::support::{Client, TestDatabase, gateway::try_start};

/// A database whose owner gave a role what `migrate --grant-to` gives, and a gateway with that role.
struct Tenant {
    database: TestDatabase,
    role: String,
    client: Client,
    _gateway: Gateway,
}

async fn tenant() -> Tenant {
    tenant_of(TestDatabase::new().await).await
}

async fn tenant_of(database: TestDatabase) -> Tenant {
    let role = format!("tenant_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, Some(&role)).await.expect("granted");
    let gateway = try_start(&database.url_as(&role), |_| {}).await.expect("started");
    let client = Client::new(&gateway.url());
    Tenant { database, role, client, _gateway: gateway }
}

impl Tenant {
    /// A role of somebody else's that makes tables here.
    async fn stranger(&self) -> String {
        let role = format!("stranger_{}", self.database.name);
        let sql = format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA pgmq TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role}"
        );
        self.database.execute(&sql).await;
        role
    }

    /// A queue with a message, an archived one, settings and a binding.
    async fn furnish(&self, queue: &str) {
        let client = &self.client;
        client.send(queue, r#"{"message":"there"}"#).await;
        let id = client.send(queue, r#"{"message":"archived"}"#).await;
        client.post(&format!("/queues/{queue}/messages/{id}/archive"), "").await.expect(204);
        client.configure(queue, json!({"max_receives": 7})).await.expect(200);
        let bind = json!({"pattern": format!("{queue}.#")}).to_string();
        client.post(&format!("/queues/{queue}/bindings"), &bind).await.expect(201);
    }

    /// Everything that is there of the queues.
    async fn everything(&self) -> String {
        let sql = "SELECT concat_ws(E'\\n',
            (SELECT string_agg(m::text, ' ' ORDER BY m.queue_name) FROM pgmq.meta m),
            (SELECT string_agg(c.relname || ':' || c.relkind::text || ':' || c.oid || ':' || c.relowner, ' '
                               ORDER BY c.relname)
             FROM pg_class c WHERE c.relnamespace = 'pgmq'::regnamespace),
            (SELECT string_agg(s::text, ' ' ORDER BY s.queue_name) FROM pgmq_gateway.queue_settings s),
            (SELECT string_agg(b::text, ' ' ORDER BY b.queue_name) FROM pgmq.topic_bindings b),
            (SELECT string_agg(t.tgname || t.tgrelid::regclass, ' ' ORDER BY t.tgname, t.tgrelid)
             FROM pg_trigger t WHERE NOT t.tgisinternal))";
        self.database.value(sql).await
    }

    async fn keeps(&self, queue: &str, what: &str) {
        self.keeps_kind(queue, "", what).await;
    }

    async fn keeps_kind(&self, queue: &str, body: &str, what: &str) {
        let before = self.everything().await;
        let refused = self.client.delete(&format!("/queues/{queue}")).await;
        assert_eq!(refused.status, 403, "{what}: {}", refused.text);
        let detail = refused.problem(403, "forbidden").detail();
        assert!(detail.contains("administrator"), "{what}: {detail}");
        assert_eq!(self.everything().await, before, "{what}");
        self.client.put(&format!("/queues/{queue}"), body).await.expect(200);
        let there = format!("SELECT string_agg(message::text, '') FROM pgmq.\"q_{queue}\"");
        assert_eq!(self.database.value::<String>(&there).await, "\"there\"", "{what}");
    }
}

#[tokio::test]
async fn a_queue_of_another_owner_is_not_dropped_and_nothing_changes() {
    let tenant = tenant().await;
    let stranger = tenant.stranger().await;
    for (queue, sql) in [
        ("of_admin", "SELECT pgmq.create('of_admin')".to_owned()),
        (
            "by_stranger",
            format!(
                "SET ROLE {stranger}; SELECT pgmq.create('by_stranger'); RESET ROLE;
            GRANT ALL ON pgmq.q_by_stranger, pgmq.a_by_stranger TO {}",
                tenant.role
            ),
        ),
        (
            "table",
            format!(
                "SELECT pgmq.create('table'); ALTER TABLE pgmq.a_table OWNER TO {}",
                tenant.role
            ),
        ),
        (
            "archive",
            format!(
                "SELECT pgmq.create('archive'); ALTER TABLE pgmq.q_archive OWNER TO {}",
                tenant.role
            ),
        ),
    ] {
        tenant.database.execute(&sql).await;
        tenant.furnish(queue).await;
        tenant.keeps(queue, queue).await;
    }
}

/// Then PGMQ's function finds no table, says false, and drops the name.
#[tokio::test]
async fn a_queue_whose_tables_are_hidden_is_not_dropped() {
    let tenant = tenant().await;
    for (queue, hide) in
        [("both", "q_both, pgmq.a_both"), ("table", "q_table"), ("archive", "a_archive")]
    {
        tenant.database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
        tenant.furnish(queue).await;
        tenant.database.execute(&format!("REVOKE ALL ON pgmq.{hide} FROM {}", tenant.role)).await;
        tenant.keeps(queue, queue).await;
        let notify = tenant.client.configure(queue, json!({"notify": {"throttle_ms": 5}})).await;
        notify.problem(403, "forbidden");
        tenant.keeps(queue, queue).await;
    }
}

#[tokio::test]
async fn a_queue_of_its_own_is_dropped_and_what_is_left_of_one_is_forgotten() {
    let tenant = tenant().await;
    for body in ["", r#"{"kind":"unlogged","fifo":true}"#] {
        tenant.client.put("/queues/mine", body).await.expect(201);
        tenant.furnish("mine").await;
        tenant.client.delete("/queues/mine").await.expect(204);
        tenant.client.get("/queues/mine").await.problem(404, "queue_not_found");
    }
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_mine%'";
    assert_eq!(tenant.database.value::<i64>(left).await, 0);
    let left = "SELECT count(*) FROM pgmq_gateway.queue_settings";
    assert_eq!(tenant.database.value::<i64>(left).await, 0);
    // Of one whose table is gone, the archive is another's.
    tenant.database.execute("SELECT pgmq.create('half'); DROP TABLE pgmq.q_half").await;
    let before = tenant.everything().await;
    tenant.client.delete("/queues/half").await.problem(403, "forbidden");
    assert_eq!(tenant.everything().await, before);
}

/// What keeps a row of PGMQ's own tables without a word, or refuses it.
#[tokio::test]
async fn what_keeps_the_rows_of_pgmq_keeps_the_queue() {
    let keep =
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';";
    let refuse = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS \
                  'BEGIN RAISE EXCEPTION ''secret''; END';";
    for function in [keep, refuse] {
        let tenant = tenant().await;
        tenant.client.create("q").await;
        tenant.furnish("q").await;
        tenant.database.execute(function).await;
        let trigger =
            "CREATE TRIGGER keep BEFORE DELETE ON pgmq.meta FOR EACH ROW EXECUTE FUNCTION keep()";
        tenant.database.execute(trigger).await;
        tenant.keeps("q", function).await;
        tenant.database.execute("DROP TRIGGER keep ON pgmq.meta").await;

        let trigger = "CREATE TRIGGER keep BEFORE INSERT OR UPDATE OR DELETE ON pgmq.topic_bindings \
                       FOR EACH ROW EXECUTE FUNCTION keep()";
        tenant.database.execute(trigger).await;
        let before = tenant.everything().await;
        let bind = r#"{"pattern":"new.#"}"#;
        let refused =
            tenant.client.post("/queues/q/bindings", bind).await.problem(403, "forbidden");
        assert!(!refused.text.contains("secret"), "{}", refused.text);
        let unbind = tenant.client.delete("/queues/q/bindings?pattern=q.%23").await;
        unbind.problem(403, "forbidden");
        assert_eq!(tenant.everything().await, before);
        tenant.database.execute("DROP TRIGGER keep ON pgmq.topic_bindings").await;

        for (table, body) in [
            ("pgmq.meta", json!({})),
            ("pgmq.notify_insert_throttle", json!({"settings": {"notify": {"throttle_ms": 9}}})),
        ] {
            let trigger = format!(
                "CREATE TRIGGER keep BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
            );
            tenant.database.execute(&trigger).await;
            let before = tenant.everything().await;
            for kind in ["standard", "unlogged"] {
                let mut body = body.clone();
                body["kind"] = json!(kind);
                let refused = tenant.client.put("/queues/new", &body.to_string()).await;
                let refused = refused.problem(403, "forbidden");
                assert!(!refused.text.contains("secret"), "{}", refused.text);
                assert_eq!(tenant.everything().await, before, "{table}");
            }
            tenant.database.execute(&format!("DROP TRIGGER keep ON {table}")).await;
        }
        tenant.client.create("new").await;
    }
}

#[tokio::test]
async fn a_right_that_is_missing_half_way_leaves_nothing_behind() {
    let tenant = tenant().await;
    let role = &tenant.role;
    let notify = json!({"settings": {"notify": {"throttle_ms": 9}}});
    for (revoke, grant, body) in [
        ("INSERT ON pgmq.meta", "INSERT ON pgmq.meta", json!({})),
        ("CREATE ON SCHEMA pgmq", "CREATE ON SCHEMA pgmq", json!({})),
        (
            "INSERT ON pgmq_gateway.queue_settings",
            "INSERT ON pgmq_gateway.queue_settings",
            json!({}),
        ),
        (
            "UPDATE ON pgmq_gateway.queue_settings",
            "UPDATE ON pgmq_gateway.queue_settings",
            json!({"settings": {"delay": 5}}),
        ),
        (
            "INSERT ON pgmq.notify_insert_throttle",
            "INSERT ON pgmq.notify_insert_throttle",
            notify.clone(),
        ),
        ("DELETE ON pgmq.notify_insert_throttle", "DELETE ON pgmq.notify_insert_throttle", notify),
    ] {
        let before = tenant.everything().await;
        tenant.database.execute(&format!("REVOKE {revoke} FROM {role}")).await;
        let refused = tenant.client.put("/queues/q", &body.to_string()).await;
        assert_eq!(refused.status, 403, "{revoke}: {}", refused.text);
        assert_eq!(tenant.everything().await, before, "{revoke}");
        tenant.database.execute(&format!("GRANT {grant} TO {role}")).await;
        tenant.client.put("/queues/q", &body.to_string()).await.expect(201);
        tenant.client.delete("/queues/q").await.expect(204);
    }
    for (table, right) in [("pgmq.meta", "DELETE"), ("pgmq_gateway.queue_settings", "DELETE")] {
        tenant.client.create("q").await;
        tenant.furnish("q").await;
        tenant.database.execute(&format!("REVOKE {right} ON {table} FROM {role}")).await;
        tenant.keeps("q", table).await;
        tenant.database.execute(&format!("GRANT {right} ON {table} TO {role}")).await;
        tenant.client.delete("/queues/q").await.expect(204);
    }
    tenant.client.create("q").await;
    tenant.database.execute(&format!("REVOKE UPDATE ON pgmq.meta FROM {role}")).await;
    tenant.client.delete("/queues/q").await.expect(204);
    tenant.client.create("q").await;
    tenant
        .database
        .execute(&format!("REVOKE INSERT, DELETE ON pgmq.topic_bindings FROM {role}"))
        .await;
    let bind = r#"{"pattern":"a.#"}"#;
    tenant.client.post("/queues/q/bindings", bind).await.problem(403, "forbidden");
    tenant.database.execute("SELECT pgmq.bind_topic('a.#', 'q')").await;
    tenant.client.delete("/queues/q/bindings?pattern=a.%23").await.problem(403, "forbidden");
    tenant.client.get("/queues/q/bindings").await.expect(200);
}

/// Partitions are pg_partman's, which has tables and rights of its own.
#[tokio::test]
async fn partitioned_queues_are_made_and_dropped_as_a_whole_or_not_at_all() {
    let database = TestDatabase::new().await;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    let tenant = tenant_of(database).await;
    let role = &tenant.role;
    let body = r#"{"kind":"partitioned"}"#;
    tenant.client.put("/queues/parts", body).await.expect(201);
    tenant.furnish("parts").await;
    for right in ["DELETE", "SELECT"] {
        tenant
            .database
            .execute(&format!("REVOKE {right} ON partman.part_config FROM {role}"))
            .await;
        tenant.keeps_kind("parts", body, right).await;
        tenant.database.execute(&format!("GRANT {right} ON partman.part_config TO {role}")).await;
    }
    for right in ["INSERT", "UPDATE"] {
        let before = tenant.everything().await;
        tenant
            .database
            .execute(&format!("REVOKE {right} ON partman.part_config FROM {role}"))
            .await;
        tenant.client.put("/queues/other", body).await.problem(403, "forbidden");
        assert_eq!(tenant.everything().await, before, "{right}");
        tenant.database.execute(&format!("GRANT {right} ON partman.part_config TO {role}")).await;
    }
    tenant.client.delete("/queues/parts").await.expect(204);
    let left = "SELECT count(*) FROM partman.part_config";
    assert_eq!(tenant.database.value::<i64>(left).await, 0);
    tenant.client.put("/queues/parts", body).await.expect(201);
    tenant.database.execute("SELECT pgmq.create_partitioned('admins')").await;
    tenant.furnish("admins").await;
    tenant.keeps_kind("admins", body, "of another owner").await;

    // What pg_partman keeps to itself is no partitioned queue.
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                CREATE TRIGGER keep BEFORE INSERT ON partman.part_config FOR EACH ROW EXECUTE FUNCTION keep()";
    tenant.database.execute(keep).await;
    let before = tenant.everything().await;
    let refused = tenant.client.put("/queues/other", body).await;
    assert!((400..500).contains(&refused.status), "{}", refused.text);
    assert_eq!(tenant.everything().await, before);
}

/// A view or a foreign key on a queue's table, and whoever watches over all DDL.
#[tokio::test]
async fn what_depends_on_a_queue_keeps_it() {
    let tenant = tenant().await;
    for (sql, undo) in [
        ("CREATE VIEW public.report AS SELECT count(*) FROM pgmq.q_q", "DROP VIEW public.report"),
        ("CREATE TABLE public.refers (id bigint REFERENCES pgmq.a_q)", "DROP TABLE public.refers"),
        (
            "CREATE MATERIALIZED VIEW public.report AS SELECT msg_id FROM pgmq.a_q",
            "DROP MATERIALIZED VIEW public.report",
        ),
    ] {
        tenant.client.create("q").await;
        tenant.furnish("q").await;
        tenant.database.execute(sql).await;
        let before = tenant.everything().await;
        let refused = tenant.client.delete("/queues/q").await.problem(409, "queue_conflict");
        assert!(refused.detail().contains("depend"), "{}", refused.detail());
        assert_eq!(tenant.everything().await, before);
        tenant.database.execute(undo).await;
        tenant.client.delete("/queues/q").await.expect(204);
    }
    tenant.client.create("q").await;
    tenant.furnish("q").await;
    let watch = "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS \
                 'BEGIN RAISE EXCEPTION ''no changes on fridays''; END'; \
                 CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION watch()";
    tenant.database.execute(watch).await;
    let before = tenant.everything().await;
    for refused in [
        tenant.client.delete("/queues/q").await,
        tenant.client.put("/queues/new", "").await,
        tenant.client.configure("q", json!({"notify": {"throttle_ms": 5}})).await,
    ] {
        let refused = refused.problem(403, "forbidden");
        assert!(!refused.text.contains("fridays"), "{}", refused.text);
        assert!(
            refused.detail().contains("a trigger refuses it"),
            "no right would help: {}",
            refused.text
        );
    }
    assert_eq!(tenant.everything().await, before);
    tenant.database.execute("DROP EVENT TRIGGER watch").await;
}

/// TRUNCATE, which PGMQ's purge is, needs a right that deleting does not.
#[tokio::test]
async fn a_purge_does_what_the_role_may() {
    let tenant = tenant().await;
    tenant.database.execute("SELECT pgmq.create('q')").await;
    for (right, status) in [("TRUNCATE", 200), ("DELETE", 403)] {
        tenant.client.send("q", r#"{"message":1}"#).await;
        tenant.database.execute(&format!("REVOKE {right} ON pgmq.q_q FROM {}", tenant.role)).await;
        let purged = tenant.client.post("/queues/q/purge", "").await.expect(status).json();
        let expected: Value = if status == 200 { json!(1) } else { Value::Null };
        assert_eq!(purged["purged"], expected, "{purged}");
    }
    assert_eq!(tenant.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 1);
}
