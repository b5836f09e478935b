//! Everything at once that can be in the way on other people's databases, beside ten queues with nothing
//! the matter: what these notice of it, and a journal of what was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    http::{self, Http},
    measure::{Plan, percentiles},
    scenarios::note,
    stage::{Gateway, Stage},
};

const GOOD: usize = 10;
const CLIENTS: usize = 16;
/// Seconds for which a message is leased; a client never keeps one for so long.
const LEASE: u64 = 60;
/// A role that policies hold for, unlike the owner of everything.
const ROLE: &str = "trouble_gateway";
/// What is the matter with a queue that is named after it.
const TROUBLE: [(&str, &str); 8] = [
    ("locked_row", ""),
    ("locked_table", ""),
    ("unique", "CREATE UNIQUE INDEX ON pgmq.q_unique ((message ->> 'data'))"),
    (
        "policy",
        "ALTER TABLE pgmq.q_policy ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY s ON pgmq.q_policy FOR SELECT USING (true); \
         CREATE POLICY i ON pgmq.q_policy FOR INSERT WITH CHECK (true); \
         CREATE POLICY u ON pgmq.q_policy FOR UPDATE USING (true)",
    ),
    (
        "dropping",
        "CREATE FUNCTION public.drop_some() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN IF random() < 0.3 THEN RETURN NULL; END IF; RETURN NEW; END'; \
         CREATE TRIGGER t BEFORE INSERT ON pgmq.q_dropping FOR EACH ROW \
         EXECUTE FUNCTION public.drop_some()",
    ),
    (
        "unreadable",
        "INSERT INTO pgmq.q_unreadable (vt, message) \
         SELECT now(), to_jsonb(repeat(chr(1), 180000000))",
    ),
    ("no_rights", "REVOKE ALL ON pgmq.q_no_rights FROM trouble_gateway"),
    (
        "lagging",
        "INSERT INTO pgmq.q_lagging (vt, message) SELECT now(), '{}' FROM generate_series(1, 500)",
    ),
];

/// What the clients of the good queues know, and how long their requests took.
#[derive(Default)]
struct Journal {
    sent: BTreeMap<String, i64>,
    deleted: BTreeSet<String>,
    leased: BTreeMap<String, Instant>,
    wrong: Vec<String>,
    sends: Vec<Duration>,
    receives: Vec<Duration>,
}

type Shared = Arc<Mutex<Journal>>;

pub async fn trouble(stage: &Stage, plan: &Plan) {
    stage.execute("DROP DATABASE IF EXISTS trouble").await;
    stage.execute("CREATE DATABASE trouble").await;
    stage.execute(&format!("DROP ROLE IF EXISTS {ROLE}")).await;
    stage.execute(&format!("CREATE ROLE {ROLE} LOGIN")).await;
    let url = stage.url.replace("/postgres?", "/trouble?");
    Gateway::migrate(&url, ROLE);
    let gateway = Gateway::start(&url.replace("//postgres@", &format!("//{ROLE}@")), &[]);
    let mut owner = PgConnection::connect(&url).await.expect("connected");
    for n in 0..GOOD {
        owner.execute(&*format!("SELECT pgmq.create('good{n}')")).await.expect("made");
    }
    for (queue, _) in TROUBLE {
        owner.execute(&*format!("SELECT pgmq.create('{queue}')")).await.expect("made");
    }
    let round = if plan.short { Duration::from_secs(5) } else { Duration::from_secs(30) };
    let alone = run(&gateway, &url, round, false).await;
    for (queue, sql) in TROUBLE {
        owner.execute(sql).await.unwrap_or_else(|e| panic!("{queue}: {e}"));
    }
    owner.execute("SELECT setval('pgmq.q_lagging_msg_id_seq', 1)").await.expect("set back");
    let beside = run(&gateway, &url, round, true).await;
    for (kind, alone, beside) in
        [("send", alone.0, beside.0), ("receive + delete", alone.1, beside.1)]
    {
        let ((p50, p99), (p50_beside, p99_beside)) = (percentiles(alone), percentiles(beside));
        note(
            &format!("{kind} on {GOOD} queues, {CLIENTS} clients: without trouble, beside it"),
            &format!(
                "p50 {p50:.1} ms, p99 {p99:.1} ms; p50 {p50_beside:.1} ms, p99 {p99_beside:.1} ms: \
                 **{:.2} x**",
                p99_beside / p99
            ),
        );
    }
}

/// Has 16 senders and 16 receivers work on the good queues, maybe beside all that trouble; returns the times
/// of sends, and of receives with their deletes. Fails if the journal and the tables disagree.
async fn run(
    gateway: &Gateway,
    url: &str,
    time: Duration,
    in_trouble: bool,
) -> (Vec<Duration>, Vec<Duration>) {
    let (journal, stop) = (Shared::default(), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let queue = format!("good{}", n % GOOD);
        let client = http::clients(&gateway.address, 1, &queue).await.remove(0);
        clients.spawn(send(client, n, Arc::clone(&journal), Arc::clone(&stop)));
        let client = http::clients(&gateway.address, 1, &queue).await.remove(0);
        clients.spawn(receive(client, queue, Arc::clone(&journal), Arc::clone(&stop)));
    }
    let mut others = JoinSet::new();
    let answers = Arc::new(Mutex::new(BTreeMap::new()));
    if in_trouble {
        hold(&mut others, url, "BEGIN; SELECT pgmq.read('locked_row', 30, 2)").await;
        hold(&mut others, url, "BEGIN; LOCK TABLE pgmq.q_locked_table").await;
        for (queue, _) in TROUBLE {
            for kind in 0..3 {
                let client = http::clients(&gateway.address, 1, queue).await.remove(0);
                others.spawn(meddle(client, queue, kind, Arc::clone(&answers), Arc::clone(&stop)));
            }
        }
    }
    sleep(time).await;
    stop.store(true, Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no client panics");
    }
    others.shutdown().await;
    if in_trouble {
        let answers = answers.lock().expect("answers");
        let answers: Vec<String> =
            answers.iter().map(|((queue, status), n)| format!("{queue} {status}: {n}")).collect();
        note("what the queues in trouble answered", &answers.join(", "));
    }
    let journal = Arc::into_inner(journal).expect("all are done").into_inner().expect("journal");
    check(url, &journal, in_trouble).await;
    (journal.sends, journal.receives)
}

