//! Everything at once, with a journal: what is acknowledged is there, once, and what is done with does not come back.

mod receivers;
mod senders;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::{task::JoinHandle, time::sleep};

use crate::support::{
    Client, TestDatabase, TestGateway,
    process::{Program, program},
};

/// Queues, of which every fifth is read in groups.
const QUEUES: usize = 20;
const SENDERS: usize = 16;
const RECEIVERS: usize = 16;

/// A message by its queue and what it says.
type Name = (String, String);
/// A message by its queue and its id.
type Id = (String, i64);

/// What clients were told.
#[derive(Debug, Default)]
struct Journal(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    /// Stored, as the answer said.
    sent: BTreeSet<Name>,
    /// Not stored, as the answer said.
    refused: BTreeSet<Name>,
    /// What was to be stored all or none.
    wholes: Vec<Vec<Name>>,
    deliveries: Vec<Delivery>,
    /// Done with, as the answer said, and when that came.
    ended: BTreeMap<Id, DateTime<Utc>>,
    /// Maybe done with: there was no answer.
    maybe_ended: BTreeSet<Id>,
}

/// A message that a client was given.
#[derive(Clone, Debug)]
struct Delivery {
    id: Id,
    name: String,
    read_ct: i64,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Journal {
    fn write(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("whole")
    }
}

/// An answer, or nothing where the connection broke.
async fn ask(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> Option<(u16, Value)> {
    let mut request = client.request(method, path);
    if let Some(body) = body {
        request = request.header("Content-Type", "application/json").body(body.to_string());
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    let text = answer.text().await.ok()?;
    Some((status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).ok()? }))
}

fn queue(number: usize) -> String {
    format!("q{}", number % QUEUES)
}

/// Numbers that look as if they were random, and are the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn index(&mut self, sides: usize) -> usize {
        usize::try_from(self.throw(sides as u64)).expect("small")
    }
}

