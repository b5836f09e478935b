//! The address of the database leads to another server, or to one that takes no changes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use pgmq_gateway::app::Gateway;
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::support::{
    Client, TestDatabase, TestGateway, eventually, forwarder::Forwarder, gateway::try_start,
    report, servers::Server,
};

async fn gateway_on(url: &str) -> (Gateway, Client) {
    let gateway = try_start(url, |_| {}).await.expect("gateway started");
    let client = Client::new(&gateway.url());
    (gateway, client)
}

/// Senders and receivers, and what they were told.
struct Load {
    stop: Arc<AtomicBool>,
    journal: Arc<Journal>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Journal {
    sent: Mutex<BTreeSet<String>>,
    unknown: Mutex<BTreeSet<String>>,
    deleted: Mutex<BTreeSet<String>>,
    last_send: Mutex<Option<Instant>>,
    last_receive: Mutex<Option<Instant>>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, journal) = (Arc::new(AtomicBool::new(false)), Arc::new(Journal::default()));
        let mut tasks = Vec::new();
        for worker in 0..4 {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            let journal = Arc::clone(&journal);
            tasks.push(tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Relaxed) {
                        return;
                    }
                    send(&client, &journal, format!("{worker}-{n}")).await;
                }
            }));
        }
        for _ in 0..4 {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            let journal = Arc::clone(&journal);
            tasks.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    receive(&client, &journal).await;
                }
            }));
        }
        Self { stop, journal, tasks }
    }

    async fn stop(self) -> Arc<Journal> {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.expect("no panic");
        }
        self.journal
    }
}

async fn send(client: &Client, journal: &Journal, name: String) {
    let body = json!({"message": name}).to_string();
    let answer = client.post("/queues/q/messages", &body).await;
    match answer.status {
        201 => {
            journal.sent.lock().expect("whole").insert(name);
            *journal.last_send.lock().expect("whole") = Some(Instant::now());
        }
        503 => {
            if answer.json()["code"] == "outcome_unknown" {
                journal.unknown.lock().expect("whole").insert(name);
            }
            sleep(Duration::from_millis(20)).await;
        }
        status => panic!("{status}: {}", answer.text),
    }
}

async fn receive(client: &Client, journal: &Journal) {
    let answer = client.get("/queues/q/messages?qty=10&wait=1").await;
    if answer.status == 503 {
        return sleep(Duration::from_millis(20)).await;
    }
    for message in answer.expect(200).messages() {
        *journal.last_receive.lock().expect("whole") = Some(Instant::now());
        let id = message["msg_id"].as_i64().expect("an id");
        let deleted = client.delete(&format!("/queues/q/messages/{id}")).await;
        if deleted.status == 204 {
            let name = message["message"].as_str().expect("text").to_owned();
            let new = journal.deleted.lock().expect("whole").insert(name.clone());
            assert!(new, "{name} was there twice");
        } else {
            assert!(matches!(deleted.status, 404 | 503), "{}: {}", deleted.status, deleted.text);
        }
    }
}

/// Seconds from `since` until sends, receives and readiness are right again, now that the address
/// leads elsewhere.
async fn recovery(client: &Client, journal: &Journal, since: Instant) -> [f64; 3] {
    let switched = Instant::now();
    let after =
        |last: &Mutex<Option<Instant>>| last.lock().expect("whole").filter(|at| *at > switched);
    let [mut send, mut receive, mut ready] = [None; 3];
    eventually("everything is right again", async || {
        send = send.or_else(|| after(&journal.last_send));
        receive = receive.or_else(|| after(&journal.last_receive));
        if ready.is_none() && client.get("/readyz").await.status == 200 {
            ready = Some(Instant::now());
        }
        (send.is_some() && receive.is_some() && ready.is_some()).then_some(())
    })
    .await;
    [send, receive, ready].map(|at| at.map_or(f64::MAX, |at| (at - since).as_secs_f64()))
}

