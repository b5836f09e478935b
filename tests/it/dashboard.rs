//! The dashboard's pages.

use serde_json::json;

use super::auth::{ADMIN, key, with_admin};
use crate::support::{Answer, Browser, TestGateway, raw};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[tokio::test]
async fn every_answer_says_what_a_page_may_load() {
    let gateway = TestGateway::with(with_admin).await;
    let admin = gateway.with_key(ADMIN);
    admin.create("q").await;
    let browser = Browser::logged_in(&gateway.base, ADMIN).await;
    let page = browser.get("/ui").await.expect(200).text;
    let asset = page.split('"').find(|part| part.ends_with("/style.css")).expect("a style sheet");
    for (path, status) in [
        ("/ui", 200),
        ("/ui/", 303),
        ("/ui/login", 200),
        ("/ui/queues/q", 200),
        ("/ui/queues/q/messages", 200),
        ("/ui/queues/none", 404),
        ("/ui/queues/q/send", 200),
        ("/ui/queues/none/send", 404),
        ("/ui/queues/q/history", 200),
        ("/ui/queues/none/history", 404),
        ("/ui/queues/q/messages/7", 404),
        ("/ui/queues/q/messages?list=none", 400),
        ("/ui/nowhere", 404),
        (asset, 200),
    ] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(answer.header("content-security-policy"), POLICY, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        let kept = answer.header("cache-control");
        assert_eq!(kept.contains("immutable"), path == asset, "{path}: {kept}");
        assert!(!answer.text.contains(" style="), "{path}");
        for script in answer.text.split("<script").skip(1) {
            assert!(script.starts_with(" defer src=\"/ui/assets/"), "{path}: {script}");
        }
    }
    let head = Answer::of(browser.request("HEAD", "/ui")).await.expect(200);
    assert_eq!(head.header("content-security-policy"), POLICY);
    Answer::of(browser.request("PUT", "/ui").header("sec-fetch-site", "same-origin"))
        .await
        .expect(405);
}

#[tokio::test]
async fn files_are_compressed_and_kept() {
    let gateway = TestGateway::start().await;
    let browser = Browser::new(&gateway.base);
    let page = browser.get("/ui").await.expect(200).text;
    let mut files: Vec<&str> = page.split('"').filter(|part| part.contains("/assets/")).collect();
    files.sort_unstable();
    files.dedup();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let plain = browser.get(file).await.expect(200);
        let etag = plain.header("etag").to_owned();
        let zipped = browser.request("GET", file).header("accept-encoding", "br, gzip;q=0.8");
        let zipped = zipped.send().await.expect("answered");
        assert_eq!(zipped.headers()["content-encoding"], "gzip", "{file}");
        let bytes = zipped.bytes().await.expect("bytes");
        assert!(!bytes.is_empty() && bytes.len() < plain.text.len() + 40, "{file}");
        let again = browser.request("GET", file).header("if-none-match", &etag);
        let again = Answer::of(again).await.expect(304);
        assert!(again.text.is_empty(), "{file}");
    }
    // As it is written, which no client of ours would do.
    for path in [
        "abc/../../secret",
        "../../Cargo.toml",
        "abc/..%2f..%2fCargo.toml",
        "abc/..",
        "/etc/passwd",
    ] {
        let said = raw::get(raw::connect(&gateway).await, &format!("/ui/assets/{path}")).await;
        let (status, _, text) = raw::parse(&said.expect("answered"));
        assert_eq!(status, 404, "{path}: {text}");
        assert!(text.contains("There is no such "), "{path}: {text}");
    }
}

#[tokio::test]
async fn what_people_wrote_is_shown_and_never_run() {
    let gateway = TestGateway::start().await;
    let evil = "<script>alert(1)</script>\"x";
    let name = "a<b>\"&amp";
    gateway.database.execute(&format!("SELECT pgmq.create('{name}')")).await;
    gateway.create("q").await;
    let body = json!({"message": {"key<img>": evil}, "headers": {"h<i>": evil}});
    let id = gateway.send("q", &body.to_string()).await;
    let browser = Browser::new(&gateway.base);
    let encoded = "a%3Cb%3E%22%26amp";
    for path in [
        "/ui".to_owned(),
        "/ui/queues/q/messages".to_owned(),
        format!("/ui/queues/q/messages/{id}"),
        format!("/ui/queues/{encoded}"),
        format!("/ui/queues/{encoded}/messages"),
        "/ui/queues/%3Cscript%3E".to_owned(),
        "/ui/queues/q/messages?filter=%3Cscript%3E".to_owned(),
        "/ui?q=%3Cscript%3E".to_owned(),
        "/ui/%3Cscript%3E".to_owned(),
    ] {
        let page = browser.get(&path).await.text;
        for tag in ["<script>", "<img>", "<i>", "a<b>", "\"x\""] {
            assert!(!page.contains(tag), "{tag} in {path}: {page}");
        }
    }
    let page = browser.get(&format!("/ui/queues/q/messages/{id}")).await.expect(200).text;
    assert!(page.contains("alert(1)"), "{page}");
}

#[tokio::test]
async fn every_digit_of_a_message_is_shown() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let id =
        gateway.send("q", r#"{"message":{"n":12345678901234567890.1234567890,"big":1e30}}"#).await;
    let browser = Browser::new(&gateway.base);
    for path in ["/ui/queues/q/messages".to_owned(), format!("/ui/queues/q/messages/{id}")] {
        let page = browser.get(&path).await.expect(200).text;
        assert!(page.contains("12345678901234567890.1234567890"), "{page}");
        assert!(page.contains("1000000000000000000000000000000"), "{page}");
    }
}

#[tokio::test]
async fn a_user_sees_the_queues_that_they_may_see() {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys = vec![
            key("reader", "a-secret-of-the-reader", &["receive:mine"]),
            key("sender", "a-secret-of-the-sender", &["send:mine"]),
        ];
    })
    .await;
    let admin = gateway.with_key(ADMIN);
    for queue in ["mine", "other"] {
        admin.create(queue).await;
        admin.send(queue, r#"{"message":"m"}"#).await;
    }
    let reader = Browser::logged_in(&gateway.base, "a-secret-of-the-reader").await;
    let page = reader.get("/ui").await.expect(200).text;
    assert!(page.contains(">mine<") && !page.contains("other"), "{page}");
    assert!(!page.contains("New queue") && !page.contains("/ui/keys"), "{page}");
    reader.get("/ui/queues/mine").await.expect(200);
    reader.get("/ui/queues/mine/messages").await.expect(200);
    for path in ["/ui/queues/other", "/ui/queues/other/messages", "/ui/queues/other/messages/1"] {
        reader.get(path).await.expect(403);
    }
    let sender = Browser::logged_in(&gateway.base, "a-secret-of-the-sender").await;
    let page = sender.get("/ui/queues/mine").await.expect(200).text;
    assert!(!page.contains("/ui/queues/mine/messages\""), "{page}");
    sender.get("/ui/queues/mine/messages").await.expect(403);
}
