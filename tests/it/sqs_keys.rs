//! Signatures of version 4, with access keys that the gateway made.

use std::{env::temp_dir, fs};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::support::{
    Answer, TestDatabase, TestGateway, eventually,
    process::program,
    sigv4::{self, Signer},
};

pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

/// `keys` with arguments that make an access key.
pub fn made(
    database: &TestDatabase,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> AccessKey {
    let url = database.url();
    let mut all = vec![("DATABASE_URL", &*url)];
    all.extend(environment);
    let arguments: Vec<&str> = std::iter::once("keys").chain(arguments.iter().copied()).collect();
    let output = program(&arguments, &all).output().expect("ran");
    let said = String::from_utf8(output.stdout).expect("text");
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} in {said:?}")).to_owned()
    };
    AccessKey { id: value("AWS_ACCESS_KEY_ID"), secret: value("AWS_SECRET_ACCESS_KEY") }
}

impl AccessKey {
    /// A request that is signed as SDKs do it, at some time; `sent` is the body that comes with it.
    async fn request(
        &self,
        gateway: &TestGateway,
        action: &str,
        signed: &str,
        sent: &str,
        at: DateTime<Utc>,
    ) -> Answer {
        let signer = Signer::at(&self.id, &self.secret, at);
        let time = signer.time();
        let host = gateway.base.trim_start_matches("http://");
        let target = format!("AmazonSQS.{action}");
        let names = "host;x-amz-date;x-amz-target";
        let canonical = format!(
            "POST\n/\n\nhost:{host}\nx-amz-date:{time}\nx-amz-target:{target}\n\n{names}\n{}",
            sigv4::hash(signed)
        );
        let authorization = signer.authorization(names, &canonical);
        let request = gateway.request("POST", "/").header("authorization", authorization);
        let request = request.header("x-amz-target", target).header("x-amz-date", time);
        Answer::of(request.body(sent.to_owned())).await
    }

    pub async fn asks(&self, gateway: &TestGateway, action: &str, body: &str) -> Answer {
        self.request(gateway, action, body, body, Utc::now()).await
    }
}

pub fn code(answer: &Answer) -> &str {
    answer.header("x-amzn-query-error").split(';').next().unwrap_or_default()
}

const SEND: &str = r#"{"QueueUrl":"orders","MessageBody":"x"}"#;