async fn check(client: &Client, journal: &Journal) {
    let mut left = BTreeSet::new();
    loop {
        // A connection that was on its way to the other server is found out by whoever has it first.
        let popped = eventually("an answer", async || {
            let popped = client.post("/queues/q/messages/pop?qty=100", "").await;
            (popped.status != 503).then_some(popped)
        })
        .await
        .expect(200)
        .messages();
        if popped.is_empty() {
            break;
        }
        left.extend(popped.iter().map(|m| m["message"].as_str().expect("text").to_owned()));
    }
    // Whatever is leased is still to be accounted for.
    for message in client.all("q").await {
        left.insert(message["message"].as_str().expect("text").to_owned());
    }
    let deleted = journal.deleted.lock().expect("whole");
    let (sent, unknown) =
        (journal.sent.lock().expect("whole"), journal.unknown.lock().expect("whole"));
    let lost: Vec<_> =
        sent.iter().filter(|n| !left.contains(*n) && !deleted.contains(*n)).collect();
    // A delete whose outcome was not told may be done.
    assert!(lost.len() <= 40, "acknowledged, and gone: {} of {}", lost.len(), sent.len());
    let surprising: Vec<_> =
        left.iter().filter(|n| !sent.contains(*n) && !unknown.contains(*n)).collect();
    assert!(surprising.is_empty(), "told that they were not stored: {surprising:?}");
    let resurrected: Vec<_> = left.intersection(&deleted).collect();
    assert!(resurrected.is_empty(), "deleted, and there: {resurrected:?}");
}

/// Fails over to a standby and back, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_and_back_everything_is_right_within_seconds() {
    let first = Server::new(&[]).await;
    let address = Forwarder::to(&first.socket()).await;
    let (_gateway, client) = gateway_on(&address.url()).await;
    client.create("q").await;
    let second = first.standby(&[]).await;
    // From now on what is acknowledged is there, too.
    first.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    first.execute("SELECT pg_reload_conf()").await;
    eventually("the standby is synchronous", async || {
        let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        (first.count(sync).await == 1).then_some(())
    })
    .await;
    let load = Load::start(&client);
    let sent = || load.journal.sent.lock().expect("whole").len();
    eventually("it runs", async || (sent() > 100).then_some(())).await;

    let since = Instant::now();
    first.stop("immediate");
    second.promote();
    address.lead_to(&second.socket());
    let promoted = since.elapsed().as_secs_f64();
    let figures = recovery(&client, &load.journal, since).await;
    report(&format!("failover: promoted {promoted:.2}, sends, receives, readiness {figures:.2?}"));
    assert!(figures.iter().all(|seconds| *seconds < promoted + 5.0), "{figures:?}");

    let third = second.standby(&[]).await;
    let before = sent();
    eventually("it goes on", async || (sent() > before + 100).then_some(())).await;
    let since = Instant::now();
    second.stop("fast");
    third.promote();
    address.lead_to(&third.socket());
    let promoted = since.elapsed().as_secs_f64();
    let figures = recovery(&client, &load.journal, since).await;
    report(&format!("and back: promoted {promoted:.2}, sends, receives, readiness {figures:.2?}"));
    assert!(figures.iter().all(|seconds| *seconds < promoted + 5.0), "{figures:?}");
    let journal = load.stop().await;
    check(&client, &journal).await;
}

/// The primary freezes: it hangs up on nobody, and never answers again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_server_that_hangs_are_left_for_the_one_that_took_its_place() {
    let first = Server::new(&[]).await;
    let address = Forwarder::to(&first.socket()).await;
    let (_gateway, client) = gateway_on(&address.url()).await;
    client.create("q").await;
    let second = first.standby(&[]).await;
    let load = Load::start(&client);
    let sent = || load.journal.sent.lock().expect("whole").len();
    eventually("it runs", async || (sent() > 100).then_some(())).await;
    let since = Instant::now();
    first.freeze();
    second.promote();
    address.lead_to(&second.socket());
    let promoted = since.elapsed().as_secs_f64();
    let figures = recovery(&client, &load.journal, since).await;
    report(&format!("frozen: promoted {promoted:.2}, sends, receives, readiness {figures:.2?}"));
    assert!(figures.iter().all(|seconds| *seconds < promoted + 10.0), "{figures:?}");
    load.stop().await;
}

/// What was connected while the address led to a standby is not used once it leads to a primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_left_once_the_address_leads_to_a_primary() {
    let primary = Server::new(&[]).await;
    let address = Forwarder::to(&primary.socket()).await;
    let (_gateway, client) = gateway_on(&address.url()).await;
    client.create("q").await;
    let standby = primary.standby(&[]).await;
    address.lead_to(&standby.socket());
    address.cut().await;
    eventually("it says so", async || {
        let answer = client.get("/readyz").await;
        (answer.status == 503 && answer.detail().contains("takes no changes")).then_some(())
    })
    .await;
    let load = Load::start(&client);
    for _ in 0..20 {
        client
            .post("/queues/q/messages", r#"{"message":1}"#)
            .await
            .problem(503, "database_unavailable");
        // What needs no change is answered all the same.
        client.get("/queues/q/peek").await.expect(200);
    }
    client.get("/readyz").await.problem(503, "database_unavailable");
    let since = Instant::now();
    // What there is stays connected.
    address.lead_to(&primary.socket());
    let figures = recovery(&client, &load.journal, since).await;
    report(&format!("from a standby: sends, receives, readiness {figures:.2?}"));
    assert!(figures.iter().all(|seconds| *seconds < 5.0), "{figures:?}");
    let journal = load.stop().await;
    check(&client, &journal).await;
}

