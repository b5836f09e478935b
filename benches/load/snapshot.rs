//! Messages that come and go beside a transaction that keeps what is dead from being cleaned up.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Executor;

use crate::{
    direct::{self, Direct},
    http::{self, Http},
    measure::{Plan, Round, round},
    scenarios::row,
    stage::Stage,
};

/// Sends, receives and deletes at full speed, for as long as a snapshot is held that is as old as the queue: what
/// that comes to at its beginning and at its end.
pub async fn snapshot(stage: &Stage, plan: &Plan) {
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
                let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
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
