//! One key that takes what it can get, and what another one is left with: `make bench BENCH=greedy`, and with
//! `OTHER=<program>` another build beside this one; `ATTACK=<part of its name>` is one of them alone.
//!
//! Of each attack: what the victim's clients reach alone, and beside it, and how much of it failed. At last all
//! attacks at once, and the memory that the gateway takes then.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pgmq_gateway::{config::Limits, server::raise_file_limit};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    calm::Calm,
    measure::{Plan, Round, percentiles},
    stage::{Gateway, Stage},
};

const GREEDY: &str = "the-key-of-somebody-greedy";
const VICTIM: &str = "the-key-of-their-victim";
/// Clients of the victim.
const CLIENTS: usize = 4;
/// Rows of a queue that takes long to be counted.
const LONG: usize = 300_000;
/// Elements of a filter that PostgreSQL compares with a message for some seconds, with no end before that.
const ELEMENTS: usize = 300;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that a greedy key does.
struct Attack {
    name: &'static str,
    /// What it needs in the database.
    needs: fn() -> String,
    /// Clients, and what each of them does until it is stopped.
    clients: usize,
    run: fn(Calm, usize) -> Running,
    victim: Victim,
}

/// What the victim does.
#[derive(Clone, Copy)]
enum Victim {
    Send,
    SendLarge,
    ReceiveShared,
    Wait,
    Transact,
    Publish,
}

/// What came of the victim's calls.
struct Outcome {
    round: Round,
    failed: usize,
}

fn attacks() -> Vec<Attack> {
    let nothing = String::new;
    vec![
        Attack {
            name: "filters of 300 array elements, on a message of 340,000",
            needs: || {
                "SELECT pgmq.create('g_filter'); SELECT pgmq.send('g_filter', \
                 jsonb_build_object('a', ('[' || repeat('[],', 340000) || '[]]')::jsonb))"
                    .to_owned()
            },
            clients: 8,
            run: |client, _| Box::pin(filter(client)),
            victim: Victim::Send,
        },
        Attack {
            name: "numbers that expand, in a queue that both use",
            needs: || {
                "SELECT pgmq.create('shared'); SELECT pgmq.send('shared', to_jsonb(n)) \
                 FROM generate_series(1, 1000) n"
                    .to_owned()
            },
            clients: 1,
            run: |client, _| Box::pin(expand(client)),
            victim: Victim::ReceiveShared,
        },
        Attack {
            name: "4,320 requests whose bodies do not come",
            needs: nothing,
            clients: 4_320,
            run: |client, _| Box::pin(half(client, 100, 1)),
            victim: Victim::Send,
        },
        Attack {
            name: "24 bodies of 16 MiB without their last byte",
            needs: nothing,
            clients: 24,
            run: |client, _| Box::pin(half(client, 16 << 20, (16 << 20) - 1)),
            victim: Victim::SendLarge,
        },
        Attack {
            name: "2,500 that wait, where 2,000 may",
            needs: || "SELECT pgmq.create('g_wait')".to_owned(),
            clients: 2_500,
            run: |client, _| Box::pin(wait(client)),
            victim: Victim::Wait,
        },
        Attack {
            name: "transactions of 100 sends, 32 at a time",
            needs: || {
                "SELECT pgmq.create('g_transact_' || n) FROM generate_series(0, 7) n".to_owned()
            },
            clients: 32,
            run: |client, n| Box::pin(transact(client, n)),
            victim: Victim::Transact,
        },
        Attack {
            name: "metrics, archives and filters of long queues, 32 at a time",
            needs: long_queues,
            clients: 32,
            run: |client, n| Box::pin(count(client, n)),
            victim: Victim::Send,
        },
        Attack {
            name: "batches of 1,000 to 60 queues, 4 at a time",
            needs: || {
                "SELECT pgmq.create('g_topic_' || n) FROM generate_series(0, 59) n; \
                 SELECT pgmq.bind_topic('greedy.#', 'g_topic_' || n) FROM generate_series(0, 59) n"
                    .to_owned()
            },
            clients: 4,
            run: |client, _| Box::pin(publish(client)),
            victim: Victim::Send,
        },
        Attack {
            name: "1,000 that wait with a filter each, beside a message",
            needs: || {
                "SELECT pgmq.create('g_filters'); SELECT pgmq.send('g_filters', '{}')".to_owned()
            },
            clients: 1_000,
            run: |client, n| Box::pin(wait_with_filter(client, n)),
            victim: Victim::Send,
        },
        Attack {
            name: "3,000 patterns on 30 queues",
            needs: || {
                "SELECT pgmq.create('g_bound_' || n) FROM generate_series(0, 29) n; \
                 INSERT INTO pgmq.topic_bindings (pattern, queue_name) \
                 SELECT '*.x.' || n || '.#', 'g_bound_' || (n % 30) FROM generate_series(1, 3000) n"
                    .to_owned()
            },
            clients: 0,
            run: |_, _| Box::pin(async {}),
            victim: Victim::Publish,
        },
    ]
}