/// How long; `TEST_JOURNAL_SECONDS` makes it longer.
fn duration() -> Duration {
    let seconds = std::env::var("TEST_JOURNAL_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// A gateway of its own process, always at the same port.
fn gateway_at(port: u16, database: &TestDatabase) -> Program {
    let (port, url) = (port.to_string(), database.url());
    let environment = [("DATABASE_URL", url.as_str()), ("PGMQ_GATEWAY__SERVER__PORT", &port)];
    Program::start(program(&[], &environment))
}

async fn prepare(client: &Client) {
    for number in 0..QUEUES {
        let body = if number % 5 == 0 { json!({"fifo": true}) } else { json!({}) };
        client.create_with(&queue(number), &body).await;
        if number % 3 == 1 {
            client.configure(&queue(number), json!({"max_receives": 1000})).await.expect(200);
        }
    }
    for number in 0..QUEUES {
        for bound in [number, number + 7] {
            let pattern = json!({"pattern": format!("t.{number}")}).to_string();
            let path = format!("/queues/{}/bindings", queue(bound));
            client.post(&path, &pattern).await.expect(201);
        }
    }
}

/// Runs everybody until `stop`; each client has the gateways in turn.
fn start(
    clients: &[Client],
    steady: &Client,
    journal: &Arc<Journal>,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<()>> {
    let client = |n: usize| clients[n % clients.len()].clone();
    let senders = (0..SENDERS).map(|n| {
        tokio::spawn(senders::work(n, client(n / 5), Arc::clone(journal), Arc::clone(stop)))
    });
    let receivers = (0..RECEIVERS).map(|n| {
        // What was popped is gone if its answer is lost.
        let client = if n % 4 == 2 { steady.clone() } else { client(n / 4) };
        tokio::spawn(receivers::work(n, client, Arc::clone(journal), Arc::clone(stop)))
    });
    senders.chain(receivers).collect()
}

/// With one of two gateways killed in the middle, or without.
async fn run(kill: bool) {
    let database = TestDatabase::new().await;
    let steady = TestGateway::on(&database, |_| {}).await;
    let port = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound").port();
    let mut other = gateway_at(port, &database);
    let clients = [steady.client.clone(), other.client().await];
    prepare(&steady).await;
    let (journal, stop) = (Arc::default(), Arc::default());
    let tasks = start(&clients, &steady.client, &journal, &stop);
    sleep(duration() / 2).await;
    if kill {
        other.signal(Signal::SIGKILL);
        other.ended().await;
        other = gateway_at(port, &database);
        other.client().await;
    }
    sleep(duration() / 2).await;
    stop.store(true, Relaxed);
    for task in tasks {
        task.await.expect("no panic");
    }
    let left = left(&database).await;
    check(&journal.write(), &left);
}

/// What is in the queues still.
async fn left(database: &TestDatabase) -> BTreeMap<Id, String> {
    let mut connection = database.connect().await;
    let mut left = BTreeMap::new();
    for number in 0..QUEUES {
        let queue = queue(number);
        let all = format!("SELECT msg_id, message #>> '{{}}' FROM pgmq.q_{queue}");
        for row in sqlx::query(&all).fetch_all(&mut connection).await.expect("read") {
            left.insert((queue.clone(), row.get(0)), row.get(1));
        }
    }
    left
}

fn none<T: Debug>(found: impl IntoIterator<Item = T>, what: &str) {
    let found: Vec<T> = found.into_iter().collect();
    assert!(found.is_empty(), "{what}: {} such as {:?}", found.len(), &found[..found.len().min(3)]);
}

#[expect(clippy::print_stdout, reason = "how much was tried is worth knowing")]
fn check(book: &Book, left: &BTreeMap<Id, String>) {
    let mut ids: BTreeMap<Name, BTreeSet<i64>> = BTreeMap::new();
    let delivered = book.deliveries.iter().map(|delivery| (&delivery.id, &delivery.name));
    for ((queue, id), name) in left.iter().chain(delivered) {
        ids.entry((queue.clone(), name.clone())).or_default().insert(*id);
    }
    let known = |name: &Name| ids.contains_key(name);
    none(ids.iter().filter(|(_, ids)| ids.len() > 1), "stored twice");
    none(book.refused.iter().filter(|name| known(name)), "stored, and told that it is not");
    let is_whole = |names: &&Vec<Name>| {
        let there = names.iter().filter(|name| known(name)).count();
        there == 0 || there == names.len()
    };
    none(book.wholes.iter().filter(|names| !is_whole(names)), "done in part");
    let is_accounted_for = |(queue, name): &Name| {
        ids.get(&(queue.clone(), name.clone())).is_some_and(|ids| {
            ids.iter().all(|id| {
                let id = (queue.clone(), *id);
                left.contains_key(&id)
                    || book.ended.contains_key(&id)
                    || book.maybe_ended.contains(&id)
            })
        })
    };
    none(book.sent.iter().filter(|name| !is_accounted_for(name)), "acknowledged, and gone");
    none(left.keys().filter(|id| book.ended.contains_key(id)), "ended, and there");
    let after_end = |delivery: &&Delivery| {
        book.ended.get(&delivery.id).is_some_and(|ended| delivery.from > *ended)
    };
    none(book.deliveries.iter().filter(after_end), "delivered after its end");
    none(overlapping(&book.deliveries), "leased to two at a time");
    let (sent, ended) = (book.sent.len(), book.ended.len());
    println!(
        "{sent} sent, {} delivered, {ended} ended, {} left",
        book.deliveries.len(),
        left.len()
    );
    assert!(sent > 20 && ended > 20, "{sent} sent, {ended} ended");
}

/// Deliveries of one message of which the later began before the lease of the earlier was over.
fn overlapping(deliveries: &[Delivery]) -> Vec<(Delivery, Delivery)> {
    let mut by_id: BTreeMap<&Id, Vec<&Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        by_id.entry(&delivery.id).or_default().push(delivery);
    }
    let mut overlapping = Vec::new();
    for of_one in by_id.values_mut() {
        of_one.sort_by_key(|delivery| delivery.from);
        for pair in of_one.windows(2) {
            let [first, second] = pair else { continue };
            if second.from < first.until || second.read_ct <= first.read_ct {
                overlapping.push(((*first).clone(), (*second).clone()));
            }
        }
    }
    overlapping
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_everything_at_once_each_answer_holds() {
    run(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_gateway_killed_in_the_middle_each_answer_holds() {
    run(true).await;
}
