//! Queues that are locked, any number of them, beside one that is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::locks::fill;
use crate::support::{Answer, Client, Holder, TestDatabase, TestGateway, holder::stuck_statements};

/// What a locked queue's clients do, each again and again: method, path and body behind its name.
const LOAD: [(&str, &str, &str); 12] = [
    ("POST", "/messages", r#"{"message":1}"#),
    ("POST", "/messages/batch", r#"{"messages":[{"message":1}]}"#),
    ("GET", "/messages", ""),
    ("GET", "/messages?vt=600&qty=10", ""),
    ("GET", "/messages?wait=20", ""),
    ("DELETE", "/messages/1", ""),
    ("PATCH", "/messages/2", r#"{"vt":1}"#),
    ("POST", "/messages/3/archive", ""),
    ("POST", "/messages/pop", ""),
    ("GET", "/peek", ""),
    ("GET", "/metrics", ""),
    ("POST", "/messages/settle", r#"{"delete":[{"msg_id":4}],"retry":[{"msg_id":5}]}"#),
];

/// Clients at work until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn on(client: &Client, queues: &[String], load: &[(&'static str, &str, &str)]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for queue in queues {
            let transaction = format!(
                r#"{{"operations":[{{"send":{{"queue":"{queue}","message":1}}}},
                    {{"delete":{{"queue":"{queue}","msg_id":6}}}}]}}"#
            );
            let mut work: Vec<(&str, String, String)> = load
                .iter()
                .map(|(method, rest, body)| {
                    (*method, format!("/queues/{queue}{rest}"), (*body).to_owned())
                })
                .collect();
            work.push(("POST", "/transactions".to_owned(), transaction));
            for (method, path, body) in work {
                let (client, stop) = (client.clone(), Arc::clone(&stop));
                let answered = Arc::clone(&answered);
                clients.spawn(async move {
                    while !stop.load(Relaxed) {
                        let request = client.request(method, &path).body(body.clone());
                        let answer = Answer::of(request).await;
                        assert!(answer.status < 500 || answer.status == 503, "{}", answer.text);
                        answered.fetch_add(1, Relaxed);
                        // Whoever was told to come again does, before long.
                        sleep(Duration::from_millis(20)).await;
                    }
                });
            }
        }
        Self { stop, answered, clients }
    }

    async fn stop(mut self) {
        self.stop.store(true, Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no panic");
        }
    }
}