#[tokio::test]
async fn a_signature_lets_in_whose_it_is_and_nobody_else() {
    let database = TestDatabase::new().await;
    let admin = ["create", "--name", "all", "--grant", "admin", "--aws"];
    let admin = made(&database, &admin, &[]);
    let sender = ["create", "--name", "one", "--grant", "send:orders", "--aws"];
    let sender = made(&database, &sender, &[]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    let new = r#"{"QueueName":"orders"}"#;
    admin.asks(&gateway, "CreateQueue", new).await.expect(200);
    let sent = sender.asks(&gateway, "SendMessage", SEND).await.expect(200);
    assert!(sent.json()["MessageId"].is_string());
    // Who sent it is shown.
    let wished = r#"{"QueueUrl":"orders","AttributeNames":["SenderId"]}"#;
    let received = admin.asks(&gateway, "ReceiveMessage", wished).await.expect(200).json();
    assert_eq!(received["Messages"][0]["Attributes"]["SenderId"], *sender.id);
    // The same key is one of REST.
    let id = sender.id[4..14].to_lowercase();
    let bearer = gateway.with_key(&format!("pgk_{id}_{}", sender.secret));
    bearer.send("orders", r#"{"message":1}"#).await;

    let wrong = AccessKey { id: sender.id.clone(), secret: admin.secret.clone() };
    let other = if sender.id.ends_with('X') { 'Y' } else { 'X' };
    let id = format!("{}{other}", &sender.id[..19]);
    let unknown = AccessKey { id, secret: sender.secret.clone() };
    let now = Utc::now();
    let old = now - TimeDelta::minutes(16);
    let flipped = SEND.replace('x', "y");
    for (answer, status, expected) in [
        (wrong.asks(&gateway, "SendMessage", SEND).await, 403, "SignatureDoesNotMatch"),
        (
            sender.request(&gateway, "SendMessage", SEND, &flipped, now).await,
            403,
            "SignatureDoesNotMatch",
        ),
        (
            sender.request(&gateway, "SendMessage", SEND, SEND, old).await,
            403,
            "SignatureDoesNotMatch",
        ),
        (unknown.asks(&gateway, "SendMessage", SEND).await, 403, "InvalidClientTokenId"),
        (sender.asks(&gateway, "ReceiveMessage", wished).await, 403, "AccessDenied"),
    ] {
        assert_eq!((answer.status, code(&answer)), (status, expected), "{}", answer.text);
    }
    let request = gateway.request("POST", "/").header("x-amz-target", "AmazonSQS.SendMessage");
    let answer = Answer::of(request.body(SEND)).await.expect(403);
    assert_eq!(code(&answer), "MissingAuthenticationToken");
    assert_eq!(gateway.with_key(&admin_key(&admin)).all("orders").await.len(), 2);
}

pub fn admin_key(key: &AccessKey) -> String {
    format!("pgk_{}_{}", key.id[4..14].to_lowercase(), key.secret)
}

#[tokio::test]
async fn access_keys_are_rotated_and_revoked_as_others_are() {
    let database = TestDatabase::new().await;
    let arguments = ["create", "--name", "k", "--grant", "admin", "--aws"];
    let old = made(&database, &arguments, &[]);
    let gateway = TestGateway::on(&database, |_| {}).await;
    old.asks(&gateway, "ListQueues", "{}").await.expect(200);
    let id = old.id[4..14].to_lowercase();
    let new = made(&database, &["rotate", &id, "--overlap", "1h", "--aws"], &[]);
    assert_ne!(old.id, new.id);
    eventually("the new one is known", async || {
        (new.asks(&gateway, "ListQueues", "{}").await.status == 200).then_some(())
    })
    .await;
    old.asks(&gateway, "ListQueues", "{}").await.expect(200);
    let url = database.url();
    let revoked = program(&["keys", "revoke", &id], &[("DATABASE_URL", &url)]).output();
    assert!(revoked.expect("ran").status.success());
    eventually("neither is taken", async || {
        let new = new.asks(&gateway, "ListQueues", "{}").await;
        (code(&new) == "InvalidClientTokenId").then_some(())
    })
    .await;
    assert_eq!(code(&old.asks(&gateway, "ListQueues", "{}").await), "InvalidClientTokenId");
}

#[tokio::test]
async fn the_master_key_may_be_in_a_file() {
    let database = TestDatabase::new().await;
    let file = temp_dir().join(format!("master-{}", database.name));
    fs::write(&file, "a long and random secret\n").expect("written");
    let path = file.to_str().expect("text").to_owned();
    let environment = [("PGMQ_GATEWAY__SQS__MASTER_KEY_FILE", &*path)];
    let arguments = ["create", "--name", "k", "--grant", "admin", "--aws"];
    let key = made(&database, &arguments, &environment);
    let with_file =
        TestGateway::on(&database, |s| s.sqs.master_key_file = Some(file.clone())).await;
    key.asks(&with_file, "ListQueues", "{}").await.expect(200);
    // Without it, the secret cannot be told.
    let without = TestGateway::on(&database, |_| {}).await;
    let answer = key.asks(&without, "ListQueues", "{}").await;
    assert_eq!(code(&answer), "InvalidClientTokenId");
    fs::remove_file(&file).expect("removed");
    // A role of `--grant-to` does not read the one in the database.
    let role = format!("master_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = database.url();
    let migrated = program(&["migrate", "--grant-to", &role], &[("DATABASE_URL", &url)]).output();
    assert!(migrated.expect("ran").status.success());
    let may = format!("SELECT has_table_privilege('{role}', 'pgmq_gateway.master_key', 'SELECT')");
    assert!(!database.value::<bool>(&may).await);
    let may = format!("SELECT has_table_privilege('{role}', 'pgmq_gateway.secret', 'SELECT')");
    assert!(database.value::<bool>(&may).await);
}

#[tokio::test]
async fn a_restored_copy_takes_the_same_access_keys() {
    let database = TestDatabase::new().await;
    let arguments = ["create", "--name", "k", "--grant", "admin", "--aws"];
    let key = made(&database, &arguments, &[]);
    let value = "SELECT encode(value, 'hex') FROM pgmq_gateway.master_key";
    let master: String = database.value(value).await;
    let copy = TestDatabase::new().await;
    // As a restore of the data stores it, where there is another one already.
    let row =
        format!("INSERT INTO pgmq_gateway.master_key (value) VALUES (decode('{master}', 'hex'))");
    copy.execute(&row).await;
    assert_eq!(copy.value::<String>(value).await, master);
    let stored = "SELECT encode(hash, 'hex') FROM pgmq_gateway.api_keys";
    let hash: String = database.value(stored).await;
    let id = key.id[4..14].to_lowercase();
    let row = format!(
        "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
         VALUES ('{id}', 'k', decode('{hash}', 'hex'), '{{admin}}')"
    );
    copy.execute(&row).await;
    let gateway = TestGateway::on(&copy, |_| {}).await;
    key.asks(&gateway, "ListQueues", "{}").await.expect(200);
}

#[tokio::test]
async fn a_page_of_another_site_does_nothing_by_a_url() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let request = gateway.request("GET", "/?Action=DeleteQueue&QueueUrl=q");
    let answer = Answer::of(request.header("sec-fetch-site", "cross-site")).await;
    assert_eq!(answer.status, 403, "{}", answer.text);
    let form = gateway.request("POST", "/").header("origin", "https://evil.example");
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(form.body("Action=DeleteQueue&QueueUrl=q")).await;
    assert_eq!(answer.status, 403, "{}", answer.text);
    let queue: Value = gateway.get("/queues/q").await.expect(200).json();
    assert_eq!(queue["queue"], "q");
}
