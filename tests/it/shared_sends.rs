//! Transactions that do nothing but send have a statement of their own, for tables that are as PGMQ makes them.

use serde_json::{Value, json};
use sqlx::{Row, postgres::PgRow};

use crate::{
    shared_transactions::{commits, note_commits, transaction},
    support::{TestDatabase, TestGateway, eventually, guarded::together},
};

/// Sends one message to each of these destinations, a queue or `topic KEY`, as the gateway does; the rows say which
/// destination it is, the queue, and the id.
async fn send_together(database: &TestDatabase, to: &[&str], bytes: i64) -> Vec<PgRow> {
    let key = |to: &&str| to.strip_prefix("topic ").map(str::to_owned);
    let queues: Vec<Option<&str>> = to.iter().map(|to| key(to).is_none().then_some(*to)).collect();
    let none = vec![None::<String>; to.len()];
    let mut connection = database.connect().await;
    sqlx::query(
        "SELECT * FROM pgmq_gateway.send_together( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '{}', '{}', '{}', '{}', '{}')",
    )
    .bind(queues)
    .bind(to.iter().map(key).collect::<Vec<_>>())
    .bind(&none)
    .bind(vec![2; to.len()])
    .bind(vec![1; to.len()])
    .bind(vec![bytes; to.len()])
    .bind(vec![b"{\"n\":1}".to_vec(); to.len()])
    .bind(vec![None::<Vec<u8>>; to.len()])
    .bind(vec![None::<i32>; to.len()])
    .bind(vec![None::<chrono::DateTime<chrono::Utc>>; to.len()])
    .fetch_all(&mut connection)
    .await
    .expect("an answer")
}

#[tokio::test]
async fn what_stands_against_it_is_named_and_nothing_is_done() {
    let gateway = TestGateway::start().await;
    for queue in ["a", "b", "small", "slow", "turns", "gone"] {
        gateway.create(queue).await;
    }
    gateway.configure("small", json!({"max_message_bytes": 5})).await.expect(200);
    gateway.patch("/queues/turns", r#"{"fifo": true}"#).await.expect(200);
    let database = &gateway.database;
    database
        .execute(
            "CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER take BEFORE INSERT ON pgmq.q_slow FOR EACH ROW EXECUTE FUNCTION take();
             DROP TABLE pgmq.q_gone",
        )
        .await;
    for queue in ["a", "b", "small"] {
        let path = format!("/queues/{queue}/bindings");
        gateway.post(&path, r#"{"pattern":"all"}"#).await.expect(201);
        if queue != "small" {
            gateway.post(&path, r#"{"pattern":"two"}"#).await.expect(201);
        }
    }
    let hindered = ["small", "slow", "turns", "gone", "none", "topic all", "topic no..key"];
    for other in hindered {
        let rows = send_together(database, &["a", "b", other], 7).await;
        let places: Vec<i32> = rows.iter().map(|row| row.get("place")).collect();
        assert_eq!(places, [3], "{other}");
        assert_eq!(rows[0].get::<Option<i64>, _>("id"), None, "{other}");
        assert_eq!(gateway.all("a").await.len(), 0, "{other}");
    }
    let rows = send_together(database, &["b", "topic two", "topic nowhere"], 7).await;
    let stored = |row: &PgRow| (row.get("place"), row.get("target"), row.get("id"));
    let stored: Vec<(i32, String, i64)> = rows.iter().map(stored).collect();
    let expected =
        [(1, "b", 1), (2, "a", 1), (2, "b", 2)].map(|(n, to, id)| (n, to.to_owned(), id));
    assert_eq!(stored, expected);
}

fn send(queue: &str, message: &Value) -> Value {
    json!({"send": {"queue": queue, "message": message}})
}

/// Whatever else is sent at the same time, and to whom.
#[tokio::test]
async fn a_crowd_that_only_sends_goes_through_it() {
    let gateway = TestGateway::start().await;
    for queue in ["a", "b", "odd"] {
        gateway.create(queue).await;
        note_commits(&gateway.database, queue).await;
    }
    let column = "ALTER TABLE pgmq.q_a ADD COLUMN statement text DEFAULT current_query()";
    gateway.database.execute(column).await;
    gateway.configure("b", json!({"delay": 600, "max_message_bytes": 1000})).await.expect(200);
    gateway
        .database
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN IF (new.message ->> ''n'')::int % 2 = 1 THEN RAISE ''odd''; END IF; RETURN new; END';
             CREATE TRIGGER refuse BEFORE INSERT ON pgmq.q_odd FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let mut rounds = 0;
    eventually("the statement is used", async || {
        crowd(&gateway).await;
        rounds += 1;
        let used = "SELECT count(*) FROM pgmq.q_a WHERE statement LIKE '/* send_together */%'";
        (gateway.database.value::<i64>(used).await > 0).then_some(())
    })
    .await;
    assert_eq!(gateway.all("a").await.len(), rounds * 24);
    let of_b = gateway.database.value::<i64>(
        "SELECT count(*) FROM pgmq.q_b WHERE vt > now() + interval '500 s' AND headers IS NULL
         OR vt <= now() AND headers = '{\"h\": 1}'",
    );
    assert_eq!(usize::try_from(of_b.await), Ok(rounds * 24));
    let commits = commits(&gateway.database, "a").await;
    assert!(usize::try_from(commits).is_ok_and(|commits| commits < rounds * 24), "{commits}");
}

/// Of 36 transactions, 24 are only for tables that are as PGMQ makes them; of the others a third is refused by a
/// trigger, and a third is too large.
async fn crowd(gateway: &TestGateway) {
    let answers = together(36, |n| {
        let operations = match n % 6 {
            0 => [send("odd", &json!({"n": n / 6})), send("odd", &json!({"n": n / 3}))],
            1 => [send("odd", &json!({"n": 2})), send("b", &json!("x".repeat(2000)))],
            2 | 3 => [send("a", &json!(n)), send("b", &json!(n))],
            _ => {
                let other = json!({"queue": "b", "message": n, "delay": 0, "headers": {"h": 1}});
                [json!({"send": other}), send("a", &json!(n))]
            }
        };
        let request = gateway.request("POST", "/transactions").body(transaction(&operations));
        crate::support::Answer::of(request)
    });
    for (n, answer) in (0i64..).zip(answers.await) {
        match n % 6 {
            0 if n / 6 % 2 == 1 => blames(0, &answer.expect(422).json()),
            1 => blames(1, &answer.expect(413).json()),
            _ => {
                let results = answer.expect(200).json()["results"].clone();
                assert!(
                    results[0]["msg_id"].is_i64() && results[1]["msg_id"].is_i64(),
                    "{results}"
                );
            }
        }
    }
}

fn blames(operation: usize, problem: &Value) {
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(&format!("operations[{operation}]")), "{problem}");
}
