//! Rights that change while a request is on its way.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::auth::{ADMIN, with_admin};
use crate::support::{Client, TestDatabase, TestGateway, eventually, process::program, raw};

/// What changes something, its body behind it.
const REQUESTS: [(&str, &str, &str); 9] = [
    ("POST", "/queues/q/messages", r#"{"message":1}"#),
    ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":1}]}"#),
    ("POST", "/topics/t.x/messages", r#"{"message":1}"#),
    ("POST", "/topics/t.x/messages/batch", r#"{"messages":[{"message":1}]}"#),
    ("POST", "/transactions", r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#),
    ("PUT", "/queues/q2", r#"{"kind":"standard"}"#),
    ("PATCH", "/queues/q", r#"{"settings":{"delay":7}}"#),
    ("POST", "/queues/q/bindings", r#"{"pattern":"more.#"}"#),
    ("POST", "/queues/q/archive/replay", r#"{"limit":7}"#),
];

/// A request of which all but the end has been sent.
async fn begun(gateway: &TestGateway, key: &str, request: (&str, &str, &str)) -> TcpStream {
    let (method, path, body) = request;
    let mut stream = raw::connect(gateway).await;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{key}Connection: close\r\n\
         Content-Length: {}\r\n\r\n{{",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

/// The status of a request once the rest of it is sent.
async fn ended(mut stream: TcpStream, request: (&str, &str, &str)) -> (u16, String) {
    stream.write_all(&request.2.as_bytes()[1..]).await.expect("sent");
    let said = raw::read_all(&mut stream).await.expect("answered");
    let status = said.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), said)
}

async fn all_begun(gateway: &TestGateway, key: &str) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for request in REQUESTS {
        streams.push(begun(gateway, key, request).await);
    }
    streams
}

async fn are_served(watcher: &Client, number: usize) {
    // And the one that asks.
    let line = format!("pgmq_gateway_requests_in_flight {}", number + 1);
    eventually("they are served", async || {
        watcher.get("/metrics").await.text.contains(&line).then_some(())
    })
    .await;
}

fn made(database: &TestDatabase, grant: &str) -> String {
    let arguments = ["keys", "create", "--name", "k", "--grant", grant];
    let output = program(&arguments, &[("DATABASE_URL", &database.url())]).output().expect("ran");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

async fn make_queue(admin: &Client) {
    admin.create("q").await;
    admin.post("/queues/q/bindings", r#"{"pattern":"t.#"}"#).await.expect(201);
}

#[tokio::test]
async fn what_a_key_may_not_do_any_more_is_not_done() {
    let database = TestDatabase::new().await;
    let key = made(&database, "send,manage:q*");
    let gateway = TestGateway::on(&database, with_admin).await;
    let admin = gateway.with_key(ADMIN);
    make_queue(&admin).await;
    let header = format!("Authorization: Bearer {key}\r\n");
    let streams = all_begun(&gateway, &header).await;
    are_served(&admin, streams.len()).await;
    database.execute("UPDATE pgmq_gateway.api_keys SET grants = '{send:other}'").await;
    let client = gateway.with_key(&key);
    eventually("the key may do less", async || {
        (client.get("/queues/q").await.status == 403).then_some(())
    })
    .await;
    for (stream, request) in streams.into_iter().zip(REQUESTS) {
        let (status, said) = ended(stream, request).await;
        assert_eq!(status, 403, "{request:?}: {said}");
        assert!(said.contains(r#""code":"forbidden""#), "{said}");
    }
    assert!(admin.all("q").await.is_empty());
    admin.get("/queues/q2").await.problem(404, "queue_not_found");
    assert_eq!(admin.get("/queues/q").await.json()["settings"]["delay"], 0);
    let bindings = admin.get("/queues/q/bindings").await.json();
    assert_eq!(bindings["bindings"].as_array().map(Vec::len), Some(1), "{bindings}");
}

#[tokio::test]
async fn what_a_key_may_still_do_is_done() {
    let database = TestDatabase::new().await;
    let key = made(&database, "send,manage:q*");
    let gateway = TestGateway::on(&database, with_admin).await;
    let admin = gateway.with_key(ADMIN);
    make_queue(&admin).await;
    let header = format!("Authorization: Bearer {key}\r\n");
    let streams = all_begun(&gateway, &header).await;
    are_served(&admin, streams.len()).await;
    database
        .execute("UPDATE pgmq_gateway.api_keys SET grants = '{\"send,manage,receive:q*\"}'")
        .await;
    let client = gateway.with_key(&key);
    eventually("the key may do more", async || {
        (client.get("/queues/q/peek").await.status == 200).then_some(())
    })
    .await;
    for (stream, request) in streams.into_iter().zip(REQUESTS) {
        let (status, said) = ended(stream, request).await;
        assert!((200..300).contains(&status), "{request:?}: {said}");
    }
    assert_eq!(admin.all("q").await.len(), 5);
}

#[tokio::test]
async fn who_began_without_a_key_needs_one_in_the_end() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    make_queue(&gateway).await;
    let streams = all_begun(&gateway, "").await;
    are_served(&gateway, streams.len()).await;
    let key = made(&database, "admin");
    eventually("a key is needed", async || {
        (gateway.get("/queues/q").await.status == 401).then_some(())
    })
    .await;
    for (stream, request) in streams.into_iter().zip(REQUESTS) {
        let (status, said) = ended(stream, request).await;
        assert_eq!(status, 401, "{request:?}: {said}");
    }
    let admin = gateway.with_key(&key);
    assert!(admin.all("q").await.is_empty());
    let queues = admin.get("/queues").await.expect(200).json();
    assert_eq!(queues["queues"].as_array().map(Vec::len), Some(1), "{queues}");
}
