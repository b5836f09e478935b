//! Gateways side by side on one database.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use sqlx::postgres::PgListener;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

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

/// Where dead letters go is known at another gateway soon; none goes elsewhere meanwhile, as it would stay there.
#[tokio::test]
async fn dead_letters_go_where_another_gateway_has_just_set_it() {
    let [one, other] = TestGateway::pair().await;
    let kept = async |queue: &str| one.all(queue).await.len();
    one.create("before").await;
    let settings = |dead: &str| json!({"max_receives": 1, "dead_letter_queue": dead});
    for (n, fifo) in [false, true].into_iter().enumerate() {
        let [queue, first, second] = ["q", "first", "second"].map(|name| format!("{name}{n}"));
        let mode = if fifo { "&fifo=grouped" } else { "" };
        for dead in [&first, &second] {
            one.create(dead).await;
        }
        // Whoever is asked about any queue knows the settings of all, for a moment.
        other.send("before", r#"{"message":1}"#).await;
        one.create_with(&queue, &json!({"fifo": fifo, "settings": settings(&first)})).await;
        one.send(&queue, r#"{"message":1}"#).await;
        let message = other.receive_one(&queue, &format!("vt=600{mode}")).await;
        let settle = json!({"dead_letter": [{"receipt": message["receipt"]}]});
        let path = format!("/queues/{queue}/messages/settle");
        let settled = other.post(&path, &settle.to_string()).await.expect(200).json();
        assert_eq!(settled["dead_lettered"], json!([1]));
        assert_eq!(kept(&first).await, 1, "it went elsewhere");

        one.send(&queue, r#"{"message":2}"#).await;
        sleep(Duration::from_secs(1)).await;
        other.receive_one(&queue, &format!("vt=0{mode}")).await;
        one.configure(&queue, settings(&second)).await.expect(200);
        assert!(other.receive(&queue, &format!("vt=0{mode}")).await.is_empty());
        assert_eq!((kept(&first).await, kept(&second).await), (1, 1));

        // One that is delivered more often by now is none.
        one.send(&queue, r#"{"message":3}"#).await;
        sleep(Duration::from_secs(1)).await;
        other.receive_one(&queue, &format!("vt=0{mode}")).await;
        one.configure(&queue, json!({"max_receives": 5})).await.expect(200);
        other.receive(&queue, &format!("vt=0{mode}")).await;
        assert_eq!((kept(&second).await, kept(&queue).await), (1, 1));
    }
}
