//! Gateways side by side on one database.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use crate::support::{TestDatabase, TestGateway, gateway::try_start};

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
        gateways[n % 2].send("q", &format!(r#"{{"message":{n}}}"#)).await;
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
