//! Statements that serve many queues at once: who shares them, and what stays a matter of one queue alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sqlx::{Executor, PgConnection, Row};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{Answer, Client, Holder, TestDatabase, TestGateway, eventually};

/// Queues with work at the same time.
pub const QUEUES: usize = 50;
/// Nobody waits for as long because of another queue, on a busy machine.
const BOUND: Duration = Duration::from_millis(1_500);

pub async fn committed(database: &TestDatabase) -> i64 {
    let sql = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    database.value(sql).await
}

/// A gateway with so many queues, `q0` and so on, that does nothing by itself which would count.
pub async fn gateway() -> TestGateway {
    let gateway = TestGateway::with(|settings| settings.metrics.queue_interval_seconds = 0).await;
    let create = format!("SELECT pgmq.create('q' || i) FROM generate_series(0, {}) i", QUEUES - 1);
    gateway.database.execute(&create).await;
    gateway
}

/// All messages of a queue, by id.
pub async fn stored(gateway: &TestGateway, queue: &str) -> BTreeMap<i64, Value> {
    let sql = format!(
        "SELECT coalesce(json_object_agg(msg_id, message), '{{}}')::text FROM pgmq.q_{queue}"
    );
    let text: String = gateway.database.value(&sql).await;
    let all: BTreeMap<String, Value> = serde_json::from_str(&text).expect("an object");
    all.into_iter().map(|(id, message)| (id.parse().expect("an id"), message)).collect()
}

/// Clients that send to all queues but those of `without`, one after the other, until they are told to stop.
struct Crowd {
    clients: JoinSet<Duration>,
    stop: Arc<Notify>,
}

