//! Gateways side by side on one database.

use std::collections::BTreeSet;

use sqlx::postgres::PgListener;
use tokio::{task::JoinSet, time::timeout};

use crate::support::{PATIENCE, TestDatabase, TestGateway, gateway::try_start};

#[tokio::test]
async fn gateways_that_start_together_all_succeed() {
    let database = TestDatabase::empty().await;
    let start = || try_start(&database.url(), |_| {});
    let started = tokio::join!(start(), start(), start(), start(), start());
    for start in [started.0, started.1, started.2, started.3, started.4] {
        start.expect("gateway started");
    }
    let versions = "SELECT count(*) FROM pgmq_gateway._sqlx_migrations";
    assert!(database.value::<i64>(versions).await >= 1);
}

#[tokio::test]
async fn a_message_sent_at_one_is_received_at_the_other() {
    let database = TestDatabase::new().await;
    let one = TestGateway::on(&database, |_| {}).await;
    let other = TestGateway::on(&database, |_| {}).await;
    one.create("q").await;
    let (received, _) =
        tokio::join!(other.receive("q", "wait=20"), one.send("q", r#"{"message":"hello"}"#));
    assert_eq!(received[0]["message"], "hello");
    other.delete("/queues/q/messages/1").await.expect(204);
    one.get("/queues/q/messages/1").await.problem(404, "message_not_found");
    other.delete("/queues/q").await.expect(204);
    one.get("/queues/q").await.problem(404, "queue_not_found");
}

/// Consumers at both, none is given what another has.
#[tokio::test]
async fn every_message_goes_to_one_consumer() {
    let database = TestDatabase::new().await;
    let gateways =
        [TestGateway::on(&database, |_| {}).await, TestGateway::on(&database, |_| {}).await];
    gateways[0].create("q").await;
    for n in 0..200 {
        gateways[n % 2].send_message("q", n).await;
    }
    let mut consumers = JoinSet::new();
    for gateway in gateways.iter().cycle().take(8) {
        let client = gateway.client.clone();
        consumers.spawn(async move {
            let mut seen = Vec::new();
            loop {
                let received = client.receive("q", "qty=3&vt=600").await;
                if received.is_empty() {
                    return seen;
                }
                seen.extend(received.iter().map(|m| m["msg_id"].as_i64().expect("an id")));
            }
        });
    }
    let mut seen = BTreeSet::new();
    while let Some(consumer) = consumers.join_next().await {
        for id in consumer.expect("no panic") {
            assert!(seen.insert(id), "message {id} was given to two");
        }
    }
    // SKIP LOCKED may show an empty queue to one who looks while another takes.
    loop {
        let rest = gateways[0].receive("q", "qty=100&vt=600").await;
        if rest.is_empty() {
            break;
        }
        seen.extend(rest.iter().map(|m| m["msg_id"].as_i64().expect("an id")));
    }
    assert_eq!(seen.len(), 200);
}

/// Every role that may connect can listen to what gateways say to each other, and speak there itself.
#[tokio::test]
async fn what_gateways_say_names_no_queue_and_others_are_not_believed() {
    let database = TestDatabase::new().await;
    let role = format!("eavesdropper_{}", database.name);
    database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let mut listener = PgListener::connect(&database.url_as(&role)).await.expect("connected");
    listener.listen("pgmq_gateway").await.expect("listens");
    // By looking alone it would take a while.
    let slow = |settings: &mut pgmq_gateway::config::Settings| {
        settings.long_poll.poll_interval_ms = 1_000;
    };
    let one = TestGateway::on(&database, slow).await;
    let other = TestGateway::on(&database, slow).await;
    let names = ["orders-of-somebody", "invoices-of-somebody"];
    for name in names {
        one.create(name).await;
    }
    let mut waiting = JoinSet::new();
    for name in names {
        let client = other.client.clone();
        waiting.spawn(async move { client.receive(name, "wait=20").await });
    }
    // What anybody may say is passed over, whatever it looks like.
    let forged = [
        "",
        "garbage",
        "ääääääääääääääääääääääää",
        r#"{"from":"x","news":["orders-of-somebody"],"wants":["a"],"hello":true}"#,
    ];
    let mut heard = Vec::new();
    let mut sent = false;
    while !waiting.is_empty() {
        tokio::select! {
            notification = listener.recv() => {
                heard.push(notification.expect("heard").payload().to_owned());
            }
            received = waiting.join_next() => {
                assert_eq!(received.expect("one").expect("no panic").len(), 1);
            }
            () = tokio::time::sleep(std::time::Duration::from_millis(10)), if !sent => {
                let waits = names.map(async |name| {
                    other.get(&format!("/queues/{name}/metrics")).await.json()["waiters"] == 1
                });
                if futures_util::future::join_all(waits).await.into_iter().all(|waits| waits) {
                    for text in forged {
                        let notify = format!("SELECT pg_notify('pgmq_gateway', '{text}')");
                        database.execute(&notify).await;
                    }
                    for name in names {
                        one.send(name, r#"{"message":1}"#).await;
                    }
                    sent = true;
                }
            }
        }
    }
    let heard: Vec<String> = heard.into_iter().filter(|said| !forged.contains(&&**said)).collect();
    assert!(!heard.is_empty(), "gateways speak");
    for said in &heard {
        assert!(!said.contains("somebody"), "{said}");
    }
    let is_told = heard.iter().any(|said| said.contains(r#""news":[""#));
    assert!(is_told, "{heard:?}");
    timeout(PATIENCE, one.get("/readyz")).await.expect("in time").expect(200);
}
