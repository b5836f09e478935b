//! What is measured.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    abuse, compare, dead_letters,
    direct::{self, Direct},
    fair, fifo, greedy,
    http::{self, Http},
    measure::{Plan, Round, median, percentiles, round},
    queues, shared,
    snapshot::snapshot,
    sqs, sqs_fifo,
    stage::{Gateway, Stage},
    tls, trouble, waiting,
};

type Run = for<'a> fn(&'a Stage, &'a Plan) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

pub fn all() -> Vec<(&'static str, Run)> {
    vec![
        ("send", |s, p| Box::pin(sends(s, p))),
        ("consume", |s, p| Box::pin(consumes(s, p))),
        ("queues-send", |s, p| Box::pin(queues::sends(s, p))),
        ("queues-consume", |s, p| Box::pin(queues::consumes(s, p))),
        ("queues-many", |s, p| Box::pin(queues::sends_to_many(s, p))),
        ("batch", |s, p| Box::pin(batches(s, p))),
        ("single", |s, p| Box::pin(single(s, p))),
        ("waiting", |s, p| Box::pin(waiting::waiting(s, p))),
        ("latency", |s, p| Box::pin(latency(s, p))),
        ("in-flight", |s, p| Box::pin(in_flight(s, p))),
        ("long", |s, p| Box::pin(long_queue(s, p))),
        ("fifo", |s, p| Box::pin(fifo::fifo(s, p))),
        ("once", |s, p| Box::pin(once(s, p))),
        ("dead", |s, p| Box::pin(dead_letters::dead_letters(s, p))),
        ("fair", |s, p| Box::pin(fair::fair(s, p))),
        ("sqs", |s, p| Box::pin(sqs::sqs(s, p))),
        ("sqs-fifo", |s, p| Box::pin(sqs_fifo::sqs_fifo(s, p))),
        ("tls", |s, p| Box::pin(tls::tls(s, p))),
        ("gateways", |s, p| Box::pin(tls::gateways(s, p))),
        ("snapshot", |s, p| Box::pin(snapshot(s, p))),
        ("shared", |s, p| Box::pin(shared::shared(s, p))),
        ("take", |s, p| Box::pin(takes(s, p))),
        ("next", |s, p| Box::pin(next(s, p))),
        ("keys", |s, p| Box::pin(keys(s, p))),
        ("abuse", |s, p| Box::pin(abuse::abuse(s, p))),
        ("trouble", |s, p| Box::pin(trouble::trouble(s, p))),
        ("greedy", |s, p| Box::pin(greedy::greedy(s, p))),
        ("compare", |s, p| Box::pin(compare::compare(s, p))),
    ]
}

pub fn row(name: &str, a: &Round, b: &Round, c: Option<&Round>) {
    let cell =
        |r: &Round| format!("{:.0}/s, p50 {:.2}, p99 {:.2} ms", r.per_second, r.p50_ms, r.p99_ms);
    let ratio = b.per_second / a.per_second;
    let c = c.map_or_else(|| "–".to_owned(), cell);
    println!("| {name} | {} | {} | {c} | **{ratio:.2}** |", cell(a), cell(b));
}

pub fn note(name: &str, text: &str) {
    println!("| {name} | – | {text} | – | – |");
}

/// The best of several numbers of direct connections.
fn best(rounds: &[(usize, Vec<Round>)]) -> (usize, Round) {
    let medians = rounds.iter().map(|(connections, rounds)| (*connections, median(rounds)));
    medians.max_by(|a, b| a.1.per_second.total_cmp(&b.1.per_second)).unwrap_or_default()
}

async fn sends(stage: &Stage, plan: &Plan) {
    stage.fill("bench_a", 0).await;
    stage.fill("bench_b", 0).await;
    stage.fill("bench_c", 0).await;
    let mut a = [(20, Vec::new()), (64, Vec::new())];
    let (mut b, mut crowd, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (connections, rounds) in &mut a {
            let clients = direct::clients(stage, *connections, "bench_a").await;
            rounds.push(round(plan, clients, direct::send).await);
        }
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        b.push(round(plan, clients, http::send).await);
        let clients = http::clients(&stage.gateway.address, 256, "bench_b").await;
        crowd.push(round(plan, clients, http::send).await);
        let clients = http::clients(&stage.without_sharing.address, 64, "bench_c").await;
        c.push(round(plan, clients, http::send).await);
    }
    let (connections, a) = best(&a);
    let name = format!("send, 64 clients (A at its best: {connections} connections)");
    row(&name, &a, &median(&b), Some(&median(&c)));
    row("send, 256 clients", &a, &median(&crowd), None);
    note("resident after that", &format!("{} kB", stage.gateway.resident_kb()));
}

