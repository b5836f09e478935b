//! Rows that somebody has locked, in a transaction that goes on: whoever needs them waits or is told so,
//! alone and soon.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{
    Answer, Client, Holder, TestGateway, eventually,
    holder::{LOCK_LIMIT, LOCK_PATIENCE},
};

/// A queue with so many messages, numbered from 1.
pub async fn fill(client: &Client, queue: &str, count: usize) {
    let messages: Vec<Value> = (1..=count).map(|n| json!({"message": {"n": n}})).collect();
    client.create(queue).await;
    let batch = json!({"messages": messages}).to_string();
    client.post(&format!("/queues/{queue}/messages/batch"), &batch).await.expect(201);
}

/// Ids of the messages in an answer.
pub fn ids(messages: &[Value]) -> Vec<i64> {
    messages.iter().map(|message| message["msg_id"].as_i64().expect("an id")).collect()
}

/// Ids of what is in a table.
async fn stored(gateway: &TestGateway, table: &str) -> Vec<i64> {
    let sql =
        format!("SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{{}}') FROM pgmq.{table}");
    gateway.database.value(&sql).await
}

/// Two messages are locked in the way in which consumers in SQL do.
const READ_TWO: &str = "SELECT pgmq.read('q', 30, 2)";

/// Something done to one message.
#[derive(Clone, Copy, Debug)]
enum Action {
    Delete,
    Archive,
    Hide,
}

impl Action {
    async fn run(self, client: &Client, id: i64, receipt: Option<&str>) -> Answer {
        let of = receipt.map(|receipt| format!("?receipt={receipt}")).unwrap_or_default();
        let path = format!("/queues/q/messages/{id}");
        match self {
            Self::Delete => client.delete(&format!("{path}{of}")).await,
            Self::Archive => client.post(&format!("{path}/archive{of}"), "").await,
            Self::Hide => client.patch(&format!("{path}{of}"), r#"{"vt":600}"#).await,
        }
    }

    fn success(self) -> u16 {
        match self {
            Self::Delete | Self::Archive => 204,
            Self::Hide => 200,
        }
    }
}

/// How the transaction ends that holds the lock.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Never,
    Commit,
    Rollback,
}

/// Twelve clients at once, each with a message of its own, of which two are locked.
async fn twelve_clients(action: Action, with_receipts: bool, end: End) {
    let what = format!("{action:?}, receipts: {with_receipts}, {end:?}");
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 12).await;
    let mut receipts = BTreeMap::new();
    if with_receipts {
        for message in gateway.receive("q", "qty=12&vt=0").await {
            let receipt = message["receipt"].as_str().expect("a receipt").to_owned();
            receipts.insert(message["msg_id"].as_i64().expect("an id"), receipt);
        }
    }
    let mut holder = Some(Holder::of(&gateway.database, READ_TWO).await);
    let mut clients = JoinSet::new();
    for id in 1..=12_i64 {
        let (client, receipt) = (gateway.client.clone(), receipts.remove(&id));
        clients.spawn(async move { (id, action.run(&client, id, receipt.as_deref()).await) });
    }
    let began = Instant::now();
    let mut done = BTreeSet::new();
    for _ in 3..=12 {
        let (id, answer) = clients.join_next().await.expect("a client").expect("no panic");
        assert_eq!(answer.status, action.success(), "{what}, {id}: {}", answer.text);
        done.insert(id);
    }
    assert_eq!(done, (3..=12).collect(), "{what}: those that are free go first");
    match (end, holder.take()) {
        (End::Commit, Some(holder)) => holder.commit().await,
        (End::Rollback, Some(holder)) => holder.rollback().await,
        (_, kept) => holder = kept,
    }
    while let Some(client) = clients.join_next().await {
        let (id, answer) = client.expect("no panic");
        match end {
            End::Never => {
                let answer = answer.problem(503, "overloaded");
                let says = format!("another transaction in the database has locked message {id}");
                assert!(answer.detail().contains(&says), "{what}: {}", answer.text);
                assert!(!answer.header("retry-after").is_empty(), "{what}");
                let waited = began.elapsed();
                assert!(waited > LOCK_PATIENCE / 2 && waited < LOCK_LIMIT, "{what}: {waited:?}");
            }
            // It has been delivered to somebody else.
            End::Commit if with_receipts => drop(answer.problem(409, "receipt_stale")),
            _ => assert_eq!(answer.status, action.success(), "{what}, {id}: {}", answer.text),
        }
    }
    drop(holder);
    if end == End::Never {
        let left = if matches!(action, Action::Hide) { (1..=12).collect() } else { vec![1, 2] };
        assert_eq!(stored(&gateway, "q_q").await, left, "{what}");
    }
}

