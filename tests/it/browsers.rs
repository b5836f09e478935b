//! Requests that a browser makes for a page.

use super::auth::{ADMIN, with_admin};
use crate::support::{Answer, TestGateway};

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
