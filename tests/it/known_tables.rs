//! What a statement for several queues is told of their tables by the one before.

use sqlx::{Executor, PgConnection, Row, postgres::types::Oid};

use crate::{
    shared_commits::{gateway, stored},
    support::eventually,
};

/// What a statement said of a queue's table, where it had to look.
type Known = (Option<Oid>, Option<String>, Option<String>, Option<i32>, Option<i64>);

/// Stores a message in each queue, and tells what became of it and what was found out. What comes after a tenth of a
/// second would be left for later: then all is undone, and done again.
async fn send(
    conn: &mut PgConnection,
    queues: &[&str],
    known: &[Known],
) -> Vec<(String, Option<Known>)> {
    eventually("it has the time for all", async || {
        conn.execute("BEGIN").await.expect("begun");
        let sent = try_to_send(conn, queues, known).await;
        let had_time = sent.iter().all(|(outcome, _)| outcome != "retry");
        conn.execute(if had_time { "COMMIT" } else { "ROLLBACK" }).await.expect("ended");
        had_time.then_some(sent)
    })
    .await
}

async fn try_to_send(
    conn: &mut PgConnection,
    queues: &[&str],
    known: &[Known],
) -> Vec<(String, Option<Known>)> {
    let rows = sqlx::query(
        "SELECT * FROM pgmq_gateway.send_to_queues($1, $2, $3, $4, $5, $6::timestamptz[], $7, $8, $9, $10, $11)
         ORDER BY place",
    )
    .bind(queues)
    .bind(vec![1; queues.len()])
    .bind(vec![b"1".as_slice(); queues.len()])
    .bind(vec![None::<&[u8]>; queues.len()])
    .bind(vec![0; queues.len()])
    .bind(vec![None::<String>; queues.len()])
    .bind(known.iter().map(|k| k.0).collect::<Vec<_>>())
    .bind(known.iter().map(|k| k.1.clone()).collect::<Vec<_>>())
    .bind(known.iter().map(|k| k.2.clone()).collect::<Vec<_>>())
    .bind(known.iter().map(|k| k.3).collect::<Vec<_>>())
    .bind(known.iter().map(|k| k.4).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
    .expect("each is a matter of its own");
    let of = |row: &sqlx::postgres::PgRow| {
        let oid: Option<Oid> = row.get("table_oid");
        let known = oid.map(|oid| {
            let (version, name) = (row.get("version"), row.get("table_name"));
            (Some(oid), version, name, row.get("shape"), row.get("queue_id"))
        });
        (row.get("outcome"), known)
    };
    rows.iter().map(of).collect()
}

/// What was said of a table counts for the next statement, as long as its entry in the catalogue is the same: a table
/// that is no plain one any more, or is another one by now, is looked up again.
#[tokio::test]
async fn what_is_known_of_a_table_counts_until_it_changes() {
    let gateway = gateway().await;
    let database = &gateway.database;
    let conn = &mut database.connect().await;
    let queues = ["q0", "q1", "q2", "q3"];
    let first = send(conn, &queues, &[]).await;
    let known: Vec<Known> = first.into_iter().map(|(_, known)| known.expect("looked up")).collect();
    let again = send(conn, &queues, &known).await;
    assert!(again.iter().all(|(outcome, known)| outcome == "done" && known.is_none()), "{again:?}");

    database
        .execute(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
             CREATE TRIGGER t BEFORE INSERT ON pgmq.q_q0 FOR EACH ROW EXECUTE FUNCTION nothing();
             ALTER TABLE pgmq.q_q1 RENAME TO put_away;
             CREATE TABLE pgmq.q_q1 (LIKE pgmq.put_away INCLUDING ALL);
             ALTER TABLE pgmq.q_q2 ALTER COLUMN read_ct SET DEFAULT 3, ADD CHECK (read_ct >= 0)",
        )
        .await;
    let changed = send(conn, &queues, &known).await;
    let words: Vec<&str> = changed.iter().map(|(outcome, _)| outcome.as_str()).collect();
    assert_eq!(words, ["separate", "done", "separate", "done"]);
    let new = changed[1].1.as_ref().expect("another table");
    assert!(new.0 != known[1].0 && changed[3].1.is_none());
    assert_eq!(stored(&gateway, "q1").await.len(), 1);
}

/// Values that PGMQ has filled in by the table are said by the statement, except where the table says otherwise.
#[tokio::test]
async fn what_a_table_fills_in_is_as_it_says() {
    let gateway = gateway().await;
    let database = &gateway.database;
    database
        .execute(
            "ALTER TABLE pgmq.q_q0 ALTER COLUMN read_ct SET DEFAULT 3;
             ALTER TABLE pgmq.q_q1 ALTER COLUMN enqueued_at SET DEFAULT '2001-01-01 00:00:00+00'",
        )
        .await;
    let conn = &mut database.connect().await;
    for (outcome, _) in send(conn, &["q0", "q1", "q2"], &[]).await {
        assert_eq!(outcome, "done");
    }
    let filled_in =
        "SELECT read_ct::text || ' ' || (enqueued_at < now() - interval '1 year') FROM pgmq.";
    for (table, expected) in [("q_q0", "3 false"), ("q_q1", "0 true"), ("q_q2", "0 false")] {
        let found: String = sqlx::query_scalar(&format!("{filled_in}{table}"))
            .fetch_one(&mut *conn)
            .await
            .expect("a row");
        assert_eq!(found, expected, "{table}");
    }
}