/// Keeps a transaction open until the tasks are stopped.
async fn hold(others: &mut JoinSet<()>, url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("connected");
    connection.execute(sql).await.expect("held");
    others.spawn(async move {
        std::future::pending::<()>().await;
        drop(connection);
    });
}

async fn send(mut client: Http, sender: usize, journal: Shared, stop: Arc<AtomicBool>) {
    for n in 0.. {
        if stop.load(Relaxed) {
            return;
        }
        let name = format!("{sender}-{n}-{}", uuid::Uuid::now_v7());
        let body = Bytes::from(format!(r#"{{"message":"{name}"}}"#));
        let began = Instant::now();
        let (status, answer) = client.call("POST", "/messages", &body).await;
        let took = began.elapsed();
        let mut journal = journal.lock().expect("journal");
        journal.sends.push(took);
        match number(&answer, "\"msg_id\":").filter(|_| status == 201) {
            Some(id) => drop(journal.sent.insert(name, id)),
            None => journal.wrong.push(format!("send: {status}")),
        }
    }
}

async fn receive(mut client: Http, queue: String, journal: Shared, stop: Arc<AtomicBool>) {
    while !stop.load(Relaxed) {
        let began = Instant::now();
        let path = format!("/messages?wait=1&vt={LEASE}");
        let (status, answer) = client.call("GET", &path, &Bytes::new()).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let Some(id) = number(&answer, "\"msg_id\":").filter(|_| status == 200) else {
            if status != 200 {
                journal.lock().expect("journal").wrong.push(format!("receive: {status}"));
            }
            continue;
        };
        let name = text.split("\"message\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let name = format!("{queue} {}", name.expect("a name"));
        {
            let mut journal = journal.lock().expect("journal");
            let until = began + Duration::from_secs(LEASE);
            if journal.leased.insert(name.clone(), until).is_some_and(|last| last > began) {
                journal.wrong.push(format!("{name} was leased to two"));
            }
            if journal.deleted.contains(&name) {
                journal.wrong.push(format!("{name} came back"));
            }
        }
        let path = format!("/messages/{id}");
        let (status, _) = client.call("DELETE", &path, &Bytes::new()).await;
        let mut journal = journal.lock().expect("journal");
        journal.receives.push(began.elapsed());
        if status == 204 {
            journal.deleted.insert(name);
        } else {
            journal.wrong.push(format!("delete: {status}"));
        }
    }
}

type Answers = Arc<Mutex<BTreeMap<(&'static str, u16), u32>>>;

/// Uses a queue with which something is the matter, as its own clients would: they try again.
async fn meddle(
    mut client: Http,
    queue: &'static str,
    kind: u32,
    answers: Answers,
    stop: Arc<AtomicBool>,
) {
    for n in 0u32.. {
        if stop.load(Relaxed) {
            return;
        }
        let body = Bytes::from(format!(r#"{{"message":{{"data":"{}"}}}}"#, n % 3));
        let (status, _) = match kind {
            0 => client.call("POST", "/messages", &body).await,
            1 => client.call("GET", "/messages?wait=1&vt=1", &Bytes::new()).await,
            _ => client.call("DELETE", &format!("/messages/{}", n % 40 + 1), &Bytes::new()).await,
        };
        *answers.lock().expect("answers").entry((queue, status)).or_default() += 1;
        sleep(Duration::from_millis(20)).await;
    }
}

/// What was acknowledged is there, unless it was deleted; what was deleted is not.
async fn check(url: &str, journal: &Journal, in_trouble: bool) {
    let mut left = BTreeMap::new();
    let mut connection = PgConnection::connect(url).await.expect("connected");
    for n in 0..GOOD {
        let sql = format!("SELECT msg_id, message #>> '{{}}' AS name FROM pgmq.q_good{n}");
        for row in sqlx::query(&sql).fetch_all(&mut connection).await.expect("read") {
            left.insert(row.get::<String, _>("name"), (n, row.get::<i64, _>("msg_id")));
        }
    }
    let deleted: BTreeSet<&str> =
        journal.deleted.iter().filter_map(|name| Some(name.split_once(' ')?.1)).collect();
    let mut wrong = journal.wrong.clone();
    for (name, id) in &journal.sent {
        match left.get(name) {
            Some(_) if deleted.contains(&**name) => wrong.push(format!("{name} is still there")),
            Some((_, stored)) if stored != id => wrong.push(format!("{name}: {id}, not {stored}")),
            None if !deleted.contains(&**name) => wrong.push(format!("{name} is lost")),
            _ => {}
        }
    }
    let name =
        if in_trouble { "the journal beside trouble" } else { "the journal without trouble" };
    let (sent, deleted) = (journal.sent.len(), deleted.len());
    note(name, &format!("{sent} sent, {deleted} deleted, {} wrong: {wrong:?}", wrong.len()));
}

fn number(answer: &Bytes, key: &str) -> Option<i64> {
    let text = std::str::from_utf8(answer).ok()?;
    let rest = text.split_once(key)?.1;
    rest.split([',', '}']).next()?.parse().ok()
}