async fn twelve_clients_in_all_ways(action: Action) {
    for end in [End::Never, End::Commit, End::Rollback] {
        tokio::join!(twelve_clients(action, false, end), twelve_clients(action, true, end));
    }
}

#[tokio::test]
async fn deletes_beside_locked_messages_go_on() {
    Box::pin(twelve_clients_in_all_ways(Action::Delete)).await;
}

#[tokio::test]
async fn archives_beside_locked_messages_go_on() {
    Box::pin(twelve_clients_in_all_ways(Action::Archive)).await;
}

#[tokio::test]
async fn changes_of_visibility_beside_locked_messages_go_on() {
    Box::pin(twelve_clients_in_all_ways(Action::Hide)).await;
}

/// The message is gone when the lock is.
#[tokio::test]
async fn message_that_sql_deletes_meanwhile_is_not_found() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 2).await;
    let holder = Holder::of(&gateway.database, "SELECT pgmq.delete('q', 1)").await;
    let client = gateway.client.clone();
    let delete = tokio::spawn(async move { client.delete("/queues/q/messages/1").await });
    gateway.delete("/queues/q/messages/2").await.expect(204);
    assert!(!delete.is_finished());
    holder.commit().await;
    delete.await.expect("no panic").problem(404, "message_not_found");
}

const SETTLE: &str = r#"{"delete":[{"msg_id":1},{"msg_id":40}],
    "archive":[{"msg_id":2},{"msg_id":39}],"retry":[{"msg_id":38,"delay":600}]}"#;

/// What is free is done at once, though the answer tells of all.
#[tokio::test]
async fn settle_does_what_is_free() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 40).await;
    let holder = Holder::of(&gateway.database, READ_TWO).await;
    let client = gateway.client.clone();
    let settle =
        tokio::spawn(async move { client.post("/queues/q/messages/settle", SETTLE).await });
    eventually("what is free is done", async || {
        let left = stored(&gateway, "q_q").await;
        (left == (1..=38).collect::<Vec<_>>()).then_some(())
    })
    .await;
    assert!(!settle.is_finished(), "the locked ones are waited for");
    let settled = settle.await.expect("no panic").expect(200).json();
    assert_eq!(settled["deleted"], json!([40]));
    assert_eq!(settled["archived"], json!([39]));
    assert_eq!(settled["retried"], json!([38]));
    for (entry, id) in settled["failed"].as_array().expect("a list").iter().zip(1..=2) {
        assert_eq!(entry["msg_id"], id, "{settled}");
        assert_eq!(entry["code"], "overloaded", "{settled}");
        assert!(
            entry["detail"].as_str().is_some_and(|d| d.contains("locked message")),
            "{settled}"
        );
    }
    assert_eq!(settled["failed"].as_array().map(Vec::len), Some(2));
    holder.rollback().await;
    let again = gateway.post("/queues/q/messages/settle", SETTLE).await.expect(200).json();
    assert_eq!((&again["deleted"], &again["archived"]), (&json!([1]), &json!([2])));
}

#[tokio::test]
async fn settle_waits_for_a_lock_that_ends_soon() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 40).await;
    let holder = Holder::of(&gateway.database, READ_TWO).await;
    let client = gateway.client.clone();
    let settle =
        tokio::spawn(async move { client.post("/queues/q/messages/settle", SETTLE).await });
    eventually("what is free is done", async || {
        (stored(&gateway, "q_q").await.len() == 38).then_some(())
    })
    .await;
    holder.commit().await;
    let settled = settle.await.expect("no panic").expect(200).json();
    assert_eq!(settled["deleted"], json!([1, 40]));
    assert_eq!(settled["archived"], json!([2, 39]));
    assert_eq!(settled["failed"], json!([]));
}

