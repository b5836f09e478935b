//! Clients that do not take their answers over HTTP/2, or do not end their requests: each has its share of the
//! requests, and leaves the rest to others.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, body::Incoming, client::conn::http2::SendRequest};
use pgmq_gateway::config::Settings;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use super::{
    auth::{ADMIN, key, with_admin},
    shares::refused,
};
use crate::support::{Client, TestGateway, eventually, raw};

const GREEDY: &str = "the-key-of-somebody-greedy";
const OTHER: &str = "the-key-of-somebody-else";

/// A gateway that serves 20 requests at a time, with a message of 15 kB in `q`.
async fn start(change: impl FnOnce(&mut Settings)) -> (TestGateway, [Client; 2]) {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys =
            vec![key("greedy", GREEDY, &["receive:*"]), key("other", OTHER, &["send,receive:*"])];
        settings.limits.max_requests = 20;
        settings.limits.max_arriving_requests = 20;
        change(settings);
    })
    .await;
    let [admin, other] = [ADMIN, OTHER].map(|key| gateway.with_key(key));
    admin.create("q").await;
    admin.send("q", &format!(r#"{{"message":"{}"}}"#, "x".repeat(15_000))).await;
    (gateway, [admin, other])
}

/// A request of somebody, or of nobody, of which the answer has come as far as its head.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    key: Option<&str>,
    path: &str,
) -> Response<Incoming> {
    let mut request = hyper::Request::get(format!("http://localhost{path}"));
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Full::default()).expect("a request");
    sender.send_request(request).await.expect("a head")
}

/// How many answers have which status.
fn counted(answers: &[Response<Incoming>]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status().as_u16()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn a_key_has_its_share_of_answers_that_are_not_taken() {
    // None of an answer, and some of it.
    for window in [0, 100] {
        let (gateway, [admin, other]) = start(|_| {}).await;
        let address = gateway.gateway.address().expect("TCP");
        let of_greedy = async || {
            let limits = ["key_requests", "key_arriving_requests"];
            refused(&admin, limits[0]).await + refused(&admin, limits[1]).await
        };
        let mut sender = raw::reluctant(address, window).await;
        let mut answers = Vec::new();
        for _ in 0..40 {
            answers.push(ask(&mut sender, Some(GREEDY), "/queues/q/messages/1").await);
        }
        assert_eq!(counted(&answers), BTreeMap::from([(200, 10), (503, 30)]), "{window}");
        assert_eq!(of_greedy().await, 30);
        other.send("q", r#"{"message":1}"#).await;
        for limit in ["max_requests", "max_arriving_requests"] {
            assert_eq!(refused(&admin, limit).await, 0, "{limit}");
        }
        let metrics = admin.get("/metrics").await.expect(200).text;
        let in_flight = metrics.lines().find_map(|line| {
            line.strip_prefix("pgmq_gateway_requests_in_flight ")?.parse::<usize>().ok()
        });
        // As many are served, and as many refusals arrive, as may for one key.
        assert!(in_flight.is_some_and(|count| count >= 20), "{in_flight:?}");
        drop((answers, sender));
        let greedy = gateway.with_key(GREEDY);
        eventually("what was not taken is gone", async || {
            (greedy.get("/queues/q/messages/1").await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn strangers_have_one_share_of_answers_that_are_not_taken() {
    let (gateway, [admin, other]) = start(|_| {}).await;
    let mut sender = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
    let mut answers = Vec::new();
    let long = format!("/nope/{}", "a".repeat(960));
    for path in [&*long, "/queues/q/messages/1", "/openapi.json", "/docs/"] {
        for _ in 0..10 {
            answers.push(ask(&mut sender, None, path).await);
        }
    }
    assert_eq!(counted(&answers), BTreeMap::from([(404, 10), (503, 30)]));
    other.send("q", r#"{"message":1}"#).await;
    assert_eq!(refused(&admin, "max_arriving_requests").await, 0);
    assert_eq!(refused(&admin, "key_arriving_requests").await, 30);
    let others = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
    assert_eq!(ask(&mut others.clone(), None, "/livez").await.status(), 200);
    drop((answers, sender));
    eventually("strangers are told again what is wrong", async || {
        (ask(&mut others.clone(), None, "/nope").await.status() == 404).then_some(())
    })
    .await;
}

/// A client that waits is not in flight, and is again once it has an answer.
#[tokio::test]
async fn what_those_are_told_who_waited_counts_until_it_is_taken() {
    let (gateway, [admin, other]) = start(|_| {}).await;
    admin.create("w").await;
    let sender = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
    let mut waiting = JoinSet::new();
    for _ in 0..12 {
        let mut sender = sender.clone();
        let path = "/queues/w/messages?wait=20&vt=600";
        waiting.spawn(async move { ask(&mut sender, Some(GREEDY), path).await });
    }
    eventually("they wait", async || {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let line = metrics.lines().find(|line| line.starts_with("pgmq_gateway_long_poll_waiters "));
        line.filter(|line| line.ends_with(" 12")).map(drop)
    })
    .await;
    for _ in 0..12 {
        other.send("w", r#"{"message":1}"#).await;
    }
    let answers = waiting.join_all().await;
    assert_eq!(counted(&answers), BTreeMap::from([(200, 12)]));
    let greedy = gateway.with_key(GREEDY);
    greedy.get("/queues/q/messages/1").await.problem(503, "overloaded");
    other.send("q", r#"{"message":1}"#).await;
    drop((answers, sender));
    eventually("it is all gone", async || {
        (greedy.get("/queues/q/messages/1").await.status == 200).then_some(())
    })
    .await;
}

/// A GET that says that a body is to come, which does not.
async fn half_a_get(gateway: &TestGateway, path: &str, key: Option<&str>) -> TcpStream {
    let mut stream = raw::connect(gateway).await;
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\n{key}Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_key_has_its_share_of_requests_whose_body_should_not_come() {
    let (gateway, [admin, other]) = start(|_| {}).await;
    let mut half = Vec::new();
    for _ in 0..25 {
        half.push(half_a_get(&gateway, "/queues/q/messages", Some(GREEDY)).await);
    }
    eventually("the greedy one is refused more", async || {
        (refused(&admin, "key_arriving_requests").await > 0).then_some(())
    })
    .await;
    other.send("q", r#"{"message":1}"#).await;
    assert_eq!(refused(&admin, "max_arriving_requests").await, 0);
    drop(half);
}

/// Nobody waits for what a stranger does not send.
#[tokio::test]
async fn a_stranger_is_told_so_before_a_body_that_should_not_come() {
    let (gateway, [admin, other]) =
        start(|settings| settings.limits.max_arriving_requests = 1).await;
    for path in ["/queues/q/messages", "/rest/v1/rpc/send", "/ui/queues/q", "/nope"] {
        let mut stream = half_a_get(&gateway, path, None).await;
        let said = raw::read_all(&mut stream).await.expect("answered");
        let told = [401, 303, 404].contains(&raw::parse(&said).0);
        assert!(told, "{path}: {said}");
        other.send("q", r#"{"message":1}"#).await;
    }
    // That of whoever is known is waited for, and refused.
    let mut stream = half_a_get(&gateway, "/queues/q", Some(OTHER)).await;
    let said = raw::read_all(&mut stream).await.expect("answered");
    assert_eq!(raw::parse(&said).0, 400, "{said}");
    assert_eq!(admin.all("q").await.len(), 5, "nothing was received");
}
