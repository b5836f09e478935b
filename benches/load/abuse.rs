//! A gateway that is used badly by many, and what one that behaves notices of it.

use std::{
    process::{Child, Command},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::{
    http::{self, Http},
    measure::{Plan, Round, median, round},
    scenarios::{note, row},
    stage::{Gateway, Stage},
};

/// The most clients that send bodies as large as they may be.
const LARGE: usize = 8;

/// Waiting clients, clients that send a byte a second, and clients with bodies of full size, and beside
/// them one client that sends a message at a time.
pub async fn abuse(stage: &Stage, plan: &Plan) {
    let (waiting, slow) = if plan.short { (2_000, 400) } else { (10_000, 2_000) };
    for queue in ["bench_b", "bench_large", "bench_wait"] {
        stage.fill(queue, 0).await;
    }
    let gateway = Gateway::start(&stage.url, &[]);
    let good = async || {
        let clients = http::clients(&gateway.address, 1, "bench_b").await;
        round(plan, clients, http::send).await
    };
    let mut alone: Vec<Round> = Vec::new();
    for _ in 0..plan.rounds {
        alone.push(good().await);
    }
    // What the scheduler of this machine makes of it when one processor has something to do.
    let busy = Busy::start();
    let mut beside: Vec<Round> = Vec::new();
    for _ in 0..plan.rounds {
        beside.push(good().await);
    }
    drop(busy);
    let name =
        "one client sends, alone (A) and beside a process that computes, no part of this (B)";
    compare(name, &alone, &beside);
    let idle = gateway.resident_kb();
    let mut crowd = JoinSet::new();
    for _ in 0..waiting {
        let client = http::clients(&gateway.address, 1, "bench_wait").await.remove(0);
        crowd.spawn(wait(client));
    }
    sleep(Duration::from_secs(3)).await;
    let with_waiters = gateway.resident_kb();
    for n in 0..slow {
        crowd.spawn(drip(gateway.address.clone(), n % 2 == 0));
    }
    sleep(Duration::from_secs(3)).await;
    let with_slow = gateway.resident_kb();
    let mut beside: Vec<Round> = Vec::new();
    for _ in 0..plan.rounds {
        beside.push(good().await);
    }
    let name = format!(
        "one client sends, alone (A) and beside {waiting} that wait and {slow} that drip (B)"
    );
    compare(&name, &alone, &beside);
    // On a thread of their own, so that they are in nobody's way here.
    let address = gateway.address.clone();
    let large = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let large = large.expect("a runtime");
    let mut most = 0;
    for (more, all) in [(1, 1), (LARGE - 1, LARGE)] {
        for _ in 0..more {
            let address = address.clone();
            large.spawn(async move {
                send_large(http::clients(&address, 1, "bench_large").await.remove(0)).await;
            });
        }
        sleep(Duration::from_secs(3)).await;
        let mut beside = Vec::new();
        for _ in 0..plan.rounds * 2 {
            beside.push(good().await);
            most = most.max(gateway.resident_kb());
        }
        compare(
            &format!("… and {all} with bodies of 16 MiB, one after the other"),
            &alone,
            &beside,
        );
    }
    let refused = http::refused(&gateway.address).await;
    note(
        "resident: idle, with those that wait, that drip, that send large bodies",
        &format!("{idle}, {with_waiters}, {with_slow}, {most} kB; refused: {refused}"),
    );
    large.shutdown_background();
    crowd.shutdown().await;
}

/// A process that keeps one processor busy until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let loop_forever = ["-c", "while :; do :; done"];
        Self(Command::new("sh").args(loop_forever).spawn().expect("a shell"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn compare(name: &str, alone: &[Round], beside: &[Round]) {
    let (alone, beside) = (median(alone), median(beside));
    row(name, &alone, &beside, None);
    note("… its p99", &format!("{:.1} x", beside.p99_ms / alone.p99_ms));
}

async fn wait(mut client: Http) {
    loop {
        client.receive("wait=20").await;
    }
}

/// A request that comes a byte a second: its headers, or its body. One that is cut off begins anew.
async fn drip(address: String, in_headers: bool) {
    loop {
        let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
        let head = format!("POST /queues/bench_b/messages HTTP/1.1\r\nHost: {address}\r\n");
        let more = if in_headers { "X-Slow: " } else { "Content-Length: 1000\r\n\r\n" };
        let mut sent = stream.write_all((head + more).as_bytes()).await;
        let mut answer = [0; 1024];
        while sent.is_ok() {
            tokio::select! {
                () = sleep(Duration::from_secs(1)) => sent = stream.write_all(b"1").await,
                read = stream.read(&mut answer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                },
            }
        }
    }
}

async fn send_large(mut client: Http) {
    let message = format!(r#"{{"message":"{}"}}"#, "x".repeat(1_000_000));
    let body = format!(r#"{{"messages":[{}]}}"#, vec![message.as_str(); 16].join(","));
    let body = Bytes::from(body);
    loop {
        let (status, answer) = client.call("POST", "/messages/batch", &body).await;
        match status {
            201 => {}
            // As Retry-After says.
            503 => sleep(Duration::from_secs(1)).await,
            _ => panic!("{status} {}", String::from_utf8_lossy(&answer)),
        }
    }
}
