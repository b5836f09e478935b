//! Sequences of ids that lag behind their tables, as after restores and failovers.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, gateway::try_start, process::Program,
    process::program,
};

/// A queue with messages up to `last`, and a sequence that begins anew.
async fn lagging(gateway: &TestGateway, queue: &str, last: i64) {
    gateway.create(queue).await;
    fill(&gateway.database, queue, &format!("generate_series(1, {last})")).await;
}

/// Stores messages with ids of their own, past the sequence.
async fn fill(database: &TestDatabase, queue: &str, ids: &str) {
    let insert = format!(
        "INSERT INTO pgmq.q_{queue} (msg_id, vt, message) OVERRIDING SYSTEM VALUE \
         SELECT i, now() + interval '1 hour', to_jsonb(i) FROM {ids} i"
    );
    database.execute(&insert).await;
}

async fn set_sequence(database: &TestDatabase, queue: &str, value: i64) {
    database.execute(&format!("SELECT setval('pgmq.q_{queue}_msg_id_seq', {value})")).await;
}

fn ids(answer: &Value) -> Vec<i64> {
    answer["msg_ids"].as_array().expect("ids").iter().filter_map(Value::as_i64).collect()
}

#[tokio::test]
async fn every_way_to_send_goes_past_what_is_there() {
    let gateway = TestGateway::start().await;
    let one = json!({"message": 1}).to_string();
    let batch = json!({"messages": [{"message": 1}, {"message": 2}]}).to_string();
    let bind = json!({"pattern": "t.#"}).to_string();
    for (n, (path, body, key)) in [
        ("/queues/{q}/messages", &one, None),
        ("/queues/{q}/messages/batch", &batch, None),
        ("/queues/{q}/messages", &one, Some("k")),
        ("/queues/{q}/messages/batch", &batch, Some("k")),
        ("/topics/t.x/messages", &one, None),
        ("/topics/t.x/messages", &one, Some("k")),
        ("/topics/t.x/messages/batch", &batch, None),
        ("/transactions", &String::new(), None),
        ("/transactions", &String::new(), Some("k")),
    ]
    .into_iter()
    .enumerate()
    {
        let queue = format!("q{n}");
        lagging(&gateway, &queue, 50).await;
        gateway.post(&format!("/queues/{queue}/bindings"), &bind).await.expect(201);
        let transaction = json!({"operations": [{"send": {"queue": queue, "message": 1}},
                                                {"send": {"queue": queue, "message": 2}}]});
        let body = if body.is_empty() { &transaction.to_string() } else { body };
        let mut request = gateway.request("POST", &path.replace("{q}", &queue)).body(body.clone());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let sent = Answer::of(request).await;
        assert!((200..300).contains(&sent.status), "{path}: {}", sent.text);
        let beyond = format!("SELECT count(*) FROM pgmq.q_{queue} WHERE msg_id > 50");
        let stored = gateway.database.value::<i64>(&beyond).await;
        assert_eq!(stored, if body.contains('2') { 2 } else { 1 }, "{path} {key:?}");
        gateway.delete(&format!("/queues/{queue}")).await.expect(204);
    }
}

#[tokio::test]
async fn a_crowd_of_senders_is_stored_each_once() {
    let gateway = TestGateway::start().await;
    lagging(&gateway, "q", 500).await;
    let mut crowd = JoinSet::new();
    for n in 0..60 {
        let client = gateway.client.clone();
        crowd.spawn(
            async move { client.send("q", &json!({"message": {"n": n}}).to_string()).await },
        );
    }
    let mut ids = crowd.join_all().await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 60);
    assert!(ids[0] > 500, "{ids:?}");
    let sent = "SELECT count(DISTINCT message -> 'n') FROM pgmq.q_q WHERE message ? 'n'";
    assert_eq!(gateway.database.value::<i64>(sent).await, 60);
}