async fn consumes(stage: &Stage, plan: &Plan) {
    let messages = if plan.short { 60_000 } else { 120_000 };
    let mut a = [(20, Vec::new()), (64, Vec::new())];
    let (mut b, mut crowd, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        for (connections, rounds) in &mut a {
            stage.fill("bench_a", messages).await;
            let clients = direct::clients(stage, *connections, "bench_a").await;
            rounds.push(round(plan, clients, direct::consume).await);
        }
        for (clients, rounds) in [(64, &mut b), (256, &mut crowd)] {
            stage.fill("bench_b", messages).await;
            let clients = http::clients(&stage.gateway.address, clients, "bench_b").await;
            rounds.push(round(plan, clients, http::consume).await);
        }
        stage.fill("bench_c", messages).await;
        let clients = http::clients(&stage.without_sharing.address, 64, "bench_c").await;
        c.push(round(plan, clients, http::consume).await);
    }
    let (connections, a) = best(&a);
    let name =
        format!("receive 1 + delete 1, 64 clients (A at its best: {connections} connections)");
    row(&name, &a, &median(&b), Some(&median(&c)));
    row("receive 1 + delete 1, 256 clients", &a, &median(&crowd), None);
    note("resident after that", &format!("{} kB", stage.gateway.resident_kb()));
}

async fn batches(stage: &Stage, plan: &Plan) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_a", 0).await;
        let clients = direct::clients(stage, 8, "bench_a").await;
        a.push(round(plan, clients, direct::send_batch).await);
        stage.fill("bench_b", 0).await;
        let clients = http::clients(&stage.gateway.address, 8, "bench_b").await;
        b.push(round(plan, clients, http::send_batch).await);
    }
    row("batches of 100, 8 clients", &median(&a), &median(&b), None);
}

async fn single(stage: &Stage, plan: &Plan) {
    stage.fill("bench_a", 0).await;
    stage.fill("bench_b", 0).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let clients = direct::clients(stage, 1, "bench_a").await;
        a.push(round(plan, clients, direct::send).await);
        let clients = http::clients(&stage.gateway.address, 1, "bench_b").await;
        b.push(round(plan, clients, http::send).await);
    }
    let (a, b) = (median(&a), median(&b));
    row("send, one client", &a, &b, None);
    note("its p50 over direct SQL", &format!("{:+.2} ms", b.p50_ms - a.p50_ms));
}

