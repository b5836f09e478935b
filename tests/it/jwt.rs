//! Tokens that somebody else signs.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{Router, routing::get};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use pgmq_gateway::config::Settings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually, gateway::try_start, process::program,
};

/// A signer with a key of its own.
#[derive(Clone)]
pub struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Value,
}

impl Signer {
    /// A new key; openssl makes it, so that another implementation than ours is spoken to.
    pub fn new(id: &'static str, algorithm: Algorithm) -> Self {
        Self::with_options(
            id,
            algorithm,
            match algorithm {
                Algorithm::RS256 => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                Algorithm::ES256 => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
                _ => &["-algorithm", "ED25519"],
            },
        )
    }

    fn with_options(id: &'static str, algorithm: Algorithm, options: &[&str]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("key.pem");
        let made = std::process::Command::new("openssl")
            .arg("genpkey")
            .args(options)
            .arg("-out")
            .arg(&file)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let pem = fs::read(&file).expect("a key");
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
            _ => EncodingKey::from_ed_pem(&pem),
        };
        let key = key.expect("a key");
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, algorithm).expect("public");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(id);
        Self { id, algorithm, key, jwk }
    }

    pub fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).expect("signed")
    }
}

pub fn claims(scope: &str) -> Value {
    let now = Utc::now().timestamp();
    json!({"iss": "https://login.example/", "aud": ["queues", "others"], "sub": "somebody",
           "iat": now, "exp": now + 300, "scope": scope})
}

pub fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

pub fn set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| &signer.jwk).collect::<Vec<_>>()}).to_string()
}

pub fn trust(jwks: String) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.jwt.jwks = Some(jwks);
        settings.jwt.issuer = Some("https://login.example/".to_owned());
        settings.jwt.audience = Some("queues".to_owned());
        settings.jwt.leeway_seconds = 0;
    }
}