impl Crowd {
    fn start(client: &Client, without: &[usize]) -> Self {
        let (mut clients, stop) = (JoinSet::new(), Arc::new(Notify::new()));
        for queue in (0..QUEUES).filter(|queue| !without.contains(queue)) {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            clients.spawn(async move {
                let (mut longest, stopped) = (Duration::ZERO, stop.notified());
                tokio::pin!(stopped);
                stopped.as_mut().enable();
                loop {
                    let began = Instant::now();
                    client.send(&format!("q{queue}"), r#"{"message":1}"#).await;
                    longest = longest.max(began.elapsed());
                    tokio::select! {
                        biased;
                        () = &mut stopped => return longest,
                        () = sleep(Duration::from_millis(1)) => {}
                    }
                }
            });
        }
        Self { clients, stop }
    }

    /// The longest that any of them waited for an answer.
    async fn stop(self) -> Duration {
        self.stop.notify_waiters();
        self.clients.join_all().await.into_iter().max().expect("clients")
    }
}

/// Several clients at each of many queues: there are fewer statements than messages, and each gets the ids of its
/// own messages.
#[tokio::test]
async fn many_queues_share_statements() {
    const CLIENTS: usize = 4;
    const SENDS: usize = 10;
    let gateway = gateway().await;
    let before = committed(&gateway.database).await;
    let mut senders = JoinSet::new();
    for (queue, sender) in (0..QUEUES).flat_map(|queue| (0..CLIENTS).map(move |n| (queue, n))) {
        let client = gateway.client.clone();
        senders.spawn(async move {
            let queue = format!("q{queue}");
            let mut sent = Vec::new();
            for n in 0..SENDS {
                let (one, two) = (json!([queue, sender, n]), json!([queue, sender, n, "two"]));
                if n % 5 == 4 {
                    let batch = json!({"messages": [{"message": one, "headers": {"n": n}}, {"message": two}]});
                    let path = format!("/queues/{queue}/messages/batch");
                    let answer = client.post(&path, &batch.to_string()).await.expect(201).json();
                    let ids = answer["msg_ids"].as_array().expect("ids").clone();
                    sent.extend(ids.iter().map(|id| id.as_i64().expect("an id")).zip([one, two]));
                } else {
                    let body = json!({"message": one}).to_string();
                    sent.push((client.send(&queue, &body).await, one));
                }
            }
            assert!(sent.is_sorted_by_key(|(id, _)| *id), "what one client sends keeps its order");
            (queue, sent)
        });
    }
    let mut sent: BTreeMap<String, BTreeMap<i64, Value>> = BTreeMap::new();
    for (queue, of_sender) in senders.join_all().await {
        sent.entry(queue).or_default().extend(of_sender);
    }
    for (queue, expected) in &sent {
        assert_eq!(&stored(&gateway, queue).await, expected, "{queue}");
    }
    let headers: i64 = gateway.database.value("SELECT count(headers) FROM pgmq.q_q7").await;
    assert_eq!(headers, i64::try_from(CLIENTS * SENDS / 5).expect("few"));
    // Counters come in some time after the transactions, and those of the checks count, too.
    sleep(Duration::from_secs(2)).await;
    let statements = committed(&gateway.database).await - before;
    let requests = i64::try_from(QUEUES * CLIENTS * SENDS).expect("few");
    assert!(statements < requests * 2 / 3, "{statements} transactions for {requests} requests");
}

/// A lone client needs one statement for each of its messages, at whatever queue.
#[tokio::test]
async fn a_lone_client_is_served_by_statements_of_its_queue() {
    let gateway = gateway().await;
    for queue in 0..QUEUES {
        assert_eq!(gateway.send(&format!("q{queue}"), r#"{"message":1}"#).await, 1);
    }
}

/// What a statement for several queues says of each of them, by its name. One that had no time for those of them that
/// are to be `served` is undone, and done again.
async fn send_to(
    database: &TestDatabase,
    queues: &[(&str, &str)],
    served: &[&str],
) -> BTreeMap<String, (String, Option<Vec<i64>>)> {
    let mut connection = database.connect().await;
    eventually("it has the time for all", async || {
        connection.execute("BEGIN").await.expect("begun");
        let began = Instant::now();
        let outcomes = try_to_send(&mut connection, queues).await;
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        let had_time = served.iter().all(|queue| outcomes[*queue].0 != "retry");
        connection.execute(if had_time { "COMMIT" } else { "ROLLBACK" }).await.expect("ended");
        had_time.then_some(outcomes)
    })
    .await
}

async fn try_to_send(
    connection: &mut PgConnection,
    queues: &[(&str, &str)],
) -> BTreeMap<String, (String, Option<Vec<i64>>)> {
    let (names, messages): (Vec<&str>, Vec<&[u8]>) =
        queues.iter().map(|(queue, message)| (*queue, message.as_bytes())).unzip();
    let rows = sqlx::query(
        "SELECT place, outcome, ids FROM pgmq_gateway.send_to_queues($1, $2, $3, $4, $5, $6::timestamptz[])",
    )
    .bind(&names)
    .bind(vec![1; queues.len()])
    .bind(messages)
    .bind(vec![None::<&[u8]>; queues.len()])
    .bind(vec![0; queues.len()])
    .bind(vec![None::<String>; queues.len()])
    .fetch_all(connection)
    .await;
    let rows = rows.expect("each is a matter of its own");
    let outcome = |row: &sqlx::postgres::PgRow| {
        let place = usize::try_from(row.get::<i32, _>("place")).expect("from 1");
        (names[place - 1].to_owned(), (row.get("outcome"), row.get("ids")))
    };
    rows.iter().map(outcome).collect()
}

/// In one statement, what one queue does not take is left to a statement of its own, and the others are served.
#[tokio::test]
async fn each_queue_of_a_statement_comes_to_its_own_end() {
    let gateway = gateway().await;
    let database = &gateway.database;
    database
        .execute(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER t BEFORE INSERT ON pgmq.q_q1 FOR EACH ROW EXECUTE FUNCTION nothing();
             ALTER TABLE pgmq.q_q2 ADD CHECK (message IS NOT NULL);
             CREATE INDEX ON pgmq.q_q3 ((message ->> 'slow'));
             ALTER TABLE pgmq.q_q4 ENABLE ROW LEVEL SECURITY;
             ALTER TABLE pgmq.q_q5 ADD COLUMN b int GENERATED ALWAYS AS (1) STORED;
             CREATE UNIQUE INDEX ON pgmq.q_q6 (message);
             INSERT INTO pgmq.q_q6 (vt, message) VALUES (now(), '1');
             CREATE FUNCTION noted() RETURNS text LANGUAGE sql AS 'SELECT ''x''';
             ALTER TABLE pgmq.q_q11 ADD COLUMN note text DEFAULT noted();
             CREATE DOMAIN document AS jsonb CHECK (noted() IS NOT NULL);
             ALTER TABLE pgmq.q_q12 ALTER COLUMN message TYPE document;
             ALTER TABLE pgmq.q_q13 ADD COLUMN tenant text NOT NULL DEFAULT 'one'",
        )
        .await;
    let holder = Holder::of_tables(database, &["q_q7"], "ACCESS EXCLUSIVE").await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let queues = [
        ("q0", "1"),
        ("q10", "{}"),
        ("q1", "1"),
        ("q2", "1"),
        ("q3", "1"),
        ("q4", "1"),
        ("q5", "1"),
        ("q6", "1"),
        ("q7", "1"),
        ("q8", r#""\u0000""#),
        ("q9", &deep),
        ("gone", "1"),
        ("q11", "1"),
        ("q12", "1"),
        ("q13", "1"),
    ];
    let outcomes = send_to(database, &queues, &["q0", "q10", "q13"]).await;
    let of = |outcome: &str| -> Vec<&str> {
        let named = outcomes.iter().filter(|(_, (word, _))| word == outcome);
        named.map(|(queue, _)| &**queue).collect()
    };
    assert_eq!(of("done"), ["q0", "q10", "q13"]);
    assert_eq!(of("separate"), ["q1", "q11", "q12", "q2", "q3", "q4", "q5"]);
    assert_eq!(of("retry"), ["gone", "q6", "q7", "q8", "q9"]);
    let ids: Vec<i64> = stored(&gateway, "q0").await.into_keys().collect();
    assert_eq!(outcomes["q0"].1, Some(ids));
    holder.rollback().await;
    for (queue, _) in queues.iter().filter(|(queue, _)| *queue != "gone") {
        let stored = stored(&gateway, queue).await.len();
        let expected = usize::from(["q0", "q10", "q13", "q6"].contains(queue));
        assert_eq!(stored, expected, "{queue}");
    }
}

/// Whoever sends to a queue that is locked waits, and is told so in the end; those of the others don't notice.
#[tokio::test]
async fn a_locked_queue_holds_nobody_else_up() {
    let gateway = gateway().await;
    let crowd = Crowd::start(&gateway.client, &[0]);
    let holder = Holder::of_tables(&gateway.database, &["q_q0"], "ACCESS EXCLUSIVE").await;
    let locked: JoinSet<Answer> = (0..20)
        .map(|_| {
            let client = gateway.client.clone();
            async move { client.post("/queues/q0/messages", r#"{"message":1}"#).await }
        })
        .collect();
    for answer in locked.join_all().await {
        answer.problem(503, "overloaded");
    }
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.send("q0", r#"{"message":1}"#).await });
    sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    holder.rollback().await;
    waiting.await.expect("sent once it is free");
    let longest = crowd.stop().await;
    assert!(longest < BOUND, "another queue waited for {longest:?}");
    assert_eq!(stored(&gateway, "q0").await.len(), 1, "nothing but what was acknowledged");
}

/// In a crowd, a queue that is gone, a message that is refused and one that a unique index has already are told to
/// those who sent them, and to nobody else.
#[tokio::test]
async fn what_is_refused_is_told_to_its_sender_alone() {
    let gateway = gateway().await;
    gateway
        .database
        .execute(
            "ALTER TABLE pgmq.q_q1 ADD CONSTRAINT small CHECK ((message ->> 'n')::int < 10);
             CREATE UNIQUE INDEX once ON pgmq.q_q2 (message);
             INSERT INTO pgmq.q_q2 (vt, message) VALUES (now(), '1')",
        )
        .await;
    let crowd = Crowd::start(&gateway.client, &[0, 1, 2, 3]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for round in 0..20 {
        gateway.delete("/queues/q0").await;
        let send = async |queue: &str, message: &str| {
            let body = format!(r#"{{"message":{message}}}"#);
            gateway.post(&format!("/queues/{queue}/messages"), &body).await
        };
        let fine = round.to_string();
        let (gone, big, small, twice, new, nested, flat) = tokio::join!(
            send("q0", "1"),
            send("q1", r#"{"n":99}"#),
            send("q1", r#"{"n":1}"#),
            send("q2", "1"),
            send("q2", &fine),
            send("q3", &deep),
            send("q3", "1"),
        );
        gone.problem(404, "queue_not_found");
        big.problem(422, "message_rejected");
        twice.problem(409, "message_conflict");
        nested.problem(422, "message_rejected");
        for (n, answer) in [small, flat].into_iter().enumerate() {
            assert_eq!(answer.status, 201, "{n}: {}", answer.text);
        }
        assert_eq!(new.status, if round == 1 { 409 } else { 201 }, "{}", new.text);
        gateway.create("q0").await;
        gateway.send("q0", r#"{"message":1}"#).await;
    }
    // Each of them has had all of its messages stored.
    crowd.stop().await;
}

/// A queue whose trigger takes its time holds nobody else up.
#[tokio::test]
async fn a_slow_trigger_holds_nobody_else_up() {
    let gateway = gateway().await;
    gateway
        .database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_sleep(2); RETURN new; END';
             CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_q0 FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    let crowd = Crowd::start(&gateway.client, &[0]);
    let began = Instant::now();
    let slow: JoinSet<i64> = (0..2)
        .map(|_| {
            let client = gateway.client.clone();
            async move { client.send("q0", r#"{"message":1}"#).await }
        })
        .collect();
    slow.join_all().await;
    assert!(began.elapsed() >= Duration::from_secs(2));
    let longest = crowd.stop().await;
    assert!(longest < BOUND, "another queue waited for {longest:?}");
}

/// Ten thousand messages in line for one queue don't keep those of others waiting, and all are stored.
#[tokio::test]
async fn a_long_line_of_one_queue_starves_no_other() {
    let gateway = gateway().await;
    let messages: Vec<Value> = (0..100).map(|n| json!({"message": n})).collect();
    let batch = Arc::new(json!({"messages": messages}).to_string());
    let crowd = Crowd::start(&gateway.client, &[0]);
    let began = Instant::now();
    let large: JoinSet<Answer> = (0..100)
        .map(|_| {
            let (client, batch) = (gateway.client.clone(), Arc::clone(&batch));
            async move { client.post("/queues/q0/messages/batch", &batch).await }
        })
        .collect();
    for answer in large.join_all().await {
        answer.expect(201);
    }
    let took = began.elapsed();
    let longest = crowd.stop().await;
    let bound = (BOUND * 2).max(took / 2);
    assert!(longest < bound, "another queue waited for {longest:?} of {took:?}");
    let stored = eventually("all are there", async || {
        let stored: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q0").await;
        (stored >= 10_000).then_some(stored)
    })
    .await;
    assert_eq!(stored, 10_000);
}
