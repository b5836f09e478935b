//! Tables that somebody has locked as a whole.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::locks::fill;
use crate::support::{
    Answer, Client, Holder, TestGateway,
    holder::{LOCK_LIMIT, stuck_statements},
};

/// Everything that can be done to a queue: method, path, body, whether it only looks.
const EVERYTHING: [(&str, &str, &str, bool); 26] = [
    ("POST", "/queues/q/messages", r#"{"message":1}"#, false),
    ("POST", "/queues/q/messages/batch", r#"{"messages":[{"message":1},{"message":2}]}"#, false),
    ("POST", "/topics/t.q/messages", r#"{"message":1}"#, false),
    ("GET", "/queues/q/messages", "", false),
    ("GET", "/queues/q/messages?vt=0&qty=5", "", false),
    ("GET", "/queues/q/messages?vt=7", "", false),
    ("GET", r#"/queues/q/messages?filter={"n":3}"#, "", false),
    ("GET", "/queues/q/messages?fifo=grouped", "", false),
    ("GET", "/queues/q/messages?wait=20", "", false),
    ("POST", "/queues/q/messages/pop", "", false),
    ("POST", "/queues/q/messages/pop?qty=3", "", false),
    ("DELETE", "/queues/q/messages/91", "", false),
    ("PATCH", "/queues/q/messages/92", r#"{"vt":600}"#, false),
    ("POST", "/queues/q/messages/93/archive", "", false),
    ("POST", "/queues/q/messages/settle", r#"{"delete":[{"msg_id":94}]}"#, false),
    ("POST", "/queues/q/messages/settle", r#"{"archive":[{"msg_id":95}]}"#, false),
    ("POST", "/queues/q/messages/settle", r#"{"retry":[{"msg_id":96}]}"#, false),
    ("POST", "/transactions", r#"{"operations":[{"send":{"queue":"q","message":1}}]}"#, false),
    ("POST", "/transactions", r#"{"operations":[{"delete":{"queue":"q","msg_id":97}}]}"#, false),
    ("POST", "/queues/q/archive/replay", r#"{"limit":1}"#, false),
    ("POST", "/queues/q/redrive", r#"{"to":"other","limit":1}"#, false),
    ("GET", "/queues/q/peek", "", true),
    ("GET", "/queues/q/messages/98", "", true),
    ("GET", "/queues/q/metrics", "", true),
    ("GET", "/queues/q", "", true),
    ("GET", "/queues/q/archive", "", true),
];

async fn gateway() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("other").await;
    fill(&gateway, "q", 120).await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t.#"}"#).await.expect(201);
    for id in 101..=105 {
        gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await.expect(204);
    }
    gateway
}

type Answers = JoinSet<(&'static str, bool, Answer)>;

/// All of that at once.
fn everything(client: &Client) -> Answers {
    let mut answers = JoinSet::new();
    for (method, path, body, looks) in EVERYTHING {
        let request = client.request(method, path).body(body);
        answers.spawn(async move { (path, looks, Answer::of(request).await) });
    }
    answers
}

/// Lets some time go by, in which another queue works as ever.
async fn work_elsewhere(client: &Client) {
    for _ in 0..30 {
        let id = client.send("other", r#"{"message":1}"#).await;
        client.receive_one("other", "vt=600").await;
        client.delete(&format!("/queues/other/messages/{id}")).await.expect(204);
    }
}

async fn fails_soon_while_locked(mode: &str, looks_fail: bool) {
    let gateway = gateway().await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], mode).await;
    let began = Instant::now();
    let mut answers = everything(&gateway);
    work_elsewhere(&gateway).await;
    while let Some(answer) = answers.join_next().await {
        let (path, looks, answer) = answer.expect("no panic");
        let (took, asked) = (began.elapsed(), if path.contains("wait=20") { 20 } else { 0 });
        assert!(took < LOCK_LIMIT + Duration::from_secs(asked), "{mode}, {path}: {took:?}");
        if answer.status == 200 && looks && !(looks_fail && path.contains("messages")) {
            continue;
        }
        assert_eq!(answer.status, 503, "{mode}, {path}: {}", answer.text);
        let detail = answer.problem(503, "overloaded").detail();
        assert!(
            detail.contains("another transaction in the database has locked"),
            "{path}: {detail}"
        );
    }
    assert_eq!(stuck_statements(&gateway.database).await, [""; 0]);
    holder.rollback().await;
    let mut answers = everything(&gateway);
    while let Some(answer) = answers.join_next().await {
        let (path, _, answer) = answer.expect("no panic");
        assert!(answer.status < 300, "{mode}, {path}: {}", answer.text);
    }
}

#[tokio::test]
async fn everything_fails_soon_while_a_table_is_locked_whole() {
    fails_soon_while_locked("ACCESS EXCLUSIVE", true).await;
}

/// Who only looks is not in the way of this one.
#[tokio::test]
async fn changes_fail_soon_while_a_table_is_locked_against_them() {
    fails_soon_while_locked("SHARE", false).await;
}

#[tokio::test]
async fn everything_succeeds_when_the_lock_goes_soon() {
    for mode in ["ACCESS EXCLUSIVE", "SHARE", "EXCLUSIVE"] {
        let gateway = gateway().await;
        let holder = Holder::of_tables(&gateway.database, &["q_q"], mode).await;
        let mut answers = everything(&gateway);
        work_elsewhere(&gateway).await;
        holder.rollback().await;
        while let Some(answer) = answers.join_next().await {
            let (path, _, answer) = answer.expect("no panic");
            assert!(answer.status < 300, "{mode}, {path}: {}", answer.text);
        }
        let left = gateway.get("/queues/q/metrics").await.json()["queue_length"].as_i64();
        // 115 at first; 5 were sent and 1 came back; 4 were popped, 3 deleted, 2 archived, 1 moved away.
        assert_eq!(left, Some(111), "{mode}");
    }
}

/// One who waits waits on, and has what comes when the lock has gone, whoever sends it.
#[tokio::test]
async fn waiting_clients_outlast_a_lock() {
    for by_sql in [false, true] {
        let gateway = TestGateway::start().await;
        for queue in ["q", "other"] {
            gateway.create(queue).await;
        }
        let waiting = |n: usize| {
            let client = gateway.client.clone();
            let filter = if n.is_multiple_of(2) { "" } else { r#"&filter={"n":1}"# };
            tokio::spawn(
                async move { client.receive("q", &format!("wait=20&vt=600{filter}")).await },
            )
        };
        let before = waiting(0);
        gateway.wait_for_waiters("q", 1).await;
        let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
        let meanwhile = waiting(1);
        // Longer than anybody waits for a lock who does not wait for messages.
        let impatient = gateway.get("/queues/q/messages?vt=600").await;
        impatient.problem(503, "overloaded");
        assert!(!before.is_finished() && !meanwhile.is_finished());
        work_elsewhere(&gateway).await;
        holder.rollback().await;
        if by_sql {
            let sql = r#"SELECT pgmq.send('q', '{"n":1}') FROM generate_series(1, 2)"#;
            gateway.database.execute(sql).await;
        } else {
            let batch = r#"{"messages":[{"message":{"n":1}},{"message":{"n":1}}]}"#;
            gateway.post("/queues/q/messages/batch", batch).await.expect(201);
        }
        for waiting in [before, meanwhile] {
            let received = timeout(LOCK_LIMIT, waiting).await.expect("soon").expect("no panic");
            assert_eq!(received.len(), 1, "by SQL: {by_sql}");
        }
    }
}

/// Those who come one after the other each have their own time to wait for the lock.
#[tokio::test]
async fn each_request_has_its_own_patience() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 60).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
    let mut requests = JoinSet::new();
    let spawn = |requests: &mut JoinSet<(usize, u16, Duration)>, round: usize| {
        for path in ["/queues/q/messages", "/queues/q/messages/pop", "/queues/q/messages?vt=600"] {
            let method = if path.contains("pop") { "POST" } else { "GET" };
            let request = gateway.request(method, path);
            let began = Instant::now();
            requests.spawn(async move {
                let status = Answer::of(request).await.status;
                (round, status, began.elapsed())
            });
        }
        for body in [json!({"message": round}), json!({"message": {"round": round}})] {
            let request = gateway.request("POST", "/queues/q/messages").body(body.to_string());
            let began = Instant::now();
            requests.spawn(async move {
                let status = Answer::of(request).await.status;
                (round, status, began.elapsed())
            });
        }
    };
    // The first of them give up, so that those who came last have waited for less than they may.
    let mut round = 0;
    let began = Instant::now();
    let mut given_up = 0;
    while given_up < 5 {
        spawn(&mut requests, round);
        round += 1;
        let next = timeout(Duration::from_millis(250), requests.join_next()).await;
        if let Ok(Some(answer)) = next {
            let (of, status, took) = answer.expect("no panic");
            assert_eq!(status, 503, "round {of}");
            assert!(took > Duration::from_millis(2_500) && took < LOCK_LIMIT, "{of}: {took:?}");
            given_up += 1;
        }
        assert!(began.elapsed() < LOCK_LIMIT * 2);
    }
    holder.rollback().await;
    let mut succeeded = 0;
    while let Some(answer) = requests.join_next().await {
        let (of, status, took) = answer.expect("no panic");
        if status == 503 {
            assert!(took > Duration::from_millis(2_500), "round {of} after {took:?}");
        } else {
            assert!(status < 300, "round {of}: {status}");
            succeeded += 1;
        }
    }
    assert!(succeeded > 10, "{succeeded}");
}

/// What is sent while the table is locked and is answered with 201 is there; 503 is not.
#[tokio::test]
async fn answers_are_so_while_a_lock_comes_and_goes() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let client = gateway.client.clone();
        senders.spawn(async move {
            let mut stored = Vec::new();
            for n in 0..40 {
                let name = format!("{sender}-{n}");
                let body = json!({"message": name}).to_string();
                let answer = client.post("/queues/q/messages", &body).await;
                if answer.status == 201 {
                    stored.push(name);
                } else {
                    answer.problem(503, "overloaded");
                }
            }
            stored
        });
    }
    for hold in [50, 400, 3_500, 20] {
        let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
        sleep(Duration::from_millis(hold)).await;
        holder.rollback().await;
    }
    let mut acknowledged = Vec::new();
    while let Some(sender) = senders.join_next().await {
        acknowledged.extend(sender.expect("no panic"));
    }
    let sql = "SELECT coalesce(json_agg(message), '[]')::text FROM pgmq.q_q";
    let stored: String = gateway.database.value(sql).await;
    let mut stored: Vec<String> = serde_json::from_str::<Vec<Value>>(&stored)
        .expect("JSON")
        .iter()
        .map(|name| name.as_str().expect("a name").to_owned())
        .collect();
    stored.sort_unstable();
    acknowledged.sort_unstable();
    assert_eq!(stored, acknowledged);
}