pub fn file(directory: &TempDir, set: &str) -> String {
    let path: PathBuf = directory.path().join("jwks.json");
    fs::write(&path, set).expect("written");
    path.display().to_string()
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_taken_and_do_what_they_say() {
    let signers = [
        Signer::new("rsa", Algorithm::RS256),
        Signer::new("ec", Algorithm::ES256),
        Signer::new("ed", Algorithm::EdDSA),
    ];
    let directory = TempDir::new().expect("a directory");
    let jwks = file(&directory, &set(&signers.each_ref()));
    let gateway = TestGateway::with(trust(jwks)).await;
    gateway.get("/queues").await.problem(401, "unauthenticated");
    for signer in &signers {
        let token = signer.token(&claims("openid manage:q send,receive:q"));
        let client = gateway.with_key(&token);
        client.put("/queues/q", "").await;
        client.send("q", r#"{"message":1}"#).await;
        client.receive_one("q", "").await;
        client.get("/queues/other").await.problem(403, "forbidden");
        client.get("/metrics").await.problem(403, "forbidden");
    }
    let operator = signers[0].token(&with(claims(""), "scope", json!(["admin:*"])));
    gateway.with_key(&operator).get("/metrics").await.expect(200);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_it_lets_nobody_in() {
    let signer = Signer::new("one", Algorithm::ES256);
    let stranger = Signer::new("one", Algorithm::ES256);
    let directory = TempDir::new().expect("a directory");
    // With a secret in it, by which anybody who reads it could sign.
    let mut keys: Value = serde_json::from_str(&set(&[&signer])).expect("JSON");
    let secret = json!({"kty": "oct", "kid": "secret", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldA"});
    keys["keys"].as_array_mut().expect("keys").push(secret);
    let gateway = TestGateway::with(trust(file(&directory, &keys.to_string()))).await;
    let now = Utc::now().timestamp();
    let right = claims("admin:*");
    let good = signer.token(&right);
    gateway.with_key(&good).get("/queues").await.expect(200);
    let mut wrong = vec![
        stranger.token(&right),
        signer.token(&with(right.clone(), "exp", json!(now - 1))),
        signer.token(&with(right.clone(), "nbf", json!(now + 100))),
        signer.token(&with(right.clone(), "iss", json!("https://login.example"))),
        signer.token(&with(right.clone(), "aud", json!("others"))),
        good.rsplit_once('.').expect("a token").0.to_owned() + ".",
    ];
    for claim in ["exp", "iss", "aud"] {
        let mut lacks = right.clone();
        lacks.as_object_mut().expect("claims").remove(claim);
        wrong.push(signer.token(&lacks));
    }
    // As HS256, with the secret, and with what is public as one.
    for secret in [b"secret-secret".to_vec(), set(&[&signer]).into_bytes()] {
        let header = Header { kid: Some("secret".to_owned()), ..Header::new(Algorithm::HS256) };
        let forged = encode(&header, &right, &EncodingKey::from_secret(&secret));
        wrong.push(forged.expect("signed"));
    }
    // Unsigned.
    let (_, body) = good.split_once('.').expect("a token");
    wrong.push(format!("eyJhbGciOiJub25lIn0.{body}"));
    // One other bit, anywhere.
    for place in (0..good.len()).step_by(23) {
        let mut bytes = good.clone().into_bytes();
        bytes[place] ^= 1;
        let flipped = String::from_utf8(bytes).expect("ASCII");
        // The last digit of a part may carry bits that stand for nothing; a dot is a part's end.
        if flipped.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            wrong.push(flipped);
        }
    }
    for token in wrong {
        let answer = Answer::of(gateway.request("GET", "/queues").bearer_auth(&token)).await;
        assert_eq!(answer.status, 401, "{token}");
    }
}

/// What a signer publishes, and how often it was asked. While it holds back, nobody gets an answer.
#[derive(Clone)]
struct Published(Arc<Mutex<(String, usize)>>, watch::Sender<bool>);

impl Published {
    fn new(signers: &[&Signer]) -> Self {
        Self(Arc::new(Mutex::new((set(signers), 0))), watch::Sender::new(false))
    }

    fn publish(&self, text: String) {
        self.0.lock().expect("the set").0 = text;
    }

    fn asked(&self) -> usize {
        self.0.lock().expect("the set").1
    }

    fn hold_back(&self, holds: bool) {
        self.1.send_replace(holds);
    }

    async fn show(self) -> String {
        self.0.lock().expect("the set").1 += 1;
        self.1.subscribe().wait_for(|holds| !holds).await.expect("the signer is there");
        self.0.lock().expect("the set").0.clone()
    }

    /// A gateway that asks it.
    async fn gateway(&self, change: impl FnOnce(&mut Settings)) -> TestGateway {
        let published = self.clone();
        let router = Router::new().route("/jwks", get(move || published.clone().show()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        TestGateway::with(|settings| {
            trust(url)(settings);
            settings.jwt.refresh_interval_seconds = 1;
            change(settings);
        })
        .await
    }
}

async fn until_status(client: &Client, status: u16) {
    eventually("the answer is another", async || {
        (client.get("/queues").await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_signer_that_changes_its_keys_is_followed() {
    let (old, new) = (Signer::new("old", Algorithm::EdDSA), Signer::new("new", Algorithm::EdDSA));
    let published = Published::new(&[&old]);
    let gateway = published.gateway(|_| {}).await;
    let (old_token, new_token) = (old.token(&claims("admin:*")), new.token(&claims("admin:*")));
    gateway.with_key(&old_token).get("/queues").await.expect(200);
    gateway.with_key(&new_token).get("/queues").await.problem(401, "unauthenticated");
    published.publish(set(&[&new]));
    let client = gateway.with_key(&new_token);
    until_status(&client, 200).await;
    gateway.with_key(&old_token).get("/queues").await.problem(401, "unauthenticated");
    // A signer that is away for a moment, or answers nonsense, changes nothing.
    let seen = published.asked();
    published.publish("nonsense".to_owned());
    eventually("it was asked twice", async || (published.asked() >= seen + 2).then_some(())).await;
    client.get("/queues").await.expect(200);
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_beside() {
    let (old, new) = (Signer::new("old", Algorithm::EdDSA), Signer::new("new", Algorithm::EdDSA));
    let published = Published::new(&[&old]);
    let gateway =
        published.gateway(|settings| settings.jwt.refresh_interval_seconds = 86_400).await;
    published.publish(set(&[&old, &new]));
    // Who shows it first is refused, and has it looked for, before the day is over.
    until_status(&gateway.with_key(&new.token(&claims("admin:*"))), 200).await;
}

#[tokio::test]
async fn a_signer_that_withdraws_its_keys_withdraws_all() {
    let signer = Signer::new("one", Algorithm::EdDSA);
    let weak = json!({"keys": [{"kty": "AKP", "alg": "ML-DSA-44", "kid": "one", "pub": "AA"}]});
    for withdrawn in [r#"{"keys":[]}"#.to_owned(), weak.to_string()] {
        let published = Published::new(&[&signer]);
        let gateway = published.gateway(|_| {}).await;
        let client = gateway.with_key(&signer.token(&claims("admin:*")));
        client.create("q").await;
        let waiting = client.clone();
        let waiting = tokio::spawn(async move { waiting.get("/queues/q/messages?wait=20").await });
        client.wait_for_waiters("q", 1).await;
        published.publish(withdrawn.clone());
        until_status(&client, 401).await;
        waiting.await.expect("an answer").problem(401, "unauthenticated");
        published.publish(set(&[&signer]));
        until_status(&client, 200).await;
    }
}

#[tokio::test]
async fn keys_that_cannot_be_loaded_again_are_given_up_in_time() {
    let signer = Signer::new("one", Algorithm::EdDSA);
    let published = Published::new(&[&signer]);
    let gateway = published.gateway(|settings| settings.jwt.max_age_seconds = Some(2)).await;
    let client = gateway.with_key(&signer.token(&claims("admin:*")));
    client.get("/queues").await.expect(200);
    published.hold_back(true);
    until_status(&client, 401).await;
    published.publish("nonsense".to_owned());
    published.hold_back(false);
    let seen = published.asked();
    eventually("it was asked twice", async || (published.asked() >= seen + 2).then_some(())).await;
    client.get("/queues").await.problem(401, "unauthenticated");
    published.publish(set(&[&signer]));
    until_status(&client, 200).await;
}

/// Tokens with keys that nobody knows, while the signer takes its time: none of them waits for it.
#[tokio::test]
async fn strangers_wait_for_no_signer() {
    let signer = Signer::new("one", Algorithm::EdDSA);
    let published = Published::new(&[&signer]);
    let gateway = published
        .gateway(|settings| {
            settings.jwt.refresh_interval_seconds = 86_400;
            settings.limits.max_requests = 20;
        })
        .await;
    let known = gateway.with_key(&signer.token(&claims("admin:*")));
    published.hold_back(true);
    let seen = published.asked();
    // Until the signer has been asked, for which the gateway takes some seconds after its start.
    eventually("the signer is asked", async || {
        let unknown = Signer { id: "made-up", ..signer.clone() }.token(&claims("admin:*"));
        let answer = gateway.with_key(&unknown).get("/queues").await;
        answer.problem(401, "unauthenticated");
        (published.asked() > seen).then_some(())
    })
    .await;
    let mut strangers = JoinSet::new();
    for number in 0..200 {
        let mut header = Header::new(signer.algorithm);
        header.kid = Some(format!("unknown-{number}"));
        let token = encode(&header, &claims("admin:*"), &signer.key).expect("signed");
        let client = gateway.with_key(&token);
        strangers.spawn(async move { client.get("/queues").await.status });
        // They come no faster than a machine with other things to do can answer.
        if number % 10 == 9 {
            while let Some(status) = strangers.join_next().await {
                assert_eq!(status.expect("an answer"), 401);
            }
            known.get("/queues").await.expect(200);
        }
    }
    // All of that while the signer had not answered.
    assert!(published.asked() <= seen + 2, "{}", published.asked() - seen);
    published.hold_back(false);
}

#[tokio::test]
async fn weak_keys_and_tokens_for_other_ends_let_nobody_in() {
    let weak = Signer::with_options(
        "weak",
        Algorithm::RS256,
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
    );
    let signer = Signer::new("one", Algorithm::RS256);
    let directory = TempDir::new().expect("a directory");
    let database = TestDatabase::new().await;
    let jwks = file(&directory, &set(&[&weak]));
    let error = try_start(&database.url(), trust(jwks)).await.expect_err("refused").to_string();
    assert!(error.contains("2048"), "{error}");
    let gateway = TestGateway::with(trust(file(&directory, &set(&[&weak, &signer])))).await;
    let by_weak = gateway.with_key(&weak.token(&claims("admin:*")));
    by_weak.get("/queues").await.problem(401, "unauthenticated");
    for (typ, status) in [
        (None, 200),
        (Some("JWT"), 200),
        (Some("at+jwt"), 200),
        (Some("application/at+jwt"), 200),
        (Some("logout+jwt"), 401),
        (Some("dpop+jwt"), 401),
        (Some(""), 401),
    ] {
        let kid = Some("one".to_owned());
        let header = Header { typ: typ.map(str::to_owned), kid, ..Header::new(Algorithm::RS256) };
        let token = encode(&header, &claims("admin:*"), &signer.key).expect("signed");
        let answer = gateway.with_key(&token).get("/queues").await;
        assert_eq!(answer.status, status, "{typ:?}");
    }
}

#[tokio::test]
async fn a_signer_without_keys_stops_the_start() {
    let database = TestDatabase::new().await;
    let directory = TempDir::new().expect("a directory");
    for (jwks, said) in [
        ("/nowhere/jwks.json".to_owned(), "cannot read"),
        (file(&directory, "[]"), "no JSON Web Key Set"),
        ("http://127.0.0.1:1/jwks".to_owned(), "cannot fetch"),
    ] {
        let error = try_start(&database.url(), trust(jwks)).await.expect_err("refused").to_string();
        assert!(error.contains("jwt.jwks") && error.contains(said), "{error}");
    }
}

#[test]
fn the_settings_are_shown_without_what_is_secret_in_a_url() {
    for jwks in ["https://h.example/keys?token=hunter2", "https://u:hunter2@h.example/keys"] {
        let environment = [
            ("PGMQ_GATEWAY__JWT__JWKS", jwks),
            ("PGMQ_GATEWAY__JWT__ISSUER", "https://login.example/"),
            ("PGMQ_GATEWAY__JWT__AUDIENCE", "queues"),
        ];
        let output = program(&["config"], &environment).output().expect("ran");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && shown.contains("https://h.example/keys"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
