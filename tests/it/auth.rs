//! Who is let in, and who is not.

use std::{fs, io::Write, process::Stdio};

use pgmq_gateway::{
    app::StartError,
    config::{AuthMode, KeySettings, Secret, Settings},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually,
    gateway::try_start,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
    raw,
};

pub const ADMIN: &str = "the-key-of-the-administrator";

/// A key for the configuration.
pub fn key(name: &str, secret: &str, grants: &[&str]) -> KeySettings {
    KeySettings {
        name: name.to_owned(),
        key: Some(Secret::new(secret)),
        key_file: None,
        sha256: None,
        grants: grants.iter().map(|grant| grant.parse().expect("a grant")).collect(),
        expires_at: None,
        requests_per_second: None,
        max_waiters: None,
    }
}

fn with_admin(settings: &mut Settings) {
    settings.auth.admin_key = Some(Secret::new(ADMIN));
}

/// The administration of keys, as a person does it.
fn keys(database: &TestDatabase, arguments: &[&str]) -> (bool, String, String) {
    let url = database.url();
    let arguments: Vec<&str> = std::iter::once("keys").chain(arguments.iter().copied()).collect();
    let output = program(&arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
    let text = |bytes| String::from_utf8(bytes).expect("text").trim_end().to_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn made(database: &TestDatabase, arguments: &[&str]) -> String {
    let (fine, key, said) = keys(database, arguments);
    assert!(fine && key.starts_with("pgk_"), "{key} {said}");
    key
}

async fn one_waits(admin: &Client) {
    eventually("a client waits", async || {
        let metrics = admin.get("/queues/q/metrics").await.json();
        (metrics["waiters"] == 1).then_some(())
    })
    .await;
}

fn id_of(key: &str) -> String {
    key.split('_').nth(1).expect("an id").to_owned()
}

#[tokio::test]
async fn without_a_valid_key_nobody_gets_in_and_all_are_answered_alike() {
    let gateway = TestGateway::with(with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let mut details = Vec::new();
    for value in [
        None,
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {ADMIN}x")),
        Some(format!("Digest {ADMIN}")),
        Some("Bearer pgk_abc_def".to_owned()),
        Some("Basic !!".to_owned()),
        Some("Bearer a.b.c".to_owned()),
    ] {
        let mut request = gateway.request("GET", "/queues/q/messages");
        if let Some(value) = value {
            request = request.header("authorization", value);
        }
        let answer = Answer::of(request).await.problem(401, "unauthenticated");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
        details.push(answer.detail());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "{details:?}");
    // Whether there is such a queue, or such a parameter, is nobody's business.
    gateway.get("/queues/none/messages?x=y").await.problem(401, "unauthenticated");
    gateway.get("/queues/Wrong--Name").await.problem(401, "unauthenticated");
    let twice = gateway.request("GET", "/queues").bearer_auth(ADMIN).bearer_auth(ADMIN);
    Answer::of(twice).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_key_is_taken_as_bearer_and_as_password() {
    let gateway = TestGateway::with(with_admin).await;
    gateway.with_key(ADMIN).get("/queues").await.expect(200);
    let basic = gateway.request("GET", "/queues").basic_auth("anybody", Some(ADMIN));
    Answer::of(basic).await.expect(200);
}

#[tokio::test]
async fn keys_come_from_the_configuration_in_three_forms() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("key");
    fs::write(&file, "a-key-in-a-mounted-file\n").expect("written");
    let gateway = TestGateway::with(|settings| {
        let plain = key("plain", "a-key-in-plain-text", &["send:q"]);
        let in_file = KeySettings {
            key: None,
            key_file: Some(file.clone()),
            ..key("file", "", &["receive:q"])
        };
        let hashed = KeySettings {
            key: None,
            sha256: Some(sha256_of("a-key-that-is-hashed")),
            ..key("hashed", "", &["manage:q"])
        };
        settings.auth.keys = vec![plain, in_file, hashed];
    })
    .await;
    gateway.with_key("a-key-that-is-hashed").create("q").await;
    gateway.with_key("a-key-in-plain-text").send("q", r#"{"message":1}"#).await;
    gateway.with_key("a-key-in-a-mounted-file").receive_one("q", "").await;
}

/// As `sha256sum` prints it.
fn sha256_of(text: &str) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended").stdout;
    String::from_utf8(output).expect("text")[..64].to_owned()
}

#[tokio::test]
async fn a_key_does_what_it_was_granted_and_nothing_else() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            key("producer", "the-key-of-a-producer", &["send:orders"]),
            key("manager", "the-key-of-a-manager", &["manage,receive:eu-*", "receive:dead"]),
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["orders", "eu-west", "dead", "secret"] {
        admin.create(queue).await;
    }
    let producer = gateway.with_key("the-key-of-a-producer");
    producer.send("orders", r#"{"message":1}"#).await;
    let refused = producer.get("/queues/orders/messages").await.problem(403, "forbidden");
    assert!(refused.detail().contains("`receive` on queue `orders`"), "{}", refused.text);
    producer.post("/queues/secret/messages", r#"{"message":1}"#).await.problem(403, "forbidden");
    producer.get("/queues/none").await.problem(403, "forbidden");
    producer.get("/queues/orders").await.expect(200);
    producer.get("/metrics").await.problem(403, "forbidden");

    // What moves messages elsewhere needs the right to send there.
    let manager = gateway.with_key("the-key-of-a-manager");
    let elsewhere = json!({"max_receives": 1, "dead_letter_queue": "secret"});
    manager.configure("eu-west", elsewhere).await.problem(403, "forbidden");
    let with_dead = r#"{"settings":{"dead_letter_queue":"secret"}}"#;
    manager.put("/queues/eu-new", with_dead).await.problem(403, "forbidden");
    let replay = r#"{"to":"secret"}"#;
    manager.post("/queues/eu-west/archive/replay", replay).await.problem(403, "forbidden");
    manager.post("/queues/eu-west/redrive", replay).await.problem(403, "forbidden");
    manager.put("/queues/eu-new", "").await.expect(201);
    manager.put("/queues/us-new", "").await.problem(403, "forbidden");
}

#[tokio::test]
async fn lists_show_what_the_key_may_see() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            key("some", "the-key-of-somebody", &["send:b*", "receive:d"]),
            key("reader", "the-key-of-a-reader", &["receive:*"]),
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["a", "b1", "b2", "c", "d"] {
        admin.create(queue).await;
        let bind = json!({"pattern": "t.#"}).to_string();
        admin.post(&format!("/queues/{queue}/bindings"), &bind).await.expect(201);
    }
    let some = gateway.with_key("the-key-of-somebody");
    let names = |answer: Answer, list: &str, field: &str| -> Vec<String> {
        let list = answer.expect(200).json()[list].as_array().expect("a list").clone();
        let name = |entry: &serde_json::Value| entry[field].as_str().expect("a name").to_owned();
        list.iter().map(name).collect()
    };
    assert_eq!(names(some.get("/queues").await, "queues", "queue"), ["b1", "b2", "d"]);
    let page = some.get("/queues?limit=2").await;
    assert_eq!(page.json()["next"], "b2");
    assert_eq!(names(page, "queues", "queue"), ["b1", "b2"]);
    assert_eq!(names(some.get("/queues?limit=2&after=b2").await, "queues", "queue"), ["d"]);
    assert_eq!(names(some.get("/bindings").await, "bindings", "queue"), ["b1", "b2", "d"]);
    let route = some.get("/topics/t.x/queues").await.expect(200);
    assert_eq!(route.json()["queues"], json!(["b1", "b2", "d"]));

    // Of a topic's queues those get the message to which the key may send: whoever binds theirs to
    // everything neither gets it nor stops it.
    let publish = r#"{"message":1}"#;
    let published = some.post("/topics/t.x/messages", publish).await.expect(201);
    let queues = names(Answer { status: 200, ..published }, "deliveries", "queue");
    assert_eq!(queues, ["b1", "b2"]);
    assert!(admin.all("a").await.is_empty());
    let all = admin.post("/topics/t.x/messages", publish).await.expect(201).json();
    assert_eq!(all["deliveries"].as_array().map(Vec::len), Some(5), "{all}");
    let reader = gateway.with_key("the-key-of-a-reader");
    reader.post("/topics/t.x/messages", publish).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_transaction_needs_every_right_that_it_uses() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("worker", "the-key-of-a-worker", &["receive:a", "send:b"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("a").await;
    admin.create("b").await;
    let id = admin.send("a", r#"{"message":1}"#).await;
    let worker = gateway.with_key("the-key-of-a-worker");
    let wrong = json!({"operations": [
        {"delete": {"queue": "a", "msg_id": id}}, {"send": {"queue": "a", "message": 2}}
    ]});
    let refused = worker.post("/transactions", &wrong.to_string()).await.problem(403, "forbidden");
    assert_eq!(refused.json()["index"], 1, "{}", refused.text);
    assert_eq!(admin.all("a").await.len(), 1);
    let right = json!({"operations": [
        {"delete": {"queue": "a", "msg_id": id}}, {"send": {"queue": "b", "message": 2}}
    ]});
    worker.post("/transactions", &right.to_string()).await.expect(200);
}

#[tokio::test]
async fn dead_letters_go_back_only_to_where_the_key_may_send() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        let grants = ["manage,send:a.c*", "manage,receive,send:dead"];
        settings.auth.keys = vec![key("manager", "the-key-of-a-manager", &grants)];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    // The pattern means the first of these, and neither as a regular expression nor in the middle.
    let queues = ["a.c1", "abc1", "xa.c1"];
    for queue in queues.iter().chain(&["dead"]) {
        admin.create(queue).await;
    }
    for queue in queues {
        let headers = json!({"x-dead-letter-queue": queue});
        admin.send("dead", &json!({"message": queue, "headers": headers}).to_string()).await;
    }
    let manager = gateway.with_key("the-key-of-a-manager");
    let moved = manager.post("/queues/dead/redrive", "").await.expect(200).json();
    assert_eq!(moved["moved"], 1, "{moved}");
    assert_eq!(admin.all("a.c1").await.len(), 1);
    assert_eq!(admin.post("/queues/dead/redrive", "").await.json()["moved"], 2);
}

#[tokio::test]
async fn nobody_claims_that_a_message_comes_from_where_they_may_not_send() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![key("some", "the-key-of-somebody", &["send:dead", "send:mine"])];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("dead").await;
    let some = gateway.with_key("the-key-of-somebody");
    for headers in [
        r#"{"x-dead-letter-queue":"theirs"}"#,
        r#"{"x-dead-letter\u002dqueue":"theirs"}"#,
        r#"{"x-dead-letter-queue":"mine","x-dead-letter-queue":"theirs"}"#,
        r#"{"x-dead-letter-queue":["theirs"]}"#,
    ] {
        let one = format!(r#"{{"message":1,"headers":{headers}}}"#);
        let send = format!(r#"{{"queue":"dead","message":1,"headers":{headers}}}"#);
        for (path, body) in [
            ("/queues/dead/messages", one.clone()),
            ("/queues/dead/messages/batch", format!(r#"{{"messages":[{one}]}}"#)),
            ("/topics/t/messages", one.clone()),
            ("/transactions", format!(r#"{{"operations":[{{"send":{send}}}]}}"#)),
        ] {
            let refused = some.post(path, &body).await.problem(403, "forbidden");
            assert!(refused.detail().contains("headers"), "{path} {}", refused.text);
        }
    }
    some.send("dead", r#"{"message":1,"headers":{"x-dead-letter-queue":"mine","a":1}}"#).await;
    admin.send("dead", r#"{"message":1,"headers":{"x-dead-letter-queue":"theirs"}}"#).await;
}

#[tokio::test]
async fn who_may_not_receive_from_a_queue_has_nothing_of_it_moved_elsewhere() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        let grants = ["manage,send:orders", "admin:mine"];
        settings.auth.keys = vec![key("manager", "the-key-of-a-manager", &grants)];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("orders").await;
    admin.create("mine").await;
    let manager = gateway.with_key("the-key-of-a-manager");
    let to_mine = r#"{"to":"mine"}"#;
    manager.post("/queues/orders/redrive", to_mine).await.problem(403, "forbidden");
    manager.post("/queues/orders/redrive", "").await.problem(403, "forbidden");
    manager.post("/queues/orders/archive/replay", to_mine).await.problem(403, "forbidden");
    manager.post("/queues/orders/archive/replay", "").await.expect(200);
    let bury = json!({"max_receives": 1, "dead_letter_queue": "mine"});
    manager.configure("orders", bury).await.problem(403, "forbidden");
}

#[tokio::test]
async fn an_idempotency_key_is_its_owners_own() {
    let gateway = TestGateway::with(|settings| {
        settings.auth.keys = vec![
            key("one", "the-key-of-the-one", &["admin"]),
            key("other", "the-key-of-the-other", &["admin"]),
        ];
    })
    .await;
    gateway.with_key("the-key-of-the-one").create("q").await;
    let mut ids = Vec::new();
    for secret in ["the-key-of-the-one", "the-key-of-the-other"] {
        let client = gateway.with_key(secret);
        let body = json!({"message": secret}).to_string();
        for _ in 0..2 {
            let send = client.request("POST", "/queues/q/messages").body(body.clone());
            let sent = Answer::of(send.header("idempotency-key", "order-42")).await.expect(201);
            ids.push(sent.json()["msg_id"].as_i64().expect("an id"));
        }
    }
    assert_eq!(ids, [1, 1, 2, 2]);
}

#[tokio::test]
async fn keys_that_are_gone_open_no_door() {
    let database = TestDatabase::new().await;
    made(&database, &["create", "--name", "only", "--grant", "admin"]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.get("/queues").await.problem(401, "unauthenticated");
    database.execute("DELETE FROM pgmq_gateway.api_keys").await;
    // A gateway that starts now needs none, so it does not know better; this one does.
    let later = TestGateway::on(&database, |_| {}).await;
    later.get("/queues").await.expect(200);
    let key = made(&database, &["create", "--name", "next", "--grant", "admin"]);
    eventually("a key is needed there too", async || {
        (later.get("/queues").await.status == 401).then_some(())
    })
    .await;
    eventually("the new key is known", async || {
        (gateway.with_key(&key).get("/queues").await.status == 200).then_some(())
    })
    .await;
    gateway.get("/queues").await.problem(401, "unauthenticated");
    // One that makes no sense lets nobody in, and opens no door.
    database.execute("UPDATE pgmq_gateway.api_keys SET grants = '{browse:q}'").await;
    eventually("it lets nobody in", async || {
        (gateway.with_key(&key).get("/queues").await.status == 401).then_some(())
    })
    .await;
    TestGateway::on(&database, |_| {}).await.get("/queues").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn whoever_waits_without_a_key_is_asked_for_one_when_there_is_one() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.get("/queues/q/messages?wait=20").await });
    one_waits(&gateway).await;
    made(&database, &["create", "--name", "first", "--grant", "admin"]);
    waiting.await.expect("an answer").problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_request_that_takes_its_time_ends_with_its_key() {
    let database = TestDatabase::new().await;
    let key = made(&database, &["create", "--name", "slow", "--grant", "admin"]);
    let gateway = TestGateway::on(&database, with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let mut slow = raw::dial(gateway.gateway.address().expect("TCP")).await;
    let head = format!(
        "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Connection: close\r\nContent-Length: 13\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    eventually("it is served", async || {
        let metrics = admin.get("/metrics").await.text;
        // And the one that asks.
        metrics.contains("pgmq_gateway_requests_in_hand 2").then_some(())
    })
    .await;
    keys(&database, &["revoke", &id_of(&key)]);
    let client = gateway.with_key(&key);
    eventually("it is revoked", async || (client.get("/queues").await.status == 401).then_some(()))
        .await;
    slow.write_all(br#""message":1}"#).await.expect("sent");
    let said = raw::read_all(&mut slow).await.expect("answered");
    assert!(said.starts_with("HTTP/1.1 401 "), "{said}");
    assert!(admin.all("q").await.is_empty());
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked_and_every_gateway_knows() {
    let database = TestDatabase::new().await;
    let key = made(&database, &["create", "--name", "billing", "--grant", "send,manage:b*"]);
    let gateways =
        [TestGateway::on(&database, |_| {}).await, TestGateway::on(&database, |_| {}).await];
    gateways[0].with_key(&key).create("b").await;
    for gateway in &gateways {
        gateway.get("/queues").await.problem(401, "unauthenticated");
        gateway.with_key(&key).send("b", r#"{"message":1}"#).await;
    }
    let kept: String = database.value("SELECT k::text FROM pgmq_gateway.api_keys k").await;
    let secret = key.rsplit('_').next().expect("a secret");
    assert!(!kept.contains(secret), "{kept}");

    let id = id_of(&key);
    let (fine, new_key, said) = keys(&database, &["rotate", &id, "--overlap", "1h"]);
    assert!(fine && new_key != key && id_of(&new_key) == id, "{said}");
    for gateway in &gateways {
        eventually("the new key is known", async || {
            let answer = gateway.with_key(&new_key).get("/queues").await;
            (answer.status == 200).then_some(())
        })
        .await;
        gateway.with_key(&key).get("/queues").await.expect(200);
    }
    let (_, listed, _) = keys(&database, &["list"]);
    assert!(listed.contains("billing") && listed.contains("in force"), "{listed}");
    assert!(!listed.contains(secret), "{listed}");

    let (fine, _, said) = keys(&database, &["revoke", &id]);
    assert!(fine, "{said}");
    for gateway in &gateways {
        // The same client: its connection is open.
        for key in [&key, &new_key] {
            let client = gateway.with_key(key);
            eventually("the key is revoked", async || {
                (client.get("/queues").await.status == 401).then_some(())
            })
            .await;
        }
        // That there is no key in force does not open the door.
        gateway.get("/queues").await.problem(401, "unauthenticated");
    }
    let (_, listed, _) = keys(&database, &["list"]);
    assert!(listed.contains("revoked"), "{listed}");
    let (fine, _, said) = keys(&database, &["revoke", &id]);
    assert!(!fine && said.contains("there is no key"), "{said}");
}

#[tokio::test]
async fn whoever_waits_with_a_key_that_is_revoked_is_given_nothing() {
    let database = TestDatabase::new().await;
    let key = made(&database, &["create", "--name", "consumer", "--grant", "receive:q"]);
    let gateway = TestGateway::on(&database, with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let consumer = gateway.with_key(&key);
    let waiting = tokio::spawn(async move { consumer.get("/queues/q/messages?wait=20").await });
    one_waits(&admin).await;
    keys(&database, &["revoke", &id_of(&key)]);
    waiting.await.expect("an answer").problem(401, "unauthenticated");
    admin.send("q", r#"{"message":1}"#).await;
    assert_eq!(admin.receive_one("q", "").await["read_ct"], 1);
}

#[tokio::test]
async fn an_expired_key_is_no_key() {
    let database = TestDatabase::new().await;
    let key =
        made(&database, &["create", "--name", "short", "--grant", "admin", "--expires-in", "2s"]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    let client = gateway.with_key(&key);
    eventually("it is expired", async || (client.get("/queues").await.status == 401).then_some(()))
        .await;
    let (_, listed, _) = keys(&database, &["list"]);
    assert!(listed.contains("expired"), "{listed}");
}

#[tokio::test]
async fn when_a_key_was_used_is_noted_by_a_role_that_may_make_none() {
    let database = TestDatabase::new().await;
    database.execute("DROP ROLE IF EXISTS key_user; CREATE ROLE key_user LOGIN").await;
    let url = database.url();
    let granted =
        program(&["migrate", "--grant-to", "key_user"], &[("DATABASE_URL", &url)]).output();
    assert!(granted.expect("ran").status.success());
    let role: bool = database
        .value(
            "SELECT has_table_privilege('key_user', 'pgmq_gateway.api_keys', 'INSERT') \
                 OR has_table_privilege('key_user', 'pgmq_gateway.api_keys', 'DELETE') \
                 OR has_column_privilege('key_user', 'pgmq_gateway.api_keys', 'hash', 'UPDATE')",
        )
        .await;
    assert!(!role);
    let key = made(&database, &["create", "--name", "used", "--grant", "admin"]);
    let gateway = TestGateway::on(&database, |settings| {
        settings.database.url = Some(Secret::new(database.url_as("key_user")));
        settings.auth.refresh_interval_ms = 100;
    })
    .await;
    gateway.with_key(&key).get("/queues").await.expect(200);
    eventually("its use is noted", async || {
        let sql = "SELECT last_used_at > now() - interval '1 minute' FROM pgmq_gateway.api_keys";
        database.value::<Option<bool>>(sql).await
    })
    .await;
}

#[tokio::test]
async fn a_key_has_limits_of_its_own() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            KeySettings {
                requests_per_second: Some(1),
                ..key("slow", "the-slow-key-of-it", &["send:q"])
            },
            KeySettings {
                max_waiters: Some(1),
                ..key("waits", "the-waiting-key-of-it", &["receive:q"])
            },
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let slow = gateway.with_key("the-slow-key-of-it");
    let refused = eventually("too many", async || {
        let answer = slow.get("/queues").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.problem(429, "rate_limited");
    let again = eventually("too many", async || {
        let answer = slow.get("/queues").await;
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(again.await.header("retry-after"), "1");
    // Others go on.
    admin.get("/queues").await.expect(200);

    let waits = gateway.with_key("the-waiting-key-of-it");
    let first = waits.clone();
    let waiting = tokio::spawn(async move { first.get("/queues/q/messages?wait=20").await });
    one_waits(&admin).await;
    waits.get("/queues/q/messages?wait=1").await.problem(503, "overloaded");
    waits.get("/queues/q/messages").await.expect(200);
    admin.send("q", r#"{"message":1}"#).await;
    assert_eq!(waiting.await.expect("an answer").messages().len(), 1);
    let metrics = admin.get("/metrics").await.expect(200).text;
    for limit in ["key_requests_per_second", "key_max_waiters"] {
        assert!(metrics.contains(&format!("refused_total{{limit=\"{limit}\"}}")), "{metrics}");
    }
}

#[tokio::test]
async fn without_a_key_only_this_machine_is_served() {
    let database = TestDatabase::new().await;
    let everywhere = |mode| {
        move |settings: &mut Settings| {
            settings.server.host = [0, 0, 0, 0].into();
            settings.auth.mode = mode;
        }
    };
    let url = database.url();
    let refused = try_start(&url, everywhere(AuthMode::Auto)).await.expect_err("no key");
    assert!(matches!(refused, StartError::Access(_)), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("keys create") && said.contains("auth.mode = \"none\""), "{said}");
    let said = try_start(&url, everywhere(AuthMode::Required)).await.expect_err("no key");
    assert!(said.to_string().contains("there is no key"), "{said}");

    for host in ["::", "::ffff:0.0.0.0"] {
        let exposed = |settings: &mut Settings| settings.server.host = host.parse().expect("valid");
        try_start(&url, exposed).await.expect_err("no key");
    }
    TestGateway::on(&database, |settings| settings.server.host = "::1".parse().expect("valid"))
        .await;

    let open = TestGateway::on(&database, everywhere(AuthMode::None)).await;
    open.get("/queues").await.expect(200);
    let closed = TestGateway::on(&database, |settings| {
        everywhere(AuthMode::Auto)(settings);
        with_admin(settings);
    })
    .await;
    closed.get("/queues").await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_key_can_be_made_beside_a_running_private_postgresql() {
    let directory = new_directory();
    let environment = embedded_environment(&directory);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let mut gateway = Program::start(program(&[], &environment));
    let client: Client = gateway.client().await;
    client.get("/queues").await.expect(200);
    let arguments = ["keys", "create", "--name", "first", "--grant", "admin"];
    let made = program(&arguments, &environment).output().expect("ran");
    let key = String::from_utf8(made.stdout).expect("text").trim_end().to_owned();
    assert!(key.starts_with("pgk_"), "{key} {}", String::from_utf8_lossy(&made.stderr));
    eventually("a key is needed", async || {
        (client.get("/queues").await.status == 401).then_some(())
    })
    .await;
    client.with_key(&key).get("/queues").await.expect(200);
    assert!(!gateway.log().contains(&key));
}

/// As a browser does it for a page of another site.
#[tokio::test]
async fn pages_of_other_sites_are_told_nothing_unless_they_are_welcome() {
    let preflight = |gateway: &TestGateway, origin: &str| {
        let request = gateway.request("OPTIONS", "/queues/q/messages").header("origin", origin);
        let request = request.header("access-control-request-headers", "content-type");
        Answer::of(request.header("access-control-request-method", "POST"))
    };
    let send = |gateway: &TestGateway, origin: &str| {
        let request = gateway.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        Answer::of(request.header("origin", origin))
    };
    let closed = TestGateway::start().await;
    closed.create("q").await;
    let refused = preflight(&closed, "https://app.example").await;
    refused.clone().problem(405, "method_not_allowed");
    assert_eq!(refused.header("access-control-allow-origin"), "");
    send(&closed, "https://app.example").await.problem(415, "unsupported_media_type");

    let open = TestGateway::with(|settings| {
        settings.http.cors_origins = vec!["https://app.example".to_owned()];
    })
    .await;
    open.create("q").await;
    let welcome = preflight(&open, "https://app.example").await.expect(200);
    assert_eq!(welcome.header("access-control-allow-origin"), "https://app.example");
    let sent = send(&open, "https://app.example").await.expect(201);
    assert_eq!(sent.header("access-control-allow-origin"), "https://app.example");
    assert!(sent.header("access-control-expose-headers").contains("location"));
    let other = preflight(&open, "https://evil.example").await;
    assert_eq!(other.header("access-control-allow-origin"), "");
    send(&open, "https://evil.example").await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn where_any_page_is_welcome_it_has_to_ask_first() {
    let gateway = TestGateway::with(|settings| {
        settings.http.cors_origins = vec!["*".to_owned()];
        with_admin(settings);
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let send = || {
        let send = admin.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        send.header("origin", "https://any.example").header("sec-fetch-site", "cross-site")
    };
    let refused = Answer::of(send().header("content-type", "text/plain")).await;
    refused.problem(415, "unsupported_media_type");
    let sent = Answer::of(send().header("content-type", "application/json")).await.expect(201);
    assert_eq!(sent.header("access-control-allow-origin"), "*");
    // A page can read why it was refused.
    let keyless = gateway.request("GET", "/queues").header("origin", "https://any.example");
    let keyless = Answer::of(keyless).await;
    keyless.clone().problem(401, "unauthenticated");
    assert_eq!(keyless.header("access-control-allow-origin"), "*");
}

#[tokio::test]
async fn a_name_that_leads_here_and_is_not_ours_is_refused() {
    let gateway = TestGateway::start().await;
    let under = |gateway: &TestGateway, host: &str| {
        Answer::of(gateway.request("GET", "/queues").header("host", host))
    };
    under(&gateway, "evil.example").await.problem(403, "forbidden");
    for known in ["localhost", "127.0.0.1:9", "[::1]:8080"] {
        under(&gateway, known).await.expect(200);
    }
    let named = TestGateway::with(|settings| {
        settings.http.allowed_hosts = vec!["Queue.Example".to_owned()];
    })
    .await;
    under(&named, "queue.example:443").await.expect(200);
    under(&named, "localhost").await.problem(403, "forbidden");
}
