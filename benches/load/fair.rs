//! Groups that take turns: how long a message of a quiet one stays in its queue, beside the backlog of another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    http::{self, Http},
    measure::{Plan, percentiles},
    scenarios::note,
    stage::Stage,
};

const QUIET: &str = r#"{"message":"quiet","headers":{"x-pgmq-group":"quiet"}}"#;
/// Consumers that are always at work.
const CONSUMERS: usize = 8;

pub async fn fair(stage: &Stage, plan: &Plan) {
    let backlog = if plan.short { 30_000 } else { 100_000 };
    let count = if plan.short { 40 } else { 200 };
    for messages in [0, backlog] {
        stage.fill("bench_b", 0).await;
        let mut sender = http::clients(&stage.gateway.address, 1, "bench_b").await.remove(0);
        let (status, answer) =
            sender.call("PATCH", "", &r#"{"settings":{"fair":true}}"#.into()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        stage
            .execute(&format!(
                "INSERT INTO pgmq.q_bench_b (vt, message, headers) \
                 SELECT clock_timestamp(), '{{}}', '{{\"x-pgmq-group\": \"noisy\"}}' \
                 FROM generate_series(1, {messages})"
            ))
            .await;
        stage.execute("VACUUM ANALYZE pgmq.q_bench_b").await;
        let times = in_the_queue(stage, sender, count).await;
        let (p50, p99) = percentiles(times);
        let name = format!("a quiet group's time in the queue, beside {messages} of another");
        note(&name, &format!("p50 {p50:.1} ms, p99 {p99:.1} ms"));
    }
}

/// From the answer to a send to the answer of who received it, each of the quiet group.
async fn in_the_queue(stage: &Stage, mut sender: Http, count: usize) -> Vec<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let consumers = http::clients(&stage.gateway.address, CONSUMERS, "bench_b").await;
    let consumers = consumers.into_iter().map(|client| {
        let (stop, arrived) = (Arc::clone(&stop), arrived.clone());
        tokio::spawn(async move {
            let mut client = client;
            while !stop.load(Relaxed) {
                client = consume(client, &arrived).await;
            }
        })
    });
    let consumers: Vec<_> = consumers.collect();
    let mut times = Vec::new();
    for _ in 0..count {
        let (status, _) = sender.call("POST", "/messages", &QUIET.into()).await;
        assert_eq!(status, 201);
        let sent = Instant::now();
        let at: Instant = arrivals.recv().await.expect("it is delivered");
        times.push(at.saturating_duration_since(sent));
        sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Relaxed);
    for consumer in consumers {
        consumer.await.expect("no panic");
    }
    times
}

/// Receives one and deletes it; says when it is of the quiet group.
async fn consume(mut client: Http, arrived: &tokio::sync::mpsc::UnboundedSender<Instant>) -> Http {
    let (status, body) = client.call("GET", "/messages?vt=30&wait=1", &Bytes::new()).await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(status, 200, "{text}");
    if text.contains(r#""message":"quiet""#) {
        let _ = arrived.send(Instant::now());
    }
    if let Some((_, rest)) = text.split_once("\"msg_id\":") {
        let id = rest.split(',').next().unwrap_or_default();
        client.call("DELETE", &format!("/messages/{id}"), &Bytes::new()).await;
    }
    client
}