#[tokio::test]
async fn messages_that_move_go_past_what_is_there() {
    let gateway = TestGateway::start().await;
    for queue in ["dead", "back", "replayed"] {
        lagging(&gateway, queue, 20).await;
    }
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    for n in 0..3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    assert_eq!(gateway.receive("q", "vt=0&qty=10").await.len(), 3);
    gateway.send("q", r#"{"message":"good"}"#).await;
    assert_eq!(gateway.receive_one("q", "qty=10").await["message"], "good");
    assert_eq!(gateway.receive("dead", "qty=10").await.len(), 3);
    gateway.database.execute("UPDATE pgmq.q_dead SET vt = now() WHERE msg_id > 20").await;
    let moved = gateway.post("/queues/dead/redrive", r#"{"to":"back"}"#).await.expect(200).json();
    assert_eq!(moved["moved"], 3, "{moved}");
    assert_eq!(gateway.receive("back", "qty=10").await.len(), 3);

    for id in 21..24 {
        gateway.post(&format!("/queues/back/messages/{id}/archive"), "").await.expect(204);
    }
    let replay = r#"{"to":"replayed"}"#;
    let replayed = gateway.post("/queues/back/archive/replay", replay).await.expect(200).json();
    assert_eq!(replayed["replayed"], 3, "{replayed}");
    assert_eq!(gateway.receive("replayed", "qty=10").await.len(), 3);
}

/// What the archive has by the same id stays, and keeps nobody else.
#[tokio::test]
async fn a_message_that_the_archive_has_already_fails_alone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let archive =
        "INSERT INTO pgmq.a_q (msg_id, vt, message) VALUES (2, now(), '\"old\"'), (9, now(), '9')";
    gateway.database.execute(archive).await;
    let settle = json!({"archive": [{"msg_id": 1}, {"msg_id": 2}, {"msg_id": 3}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
    assert_eq!(settled["archived"], json!([1, 3]), "{settled}");
    assert_eq!(settled["failed"][0]["code"], "message_conflict", "{settled}");
    assert_eq!(settled["failed"][0]["msg_id"], 2, "{settled}");
    gateway.post("/queues/q/messages/2/archive", "").await.problem(409, "message_conflict");
    let receipt = gateway.receive_one("q", "vt=600").await["receipt"].clone();
    let receipt = receipt.as_str().expect("a receipt");
    let archive = format!("/queues/q/messages/2/archive?receipt={receipt}");
    gateway.post(&archive, "").await.problem(409, "message_conflict");
    let transaction = json!({"operations": [{"send": {"queue": "q", "message": "undone"}},
                                            {"archive": {"queue": "q", "msg_id": 2}}]});
    let refused = gateway.post("/transactions", &transaction.to_string()).await;
    assert_eq!(refused.problem(409, "message_conflict").json()["index"], 1);

    // Those behind it do not collide with what else is there.
    let id = gateway.send("q", r#"{"message":"later"}"#).await;
    assert!(id > 9, "{id}");
    gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    assert_eq!(gateway.all("q").await.len(), 1);
    gateway.delete("/queues/q/messages/2").await.expect(204);
}

#[tokio::test]
async fn a_transaction_that_meets_the_archive_keeps_those_behind_it_from_it() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    let archive = "INSERT INTO pgmq.a_q (msg_id, vt, message) SELECT i, now(), '1' FROM generate_series(1, 9) i";
    gateway.database.execute(archive).await;
    let transaction = json!({"operations": [{"archive": {"queue": "q", "msg_id": 1}}]}).to_string();
    gateway.post("/transactions", &transaction).await.problem(409, "message_conflict");
    assert_eq!(gateway.send("q", r#"{"message":2}"#).await, 10);
}

#[tokio::test]
async fn dead_letters_that_the_archive_has_already_keep_no_other() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"max_receives": 1}})).await;
    for n in 1..=3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    assert_eq!(gateway.receive("q", "vt=0&qty=10").await.len(), 3);
    gateway
        .database
        .execute("INSERT INTO pgmq.a_q (msg_id, vt, message) VALUES (2, now(), '0')")
        .await;
    for n in 4..=6 {
        assert_eq!(gateway.send("q", &json!({"message": n}).to_string()).await, n);
    }
    let received = gateway.receive("q", "qty=10").await;
    let ids: Vec<_> = received.iter().map(|message| message["msg_id"].clone()).collect();
    assert_eq!(ids, [4, 5, 6]);
    let archived = "SELECT string_agg(msg_id::text, ',' ORDER BY msg_id) FROM pgmq.a_q";
    assert_eq!(gateway.database.value::<String>(archived).await, "1,2,3");
    assert_eq!(gateway.all("q").await.len(), 4, "the one that stays is not lost");
}

/// Another unique constraint has nothing to do with the sequence.
#[tokio::test]
async fn another_constraint_leaves_the_sequence_alone() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute("CREATE UNIQUE INDEX once ON pgmq.q_q ((message ->> 'id'))").await;
    fill(&gateway.database, "q", "generate_series(1000, 1000)").await;
    let one = r#"{"message":{"id":"a"}}"#;
    assert_eq!(gateway.send("q", one).await, 1);
    gateway.post("/queues/q/messages", one).await.problem(409, "message_conflict");
    let next = gateway.send("q", r#"{"message":{"id":"b"}}"#).await;
    assert!(next < 10, "{next}");
}

#[tokio::test]
async fn gaps_and_ends_are_no_endless_loop() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    let one = r#"{"message":1}"#;
    // Millions of ids that are not there.
    lagging(&gateway, "gap", 3).await;
    fill(database, "gap", "generate_series(70000000, 70000000)").await;
    assert!(gateway.send("gap", one).await > 70_000_000);

    // One at the end of all ids is no reason to have none left.
    lagging(&gateway, "end", 3).await;
    fill(database, "end", "unnest(ARRAY[9223372036854775807, 9223372036854775000])").await;
    assert_eq!(gateway.send("end", one).await, 4);
    assert_eq!(gateway.send("end", one).await, 5);

    // Downwards.
    gateway.create("down").await;
    let down = "ALTER TABLE pgmq.q_down ALTER msg_id SET INCREMENT -1 SET MINVALUE 1 SET MAXVALUE 1000 \
                SET START 900 RESTART";
    database.execute(down).await;
    fill(database, "down", "generate_series(890, 900)").await;
    assert_eq!(gateway.send("down", one).await, 889);
    database.execute("CREATE UNIQUE INDEX ON pgmq.q_down (message) WHERE vt < 'infinity'").await;
    gateway.post("/queues/down/messages", one).await.problem(409, "message_conflict");
    assert!(gateway.send("down", r#"{"message":2}"#).await < 889);

    // Round and round: all ids are in use.
    gateway.create("cycle").await;
    let cycle = "ALTER TABLE pgmq.q_cycle ALTER msg_id SET MAXVALUE 5 SET CYCLE";
    database.execute(cycle).await;
    fill(database, "cycle", "generate_series(1, 5)").await;
    let full = gateway.post("/queues/cycle/messages", one).await;
    assert!(full.problem(500, "internal_error").detail().contains("reached its end"));
    database.execute("DELETE FROM pgmq.q_cycle").await;
    gateway.send("cycle", one).await;
}

#[tokio::test]
async fn a_sequence_at_its_end_is_no_fault_of_the_messages() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    gateway.create("q").await;
    gateway.create("good").await;
    let bind = json!({"pattern": "t"}).to_string();
    gateway.post("/queues/q/bindings", &bind).await.expect(201);
    database.execute("ALTER TABLE pgmq.q_q ALTER msg_id SET MAXVALUE 3").await;
    set_sequence(database, "q", 2).await;
    let one = r#"{"message":1}"#;
    assert_eq!(gateway.send("q", one).await, 3);
    let batch = r#"{"messages":[{"message":1},{"message":2}]}"#;
    let transaction = r#"{"operations":[{"send":{"queue":"good","message":1}},{"send":{"queue":"q","message":1}}]}"#;
    for (path, body) in [
        ("/queues/q/messages", one),
        ("/queues/q/messages/batch", batch),
        ("/topics/t/messages", one),
        ("/transactions", transaction),
    ] {
        let ended = gateway.post(path, body).await.problem(500, "internal_error");
        assert!(ended.detail().contains("reached its end"), "{path}: {}", ended.text);
    }
    assert!(gateway.all("good").await.is_empty());
    database.execute("ALTER TABLE pgmq.q_q ALTER msg_id SET MAXVALUE 1000").await;
    assert_eq!(gateway.send("q", one).await, 4);
}

/// A restore that sets no sequence: put right before anybody meets it, for partitioned queues too, in which
/// nothing keeps an id from being there twice.
#[tokio::test]
async fn the_sequences_of_a_restored_database_are_looked_at_at_the_start() {
    let database = TestDatabase::new().await;
    database.execute("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman").await;
    {
        let gateway = TestGateway::on(&database, |_| {}).await;
        gateway.put("/queues/parts", r#"{"kind":"partitioned"}"#).await.expect(201);
        lagging(&gateway, "q", 30).await;
        fill(&database, "parts", "generate_series(1, 30)").await;
        gateway.gateway.shut_down().await;
    }
    database.execute("UPDATE pgmq_gateway.queue_settings SET database_stamp = 'another'").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    let elsewhere =
        "SELECT count(*) FROM pgmq_gateway.queue_settings WHERE database_stamp = 'another'";
    eventually("they are at home", async || {
        let set = "SELECT last_value >= 30 FROM pgmq.q_parts_msg_id_seq";
        let home = database.value::<i64>(elsewhere).await == 0 && database.value::<bool>(set).await;
        home.then_some(())
    })
    .await;
    assert_eq!(gateway.send("parts", r#"{"message":1}"#).await, 31);
    assert_eq!(gateway.send("q", r#"{"message":1}"#).await, 31);
}

/// As a role with these rights on the sequence, besides those on the table.
async fn as_role(database: &TestDatabase, rights: &str) -> (Program, Client) {
    let role = format!("sender_{}_{}", rights.to_lowercase(), database.name);
    let sequence = "pgmq.q_q_msg_id_seq";
    let grant = if rights == "NOTHING" {
        String::new()
    } else {
        format!("GRANT {rights} ON SEQUENCE {sequence} TO {role};")
    };
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq, pgmq_gateway TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq, pgmq_gateway TO {role}; {grant}"
    );
    database.execute(&sql).await;
    let url = database.url_as(&role);
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut program = Program::start(program(&[], &environment));
    let client = program.client().await;
    (program, client)
}

#[tokio::test]
async fn who_may_only_take_ids_takes_those_that_are_in_use() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    lagging(&gateway, "q", 10).await;
    fill(&database, "q", "generate_series(3000000, 3000000)").await;
    let (_program, client) = as_role(&database, "USAGE").await;
    let sent = client.post("/queues/q/messages/batch", r#"{"messages":[{"message":1}]}"#).await;
    // In the gap, or behind it.
    let id = ids(&sent.expect(201).json())[0];
    assert!(id > 10 && id != 3_000_000, "{id}");
    set_sequence(&database, "q", 1).await;
    let transaction = r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#;
    client.post("/transactions", transaction).await.expect(200);
    // So many that it would take for ever.
    set_sequence(&database, "q", 1).await;
    fill(&database, "q", "generate_series(4000000000000, 4000000000000)").await;
    refused(&client, "q").await;
}

#[tokio::test]
async fn who_may_do_nothing_about_it_is_told_what_would_help() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    lagging(&gateway, "q", 10).await;
    let (program, client) = as_role(&database, "NOTHING").await;
    refused(&client, "q").await;
    let help = "setval(pg_get_serial_sequence('pgmq.q_q', 'msg_id'), max(msg_id)) FROM pgmq.q_q";
    assert!(program.log().contains(help), "{}", program.log());
    // And it does.
    let help = format!("SELECT {help}");
    database.execute(&help).await;
    assert_eq!(client.send("q", r#"{"message":1}"#).await, 11);
}

async fn refused(client: &Client, queue: &str) {
    let one = r#"{"message":1}"#;
    let transaction = json!({"operations": [{"send": {"queue": queue, "message": 1}}]}).to_string();
    let send = format!("/queues/{queue}/messages");
    for (path, body, key) in
        [(&*send, one, None), (&*send, one, Some("k")), ("/transactions", &*transaction, None)]
    {
        let mut request = client.request("POST", path).body(body.to_owned());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let refused = Answer::of(request).await.problem(403, "forbidden");
        assert!(refused.detail().contains("lags behind"), "{path} {}", refused.text);
    }
}

/// The role that `migrate --grant-to` makes ready may do what it takes.
#[tokio::test]
async fn a_role_with_just_its_grants_advances_a_sequence() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    lagging(&gateway, "q", 10).await;
    fill(&database, "q", "generate_series(4000000000000, 4000000000000)").await;
    let role = format!("granted_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let mut settings = pgmq_gateway::config::Settings::default();
    settings.database.url = Some(pgmq_gateway::config::Secret::new(database.url()));
    let opened = pgmq_gateway::app::Database::open(&settings).await.expect("configured");
    opened.migrate(&settings, Some(&role)).await.expect("granted");
    let theirs = try_start(&database.url_as(&role), |_| {}).await.expect("started");
    let client = Client::new(&theirs.url());
    assert!(client.send("q", r#"{"message":1}"#).await > 4_000_000_000_000);
}
