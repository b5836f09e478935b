//! Bytes that are no UTF-8, which databases of other encodings hold: only what has them is affected.

use serde_json::{Value, json};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, dumps::run_bytes, eventually, guarded::together,
    process::Program, process::program,
};

/// A byte that begins no character.
const BAD: &[u8] = b"\xff";

/// Runs SQL with the bad byte for each `@`.
fn run(database: &TestDatabase, sql: &str) {
    let parts: Vec<&[u8]> = sql.split('@').map(str::as_bytes).collect();
    run_bytes(&database.url(), &parts.join(BAD));
}

async fn sql_ascii() -> TestGateway {
    let database = TestDatabase::encoded("SQL_ASCII").await;
    TestGateway::on(&database, |_| {}).await
}

fn messages(received: &[Value]) -> Vec<Value> {
    received.iter().map(|message| message["message"].clone()).collect()
}

/// The counter of messages that were taken out of the way.
async fn quarantined(client: &Client, queue: &str) -> u64 {
    let metrics = client.get("/metrics").await.expect(200).text;
    let name = format!("pgmq_gateway_messages_quarantined_total{{queue=\"{queue}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |number| number.parse().expect("a number"))
}

#[tokio::test]
async fn what_is_utf8_passes_through_a_database_without_an_encoding() {
    let gateway = sql_ascii().await;
    gateway.create("q").await;
    let text = r#"{"message":{"größe":"日本語 🦀"},"headers":{"ä":"ö"}}"#;
    gateway.send("q", text).await;
    let received = gateway.receive_one("q", "").await;
    assert_eq!(received["message"], json!({"größe": "日本語 🦀"}));
    assert_eq!(received["headers"], json!({"ä": "ö"}));
    let filtered = gateway.get("/queues/q/messages?filter=%7B%22gr%C3%B6%C3%9Fe%22%3A1%7D").await;
    assert!(filtered.expect(200).messages().is_empty());
}

/// One bad message in each place that is looked at: the others are had, it goes away, once.
#[tokio::test]
async fn a_message_that_is_no_text_goes_the_way_of_unreadable_ones() {
    let gateway = sql_ascii().await;
    for (queue, body) in [
        ("plain", json!({})),
        ("grouped", json!({"fifo": true})),
        ("dead", json!({"settings": {"max_receives": 2}})),
    ] {
        gateway.create_with(queue, &body).await;
        run(
            &gateway.database,
            &format!(
                "SELECT pgmq.send('{queue}', '\"before\"'), pgmq.send('{queue}', '{{\"a\": \"x@y\"}}'), \
                    pgmq.send('{queue}', '\"between\"'), pgmq.send('{queue}', '\"h\"', '{{\"h\": \"@\"}}'::jsonb), \
                    pgmq.send('{queue}', '{{\"@\": 1}}'), pgmq.send('{queue}', '\"behind\"');"
            ),
        );
        let seen = gateway.get(&format!("/queues/{queue}/peek?limit=100")).await.expect(200);
        assert_eq!(messages(&seen.messages()), ["before", "between", "behind"], "{queue}");
        gateway.get(&format!("/queues/{queue}/messages/2")).await.problem(422, "message_rejected");
        let fifo = if queue == "grouped" { "&fifo=grouped" } else { "" };
        let mut received = Vec::new();
        while received.len() < 3 {
            let some = gateway.receive(queue, &format!("qty=10&vt=600&wait=1{fifo}")).await;
            assert!(!some.is_empty(), "{queue}: {received:?}");
            received.extend(messages(&some));
            // Groups go on once these are done with.
            for message in some.iter().filter(|_| queue == "grouped") {
                let id = &message["msg_id"];
                gateway.delete(&format!("/queues/{queue}/messages/{id}")).await.expect(204);
            }
        }
        assert_eq!(received, ["before", "between", "behind"], "{queue}");
        assert_eq!(quarantined(&gateway, queue).await, 3, "{queue}");
        let archive = format!("SELECT count(*) FROM pgmq.a_{queue}");
        assert_eq!(gateway.database.value::<i64>(&archive).await, 3, "{queue}");
        let archived = gateway.get(&format!("/queues/{queue}/archive")).await.expect(200);
        assert!(archived.messages().is_empty(), "{queue}: {}", archived.text);
        gateway.get(&format!("/queues/{queue}/metrics")).await.expect(200);
        gateway.send(queue, r#"{"message":"after"}"#).await;
        let path = format!("/queues/{queue}/messages?qty=10{fifo}");
        assert_eq!(messages(&gateway.get(&path).await.expect(200).messages()), ["after"]);
        assert_eq!(quarantined(&gateway, queue).await, 3, "{queue}");
    }
}

#[tokio::test]
async fn pop_settle_and_replay_pass_it_by() {
    let gateway = sql_ascii().await;
    gateway.create("q").await;
    let send = "SELECT pgmq.send('q', '1'), pgmq.send('q', '\"@\"'), pgmq.send('q', '3');";
    run(&gateway.database, send);
    let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await.expect(200);
    assert_eq!(messages(&popped.messages()), [1, 3]);
    // From the archive into another queue, and out of its way again.
    gateway.create("r").await;
    let replayed =
        gateway.post("/queues/q/archive/replay", r#"{"to":"r"}"#).await.expect(200).json();
    assert_eq!(replayed["replayed"], 1, "{replayed}");
    gateway.send("r", r#"{"message":"good"}"#).await;
    assert_eq!(messages(&gateway.receive("r", "qty=10").await), ["good"]);
    run(&gateway.database, send);
    let settle =
        r#"{"delete":[{"msg_id":4}],"retry":[{"msg_id":5,"delay":0}],"archive":[{"msg_id":6}]}"#;
    let settled = gateway.post("/queues/q/messages/settle", settle).await.expect(200).json();
    assert_eq!(settled["failed"], json!([]), "{settled}");
    let set = gateway.patch("/queues/q/messages/5", r#"{"vt":0}"#).await;
    set.problem(422, "message_rejected");
    gateway.delete("/queues/q/messages/5").await.expect(204);
}

/// The one that is delivered next, whatever its id is, and more of them than are looked at in one go.
#[tokio::test]
async fn what_is_delivered_first_is_found_wherever_it_stands() {
    let gateway = sql_ascii().await;
    gateway.create("q").await;
    run(
        &gateway.database,
        "INSERT INTO pgmq.q_q (vt, message) SELECT now(), to_jsonb(i) FROM \
        generate_series(1, 1000) i; \
        INSERT INTO pgmq.q_q (vt, message) SELECT now() - interval '1 hour', '\"@\"' FROM generate_series(1, 450);",
    );
    let received = gateway.receive("q", "qty=5").await;
    assert_eq!(received.len(), 5);
    eventually("all are gone", async || {
        gateway.receive("q", "qty=5").await;
        (quarantined(&gateway, "q").await == 450).then_some(())
    })
    .await;
}

#[tokio::test]
async fn names_and_bindings_that_are_no_text_are_nobody_elses_trouble() {
    let gateway = sql_ascii().await;
    gateway.create("q").await;
    gateway.create_with("set", &json!({"settings": {"max_receives": 5}})).await;
    run(
        &gateway.database,
        "SELECT pgmq.create('bad@'), pgmq.create('Bad@'); \
        SELECT pgmq.bind_topic('t.#', 'bad@'), pgmq.bind_topic('t.#', 'q'), pgmq.bind_topic('x.y', 'q'); \
        INSERT INTO pgmq.topic_bindings (pattern, queue_name) VALUES ('b@d.*', 'q'); \
        SELECT pgmq.enable_notify_insert('bad@');",
    );
    let listed = gateway.get("/queues").await.expect(200).json();
    let names: Vec<_> =
        listed["queues"].as_array().expect("a list").iter().map(|queue| &queue["queue"]).collect();
    assert_eq!(names, ["q", "set"], "{listed}");
    for page in ["/queues?limit=1", "/queues?limit=1&after=q", "/queues?prefix=b"] {
        gateway.get(page).await.expect(200);
    }
    let bindings = gateway.get("/bindings").await.expect(200).json();
    assert_eq!(bindings["bindings"].as_array().map(Vec::len), Some(2), "{bindings}");
    gateway.get("/queues/q/bindings").await.expect(200);
    assert_eq!(gateway.get("/topics/t.x/queues").await.expect(200).json()["queues"], json!(["q"]));
    let sent = gateway.post("/topics/t.x/messages", r#"{"message":1}"#).await.expect(201).json();
    assert_eq!(sent["deliveries"].as_array().map(Vec::len), Some(2), "{sent}");
    assert_eq!(gateway.receive_one("q", "wait=1").await["message"], 1);
    gateway.create("another").await;
    gateway.configure("another", json!({"notify": {"throttle_ms": 5}})).await.expect(200);
    gateway.database.execute("SELECT pgmq_gateway.register_queues()").await;
    eventually("there are figures", async || {
        let metrics = gateway.get("/metrics").await.expect(200).text;
        metrics.contains("{queue=\"another\"}").then_some(())
    })
    .await;
    gateway.get("/queues/bad%FF").await.problem(400, "invalid_request");
    gateway.delete("/queues/another").await.expect(204);
}

#[tokio::test]
async fn settings_and_answers_that_are_no_text_count_as_none() {
    let gateway = sql_ascii().await;
    for queue in ["q", "r"] {
        gateway.create_with(queue, &json!({"settings": {"max_receives": 5}})).await;
    }
    run(
        &gateway.database,
        "UPDATE pgmq_gateway.queue_settings \
        SET settings = settings || '{\"dead_letter_queue\": \"@\", \"x@\": \"@\", \"delay\": 0}' \
        WHERE queue_name = 'q';",
    );
    for queue in ["q", "r"] {
        let shown = gateway.get(&format!("/queues/{queue}")).await.expect(200).json();
        assert_eq!(shown["settings"]["max_receives"], 5, "{shown}");
        assert_eq!(shown["settings"]["dead_letter_queue"], json!(null), "{shown}");
        gateway.send(queue, r#"{"message":1}"#).await;
        gateway.receive_one(queue, "").await;
    }
    let send = |client: &Client, key: &str| {
        let request = client.request("POST", "/queues/q/messages").header("idempotency-key", key);
        Answer::of(request.body(r#"{"message":1}"#))
    };
    for key in ["good", "bad"] {
        send(&gateway, key).await.expect(201);
    }
    run(
        &gateway.database,
        "UPDATE pgmq_gateway.idempotency_keys SET answer = '[{\"msg_ids\": [\"@\"]}]' \
        WHERE key = 'bad';",
    );
    let lost = send(&gateway, "bad").await.problem(409, "idempotency_conflict");
    assert!(lost.detail().contains("was done"), "{}", lost.detail());
    assert_eq!(send(&gateway, "good").await.expect(201).header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn keys_that_are_no_text_let_nobody_in_and_keep_nobody_out() {
    let database = TestDatabase::encoded("SQL_ASCII").await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    drop(TestGateway::on(&database, |_| {}).await);
    let create = |name: &str| {
        let made = program(&["keys", "create", "--name", name, "--grant", "admin:*"], &environment)
            .output();
        let made = made.expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    };
    let (good, named, granted) = (create("good"), create("named"), create("granted"));
    run(
        &database,
        "UPDATE pgmq_gateway.api_keys SET name = 'n@' WHERE name = 'named'; \
        UPDATE pgmq_gateway.api_keys SET grants = ARRAY['admin:@'] WHERE name = 'granted'; \
        INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) VALUES ('i@', 'i', '', '{@}');",
    );
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    client.with_key(&good).get("/queues").await.expect(200);
    for bad in [named, granted] {
        client.with_key(&bad).get("/queues").await.problem(401, "unauthenticated");
    }
    let log = gateway.log();
    assert_eq!(log.matches("makes no sense and lets nobody in").count(), 3, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let listed = program(&["keys", "list"], &environment).output().expect("it runs");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert_eq!(listed.lines().count(), 5, "{listed}");
}

/// A database with an encoding in which not everything has a place: what has none fails alone.
#[tokio::test]
async fn what_another_encoding_has_no_place_for_fails_alone() {
    for encoding in ["LATIN1", "WIN1252", "EUC_JP"] {
        let database = TestDatabase::encoded(encoding).await;
        let gateway = TestGateway::on(&database, |_| {}).await;
        gateway.create("q").await;
        gateway.send("q", r#"{"message":"plain"}"#).await;
        let crab = r#"{"message":"🦀"}"#;
        gateway.post("/queues/q/messages", crab).await.problem(422, "message_rejected");
        let escaped = r#"{"message":"\ud83e\udd80"}"#;
        gateway.post("/queues/q/messages", escaped).await.problem(422, "message_rejected");
        let headers = r#"{"message":1,"headers":{"h":"🦀"}}"#;
        gateway.post("/queues/q/messages", headers).await.problem(422, "message_rejected");
        let mut crowd = tokio::task::JoinSet::new();
        for n in 0..40 {
            let client = gateway.client.clone();
            let message = if n % 10 == 3 { json!("🦀") } else { json!(n) };
            crowd.spawn(async move {
                let body = json!({"message": message}).to_string();
                (n, client.post("/queues/q/messages", &body).await)
            });
        }
        for (n, answer) in crowd.join_all().await {
            let expected = if n % 10 == 3 { 422 } else { 201 };
            assert_eq!(answer.status, expected, "{encoding} {n}: {}", answer.text);
        }
        let filter = "/queues/q/messages?filter=%7B%22a%22%3A%22%F0%9F%A6%80%22%7D";
        gateway.get(filter).await.problem(400, "invalid_request");
        let key = gateway.request("POST", "/queues/q/messages").header("idempotency-key", "k");
        let refused = Answer::of(key.body(crab)).await;
        refused.problem(422, "message_rejected");
        let send = json!({"queue": "q", "message": "🦀"});
        let transaction = json!({"operations": [{"send": send}]}).to_string();
        gateway.post("/transactions", &transaction).await.problem(422, "message_rejected");
        let name = gateway.put("/queues/%F0%9F%A6%80", "").await;
        name.problem(400, "invalid_request");
        let missing = gateway.get("/queues/%F0%9F%A6%80/messages").await;
        assert!([400, 404].contains(&missing.status), "{encoding}: {}", missing.text);
        let topic = gateway.post("/topics/%F0%9F%A6%80/messages", r#"{"message":1}"#).await;
        assert!((400..500).contains(&topic.status), "{encoding}: {}", topic.text);
    }
}

/// WIN1252 has bytes that are no characters: they can be stored and not be sent.
#[tokio::test]
async fn a_byte_without_a_character_goes_the_way_of_unreadable_ones() {
    let database = TestDatabase::encoded("WIN1252").await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    run_bytes(
        &database.url(),
        b"SET client_encoding = 'WIN1252'; SELECT pgmq.send('q', '1'), \
        pgmq.send('q', '\"\x81\"'), pgmq.send('q', '\"\xe4\"'); SELECT pgmq.create('bad\x81');",
    );
    let seen = gateway.get("/queues/q/peek").await.expect(200);
    assert_eq!(messages(&seen.messages()), [json!(1), json!("ä")]);
    assert_eq!(messages(&gateway.receive("q", "qty=10").await), [json!(1), json!("ä")]);
    assert_eq!(quarantined(&gateway, "q").await, 1);
    let listed = gateway.get("/queues").await.expect(200).json();
    assert_eq!(listed["queues"].as_array().map(Vec::len), Some(1), "{listed}");
}

/// Many clients write JSON with escapes for whatever is not ASCII.
#[tokio::test]
async fn an_escape_without_a_character_fails_alone() {
    let gateway = sql_ascii().await;
    gateway.create("q").await;
    let bodies = [r#"{"message":"plain"}"#, r#"{"message":"(\u00e9)"}"#, r#"{"message":"é"}"#];
    let answers = together(24, |n| {
        let body = usize::try_from(n % 3).map_or("", |n| bodies[n]);
        Answer::of(gateway.request("POST", "/queues/q/messages").body(body))
    });
    for (n, answer) in answers.await.into_iter().enumerate() {
        if n % 3 == 1 {
            let answer = answer.problem(422, "message_rejected");
            assert!(answer.text.contains("UTF-8"), "{}", answer.text);
        } else {
            answer.expect(201);
        }
    }
    let transactions = together(12, |n| {
        let text = if n % 4 == 1 { r"(\u20ac)" } else { "fine" };
        let body = format!(r#"{{"operations":[{{"send":{{"queue":"q","message":"{text}"}}}}]}}"#);
        Answer::of(gateway.request("POST", "/transactions").body(body))
    });
    for (n, answer) in transactions.await.into_iter().enumerate() {
        if n % 4 == 1 {
            answer.problem(422, "message_rejected");
        } else {
            answer.expect(200);
        }
    }
    assert_eq!(gateway.receive("q", "qty=100").await.len(), 25);
    let filter = "/queues/q/messages?filter=%7B%22a%22%3A%22%5Cu00e9%22%7D";
    gateway.get(filter).await.problem(400, "invalid_request");
}

/// Where it is kept is what the log says.
#[tokio::test]
async fn what_the_archive_does_not_take_either_is_hidden_and_that_is_said() {
    let database = TestDatabase::encoded("SQL_ASCII").await;
    let url = database.url();
    let environment = [("DATABASE_URL", &*url), ("PGMQ_GATEWAY__SERVER__PORT", "0")];
    let mut gateway = Program::start(program(&[], &environment));
    let client = gateway.client().await;
    for queue in ["kept", "taken"] {
        client.create(queue).await;
        run(&database, &format!("SELECT pgmq.send('{queue}', '\"@\"');"));
    }
    database.execute("ALTER TABLE pgmq.a_kept ADD CHECK (false)").await;
    for queue in ["kept", "taken"] {
        client.send(queue, r#"{"message":"behind it"}"#).await;
        let path = format!("/queues/{queue}/messages?qty=10");
        assert_eq!(messages(&client.get(&path).await.expect(200).messages()), ["behind it"]);
        assert_eq!(quarantined(&client, queue).await, 1, "{queue}");
    }
    let is_hidden: bool =
        database.value("SELECT vt = 'infinity' FROM pgmq.q_kept WHERE msg_id = 1").await;
    assert!(is_hidden);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM pgmq.a_taken").await, 1);
    let log = gateway.log();
    let said = |what| log.lines().filter(|line: &&str| line.contains(what)).collect::<String>();
    let (hid, archived) = (said("hid messages for good"), said("archived messages"));
    assert!(hid.contains("queue=kept") && hid.contains("ids=[1]"), "{log}");
    assert!(archived.contains("queue=taken") && !archived.contains("queue=kept"), "{log}");
}