fn long_queues() -> String {
    let one = |n: usize| {
        format!(
            "SELECT pgmq.create('g_long_{n}'); \
             INSERT INTO pgmq.q_g_long_{n} (vt, message) \
             SELECT now(), '{{\"a\":[1,2,3]}}' FROM generate_series(1, {LONG}); \
             INSERT INTO pgmq.a_g_long_{n} (msg_id, vt, message) \
             SELECT i, now(), '{{\"a\":[1,2,3]}}' FROM generate_series(1, {LONG}) i; "
        )
    };
    (0..4).map(one).collect()
}

pub async fn greedy(stage: &Stage, plan: &Plan) {
    raise_file_limit();
    let other = std::env::var_os("OTHER").map(PathBuf::from);
    println!("\n| attack | build | victim alone | beside it | of that | p99 | failed |");
    println!("|---|---|---|---|---|---|---|");
    let mut sides = Vec::new();
    for (name, program) in [("other", other.clone()), ("this", None)] {
        if name == "this" || other.is_some() {
            sides.push(Side::new(stage, name, program).await);
        }
    }
    let only = std::env::var("ATTACK").ok();
    for attack in attacks() {
        if only.as_ref().is_some_and(|part| !attack.name.contains(part)) {
            continue;
        }
        for side in &mut sides {
            side.suffer(plan, std::slice::from_ref(&attack), attack.name, attack.victim).await;
        }
    }
    if only.is_some() {
        return;
    }
    let all: Vec<Attack> = attacks().into_iter().skip(1).collect();
    for side in &mut sides {
        let name = "all of these at once, but the first";
        let most = side.suffer(plan, &all, name, Victim::Send).await;
        let bound = bound(&Limits::default()) >> 20;
        println!("| … memory | {} | – | {} MiB of {bound} | – | – | – |", side.name, most >> 10);
    }
}

/// What the limits that this runs with come to, as SECURITY.md reckons.
fn bound(limits: &Limits) -> u64 {
    let connections = u64::from(limits.max_connections) * (24 + 32) * 1_024;
    let requests = (limits.max_requests + limits.max_arriving_requests) as u64 * (32 << 10);
    (32 << 20) + connections + requests + 2_000 * (8 << 10) + 2 * limits.max_in_flight_bytes
}

/// A build of the gateway on a database of its own.
struct Side {
    name: &'static str,
    url: String,
    program: Option<PathBuf>,
    gateway: Option<Gateway>,
}

impl Side {
    async fn new(stage: &Stage, name: &'static str, program: Option<PathBuf>) -> Self {
        stage.execute(&format!("DROP DATABASE IF EXISTS greedy_{name}")).await;
        stage.execute(&format!("CREATE DATABASE greedy_{name}")).await;
        let url = stage.url.replace("/postgres?", &format!("/greedy_{name}?"));
        Self { name, url, program, gateway: None }
    }