/// Sends, receives and deletes for a while, and returns what each took, in order of size.
async fn work(client: &Client, queue: &str, time: Duration) -> Vec<Duration> {
    let (mut took, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end || took.len() < 30 {
        let mut began = Instant::now();
        let mut lap = || {
            let lap = began.elapsed();
            began = Instant::now();
            took.push(lap);
        };
        let id = client.send(queue, r#"{"message":"work"}"#).await;
        lap();
        let received = client.receive_one(queue, "vt=600&wait=20").await;
        assert_eq!(received["msg_id"], id);
        lap();
        client.delete(&format!("/queues/{queue}/messages/{id}")).await.expect(204);
        lap();
    }
    took.sort_unstable();
    took
}

fn at(took: &[Duration], share: usize) -> Duration {
    took[(took.len() - 1) * share / 100]
}

/// Statements of gateways that are at work in the database, at most, until it is dropped.
struct Watch(tokio::task::JoinHandle<()>, Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Watch {
    fn of(database: &TestDatabase) -> Self {
        let (database, most) = (database.clone(), Arc::new(AtomicUsize::new(0)));
        let stuck = Arc::new(AtomicUsize::new(0));
        let (most_active, most_stuck) = (Arc::clone(&most), Arc::clone(&stuck));
        let task = tokio::spawn(async move {
            loop {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                           AND datname = current_database() AND application_name = 'pgmq-gateway'";
                let active = usize::try_from(database.value::<i64>(sql).await).expect("few");
                most_active.fetch_max(active, Relaxed);
                most_stuck.fetch_max(stuck_statements(&database).await.len(), Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        });
        Self(task, most, stuck)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `good` goes on beside so many locked queues that have clients.
async fn good_queue_goes_on(connections: u32, locked: usize, mode: &str) {
    let what = format!("{locked} queues locked, {connections} connections");
    let gateway = TestGateway::with(|settings| {
        settings.database.max_connections = connections;
        settings.metrics.queue_interval_seconds = 1;
    })
    .await;
    let queues: Vec<String> = (0..locked).map(|n| format!("locked{n}")).collect();
    for queue in &queues {
        fill(&gateway, queue, 20).await;
    }
    gateway.create("good").await;
    work(&gateway, "good", Duration::from_millis(200)).await;
    let before = work(&gateway, "good", Duration::from_secs(2)).await;
    let tables: Vec<String> = queues.iter().map(|queue| format!("q_{queue}")).collect();
    let tables: Vec<&str> = tables.iter().map(|table| &**table).collect();
    let holder = Holder::of_tables(&gateway.database, &tables, mode).await;
    let watch = Watch::of(&gateway.database);
    let load = Load::on(&gateway, &queues, &LOAD);
    // The first to meet the locks have to find out.
    let first = work(&gateway, "good", Duration::from_millis(500)).await;
    let during = work(&gateway, "good", Duration::from_secs(8)).await;
    assert!(load.answered.load(Relaxed) > locked * 10, "{what}: they are told");
    let (usual, now) = (at(&before, 50), at(&during, 50));
    let slowest = at(&during, 100);
    let report = format!(
        "{what}: half of it took {usual:?} before, {now:?} now; 99 %: {:?}, {:?}; the slowest {slowest:?}, \
         at first {:?}",
        at(&before, 99),
        at(&during, 99),
        at(&first, 100)
    );
    println!("{report}");
    assert!(now < usual * 10 + Duration::from_millis(60), "{report}");
    assert!(slowest < Duration::from_millis(1_500), "{report}");
    assert!(at(&first, 100) < Duration::from_secs(3), "{report}");
    let active = watch.1.load(Relaxed);
    // One is the health check's, and one listens.
    assert!(active <= connections as usize + 2, "{what}: {active} statements");
    assert_eq!(watch.2.load(Relaxed), 0, "{what}: statements that wait");
    drop(watch);
    holder.rollback().await;
    let after = work(&gateway, "good", Duration::from_millis(500)).await;
    assert!(at(&after, 100) < Duration::from_secs(3), "{report}: {:?} after", at(&after, 100));
    for queue in &queues {
        gateway.send(queue, r#"{"message":1}"#).await;
    }
    load.stop().await;
    println!("{what}: over");
}

#[tokio::test]
async fn three_locked_queues_starve_no_other() {
    good_queue_goes_on(8, 3, "ACCESS EXCLUSIVE").await;
}

#[tokio::test]
async fn ten_locked_queues_starve_no_other() {
    good_queue_goes_on(8, 10, "ACCESS EXCLUSIVE").await;
}

#[tokio::test]
async fn ten_queues_locked_against_changes_starve_no_other() {
    good_queue_goes_on(8, 10, "SHARE").await;
}

#[tokio::test]
async fn locked_queues_starve_no_other_on_three_connections() {
    good_queue_goes_on(3, 10, "ACCESS EXCLUSIVE").await;
}

#[tokio::test]
async fn locked_queues_starve_no_other_on_one_connection() {
    good_queue_goes_on(1, 3, "ACCESS EXCLUSIVE").await;
    good_queue_goes_on(1, 10, "ACCESS EXCLUSIVE").await;
}

/// Rows of many queues are locked, and many clients are about those.
#[tokio::test]
async fn locked_rows_of_many_queues_starve_no_other() {
    let gateway = TestGateway::start().await;
    let queues: Vec<String> = (0..6).map(|n| format!("locked{n}")).collect();
    let mut lock = String::new();
    for queue in &queues {
        fill(&gateway, queue, 20).await;
        lock += &format!("SELECT FROM pgmq.q_{queue} WHERE msg_id < 10 FOR UPDATE; ");
    }
    gateway.create("good").await;
    work(&gateway, "good", Duration::from_millis(200)).await;
    let before = work(&gateway, "good", Duration::from_secs(2)).await;
    let holder = Holder::of(&gateway.database, &lock).await;
    // Those that have to do with rows that are locked.
    let load = Load::on(&gateway, &queues, &LOAD[4..8]);
    let during = work(&gateway, "good", Duration::from_secs(6)).await;
    let report = format!(
        "half of it took {:?} before, {:?} now; the slowest {:?}",
        at(&before, 50),
        at(&during, 50),
        at(&during, 100)
    );
    println!("{report}");
    assert!(at(&during, 50) < at(&before, 50) * 10 + Duration::from_millis(60), "{report}");
    assert!(at(&during, 100) < Duration::from_millis(1_500), "{report}");
    // Those that are free are done beside the locked ones, in the same queues.
    for queue in &queues {
        let body = json!({"delete": [{"msg_id": 15}]}).to_string();
        let settled = gateway.post(&format!("/queues/{queue}/messages/settle"), &body).await;
        assert_eq!(settled.expect(200).json()["failed"], json!([]), "{queue}");
    }
    holder.rollback().await;
    load.stop().await;
}
