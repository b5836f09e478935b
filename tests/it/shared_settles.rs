//! Statements that delete or archive messages of many queues at once.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{Executor, PgConnection, Row};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    shared_commits::{QUEUES, committed, gateway, stored},
    support::{Holder, TestDatabase, eventually},
};

/// What a statement for several queues ended in each of them, by its name: a message by its id, with the delivery at
/// which it is to be, if that is said. One that had no time for more of them than are to be `left` is undone, and done
/// again.
async fn end_in(
    database: &TestDatabase,
    action: &str,
    targets: &[(&str, i64, Option<i32>)],
    left: usize,
) -> BTreeMap<String, (String, Option<Vec<i64>>)> {
    let mut connection = database.connect().await;
    eventually("it has the time for all", async || {
        connection.execute("BEGIN").await.expect("begun");
        let outcomes = try_to_end(&mut connection, action, targets).await;
        let had_time = outcomes.values().filter(|(word, _)| word == "retry").count() == left;
        connection.execute(if had_time { "COMMIT" } else { "ROLLBACK" }).await.expect("ended");
        had_time.then_some(outcomes)
    })
    .await
}

async fn try_to_end(
    connection: &mut PgConnection,
    action: &str,
    targets: &[(&str, i64, Option<i32>)],
) -> BTreeMap<String, (String, Option<Vec<i64>>)> {
    let names: Vec<&str> = targets.iter().map(|(queue, ..)| *queue).collect();
    let ids: Vec<i64> = targets.iter().map(|(_, id, _)| *id).collect();
    let counts: Vec<Option<i32>> = targets.iter().map(|(.., count)| *count).collect();
    let nothing = vec![None::<i64>; targets.len()];
    let rows = sqlx::query(
        "SELECT place, outcome, ended FROM pgmq_gateway.end_in_queues($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(action)
    .bind(&names)
    .bind(vec![1; targets.len()])
    .bind(ids)
    .bind(counts.iter().any(Option::is_some).then_some(counts))
    .bind(&nothing)
    .bind(&nothing)
    .fetch_all(connection)
    .await;
    let rows = rows.expect("each is a matter of its own");
    let outcome = |row: &sqlx::postgres::PgRow| {
        let place = usize::try_from(row.get::<i32, _>("place")).expect("from 1");
        (names[place - 1].to_owned(), (row.get("outcome"), row.get("ended")))
    };
    rows.iter().map(outcome).collect()
}

/// Of the messages that a statement ends in several queues, it ends those that are there and at the delivery that
/// is said; a queue that is locked or has a trigger is left to a statement of its own.
#[tokio::test]
async fn messages_are_ended_in_each_queue_by_itself() {
    for action in ["delete", "archive"] {
        let gateway = gateway().await;
        let database = &gateway.database;
        for queue in 0..7 {
            gateway.send(&format!("q{queue}"), r#"{"message":1}"#).await;
        }
        database
            .execute(
                "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END';
                 CREATE TRIGGER t BEFORE DELETE ON pgmq.q_q2 FOR EACH ROW EXECUTE FUNCTION nothing();
                 UPDATE pgmq.q_q4 SET read_ct = 1; UPDATE pgmq.q_q5 SET read_ct = 2",
            )
            .await;
        let holder = Holder::of(database, "SELECT FROM pgmq.q_q3 FOR UPDATE").await;
        let targets = [
            ("q0", 1, None),
            ("q1", 99, None),
            ("q4", 1, Some(1)),
            ("q5", 1, Some(1)),
            ("q2", 1, None),
            ("q3", 1, None),
            ("gone", 1, None),
        ];
        let outcomes = end_in(database, action, &targets, 2).await;
        let expected = [
            ("gone", "retry", None),
            ("q0", "done", Some(vec![1])),
            ("q1", "done", Some(vec![])),
            ("q2", "separate", None),
            ("q3", "retry", None),
            ("q4", "done", Some(vec![1])),
            ("q5", "done", Some(vec![])),
        ];
        let expected = expected.map(|(name, word, ids)| (name.to_owned(), (word.to_owned(), ids)));
        assert_eq!(outcomes, BTreeMap::from(expected), "{action}");
        holder.rollback().await;
        for (queue, left) in
            ["q0", "q1", "q2", "q3", "q4", "q5", "q6"].iter().zip([0, 1, 1, 1, 0, 1, 1])
        {
            assert_eq!(stored(&gateway, queue).await.len(), left, "{action} {queue}");
            let archived = format!("SELECT count(*) FROM pgmq.a_{queue}");
            let archived: i64 = database.value(&archived).await;
            assert_eq!(archived, i64::from(action == "archive" && left == 0), "{action} {queue}");
        }
    }
}

/// Clients of many queues that settle at the same time are each told of their own message, twice asked for or not
/// there.
#[tokio::test]
async fn who_settles_in_a_crowd_is_told_of_his_own_message() {
    const MESSAGES: i64 = 8;
    // Of these queues each message is asked for twice, and one that is not there.
    const TWICE: usize = 4;
    let gateway = gateway().await;
    let fill = format!(
        "SELECT pgmq.send('q' || q, to_jsonb(n)) FROM generate_series(0, {}) q, generate_series(1, {MESSAGES}) n",
        QUEUES - 1
    );
    gateway.database.execute(&fill).await;
    let before = committed(&gateway.database).await;
    let mut clients = JoinSet::new();
    let mut requests = 0;
    for (queue, id) in (0..QUEUES).flat_map(|queue| (1..=MESSAGES + 1).map(move |id| (queue, id))) {
        let times = if queue < TWICE { 2 } else { usize::from(id <= MESSAGES) };
        requests += i64::try_from(times).expect("few");
        for _ in 0..times {
            let client = gateway.client.clone();
            clients.spawn(async move {
                let path = format!("/queues/q{queue}/messages/{id}");
                let answer = match id % 2 {
                    0 => client.delete(&path).await,
                    _ => client.post(&format!("{path}/archive"), "").await,
                };
                ((queue, id), answer.status)
            });
        }
    }
    let mut statuses: BTreeMap<(usize, i64), Vec<u16>> = BTreeMap::new();
    for (message, status) in clients.join_all().await {
        statuses.entry(message).or_default().push(status);
    }
    for (message, mut statuses) in statuses {
        statuses.sort_unstable();
        let expected: &[u16] = match message {
            (_, id) if id > MESSAGES => &[404, 404],
            (queue, _) if queue < TWICE => &[204, 404],
            _ => &[204],
        };
        assert_eq!(statuses, expected, "{message:?}");
    }
    for queue in ["q0", "q49"] {
        assert!(stored(&gateway, queue).await.is_empty());
        let archived: i64 =
            gateway.database.value(&format!("SELECT count(*) FROM pgmq.a_{queue}")).await;
        assert_eq!(archived, MESSAGES / 2);
    }
    sleep(Duration::from_secs(2)).await;
    let statements = committed(&gateway.database).await - before;
    assert!(statements < requests * 2 / 3, "{statements} transactions for {requests} requests");
}

/// What SQL clients have stored can be far larger than what the gateway takes: others wait for none of that on its way
/// to the archive.
#[tokio::test]
async fn a_large_message_is_archived_apart() {
    let gateway = gateway().await;
    let database = &gateway.database;
    database
        .execute(
            "INSERT INTO pgmq.q_q0 (vt, message) SELECT now(), to_jsonb(string_agg(md5(i::text), ''))
             FROM generate_series(1, 50000) i;
             INSERT INTO pgmq.q_q0 (vt, message) VALUES (now(), '2');
             INSERT INTO pgmq.q_q1 (vt, message) VALUES (now(), '1'), (now(), '2')",
        )
        .await;
    let outcomes = end_in(database, "archive", &[("q0", 1, None), ("q1", 1, None)], 1).await;
    let done = |ids| ("done".to_owned(), Some(ids));
    assert_eq!((&outcomes["q0"].0[..], &outcomes["q1"]), ("retry", &done(vec![1])));
    let transaction = |queue: &str, id: i32| {
        format!(r#"[{{"action":"archive","queue":"{queue}","msg_id":{id}}}]"#).into_bytes()
    };
    let each = sqlx::query(
        "SELECT outcome FROM pgmq_gateway.transact_each($1, $2, $3, $4, $5) ORDER BY place",
    )
    .bind(vec![transaction("q0", 1), transaction("q1", 2)])
    .bind(vec![None::<String>; 2])
    .bind(None::<Vec<String>>)
    .bind(None::<Vec<Vec<u8>>>)
    .bind(None::<Vec<i32>>)
    .fetch_all(&mut database.connect().await)
    .await
    .expect("each is a matter of its own");
    let words: Vec<&str> = each.iter().map(|row| row.get("outcome")).collect();
    assert_eq!(words, ["alone", "done"]);
    // Nobody waits for a delete.
    let outcomes = end_in(database, "delete", &[("q0", 1, None)], 0).await;
    assert_eq!(outcomes["q0"], done(vec![1]));
    assert_eq!(end_in(database, "archive", &[("q0", 2, None)], 0).await["q0"], done(vec![2]));
}