    /// Starts anew, so that nothing is left of the attack before.
    async fn start(&mut self) -> String {
        drop(self.gateway.take());
        let keys = format!(
            r#"[{{"name":"greedy","key":"{GREEDY}","grants":["admin:*"]}},{{"name":"victim","key":"{VICTIM}","grants":["admin:*"]}}]"#
        );
        let settings = [
            ("PGMQ_GATEWAY__AUTH__KEYS", &*keys),
            ("PGMQ_GATEWAY__LONG_POLL__MAX_WAITERS", "2000"),
        ];
        let gateway = Gateway::start_program(self.program.clone(), &self.url, &settings);
        let address = gateway.address.clone();
        self.gateway = Some(gateway);
        self.sql(
            "SELECT pgmq.drop_queue(queue_name) FROM pgmq.meta; \
             SELECT pgmq.create('victim'); SELECT pgmq.bind_topic('pay.*', 'victim')",
        )
        .await;
        address
    }

    async fn sql(&self, sql: &str) {
        let mut connection = PgConnection::connect(&self.url).await.expect("connected");
        connection.execute(sql).await.unwrap_or_else(|e| panic!("{sql:.200}: {e}"));
    }

    async fn make_ready(&self, attacks: &[Attack]) {
        for attack in attacks {
            self.sql(&(attack.needs)()).await;
        }
    }

    /// Measures the victim alone, and beside attacks; returns the most memory in kB.
    async fn suffer(&mut self, plan: &Plan, attacks: &[Attack], name: &str, victim: Victim) -> u64 {
        let address = self.start().await;
        // Bindings of others are the attack.
        let is_made_later = matches!(victim, Victim::Publish);
        if !is_made_later {
            self.make_ready(attacks).await;
        }
        let time = plan.round * 2;
        measure(&address, victim, plan.round / 2).await;
        let alone = measure(&address, victim, time).await;
        if is_made_later {
            self.make_ready(attacks).await;
        }
        let crowd = Crowd::start(&address, attacks);
        // Until what it takes is taken.
        sleep(Duration::from_secs(3)).await;
        let beside = measure(&address, victim, time).await;
        let memory = self.gateway.as_ref().map_or(0, Gateway::resident_kb);
        drop(crowd);
        let cell = |o: &Outcome| {
            let Round { per_second, p50_ms, p99_ms } = o.round;
            format!("{per_second:.0}/s, p50 {p50_ms:.1}, p99 {p99_ms:.1} ms")
        };
        println!(
            "| {name} | {} | {} | {} | **{:.2}** | {:.1} x | {} |",
            self.name,
            cell(&alone),
            cell(&beside),
            beside.round.per_second / alone.round.per_second,
            beside.round.p99_ms / alone.round.p99_ms,
            beside.failed
        );
        // What the database is still at must not be seen in what comes next.
        self.idle().await;
        memory
    }

