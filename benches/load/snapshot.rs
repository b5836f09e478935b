//! Messages that come and go beside a transaction that keeps what is dead from being cleaned up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use sqlx::Executor;

use crate::{
    direct::{self, Direct},
    http::{self, Http},
    measure::{Plan, Round, percentiles, round},
    scenarios::row,
    stage::Stage,
};

/// Clients of the gateway.
const CLIENTS: usize = 64;
/// What they come to in a second, all together, where they do not go at full speed.
const STEADY: u64 = 1_000;

/// Sends, receives and deletes at full speed, for as long as a snapshot is held that is as old as the queue: what
/// that comes to at its beginning and at its end. `HELD=<seconds>` is the gateway alone, with a snapshot that is
/// held for so long while it is used steadily.
pub async fn snapshot(stage: &Stage, plan: &Plan) {
    if let Ok(seconds) = std::env::var("HELD") {
        let seconds = seconds.parse().expect("HELD is a number of seconds");
        return held(stage, plan, Duration::from_secs(seconds)).await;
    }
    let window = Plan { round: Duration::from_secs(5), ..*plan };
    let held = Plan { round: Duration::from_secs(if plan.short { 20 } else { 110 }), ..*plan };
    let [mut a, mut b] = [Vec::new(), Vec::new()];
    for queue in ["bench_a", "bench_b"] {
        stage.fill(queue, 0).await;
        let mut holder = stage.connect().await;
        let begin =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgmq.q_{queue}");
        holder.execute(&*begin).await.expect("a snapshot");
        for part in [&window, &held, &window] {
            if queue == "bench_a" {
                let clients = direct::clients(stage, 20, "bench_a").await;
                a.push(round(part, clients, cycle_direct).await);
            } else {
                let clients = http::clients(&stage.gateway.address, CLIENTS, "bench_b").await;
                b.push(round(part, clients, cycle).await);
            }
        }
        holder.execute("ROLLBACK").await.expect("ended");
        stage.execute(&format!("VACUUM pgmq.q_{queue}")).await;
    }
    let seconds = (window.round + held.round).as_secs();
    let name = "send 1 + receive 1 + delete 1 beside a snapshot";
    report(&format!("{name} that is new"), a.first(), b.first());
    report(&format!("{name} of {seconds} s"), a.last(), b.last());
    let rest = |rounds: &[Round]| match rounds {
        [first, .., last] => {
            format!(
                "{:.2} x, p99 {:.1} x",
                last.per_second / first.per_second,
                last.p99_ms / first.p99_ms
            )
        }
        _ => "–".to_owned(),
    };
    println!("| … of what it was | {} | {} | – | – |", rest(&a), rest(&b));
}

fn report(name: &str, a: Option<&Round>, b: Option<&Round>) {
    if let Some((a, b)) = a.zip(b) {
        row(name, a, b, None);
    }
}

async fn cycle_direct(client: Direct) -> (Direct, usize) {
    let (client, _) = direct::send(client).await;
    direct::consume(client).await
}

async fn cycle(client: Http) -> (Http, usize) {
    let (mut client, _) = http::send(client).await;
    // There are as many messages as clients, and maybe another one is about to be delivered.
    let ids = client.receive("vt=30&wait=20").await;
    for id in &ids {
        let (status, _) = client.call("DELETE", &format!("/messages/{id}"), &Bytes::new()).await;
        assert_eq!(status, 204);
    }
    (client, ids.len())
}

/// A client, and how long its receives and those of the others took.
struct Worker {
    client: Http,
    receives: Arc<Mutex<Vec<Duration>>>,
    /// From the beginning of a cycle to that of the next, at least.
    every: Duration,
}

/// Full speed, then steadily for `time`, then full speed, all beside one snapshot.
async fn held(stage: &Stage, plan: &Plan, time: Duration) {
    stage.fill("bench_b", 0).await;
    let mut holder = stage.connect().await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pgmq.q_bench_b";
    holder.execute(begin).await.expect("a snapshot");
    #[expect(clippy::cast_possible_truncation, reason = "few clients")]
    let steady = Duration::from_secs(1) * CLIENTS as u32 / STEADY as u32;
    let full = Duration::from_secs(10);
    let parts = [
        ("full speed, beside a snapshot that is new", full, Duration::ZERO),
        ("steady", time, steady),
        ("full speed, at its end", full, Duration::ZERO),
    ];
    let mut rounds = Vec::new();
    for (name, round_time, every) in parts {
        let receives = Arc::new(Mutex::new(Vec::new()));
        let clients = http::clients(&stage.gateway.address, CLIENTS, "bench_b").await;
        let worker = |client| Worker { client, receives: Arc::clone(&receives), every };
        let workers = clients.into_iter().map(worker).collect();
        let part = round(&Plan { round: round_time, ..*plan }, workers, work).await;
        let times = std::mem::take(&mut *receives.lock().unwrap_or_else(PoisonError::into_inner));
        let (p50, p99) = percentiles(times);
        let per_second = part.per_second;
        println!(
            "| {name}, {} s | – | {per_second:.0}/s, receives p50 {p50:.1}, p99 {p99:.1} ms | – | – |",
            round_time.as_secs()
        );
        rounds.push((per_second, p99));
    }
    holder.execute("ROLLBACK").await.expect("ended");
    if let [(before, p99_before), _, (after, p99_after)] = *rounds {
        let (part, times) = (after / before, p99_after / p99_before);
        println!("| … of what it was | – | p99 of receives {times:.1} x | – | **{part:.2}** |");
    }
}

async fn work(mut worker: Worker) -> (Worker, usize) {
    let next = tokio::time::Instant::now() + worker.every;
    let (mut client, _) = http::send(worker.client).await;
    let begun = Instant::now();
    let ids = client.receive("vt=30&wait=20").await;
    let took = begun.elapsed();
    worker.receives.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    for id in &ids {
        let (status, _) = client.call("DELETE", &format!("/messages/{id}"), &Bytes::new()).await;
        assert_eq!(status, 204);
    }
    tokio::time::sleep_until(next).await;
    worker.client = client;
    (worker, ids.len())
}
