//! Statements that receive from many queues at once.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Executor, Row, postgres::PgRow};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    shared_commits::{QUEUES, committed, gateway},
    support::{Holder, PATIENCE, TestGateway, eventually},
};

/// Clients of many queues that receive at the same time: each message is given to one of them, of the queue that it
/// asked for, and there are fewer statements than requests. Those that wait have what comes later.
#[tokio::test]
async fn each_message_is_given_to_one_client_of_its_queue() {
    const MESSAGES: usize = 12;
    const CLIENTS: usize = 5;
    let gateway = gateway().await;
    let fill = format!(
        "SELECT pgmq.send('q' || q, jsonb_build_array(q, n)) FROM generate_series(0, {}) q, \
         generate_series(1, {MESSAGES}) n",
        QUEUES - 1
    );
    gateway.database.execute(&fill).await;
    let before = committed(&gateway.database).await;
    let mut clients = JoinSet::new();
    for (queue, n) in (0..QUEUES).flat_map(|queue| (0..CLIENTS).map(move |n| (queue, n))) {
        let client = gateway.client.clone();
        clients.spawn(async move {
            let mut received = Vec::new();
            for qty in [1, 2] {
                // Of the last clients some wait for what there is not, yet.
                let parameters = format!("qty={qty}&vt=600&wait={}", if n == 0 { 0 } else { 20 });
                for message in client.receive(&format!("q{queue}"), &parameters).await {
                    assert_eq!(message["read_ct"], 1);
                    received.push(message["message"].clone());
                }
            }
            (queue, received)
        });
    }
    sleep(Duration::from_millis(500)).await;
    let rest = format!(
        "SELECT pgmq.send('q' || q, jsonb_build_array(q, n)) FROM generate_series(0, {}) q, \
         generate_series({}, {}) n",
        QUEUES - 1,
        MESSAGES + 1,
        CLIENTS * 3
    );
    gateway.database.execute(&rest).await;
    let mut received: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (queue, messages) in clients.join_all().await {
        for message in messages {
            assert_eq!(message[0], queue, "of its own queue");
            let number = |at: usize| message[at].as_u64().expect("a number");
            *received.entry((number(0), number(1))).or_default() += 1;
        }
    }
    assert!(received.values().all(|times| *times == 1), "each is given once");
    assert!(received.len() >= QUEUES * MESSAGES, "{} were received", received.len());
    sleep(Duration::from_secs(2)).await;
    let statements = committed(&gateway.database).await - before;
    let requests = i64::try_from(QUEUES * CLIENTS * 2).expect("few");
    assert!(statements < requests, "{statements} transactions for {requests} requests");
}

