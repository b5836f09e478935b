//! Callers whose names are alike are different callers all the same.

use jsonwebtoken::Algorithm;
use pgmq_gateway::config::{KeySettings, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    auth::{ADMIN, key, with_admin},
    jwt::{Signer, claims, file, set, trust, with},
};
use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, gateway::try_start, process::program,
};

/// Sends `body` with an `Idempotency-Key` that everybody here has; tells whether it was a replay.
async fn replayed(client: &Client, body: &str) -> bool {
    let request = client.request("POST", "/queues/q/messages").header("Idempotency-Key", "order-7");
    let answer = Answer::of(request.body(body.to_owned())).await.expect(201);
    answer.header("idempotency-replayed") == "true"
}

/// Each of them sends twice what all of them send; it is stored once for each.
async fn are_different(gateway: &TestGateway, reader: &Client, callers: &[Client]) {
    for caller in callers {
        assert!(!replayed(caller, r#"{"message":1}"#).await, "taken for another's");
        assert!(replayed(caller, r#"{"message":1}"#).await, "not known again");
    }
    assert_eq!(reader.all("q").await.len(), callers.len());
    let scopes = "SELECT count(DISTINCT scope) FROM pgmq_gateway.idempotency_keys";
    let scopes: i64 = gateway.database.value(scopes).await;
    assert_eq!(scopes, i64::try_from(callers.len()).expect("few"));
}

async fn with_signer(change: impl FnOnce(&mut Settings)) -> (TestGateway, Client, Signer) {
    let signer = Signer::new("one", Algorithm::EdDSA);
    let directory = TempDir::new().expect("a directory");
    let jwks = file(&directory, &set(&[&signer]));
    let gateway = TestGateway::with(|settings| {
        trust(jwks)(settings);
        with_admin(settings);
        change(settings);
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    (gateway, admin, signer)
}

fn of_subject(signer: &Signer, subject: impl Into<Value>, id: i64) -> String {
    signer.token(&with(with(claims("send,receive:q"), "sub", subject.into()), "jti", json!(id)))
}

#[tokio::test]
async fn subjects_that_agree_in_what_is_shown_do_not_share_idempotency_keys() {
    let (gateway, admin, signer) = with_signer(|_| {}).await;
    let shown = "x".repeat(64);
    let subjects = [&*shown, &format!("{shown}a"), &format!("{shown}b"), "a\u{7}b", "ab"];
    let callers = subjects.map(|subject| gateway.with_key(&of_subject(&signer, subject, 1)));
    are_different(&gateway, &admin, &callers).await;
    // With another token they are who they were.
    for subject in subjects {
        let again = gateway.with_key(&of_subject(&signer, subject, 2));
        assert!(replayed(&again, r#"{"message":1}"#).await, "{subject:?}");
    }
}

/// What has no subject says of nobody that the next token is theirs, too.
#[tokio::test]
async fn tokens_without_a_subject_do_not_share_idempotency_keys() {
    let (gateway, admin, signer) = with_signer(|_| {}).await;
    let mut tokens: Vec<String> = ["", " "].map(|sub| of_subject(&signer, sub, 1)).into();
    tokens.push(of_subject(&signer, "", 2));
    // RFC 7519 has text there.
    tokens.extend([json!(7), json!(null)].map(|sub| of_subject(&signer, sub, 1)));
    for id in 1..=3 {
        let mut claims = with(claims("send,receive:q"), "jti", json!(id));
        claims.as_object_mut().expect("claims").remove("sub");
        tokens.push(signer.token(&claims));
    }
    let callers: Vec<Client> = tokens.iter().map(|token| gateway.with_key(token)).collect();
    are_different(&gateway, &admin, &callers).await;
}

#[tokio::test]
async fn limits_are_a_subject_s_own_and_those_of_a_token_without_one() {
    let (gateway, _, signer) = with_signer(|settings| {
        settings.limits.requests_per_second_per_key = Some(1);
    })
    .await;
    let long = "x".repeat(64);
    let mut nobody = claims("send,receive:q");
    nobody.as_object_mut().expect("claims").remove("sub");
    let greedy = [of_subject(&signer, format!("{long}a"), 1), signer.token(&nobody)];
    let others = [
        of_subject(&signer, format!("{long}b"), 1),
        signer.token(&with(nobody, "jti", json!("another"))),
    ];
    for (greedy, other) in greedy.iter().zip(others) {
        eventually("too many requests", async || {
            (gateway.with_key(greedy).get("/queues").await.status == 429).then_some(())
        })
        .await;
        gateway.with_key(&other).get("/queues").await.expect(200);
    }
}

#[tokio::test]
async fn keys_of_the_same_name_do_not_share_idempotency_keys() {
    let database = TestDatabase::new().await;
    let url = database.url();
    let keys = |arguments: &[&str]| {
        let arguments: Vec<&str> =
            std::iter::once("keys").chain(arguments.iter().copied()).collect();
        let output = program(&arguments, &[("DATABASE_URL", &url)]).output().expect("ran");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    let create = ["create", "--name", "shop", "--grant", "send,receive:q"];
    let stored = [keys(&create), keys(&create)];
    let configured = |secret: &'static str| {
        move |settings: &mut Settings| {
            with_admin(settings);
            settings.auth.keys = vec![key("shop", secret, &["send,receive:q"])];
        }
    };
    let gateway = TestGateway::on(&database, configured("one-of-the-keys-of-shop")).await;
    // Of another configuration on the same database.
    let other = TestGateway::on(&database, configured("another-key-of-a-shop")).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let callers = [
        gateway.with_key(&stored[0]),
        gateway.with_key(&stored[1]),
        gateway.with_key("one-of-the-keys-of-shop"),
        other.with_key("another-key-of-a-shop"),
        admin.clone(),
    ];
    are_different(&gateway, &admin, &callers).await;
    // A key that is rotated is the same key, and so it is at every gateway.
    let id = stored[0].split('_').nth(1).expect("an id");
    let rotated = keys(&["rotate", id]);
    let rotated = other.with_key(&rotated);
    eventually("the new secret is known", async || {
        (rotated.get("/queues").await.status == 200).then_some(())
    })
    .await;
    assert!(replayed(&rotated, r#"{"message":1}"#).await);
}

#[tokio::test]
async fn a_key_that_is_there_twice_stops_the_start() {
    let database = TestDatabase::new().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{ADMIN}\n")).expect("written");
    let in_file = KeySettings {
        key: None,
        key_file: Some(file.path().to_owned()),
        ..key("reader", "", &["receive"])
    };
    let twice = |settings: &mut Settings| {
        with_admin(settings);
        settings.auth.keys = vec![in_file];
    };
    let said = try_start(&database.url(), twice).await.expect_err("refused").to_string();
    assert!(said.contains("`admin_key` and `reader` are the same key"), "{said}");
    assert!(!said.contains(ADMIN), "{said}");
}

/// What the contract has no room for is refused as it is without a key.
#[tokio::test]
async fn an_idempotency_key_changes_nothing_about_a_path_that_is_too_long() {
    let gateway = TestGateway::start().await;
    let words: Vec<String> =
        (0..1_000).map(|n: u64| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let path = format!("/topics/{}/messages", words.join("."));
    let send = || gateway.request("POST", &path).body(r#"{"message":1}"#);
    let without = Answer::of(send()).await.problem(400, "invalid_request").detail();
    let with = Answer::of(send().header("Idempotency-Key", "k")).await;
    assert_eq!(with.problem(400, "invalid_request").detail(), without);
}