/// Receives and pops take what is free, without waiting for anything.
#[tokio::test]
async fn locked_messages_are_passed_over() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 12).await;
    let holder = Holder::of(&gateway.database, READ_TWO).await;
    let began = Instant::now();
    assert_eq!(ids(&gateway.receive("q", "qty=5&vt=600").await), [3, 4, 5, 6, 7]);
    let popped = gateway.post("/queues/q/messages/pop?qty=10", "").await.expect(200).messages();
    assert_eq!(ids(&popped), [8, 9, 10, 11, 12]);
    assert!(gateway.receive("q", "qty=5").await.is_empty());
    assert!(began.elapsed() < LOCK_PATIENCE);
    // One who waits has them when they are free.
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.receive("q", "qty=5&wait=20").await });
    gateway.wait_for_waiters("q", 1).await;
    holder.rollback().await;
    let received = timeout(LOCK_LIMIT, waiting).await.expect("soon").expect("no panic");
    assert_eq!(ids(&received), [1, 2]);
}

/// A locked message holds up its group, and no other.
#[tokio::test]
async fn locked_message_blocks_its_group_alone() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    for group in ["a", "a", "b", "b"] {
        let body = json!({"message": 1, "headers": {"x-pgmq-group": group}});
        gateway.send("q", &body.to_string()).await;
    }
    let lock = "SELECT FROM pgmq.q_q WHERE msg_id = 1 FOR UPDATE";
    let holder = Holder::of(&gateway.database, lock).await;
    for mode in ["grouped", "round_robin", "head"] {
        let received = gateway.receive("q", &format!("qty=10&fifo={mode}&vt=0")).await;
        let expected: &[i64] = if mode == "head" { &[3] } else { &[3, 4] };
        assert_eq!(ids(&received), expected, "{mode}");
    }
    holder.rollback().await;
    assert_eq!(ids(&gateway.receive("q", "qty=10&fifo=grouped").await), [1, 2, 3, 4]);
}

/// All or nothing, and it says which message is in the way; those beside it go on.
#[tokio::test]
async fn transaction_about_a_locked_message_fails_alone() {
    let gateway = TestGateway::start().await;
    fill(&gateway, "q", 12).await;
    gateway.create("next").await;
    let holder = Holder::of(&gateway.database, READ_TWO).await;
    let body = |id: i64| {
        let send = json!({"send": {"queue": "next", "message": id}});
        json!({"operations": [send, {"delete": {"queue": "q", "msg_id": id}}]}).to_string()
    };
    let mut transactions = JoinSet::new();
    for id in 1..=12 {
        let (client, body) = (gateway.client.clone(), body(id));
        transactions.spawn(async move { (id, client.post("/transactions", &body).await) });
    }
    let (mut order, mut known) = (Vec::new(), 0);
    while let Some(transaction) = transactions.join_next().await {
        let (id, answer) = transaction.expect("no panic");
        order.push(id);
        if id > 2 {
            answer.expect(200);
            continue;
        }
        let detail = answer.problem(503, "overloaded").detail();
        assert!(detail.contains("nothing was done"), "{detail}");
        // On a busy machine one of them may wait for its turn behind the other for as long as there is time.
        let is_known = detail.contains(&format!("locked message {id} of queue `q`"))
            && detail.contains("operations[1]");
        assert!(is_known || detail.contains("has locked one of these queues"), "{detail}");
        known += usize::from(is_known);
    }
    assert!(known > 0, "it says which message is in the way");
    assert!(order[10..].iter().all(|id| *id <= 2), "{order:?}");
    assert_eq!(gateway.all("next").await.len(), 10);
    let request = gateway.request("POST", "/transactions").header("Idempotency-Key", "one");
    let waiting = tokio::spawn(Answer::of(request.body(body(1))));
    gateway
        .post("/transactions", r#"{"operations":[{"send":{"queue":"next","message":0}}]}"#)
        .await;
    assert!(!waiting.is_finished());
    holder.rollback().await;
    waiting.await.expect("no panic").expect(200);
    assert_eq!(gateway.all("next").await.len(), 12);
    assert_eq!(stored(&gateway, "q_q").await, [2]);
}