/// In one statement, a queue that is locked, gone, has a trigger or a message that takes long to be read out is left
/// to a statement of its own; the others are received from, as much as is asked for, and it is told when the next message is due.
#[tokio::test]
async fn each_queue_is_received_from_by_itself() {
    let gateway = gateway().await;
    let database = &gateway.database;
    database
        .execute(
            "SELECT pgmq.send('q' || q, to_jsonb(q)) FROM generate_series(0, 4) q, generate_series(1, 3);
             SELECT pgmq.send('q5', '5', 60);
             SELECT pgmq.send('q6', to_jsonb(repeat(chr(1), 3000000)));
             CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER t BEFORE UPDATE ON pgmq.q_q1 FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        .await;
    let table = Holder::of_tables(database, &["q_q2"], "ACCESS EXCLUSIVE").await;
    let row = Holder::of(database, "SELECT FROM pgmq.q_q3 WHERE msg_id = 1 FOR UPDATE").await;
    let queues = ["q0", "q1", "q2", "q3", "q4", "q5", "q6", "gone"];
    let mut connection = database.connect().await;
    // What comes after a tenth of a second is left for later: on a busy machine that is any of them.
    let rows = eventually("it has the time for all", async || {
        connection.execute("BEGIN").await.expect("begun");
        let rows = sqlx::query(
            "SELECT * FROM pgmq_gateway.receive_from_queues($1, $2, $3, $4) ORDER BY place, msg_id NULLS LAST",
        )
        .bind(queues)
        .bind([30; 8])
        .bind([2, 2, 2, 5, 1, 1, 1, 1])
        .bind([true; 8])
        .fetch_all(&mut connection)
        .await
        .expect("each is a matter of its own");
        let left = |row: &&PgRow| row.get::<Option<String>, _>("outcome").as_deref() == Some("retry");
        let had_time = rows.iter().filter(left).count() == 2;
        connection.execute(if had_time { "COMMIT" } else { "ROLLBACK" }).await.expect("ended");
        had_time.then_some(rows)
    })
    .await;
    let mut given: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let mut told: Vec<(&str, String, bool)> = Vec::new();
    for row in &rows {
        let queue = queues[usize::try_from(row.get::<i32, _>("place")).expect("from 1") - 1];
        match row.get::<Option<i64>, _>("msg_id") {
            Some(id) => given.entry(queue).or_default().push(id),
            None => told.push((
                queue,
                row.get("outcome"),
                row.get::<Option<f64>, _>("due_in").is_some(),
            )),
        }
    }
    let expected: [(&str, Vec<i64>); 3] = [("q0", vec![1, 2]), ("q3", vec![2, 3]), ("q4", vec![1])];
    assert_eq!(given, BTreeMap::from(expected));
    let expected = [
        ("q0", "done", false),
        ("q1", "separate", false),
        ("q2", "retry", false),
        ("q3", "done", true),
        ("q4", "done", false),
        ("q5", "done", true),
        ("q6", "separate", false),
        ("gone", "retry", false),
    ];
    assert_eq!(told, expected.map(|(queue, word, due)| (queue, word.to_owned(), due)));
    table.rollback().await;
    row.rollback().await;
    let (leased, whole) = (gateway.client.receive("q6", "vt=600").await, 3_000_000);
    assert_eq!(leased[0]["read_ct"], 1, "it was not leased before");
    assert_eq!(leased[0]["message"].as_str().map(str::len), Some(whole));
}

/// What cannot be read, behind what a queue's share of an answer has no room for, ends nobody else's.
#[tokio::test]
async fn nobody_learns_of_what_another_queue_has_no_room_for() {
    const QUEUES: usize = 24;
    let gateway = TestGateway::start().await;
    let sql = format!(
        "SELECT pgmq.create('q' || i) FROM generate_series(0, {0}) i;
         SELECT pgmq.send('q' || i, '1') FROM generate_series(1, {0}) i;
         ALTER TABLE pgmq.q_q0 ALTER read_ct DROP NOT NULL;
         INSERT INTO pgmq.q_q0 (vt, message) SELECT now(), to_jsonb(repeat('x', 60000))
         FROM generate_series(1, 2);
         INSERT INTO pgmq.q_q0 (vt, message, read_ct) VALUES (now(), '3', NULL)",
        QUEUES - 1
    );
    gateway.database.execute(&sql).await;
    let mut receives = JoinSet::new();
    for queue in (0..QUEUES).rev() {
        let client = gateway.client.clone();
        let qty = if queue == 0 { 3 } else { 1 };
        let path = format!("/queues/q{queue}/messages?qty={qty}&vt=600&wait=20");
        receives.spawn(async move { (queue, client.get(&path).await) });
    }
    for (queue, answer) in receives.join_all().await {
        let messages = answer.expect(200).messages();
        assert!((1..=2).contains(&messages.len()), "{queue}: {messages:?}");
    }
}

/// Who shares a statement with a queue whose archive is slow does not wait for that.
#[tokio::test]
async fn nobody_waits_for_an_archive_of_another_queue() {
    const QUEUES: usize = 24;
    let gateway =
        TestGateway::with(|settings| settings.database.statement_timeout_ms = 120_000).await;
    let sql = format!(
        "SELECT pgmq.create('q' || i) FROM generate_series(0, {0}) i;
         SELECT pgmq.send('q' || i, '1') FROM generate_series(1, {0}) i;
         ALTER TABLE pgmq.q_q0 ALTER read_ct DROP NOT NULL;
         INSERT INTO pgmq.q_q0 (vt, message, read_ct) VALUES (now(), '1', NULL);
         CREATE TABLE public.gate AS SELECT 1 AS closed;
         CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
             RETURN new;
         END $$;
         CREATE TRIGGER slow BEFORE INSERT ON pgmq.a_q0 FOR EACH ROW EXECUTE FUNCTION public.pass()",
        QUEUES - 1
    );
    gateway.database.execute(&sql).await;
    let mut others = JoinSet::new();
    for queue in (0..QUEUES).rev() {
        let client = gateway.client.clone();
        let receive = async move { client.receive(&format!("q{queue}"), "vt=600&wait=20").await };
        if queue == 0 {
            tokio::spawn(receive);
        } else {
            others.spawn(receive);
        }
    }
    let archiving = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND query LIKE '/* quarantine%' AND wait_event = 'PgSleep'";
    let archives = async || (gateway.database.value::<i64>(archiving).await > 0).then_some(());
    eventually("it is taken away", archives).await;
    let received = timeout(PATIENCE, others.join_all()).await.expect("without the archive");
    assert!(received.iter().all(|messages| messages.len() == 1), "{received:?}");
    gateway.database.execute("DELETE FROM public.gate").await;
}
