//! What a session is like, whatever the defaults of the role and the database are, and how it ends.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, Executor};
use tokio::{task::JoinSet, time::sleep};

use crate::support::{Client, TestDatabase, TestGateway, eventually, gateway::try_start};

/// Makes a role with defaults, which all sessions of the gateway's get.
async fn role_with(database: &TestDatabase, defaults: &[(&str, &str)]) -> String {
    let role = format!("role_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN SUPERUSER")).await;
    for (name, value) in defaults {
        database.execute(&format!("ALTER ROLE {role} SET {name} = {value}")).await;
    }
    database.url_as(&role)
}

/// Whether the server has a setting: an older one may not.
async fn knows(database: &TestDatabase, setting: &str) -> bool {
    let known = format!("SELECT count(*) = 1 FROM pg_settings WHERE name = '{setting}'");
    database.value(&known).await
}

/// Everything that a client may ask for, with what it must be answered.
pub async fn exercise(client: &Client) {
    client.create_with("q", &json!({"fifo": true})).await;
    let headers = r#"{"message":{"a":"\\x\\"},"headers":{"x-pgmq-group":"g"}}"#;
    assert_eq!(client.send("q", headers).await, 1);
    assert_eq!(client.send("q", r#"{"message":{"n":0.1},"delay":1}"#).await, 2);
    let received = client.receive_one("q", r#"vt=30&filter={"a":"\\x\\"}"#).await;
    assert_eq!(received["message"], json!({"a": "\\x\\"}));
    client.patch("/queues/q/messages/1", r#"{"vt":0}"#).await.expect(200);
    client.receive_one("q", "vt=0&fifo=grouped").await;
    client.get("/queues/q/messages/1").await.expect(200);
    client.post("/queues/q/messages/1/archive", "").await.expect(204);
    let archived = client.get("/queues/q/archive").await.expect(200).messages();
    assert_eq!(archived.len(), 1);
    client.post("/queues/q/archive/replay", "{}").await.expect(200);
    let moment = client.get("/queues/q/metrics").await.expect(200).json();
    assert_eq!(moment["queue_length"], 2, "{moment}");
    client
        .configure("q", json!({"max_receives": 2, "notify": {"throttle_ms": 0}}))
        .await
        .expect(200);
    let settle = r#"{"delete":[{"msg_id":2}]}"#;
    let settled = client.post("/queues/q/messages/settle", settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([2]));
    let operations = r#"{"operations":[{"send":{"queue":"q","message":3}}]}"#;
    client.post("/transactions", operations).await.expect(200);
    client.post("/queues/q/bindings", r#"{"pattern":"a.#"}"#).await.expect(201);
    client.post("/topics/a.b/messages", r#"{"message":4}"#).await.expect(201);
    assert!(
        !client.post("/queues/q/messages/pop?qty=10", "").await.expect(200).messages().is_empty()
    );
    client.post("/queues/q/purge", "").await.expect(200);
    assert_eq!(client.get("/queues").await.expect(200).json()["queues"][0]["fifo"], true);
    client.get("/readyz").await.expect(200);
    client.delete("/queues/q").await.expect(204);
}

/// Defaults that change what statements mean, how values read, or when a session ends.
#[tokio::test]
async fn defaults_of_a_role_change_nothing() {
    let database = TestDatabase::empty().await;
    // Whoever may create in a schema of the path would decide what these names mean.
    database
        .execute(
            "CREATE SCHEMA evil; \
             CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'; \
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''infinity''::timestamptz'; \
             CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''infinity''::timestamptz'; \
             CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
             CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS 'SELECT (1/0)::text'; \
             CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM 1/0; END'; \
             CREATE DOMAIN evil.bool AS int; \
             CREATE TABLE evil.pg_class (oid int)",
        )
        .await;
    let url = role_with(
        &database,
        &[
            ("search_path", "evil, public, pg_catalog"),
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_deferrable", "on"),
            ("standard_conforming_strings", "off"),
            ("escape_string_warning", "on"),
            ("quote_all_identifiers", "on"),
            ("array_nulls", "off"),
            ("transform_null_equals", "on"),
            ("gin_fuzzy_search_limit", "1"),
            ("exit_on_error", "on"),
            ("DateStyle", "'SQL, DMY'"),
            ("IntervalStyle", "sql_standard"),
            ("TimeZone", "'Asia/Kathmandu'"),
            ("bytea_output", "escape"),
            ("extra_float_digits", "-15"),
            // What a session begins with takes longer.
            ("statement_timeout", "20"),
            ("lock_timeout", "1"),
            ("idle_in_transaction_session_timeout", "200"),
            ("idle_session_timeout", "200"),
            ("client_min_messages", "debug1"),
        ],
    )
    .await;
    if knows(&database, "transaction_timeout").await {
        let set = format!("ALTER ROLE role_{} SET transaction_timeout = 200", database.name);
        database.execute(&set).await;
    }
    let gateway = try_start(&url, |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    exercise(&client).await;
    for _ in 0..3 {
        sleep(Duration::from_millis(300)).await;
        client.get("/readyz").await.expect(200);
    }
}

/// Where nothing can be set for a session, a limit on transactions ends them, and that is told as what
/// it is.
#[tokio::test]
async fn a_limit_on_transactions_is_no_defect() {
    let database = TestDatabase::new().await;
    let limit = if knows(&database, "transaction_timeout").await {
        "transaction_timeout"
    } else {
        "statement_timeout"
    };
    let set = format!("ALTER DATABASE {} SET {limit} = 300", database.name);
    database.execute(&set).await;
    let start = try_start(&database.url(), |settings| settings.database.transaction_pooler = true);
    let gateway = start.await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    let mut connection = database.connect().await;
    connection.execute("SET transaction_timeout = 0").await.ok();
    connection.execute("BEGIN; LOCK TABLE pgmq.q_q").await.expect("locked");
    let refused = [
        client.get("/queues/q/peek").await,
        client.post("/queues/q/messages", r#"{"message":1}"#).await,
        client.delete("/queues/q/messages/1").await,
    ];
    for answer in refused {
        // That it is locked may be found out before.
        let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
        assert!(matches!(&*code, "database_unavailable" | "overloaded"), "{code}");
        answer.expect(503);
    }
    connection.close().await.expect("closed");
    client.send("q", r#"{"message":2}"#).await;
    assert_eq!(client.all("q").await.len(), 1, "what was refused was not done");
}

/// Those who receive at the same time would undo each other's work as serializable transactions.
#[tokio::test]
async fn receivers_beside_each_other_do_not_fail() {
    let database = TestDatabase::new().await;
    let url = role_with(&database, &[("default_transaction_isolation", "serializable")]).await;
    let gateway = try_start(&url, |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    client.create("q").await;
    database
        .execute(
            "CREATE FUNCTION check_isolation() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF current_setting('transaction_isolation') <> 'read committed' THEN \
                     RAISE 'another isolation'; \
                 END IF; RETURN NEW; END $$; \
             CREATE TRIGGER check_isolation BEFORE INSERT OR UPDATE ON pgmq.q_q FOR EACH ROW \
                 EXECUTE FUNCTION check_isolation()",
        )
        .await;
    let mut together = JoinSet::new();
    for n in 0..8 {
        let client = client.clone();
        together.spawn(async move {
            for m in 0..20 {
                client.send_message("q", format!("{n}-{m}")).await;
                for message in client.receive("q", "qty=2").await {
                    client
                        .delete(&format!("/queues/q/messages/{}", message["msg_id"]))
                        .await
                        .expect(204);
                }
            }
        });
    }
    together.join_all().await;
}

/// What is undone because of others is tried again, and is no defect.
#[tokio::test]
async fn serialization_failures_are_no_defect() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "CREATE SEQUENCE attempts; \
             CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF nextval('public.attempts') % 3 <> 0 THEN \
                     RAISE 'could not serialize' USING ERRCODE = 'serialization_failure'; \
                 END IF; RETURN NEW; END $$; \
             CREATE TRIGGER fail_first BEFORE UPDATE ON pgmq.q_q FOR EACH ROW \
                 EXECUTE FUNCTION fail_first()",
        )
        .await;
    for _ in 0..5 {
        let id = gateway.send("q", r#"{"message":1}"#).await;
        eventually("it is received", async || {
            let received = gateway.receive("q", "vt=60").await;
            received.first().map(|message| assert_eq!(message["msg_id"], id))
        })
        .await;
        eventually("it is hidden", async || {
            let answer = gateway.patch(&format!("/queues/q/messages/{id}"), r#"{"vt":60}"#).await;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text);
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// Sessions that ended while nobody used them are no reason to fail.
#[tokio::test]
async fn sessions_that_were_ended_are_replaced() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = '{}' AND pid <> pg_backend_pid()",
        gateway.database.name
    );
    for round in 1..=5 {
        let mut together = JoinSet::new();
        for _ in 0..20 {
            let client = gateway.client.clone();
            together.spawn(async move { client.send("q", r#"{"message":1}"#).await });
        }
        together.join_all().await;
        assert!(gateway.database.value::<i64>(&end).await > 0);
        gateway.send("q", r#"{"message":1}"#).await;
        gateway.database.value::<i64>(&end).await;
        gateway.receive_one("q", "qty=1").await;
        gateway.database.value::<i64>(&end).await;
        gateway.get("/readyz").await.expect(200);
        let queue_length =
            gateway.get("/queues/q/metrics").await.expect(200).json()["queue_length"].clone();
        assert_eq!(queue_length, round * 21, "each was stored once");
    }
}

/// Under load, too, an end is told as what it is: done, not done, or not known; never as a defect.
#[tokio::test]
async fn ends_of_sessions_in_the_middle_are_told_as_they_are() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut together = JoinSet::new();
    for n in 0..8 {
        let client = gateway.client.clone();
        together.spawn(async move {
            let (mut stored, mut unknown) = (Vec::new(), Vec::new());
            for m in 0..150 {
                let name = format!("{n}-{m}");
                let body = json!({"message": name}).to_string();
                let answer = client.post("/queues/q/messages", &body).await;
                match answer.status {
                    201 => stored.push(name),
                    _ if answer.json()["code"] == "outcome_unknown" => unknown.push(name),
                    _ => drop(answer.problem(503, "database_unavailable")),
                }
            }
            (stored, unknown)
        });
    }
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = '{}' AND pid <> pg_backend_pid()",
        gateway.database.name
    );
    let mut connection = gateway.database.connect().await;
    for _ in 0..40 {
        connection.execute(&*end).await.expect("ended");
        sleep(Duration::from_millis(15)).await;
    }
    let mut told = (Vec::new(), Vec::new());
    for (stored, unknown) in together.join_all().await {
        told.0.extend(stored);
        told.1.extend(unknown);
    }
    let names: Vec<String> = sqlx::query_scalar("SELECT message #>> '{}' FROM pgmq.q_q")
        .fetch_all(&mut connection)
        .await
        .expect("names");
    connection.close().await.expect("closed");
    for name in &told.0 {
        assert_eq!(names.iter().filter(|there| *there == name).count(), 1, "{name}");
    }
    for name in &names {
        assert!(told.0.contains(name) || told.1.contains(name), "{name} was not to be stored");
    }
    assert!(told.0.len() > 100, "{} were stored", told.0.len());
}

/// A statement that was prepared while a table had other columns.
#[tokio::test]
async fn a_table_that_changes_is_no_reason_to_fail() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for round in 0..3 {
        gateway.send("q", r#"{"message":1}"#).await;
        gateway.get("/queues/q/peek").await.expect(200);
        gateway.receive("q", "vt=0").await;
        let alter = format!("ALTER TABLE pgmq.q_q ADD COLUMN more_{round} text");
        gateway.database.execute(&alter).await;
        gateway.get("/queues/q/peek").await.expect(200);
        gateway.receive_one("q", "vt=0").await;
    }
}

/// What a trigger says may have messages in it: it is not for the log.
#[tokio::test]
async fn what_triggers_say_is_not_asked_for() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF current_setting('client_min_messages') <> 'error' THEN RAISE 'asked for'; END IF; \
                 RAISE WARNING 'got %', NEW.message; RETURN NEW; END $$; \
             CREATE TRIGGER say BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION say()",
        )
        .await;
    gateway.send("q", r#"{"message":"secret"}"#).await;
    eventually("it is there", async || {
        let metrics = gateway.get("/queues/q/metrics").await.json();
        (metrics["queue_length"] == 1).then_some(())
    })
    .await;
}

/// What warns developers of SQL, or stops them, where it is set for a whole database.
#[tokio::test]
async fn plpgsqls_checks_for_developers_fail_no_receive() {
    let database = TestDatabase::new().await;
    let set = format!("ALTER DATABASE {} SET plpgsql.extra_errors = 'all'", database.name);
    database.execute(&set).await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    for queue in ["q", "grouped", "fair"] {
        let body = json!({"fifo": queue == "grouped", "settings": {"fair": queue == "fair"}});
        gateway.create_with(queue, &body).await;
        // Too many values for what takes them, which is what a check is for.
        database
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
                     $$ DECLARE i integer; BEGIN EXECUTE 'SELECT 1, 2' INTO i; RETURN NEW; END $$;
                 CREATE TRIGGER t BEFORE UPDATE ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION public.touch()"
            ))
            .await;
        gateway.send(queue, r#"{"message":1}"#).await;
        let fifo = if queue == "grouped" { "fifo=grouped" } else { "" };
        assert_eq!(gateway.receive_one(queue, fifo).await["message"], 1, "{queue}");
    }
}
