//! What is served under a path of its own, and the configurations of docs/operations.md.

use reqwest::Url;
use serde_json::Value;

use crate::support::{
    Answer, Client, TestGateway,
    proxies::{self, Kind, Proxy},
};

/// Where the page's second configuration of nginx, and that of HAProxy, have the gateway.
pub const PREFIX: &str = "/queue-api";

/// The gateway under a path, behind each proxy that there is.
pub async fn under_a_path(gateway: &TestGateway) -> Vec<(Kind, Proxy)> {
    let address = gateway.gateway.address().expect("TCP");
    let mut running = Vec::new();
    for (kind, index) in [(Kind::Nginx, 1), (Kind::Haproxy, 0)] {
        if let Some(proxy) = proxies::start(kind, index, address).await {
            running.push((kind, proxy));
        }
    }
    running
}

/// What a client gets that follows a reference in an answer of `url`.
async fn follow(url: &str, reference: &str) -> (String, Answer) {
    let next = Url::parse(url).expect("a URL").join(reference).expect("a reference");
    (next.to_string(), Client::new(next.as_str()).get("").await)
}

#[tokio::test]
async fn everything_works_under_a_path() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for (kind, proxy) in under_a_path(&gateway).await {
        let base = format!("{}{PREFIX}", proxy.base);
        let client = Client::new(&base);
        let sent = client.post("/queues/q/messages", r#"{"message":{"a":1}}"#).await.expect(201);
        let location = sent.header("location");
        assert!(location.starts_with(&format!("{PREFIX}/queues/q/messages/")), "{location}");
        let (_, message) = follow(&format!("{base}/queues/q/messages"), location).await;
        assert_eq!(message.expect(200).json()["message"]["a"], 1, "{kind:?}");

        // The pages, from the address that a person types.
        let without_slash = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let without_slash = without_slash.build().expect("a client");
        let page = without_slash.get(format!("{base}/docs")).send().await.expect("answered");
        assert_eq!(page.status(), 303, "{kind:?}");
        let moved = page.headers()["location"].to_str().expect("text").to_owned();
        let (url, page) = follow(&format!("{base}/docs"), &moved).await;
        assert_eq!(url, format!("{base}/docs/"));
        let page = page.expect(200);
        for reference in references(&page.text) {
            let (url, found) = follow(&url, &reference).await;
            assert!(url.starts_with(&base), "{url}");
            found.expect(200);
        }
        let (_, start) = follow(&url, "./swagger-initializer.js").await;
        let document = start.text.split_once("\"url\": \"").expect("a document").1;
        let document = document.split('"').next().expect("its address");
        let (url, document) = follow(&url, document).await;
        called(&url, &document.expect(200).json(), &base).await;
        // The one for everybody else.
        let document = client.get("/openapi.json").await.expect(200).json();
        called(&format!("{base}/openapi.json"), &document, &base).await;
    }
}

/// The files that a page refers to.
fn references(page: &str) -> Vec<String> {
    let parts = page.split(['"', '\'']).filter(|part| part.starts_with("./"));
    let references: Vec<_> = parts.map(str::to_owned).collect();
    assert!(references.len() > 3, "{page}");
    references
}

/// Calls something as the document of an address says.
async fn called(url: &str, document: &Value, base: &str) {
    let server = document["servers"][0]["url"].as_str().expect("a server");
    let server = Url::parse(url).expect("a URL").join(server).expect("a reference");
    let server = server.as_str().trim_end_matches('/');
    assert_eq!(server, base);
    Client::new(server).get("/queues/q").await.expect(200);
}

#[tokio::test]
async fn a_path_is_that_of_the_settings_or_of_the_proxy() {
    let gateway =
        TestGateway::with(|settings| settings.http.path_prefix = "/of-settings".to_owned()).await;
    gateway.create("q").await;
    for (said, prefix) in [
        (None, "/of-settings"),
        (Some("/of-proxy"), "/of-proxy"),
        (Some("/of-proxy/"), "/of-proxy"),
        (Some("/"), ""),
        (Some("/outer, /inner"), "/outer/inner"),
        // Made up by whoever asks.
        (Some("//evil.example"), "/of-settings"),
        (Some("https://evil.example"), "/of-settings"),
        (Some("/a\\b"), "/of-settings"),
    ] {
        let mut request = gateway.request("POST", "/queues/q/messages").body(r#"{"message":1}"#);
        let mut document = gateway.request("GET", "/openapi.json");
        if let Some(said) = said {
            request = request.header("x-forwarded-prefix", said);
            document = document.header("x-forwarded-prefix", said);
        }
        let sent = Answer::of(request).await.expect(201);
        let id = &sent.json()["msg_id"];
        assert_eq!(sent.header("location"), format!("{prefix}/queues/q/messages/{id}"), "{said:?}");
        let servers = Answer::of(document).await.expect(200).json()["servers"].clone();
        let server = if prefix.is_empty() { "/" } else { prefix };
        assert_eq!(servers[0]["url"], server, "{said:?}");
    }
}