/// From the answer to a send, or the commit of an insert, to the answer of who waited.
async fn latency(stage: &Stage, plan: &Plan) {
    let count = if plan.short { 40 } else { 300 };
    for (name, receiver, by_sql, extra) in [
        ("send → waiting client, same gateway", &stage.gateway, false, ""),
        ("send → waiting client, other gateway", &stage.other_gateway, false, ""),
        ("insert by SQL → waiting client", &stage.gateway, true, ""),
        ("a delay of 1 s runs out → waiting client", &stage.gateway, false, r#","delay":1"#),
    ] {
        stage.fill("bench_l", 0).await;
        let mut waiter = http::clients(&receiver.address, 1, "bench_l").await.remove(0);
        let mut sender = http::clients(&stage.gateway.address, 1, "bench_l").await.remove(0);
        let mut sql = direct::clients(stage, 1, "bench_l").await.remove(0);
        let mut times = Vec::new();
        for n in 0..if extra.is_empty() { count } else { count / 10 + 5 } {
            let wait = tokio::spawn(async move {
                let ids = waiter.receive("wait=20").await;
                (waiter, Instant::now(), ids.len())
            });
            // Long enough to be in line, and at another phase of the sweep each time.
            sleep(Duration::from_millis(30 + n * 7 % 100)).await;
            if by_sql {
                sql = direct::send(sql).await.0;
            } else {
                let body = format!(r#"{{"message":1{extra}}}"#);
                sender.call("POST", "/messages", &body.into()).await;
            }
            let due = if extra.is_empty() { Duration::ZERO } else { Duration::from_secs(1) };
            let sent = Instant::now() + due;
            let (same, received, ids) = wait.await.expect("no panic");
            waiter = same;
            assert_eq!(ids, 1);
            times.push(received.saturating_duration_since(sent));
        }
        let (p50, p99) = percentiles(times);
        note(name, &format!("p50 {p50:.1} ms, p99 {p99:.1} ms"));
    }
}

/// Reading beside many leased messages.
async fn in_flight(stage: &Stage, plan: &Plan) {
    let leased = if plan.short { 30_000 } else { 100_000 };
    for (name, visible) in [("receive", 400_000), ("empty receive", 0)] {
        let (mut few_a, mut few_b, mut many_a, mut many_b) = (vec![], vec![], vec![], vec![]);
        for (hidden, a, b) in [(0, &mut few_a, &mut few_b), (leased, &mut many_a, &mut many_b)] {
            for _ in 0..plan.rounds {
                // Older messages are in flight, the visible ones stand behind them.
                for queue in ["bench_a", "bench_b"] {
                    stage.fill(queue, hidden).await;
                    stage
                        .execute(&format!(
                            "UPDATE pgmq.q_{queue} SET vt = now() + interval '1 hour', read_ct = 1; \
                             INSERT INTO pgmq.q_{queue} (vt, message) \
                             SELECT clock_timestamp(), '{{}}' FROM generate_series(1, {}); ",
                            visible / 4
                        ))
                        .await;
                    stage.execute(&format!("VACUUM ANALYZE pgmq.q_{queue}")).await;
                }
                let short = Plan { round: plan.round / 2, ..*plan };
                let clients: Vec<Direct> = direct::clients(stage, 1, "bench_a").await;
                a.push(round(&short, clients, direct::read).await);
                let clients: Vec<Http> = http::clients(&stage.gateway.address, 1, "bench_b").await;
                b.push(round(&short, clients, http::read).await);
            }
        }
        let slower = |few: &[Round], many: &[Round]| median(many).p50_ms / median(few).p50_ms;
        row(&format!("{name}, {leased} in flight"), &median(&many_a), &median(&many_b), None);
        let (a, b) = (slower(&few_a, &many_a), slower(&few_b, &many_b));
        println!("| … its p50 beside none in flight | {a:.1} x | {b:.2} x | – | – |");
    }
}

/// The same with a little and with a lot in the queue.
async fn long_queue(stage: &Stage, plan: &Plan) {
    let (little, lot) = (20_000, if plan.short { 200_000 } else { 1_000_000 });
    let (mut sends, mut consumes) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..plan.rounds.min(3) {
        for (index, messages) in [little, lot].into_iter().enumerate() {
            stage.fill("bench_b", messages).await;
            let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
            let short = Plan { round: Duration::from_millis(1_500), ..*plan };
            consumes[index].push(round(&short, clients, http::consume).await);
            let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
            sends[index].push(round(&short, clients, http::send).await);
        }
    }
    for (name, [little, lot]) in [("send", sends), ("receive 1 + delete 1", consumes)] {
        let name = format!("{name}, in a queue of 20000 (A) and of a million (B)");
        row(&name, &median(&little), &median(&lot), None);
    }
}

/// Sends with an Idempotency-Key each, beside sends without.
async fn once(stage: &Stage, plan: &Plan) {
    stage.fill("bench_b", 0).await;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        without.push(round(plan, clients, http::send).await);
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        with.push(round(plan, clients, http::send_once).await);
    }
    row(
        "send, without (A) and with (B) an Idempotency-Key",
        &median(&without),
        &median(&with),
        None,
    );
}

/// Pops, and looks at one message by id, beside receives.
async fn takes(stage: &Stage, plan: &Plan) {
    let messages = if plan.short { 60_000 } else { 120_000 };
    let (mut received, mut popped, mut looked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_b", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        looked.push(round(plan, clients, http::look).await);
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        received.push(round(plan, clients, http::read).await);
        stage.fill("bench_b", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        popped.push(round(plan, clients, http::pop).await);
    }
    row("receive (A) and pop (B) of one", &median(&received), &median(&popped), None);
    row("receive (A) and look at (B) one", &median(&received), &median(&looked), None);
}

/// Receiving and deleting in two requests, and in one.
async fn next(stage: &Stage, plan: &Plan) {
    let messages = if plan.short { 60_000 } else { 200_000 };
    let (mut apart, mut together) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage.fill("bench_b", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        apart.push(round(plan, clients, http::consume).await);
        stage.fill("bench_b", messages).await;
        let clients = http::clients(&stage.gateway.address, 64, "bench_b").await;
        together.push(round(plan, clients, http::settle_and_receive).await);
    }
    let name = "receive 1 + delete 1 (A), and both in one request (B), messages";
    row(name, &median(&apart), &median(&together), None);
}

/// What it costs to be asked for a key: of the configuration, and of the database.
async fn keys(stage: &Stage, plan: &Plan) {
    const CONFIGURED: &str = "a-key-of-the-configuration";
    const STORED: &str = "pgk_bench_a-key-of-the-database";
    stage.fill("bench_b", 0).await;
    stage
        .execute(&format!(
            "INSERT INTO pgmq_gateway.api_keys (id, name, hash, grants) \
             VALUES ('bench', 'bench', sha256('{STORED}'), '{{send:bench*}}')"
        ))
        .await;
    let locked = Gateway::start(&stage.url, &[("PGMQ_GATEWAY__AUTH__ADMIN_KEY", CONFIGURED)]);
    let open = Gateway::start(&stage.url, &[("PGMQ_GATEWAY__AUTH__MODE", "none")]);
    let (mut without, mut configured, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds * 2 {
        let clients = http::clients(&open.address, 64, "bench_b").await;
        without.push(round(plan, clients, http::send).await);
        for (key, rounds) in [(CONFIGURED, &mut configured), (STORED, &mut stored)] {
            let clients = http::clients_with_key(&locked.address, 64, "bench_b", key).await;
            rounds.push(round(plan, clients, http::send).await);
        }
    }
    // The other gateways of this run ask for none.
    stage.execute("DELETE FROM pgmq_gateway.api_keys").await;
    let name = "send, without a key (A) and with one of the configuration (B)";
    row(name, &median(&without), &median(&configured), None);
    let name = "send, without a key (A) and with one of the database (B)";
    row(name, &median(&without), &median(&stored), None);
}
