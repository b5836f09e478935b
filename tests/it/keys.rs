//! Keys of the database: made, used, rotated and ended.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
};

use pgmq_gateway::config::Secret;
use tokio::io::AsyncWriteExt;

use super::auth::{ADMIN, with_admin};
use crate::support::{
    Client, TestDatabase, TestGateway, eventually,
    postgres::new_directory,
    process::{Program, embedded_environment, program},
    raw,
};

/// The administration of keys, as a person does it.
fn keys(database: &TestDatabase, arguments: &[&str]) -> (bool, String, String) {
    let url = database.url();
    let arguments: Vec<&str> = std::iter::once("keys").chain(arguments.iter().copied()).collect();
    let output = program(&arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
    let text = |bytes| String::from_utf8(bytes).expect("text").trim_end().to_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

pub fn made(database: &TestDatabase, arguments: &[&str]) -> String {
    let (fine, key, said) = keys(database, arguments);
    assert!(fine && key.starts_with("pgk_"), "{key} {said}");
    key
}

fn id_of(key: &str) -> String {
    key.split('_').nth(1).expect("an id").to_owned()
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
    gateway.wait_for_waiters("q", 1).await;
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
        metrics.contains("pgmq_gateway_requests_in_flight 2").then_some(())
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
    admin.wait_for_waiters("q", 1).await;
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
    // Nor does another secret make it one.
    let (fine, new_key, said) = keys(&database, &["rotate", &id_of(&key)]);
    assert!(!fine && new_key.is_empty() && said.contains("there is no key"), "{new_key} {said}");
    database.execute("UPDATE pgmq_gateway.api_keys SET expires_at = 'infinity'").await;
    made(&database, &["rotate", &id_of(&key)]);
}

/// It is there this once: whoever does not get it must know that there is a key.
#[tokio::test]
async fn a_secret_that_cannot_be_written_out_is_told_with_its_key() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let key = made(&database, &["create", "--name", "a", "--grant", "admin"]);
    let id = id_of(&key);
    let full = || {
        let file = std::fs::OpenOptions::new().write(true).open("/dev/full");
        Stdio::from(file.expect("a full device"))
    };
    let closed = || {
        let (stdout, _) = UnixStream::pair().expect("a pair");
        Stdio::from(OwnedFd::from(stdout))
    };
    for stdout in [&full as &dyn Fn() -> Stdio, &closed] {
        for arguments in
            [&["keys", "rotate", &*id][..], &["keys", "create", "--name", "b", "--grant", "admin"]]
        {
            let mut command = program(arguments, &[("DATABASE_URL", &url)]);
            let output = command.stdout(stdout()).output().expect("ran");
            let said = String::from_utf8(output.stderr).expect("text");
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            let (_, rest) = said.split_once("keys rotate ").expect("what to do");
            let named = rest.split('`').next().expect("an id");
            assert!(arguments.contains(&"create") || named == id, "{said}");
            assert!(said.contains(&format!("keys revoke {named}")), "{said}");
            assert!(!said.contains("pgk_"), "{said}");
            made(&database, &["rotate", named]);
        }
    }
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
