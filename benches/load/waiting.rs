//! A crowd of clients that wait, and what that costs.

use std::time::Duration;

use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    http,
    measure::{Plan, median, round},
    scenarios::{note, row},
    stage::{Gateway, Stage},
};

const QUEUES: usize = 100;
/// Time for connections that do nothing, between two waits.
const IDLE: (&str, &str) = ("PGMQ_GATEWAY__SERVER__HEADER_TIMEOUT_SECONDS", "300");

/// Clients with a connection of their own that wait while they are told to.
struct Crowd {
    clients: JoinSet<()>,
    wait: watch::Sender<bool>,
}

impl Crowd {
    async fn gather(address: &str, size: usize) -> Self {
        let (wait, told) = watch::channel(false);
        let mut clients = JoinSet::new();
        for n in 0..size {
            let queue = format!("wait_{}", n % QUEUES + 1);
            let mut client = http::clients(address, 1, &queue).await.remove(0);
            let mut told = told.clone();
            clients.spawn(async move {
                loop {
                    told.wait_for(|wait| *wait).await.expect("told");
                    assert!(client.receive("wait=20").await.is_empty());
                }
            });
        }
        Self { clients, wait }
    }

    /// Has all of them wait, or none.
    async fn set(&self, wait: bool) {
        self.wait.send_replace(wait);
        // The last one that waits has come back by then.
        sleep(Duration::from_secs(if wait { 3 } else { 22 })).await;
    }
}

/// A gateway of its own, so that its connections can be counted.
pub async fn waiting(stage: &Stage, plan: &Plan) {
    let crowd_size = if plan.short { 2_000 } else { 10_000 };
    let create = format!("SELECT pgmq.create('wait_' || n) FROM generate_series(1, {QUEUES}) n");
    stage.execute(&create).await;
    stage.execute("CREATE ROLE waited SUPERUSER LOGIN").await;
    stage.fill("bench_b", 0).await;
    let gateway = Gateway::start(&stage.url.replace("//postgres@", "//waited@"), &[IDLE]);
    // As it is after a while of work.
    let clients = http::clients(&gateway.address, 64, "bench_b").await;
    round(plan, clients, http::send).await;
    let before = gateway.resident_kb();
    let crowd = Crowd::gather(&gateway.address, crowd_size).await;
    crowd.set(true).await;
    // Until idle connections have been given up.
    sleep(Duration::from_secs(if plan.short { 3 } else { 25 })).await;
    let each = gateway.resident_kb().saturating_sub(before) / crowd_size as u64;
    let (mut most, mut oldest) = (0, 0);
    for _ in 0..100 {
        let of_the_role = "FROM pg_stat_activity WHERE usename = 'waited'";
        most = most.max(stage.number(&format!("SELECT count(*) {of_the_role}")).await);
        let age = stage
            .number(&format!(
                "SELECT coalesce(max(extract(epoch FROM now() - xact_start) * 1000), 0)::bigint \
                 {of_the_role} AND backend_xmin IS NOT NULL"
            ))
            .await;
        oldest = oldest.max(age);
        sleep(Duration::from_millis(50)).await;
    }
    note(
        &format!("{crowd_size} clients wait on {QUEUES} queues"),
        &format!(
            "{each} kB each; at most {most} database connections; oldest snapshot {oldest} ms"
        ),
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (wait, rounds) in [(true, &mut with), (false, &mut without)] {
            crowd.set(wait).await;
            let clients = http::clients(&gateway.address, 64, "bench_b").await;
            rounds.push(round(plan, clients, http::send).await);
        }
    }
    let name = "send elsewhere, while they do not wait (A) and while they wait (B)";
    row(name, &median(&without), &median(&with), None);
    let mut clients = crowd.clients;
    clients.shutdown().await;
}