    /// Waits until the database has nothing to do any more.
    async fn idle(&mut self) {
        drop(self.gateway.take());
        let mut connection = PgConnection::connect(&self.url).await.expect("connected");
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                    AND datname LIKE 'greedy_%' AND pid <> pg_backend_pid()";
        for _ in 0..600 {
            let busy: i64 =
                sqlx::query_scalar(busy).fetch_one(&mut connection).await.expect("a number");
            if busy == 0 {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Attackers, on a thread of their own, until this is dropped.
struct Crowd(Option<Runtime>);

impl Crowd {
    fn start(address: &str, attacks: &[Attack]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        for attack in attacks {
            for n in 0..attack.clients {
                let (address, act) = (address.to_owned(), attack.run);
                runtime.spawn(async move { act(Calm::new(&address, GREEDY), n).await });
            }
        }
        Self(Some(runtime))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Has the victim's clients repeat a call; one that fails is no reason to end.
async fn measure(address: &str, victim: Victim, time: Duration) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CLIENTS {
        let (stop, mut client) = (Arc::clone(&stop), Calm::new(address, VICTIM));
        clients.spawn(async move {
            let (mut times, mut failed) = (Vec::new(), 0);
            while !stop.load(Relaxed) {
                let begun = Instant::now();
                let call = timeout(Duration::from_secs(10), victim.call(&mut client));
                match call.await {
                    Ok(true) => times.push(begun.elapsed()),
                    _ => failed += 1,
                }
            }
            (times, failed)
        });
    }
    sleep(time).await;
    stop.store(true, Relaxed);
    let (mut times, mut failed) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (client_times, client_failed) = client.expect("no client panics");
        times.extend(client_times);
        failed += client_failed;
    }
    #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
    let per_second = times.len() as f64 / began.elapsed().as_secs_f64();
    let (p50_ms, p99_ms) = percentiles(times);
    Outcome { round: Round { per_second, p50_ms, p99_ms }, failed }
}

impl Victim {
    /// Whether it was served.
    async fn call(self, client: &mut Calm) -> bool {
        let text = |length| format!(r#"{{"message":{{"data":"{}"}}}}"#, "x".repeat(length));
        match self {
            Self::Send => client.call("POST", "/queues/victim/messages", &text(118)).await == 201,
            Self::SendLarge => {
                client.call("POST", "/queues/victim/messages", &text(100_000)).await == 201
            }
            Self::ReceiveShared => {
                client.call("GET", "/queues/shared/messages?vt=0&qty=10", "").await == 200
            }
            Self::Wait => {
                client.call("POST", "/queues/victim/messages", &text(118)).await == 201
                    && client.call("GET", "/queues/victim/messages?wait=1&vt=600", "").await == 200
            }
            Self::Transact => {
                let send = r#"{"operations":[{"send":{"queue":"victim","message":1}}]}"#;
                client.call("POST", "/transactions", send).await == 200
            }
            Self::Publish => client.call("POST", "/topics/pay.x/messages", &text(118)).await == 201,
        }
    }
}

/// Who is refused comes again soon.
async fn repeat(mut client: Calm, method: &str, path: &str, body: &str) {
    loop {
        let status = client.call(method, path, body).await;
        if !(200..300).contains(&status) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn filter(client: Calm) {
    let elements = vec!["[1]"; ELEMENTS].join(",");
    let filter = format!("{{\"a\":[{elements}]}}");
    let filter: String = url::form_urlencoded::byte_serialize(filter.as_bytes()).collect();
    repeat(client, "GET", &format!("/queues/g_filter/messages?filter={filter}"), "").await;
}

async fn expand(mut client: Calm) {
    let message = format!(r#"{{"message":[{}0]}}"#, "1e131071,".repeat(127));
    let batch = format!(r#"{{"messages":[{}]}}"#, vec![message.as_str(); 1_000].join(","));
    client.call("POST", "/queues/shared/messages/batch", &batch).await;
    // What the victim would have received before them is taken away.
    for _ in 0..10 {
        client.call("GET", "/queues/shared/messages?qty=100&vt=600", "").await;
    }
    std::future::pending::<()>().await;
}

async fn half(mut client: Calm, announced: usize, sent: usize) {
    loop {
        client.half("/queues/g_half/messages/batch", announced, sent).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn wait(client: Calm) {
    repeat(client, "GET", "/queues/g_wait/messages?wait=20", "").await;
}

async fn wait_with_filter(client: Calm, n: usize) {
    let path = format!("/queues/g_filters/messages?wait=20&filter=%7B%22n%22%3A{n}%7D");
    repeat(client, "GET", &path, "").await;
}

async fn transact(client: Calm, n: usize) {
    let text = "x".repeat(1_000);
    let send = |i: usize| {
        let queue = (n + i) % 8;
        format!(r#"{{"send":{{"queue":"g_transact_{queue}","message":"{text}"}}}}"#)
    };
    let sends: Vec<String> = (0..100).map(send).collect();
    let body = format!(r#"{{"operations":[{}]}}"#, sends.join(","));
    repeat(client, "POST", "/transactions", &body).await;
}

async fn count(client: Calm, n: usize) {
    let queue = n % 4;
    let path = match n % 3 {
        0 => format!("/queues/g_long_{queue}/metrics"),
        1 => format!("/queues/g_long_{queue}/archive?filter=%7B%22a%22%3A%5B4%5D%7D"),
        _ => format!("/queues/g_long_{queue}/messages?filter=%7B%22a%22%3A%5B4%5D%7D"),
    };
    repeat(client, "GET", &path, "").await;
}

async fn publish(client: Calm) {
    let batch = format!(r#"{{"messages":[{}]}}"#, vec![r#"{"message":1}"#; 1_000].join(","));
    repeat(client, "POST", "/topics/greedy.x/messages/batch", &batch).await;
}