/// One of two connections leads to a standby, as behind a proxy that does not know better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_the_one_that_takes_changes_is_used() {
    let primary = Server::new(&[]).await;
    let address = Arc::new(Forwarder::to(&primary.socket()).await);
    let (_gateway, client) = gateway_on(&address.url()).await;
    client.create("q").await;
    let standby = primary.standby(&[]).await;
    let flipping = tokio::spawn({
        let (address, sockets) = (Arc::clone(&address), [primary.socket(), standby.socket()]);
        async move {
            let mut accepted = address.accepted();
            for socket in sockets.iter().cycle() {
                address.lead_to(socket);
                while address.accepted() == accepted {
                    sleep(Duration::from_millis(1)).await;
                }
                accepted = address.accepted();
            }
        }
    });
    for round in 0..5 {
        address.cut().await;
        // Of what was under way when the connection was cut nobody knows.
        eventually("there are new ones", async || {
            let answer = client.post("/queues/q/messages", r#"{"message":0}"#).await;
            (answer.status == 201).then_some(())
        })
        .await;
        let mut together = tokio::task::JoinSet::new();
        for n in 0..40 {
            let client = client.clone();
            together.spawn(async move {
                let body = json!({"message": format!("{round}-{n}")}).to_string();
                client.post("/queues/q/messages", &body).await
            });
        }
        for answer in together.join_all().await {
            answer.expect(201);
        }
    }
    client.get("/readyz").await.expect(200);
    flipping.abort();
}

/// A database that was told to take no changes, and later that it may.
#[tokio::test]
async fn a_database_that_takes_no_changes_is_not_ready_until_it_does() {
    let database = TestDatabase::new().await;
    let gateway = TestGateway::on(&database, |_| {}).await;
    gateway.create("q").await;
    gateway.get("/readyz").await.expect(200);
    let alter = format!("ALTER DATABASE {}", database.name);
    database.execute(&format!("{alter} SET default_transaction_read_only = on")).await;
    eventually("it says so", async || {
        let answer = gateway.get("/readyz").await;
        (answer.status == 503).then(|| answer.problem(503, "database_unavailable"))
    })
    .await;
    // Sessions that had begun before are no way around an operator's wish for long.
    eventually("sends are refused", async || {
        let answer = gateway.post("/queues/q/messages", r#"{"message":1}"#).await;
        (answer.status != 201).then(|| answer.problem(503, "database_unavailable"))
    })
    .await;
    gateway.get("/queues/q/peek").await.expect(200);
    let back = format!("BEGIN READ WRITE; {alter} RESET default_transaction_read_only; COMMIT");
    database.execute(&back).await;
    let since = Instant::now();
    eventually("it is ready", async || (gateway.get("/readyz").await.status == 200).then_some(()))
        .await;
    eventually("sends are taken", async || {
        let answer = gateway.post("/queues/q/messages", r#"{"message":1}"#).await;
        (answer.status == 201).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

/// Sessions that are told in their middle, as by a reload of the server's configuration.
#[tokio::test]
async fn sessions_that_take_no_changes_any_more_are_left() {
    let server = Server::new(&[]).await;
    let (_gateway, client) = gateway_on(&server.url()).await;
    client.create("q").await;
    let tell = async |sql: &str| {
        server.execute(sql).await;
        server.execute("SELECT pg_reload_conf()").await;
    };
    for _ in 0..2 {
        client.send("q", r#"{"message":1}"#).await;
        tell("ALTER SYSTEM SET default_transaction_read_only = on").await;
        eventually("it says so", async || {
            let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
            let ready = client.get("/readyz").await.status == 200;
            (answer.status != 201 && !ready).then(|| answer.problem(503, "database_unavailable"))
        })
        .await;
        tell("ALTER SYSTEM RESET default_transaction_read_only").await;
        let since = Instant::now();
        eventually("it works again", async || {
            let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
            let ready = client.get("/readyz").await.status == 200;
            (answer.status == 201 && ready).then_some(())
        })
        .await;
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
}
