//! Databases that were restored from a dump: what was set, promised and given out before still counts.

use pgmq_gateway::{
    app::Database,
    config::{Secret, Settings},
};
use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway,
    dumps::{dump, load},
    eventually, postgres,
};

const QUEUES: [&str; 6] = ["plain", "set", "dead", "sql", "grouped", "unlogged"];
/// All that `pg_dump` takes of both schemas.
const DATA: [&str; 3] = ["--data-only", "-npgmq", "-npgmq_gateway"];
/// Without what says which queues there are.
const WITHOUT_META: [&str; 4] =
    ["--data-only", "-npgmq", "-npgmq_gateway", "--exclude-table=pgmq.meta"];

fn settings() -> Value {
    json!({
        "visibility_timeout": 45, "max_receives": 3, "dead_letter_queue": "dead",
        "message_retention": 86_400, "archive_retention": 172_800, "notify": {"throttle_ms": 100},
    })
}

/// What clients were told, and hold on to.
struct Promises {
    queues: Vec<Value>,
    receipts: Vec<(&'static str, String)>,
    sent: Vec<(&'static str, i64)>,
    transaction: Value,
}

async fn idempotent(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    let request = client.request("POST", path).header("idempotency-key", key);
    Answer::of(request.body(body.to_string())).await
}

fn transaction() -> Value {
    json!({"operations": [{"send": {"queue": "plain", "message": "t"}},
                          {"send": {"queue": "sql", "message": "t"}}]})
}

/// Makes queues in every way, and has something promised by each.
async fn fill(gateway: &TestGateway) -> Promises {
    gateway.create("plain").await;
    gateway.create("dead").await;
    gateway.create_with("set", &json!({"settings": settings()})).await;
    gateway.create_with("grouped", &json!({"fifo": true})).await;
    gateway.create_with("unlogged", &json!({"kind": "unlogged"})).await;
    gateway.database.execute("SELECT pgmq.create('sql')").await;
    let bind = json!({"pattern": "orders.#"}).to_string();
    gateway.post("/queues/plain/bindings", &bind).await.expect(201);
    let (mut receipts, mut sent) = (Vec::new(), Vec::new());
    for queue in QUEUES {
        let body = json!({"message": {"to": queue}});
        let path = format!("/queues/{queue}/messages");
        let answer = idempotent(gateway, &path, "once", &body).await.expect(201);
        sent.push((queue, answer.json()["msg_id"].as_i64().expect("an id")));
        let message = gateway.receive_one(queue, "vt=600").await;
        receipts.push((queue, message["receipt"].as_str().expect("a receipt").to_owned()));
    }
    let done = idempotent(gateway, "/transactions", "tx", &transaction()).await.expect(200);
    Promises { queues: shown(gateway).await, receipts, sent, transaction: done.json() }
}

/// The queues without what may differ.
async fn shown(client: &Client) -> Vec<Value> {
    let mut queues = client.get("/queues").await.expect(200).json()["queues"].clone();
    let queues = queues.as_array_mut().expect("a list");
    for queue in queues.iter_mut() {
        queue.as_object_mut().expect("a queue").remove("created_at");
    }
    queues.clone()
}

/// What was promised is kept.
async fn kept(client: &Client, promises: &Promises) {
    assert_eq!(shown(client).await, promises.queues);
    for (queue, id) in &promises.sent {
        let path = format!("/queues/{queue}/messages");
        let again = idempotent(client, &path, "once", &json!({"message": {"to": queue}})).await;
        let again = again.expect(201);
        assert_eq!(again.header("idempotency-replayed"), "true", "{queue}");
        assert_eq!(again.json()["msg_id"], *id, "{queue}");
        let other = idempotent(client, &path, "once", &json!({"message": "other"})).await;
        other.problem(409, "idempotency_conflict");
    }
    let again = idempotent(client, "/transactions", "tx", &transaction()).await.expect(200);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json(), promises.transaction);
    for (queue, receipt) in &promises.receipts {
        let path = format!("/queues/{queue}/messages/1?receipt={receipt}");
        client.patch(&path, r#"{"vt":600}"#).await.expect(200);
        client.delete(&path).await.expect(204);
        // What comes next is another message.
        let body = json!({"message": "next"}).to_string();
        assert!(client.send(queue, &body).await > 1, "{queue}");
    }
}

async fn start(database: &TestDatabase) -> TestGateway {
    TestGateway::on(database, |settings| settings.maintenance.interval_ms = 50).await
}

/// Waits for the end of a round of the janitor's: what is past its time is gone then.
async fn round_of_maintenance(database: &TestDatabase) {
    let past = "INSERT INTO pgmq_gateway.idempotency_keys (scope, key, fingerprint, created_at, queue_id) \
                VALUES ('past', 'past', '', '2000-01-01', 0)";
    database.execute(past).await;
    let left = "SELECT count(*) FROM pgmq_gateway.idempotency_keys WHERE key = 'past'";
    eventually("a round", async || (database.value::<i64>(left).await == 0).then_some(())).await;
}

async fn migrated() -> TestDatabase {
    let database = TestDatabase::empty().await;
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(database.url()));
    let opened = Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, None).await.expect("migrated");
    database
}

