//! Who is let in, and who is not.

use std::{fs, io::Write, process::Stdio};

use pgmq_gateway::{
    app::StartError,
    config::{AuthMode, KeySettings, Secret, Settings},
};
use tempfile::TempDir;

use crate::support::{Answer, TestDatabase, TestGateway, eventually, gateway::try_start};

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

pub fn with_admin(settings: &mut Settings) {
    settings.auth.admin_key = Some(Secret::new(ADMIN));
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
    admin.wait_for_waiters("q", 1).await;
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