/// The queues as an administrator makes them who has the data and no schema.
const CREATE: &str = "SELECT pgmq.create(n) FROM unnest('{plain,set,dead,sql}'::text[]) n; \
    SELECT pgmq.create_unlogged('unlogged'), pgmq.enable_notify_insert('set', 100); \
    SELECT pgmq_gateway.put_queue('grouped', 'standard', NULL, NULL, true, '{}', false)";

#[tokio::test]
async fn a_whole_dump_keeps_every_promise() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let everything = dump(&source.database.url(), &[]);
    let target = TestDatabase::empty().await;
    assert_eq!(load(&target.url(), &everything), "");
    let restored = start(&target).await;
    round_of_maintenance(&target).await;
    round_of_maintenance(&target).await;
    kept(&restored, &promises).await;
    let bindings = restored.get("/bindings").await.expect(200).json();
    assert_eq!(bindings["bindings"][0]["pattern"], "orders.#", "{bindings}");
    let made =
        "SELECT string_agg(queue_name || created_at, ' ' ORDER BY queue_name) FROM pgmq.meta";
    assert_eq!(target.value::<String>(made).await, source.database.value::<String>(made).await);
    // There, nothing has changed.
    kept(&source, &promises).await;
}

#[tokio::test]
async fn a_dump_restored_on_another_server_by_another_owner_keeps_every_promise() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let everything = dump(&source.database.url(), &["--no-owner", "--no-privileges"]);
    let directory = postgres::new_directory();
    let server = postgres::start(&directory, &[("fsync", "off")]).await;
    let target = TestDatabase::on_server(server.url().expose(), "elsewhere").await;
    target.execute("CREATE ROLE landlord LOGIN; ALTER DATABASE elsewhere OWNER TO landlord").await;
    assert_eq!(load(&target.url_as("landlord"), &everything), "");
    let gateway = crate::support::gateway::try_start(&target.url_as("landlord"), |settings| {
        settings.maintenance.interval_ms = 50;
    });
    let gateway = gateway.await.expect("started");
    round_of_maintenance(&target).await;
    kept(&Client::new(&gateway.url()), &promises).await;
    server.stop().await;
}

#[tokio::test]
async fn a_copy_of_the_database_keeps_every_promise() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let database = source.database.clone();
    source.gateway.shut_down().await;
    let copy = TestDatabase::copy(&database).await;
    let gateway = start(&copy).await;
    kept(&gateway, &promises).await;
    round_of_maintenance(&copy).await;
    assert_eq!(shown(&gateway).await, promises.queues);
}

#[tokio::test]
async fn data_alone_in_a_schema_that_was_made_before_keeps_every_promise() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    for what in [&DATA[..], &WITHOUT_META] {
        let data = dump(&source.database.url(), what);
        let target = migrated().await;
        target.execute(CREATE).await;
        load(&target.url(), &data);
        let restored = start(&target).await;
        round_of_maintenance(&target).await;
        kept(&restored, &promises).await;
        round_of_maintenance(&target).await;
        assert_eq!(shown(&restored).await, promises.queues);
    }
}

/// In this order the settings wait for their queues, under the eyes of a gateway that is at work.
#[tokio::test]
async fn data_that_comes_before_the_queues_waits_for_them() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let [ours, theirs] = [["-npgmq_gateway"], ["-npgmq"]].map(|[schema]| {
        dump(&source.database.url(), &["--data-only", schema, "--exclude-table=pgmq.meta"])
    });
    let target = migrated().await;
    let early = start(&target).await;
    load(&target.url(), &ours);
    round_of_maintenance(&target).await;
    target.execute(CREATE).await;
    round_of_maintenance(&target).await;
    load(&target.url(), &theirs);
    early.gateway.shut_down().await;
    kept(&*start(&target).await, &promises).await;
}

/// Here they find rows that a gateway has written down for the new queues.
#[tokio::test]
async fn data_takes_the_place_of_what_a_gateway_wrote_down_meanwhile() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let data = dump(&source.database.url(), &WITHOUT_META);
    let target = migrated().await;
    target.execute(CREATE).await;
    let early = start(&target).await;
    round_of_maintenance(&target).await;
    let known = "SELECT count(*) FROM pgmq_gateway.queue_settings";
    assert_eq!(target.value::<i64>(known).await, 6);
    load(&target.url(), &data);
    round_of_maintenance(&target).await;
    assert_eq!(shown(&early).await, promises.queues);
    early.gateway.shut_down().await;
    kept(&*start(&target).await, &promises).await;
}

/// The same database, whose schemas were made anew in between.
#[tokio::test]
async fn data_that_comes_back_where_it_was_keeps_every_promise() {
    let source = TestGateway::start().await;
    let promises = fill(&source).await;
    let database = source.database.clone();
    source.gateway.shut_down().await;
    let data = dump(&database.url(), &WITHOUT_META);
    database.execute("DROP SCHEMA pgmq, pgmq_gateway CASCADE").await;
    start(&database).await.gateway.shut_down().await;
    database.execute(CREATE).await;
    load(&database.url(), &data);
    let restored = start(&database).await;
    round_of_maintenance(&database).await;
    kept(&restored, &promises).await;
}
