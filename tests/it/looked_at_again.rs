//! Messages that somebody is given in the moment in which they were to be ended, deleted or moved: what was looked at
//! before is looked at again. Where policies are in force nobody locks them first.

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{
    Answer, Holder, TestDatabase, TestGateway, eventually,
    guarded::{Guarded, allow},
    holder::wait_for_blocked,
};

const ALL: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
/// A read by SQL.
const READ: &str = "SELECT pgmq.read('q', 600, 1)";

async fn is_waiting(database: &TestDatabase, kind: &str, query: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND wait_event_type = '{kind}' AND query LIKE '{query}%'"
    );
    let waits = async || (database.value::<i64>(&sql).await > 0).then_some(());
    eventually("it waits", waits).await;
}

#[tokio::test]
async fn what_was_delivered_in_between_is_stale() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    for queue in ["q", "other"] {
        gateway.create(queue).await;
    }
    for (action, target) in
        [("archive", "NULL"), ("dead_letter", "NULL"), ("dead_letter", "'other'")]
    {
        let id = gateway.send("q", r#"{"message":1}"#).await;
        let reader = Holder::of(database, READ).await;
        let settle = format!(
            "/* settles */ SELECT outcome FROM pgmq_gateway.settle_alone(
                 'q', 'pgmq.q_q', '{action}', {id}, 0, NULL, target => {target})"
        );
        let settled = tokio::spawn({
            let database = database.clone();
            async move { database.value::<String>(&settle).await }
        });
        is_waiting(database, "Lock", "/* settles */").await;
        reader.commit().await;
        assert_eq!(settled.await.expect("no panic"), "stale", "{action}, {target}");
    }
    let left = "SELECT (SELECT count(*) FROM pgmq.q_q WHERE read_ct = 1) * 100
                     + (SELECT count(*) FROM pgmq.a_q) + (SELECT count(*) FROM pgmq.q_other)";
    assert_eq!(database.value::<i64>(left).await, 300);
}

#[tokio::test]
async fn a_receipt_that_turns_stale_meanwhile_ends_nothing() {
    let gateway = Guarded::start(&allow("q_q", &ALL)).await;
    for request in [("POST", "/archive"), ("DELETE", "")] {
        gateway.send("q", r#"{"message":1}"#).await;
        let received = gateway.receive_one("q", "vt=0").await;
        let (id, receipt) = (&received["msg_id"], received["receipt"].as_str().expect("one"));
        let reader = Holder::of(&gateway.database, READ).await;
        let (method, end) = request;
        let path = format!("/queues/q/messages/{id}{end}?receipt={receipt}");
        let ended = tokio::spawn(Answer::of(gateway.request(method, &path)));
        wait_for_blocked(&gateway.database, "/* ").await;
        reader.commit().await;
        ended.await.expect("no panic").problem(409, "receipt_stale");
    }
    assert_eq!(gateway.ids("q_q").await, [1, 2]);
    assert!(gateway.ids("a_q").await.is_empty());
}

#[tokio::test]
async fn a_dead_letter_that_is_delivered_meanwhile_is_not_moved() {
    let gateway = Guarded::start(&allow("q_q", &ALL)).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let reader = Holder::of(&gateway.database, READ).await;
    let redriven = tokio::spawn(Answer::of(
        gateway.request("POST", "/queues/q/redrive").body(r#"{"to":"other"}"#),
    ));
    wait_for_blocked(&gateway.database, "/* redrive").await;
    reader.commit().await;
    // What it says depends on for how long it waited.
    redriven.await.expect("no panic");
    assert_eq!(gateway.ids("q_q").await, [1]);
    assert!(gateway.ids("q_other").await.is_empty());
}

/// Retention has chosen it, and waits before it deletes.
#[tokio::test]
async fn an_old_message_that_is_delivered_meanwhile_is_kept() {
    let gate = "CREATE TABLE public.gate (closed integer);
        GRANT SELECT ON public.gate TO PUBLIC;
        CREATE FUNCTION public.pass() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP;
            RETURN true;
        END $$;
        ALTER TABLE pgmq.q_q ENABLE ROW LEVEL SECURITY;
        CREATE POLICY may ON pgmq.q_q USING (public.pass()) WITH CHECK (true)";
    let gateway = Guarded::with(gate, |settings| settings.maintenance.interval_ms = 50).await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.configure("q", json!({"message_retention": 3_600})).await.expect(200);
    let mut connection = PgConnection::connect(&gateway.database.url()).await.expect("connected");
    let age = "BEGIN; INSERT INTO public.gate VALUES (1);
        UPDATE pgmq.q_q SET enqueued_at = now() - interval '2 hours'; COMMIT";
    connection.execute(age).await.expect("aged");
    is_waiting(&gateway.database, "Timeout", "/* delete_expired_messages").await;
    connection.execute(&*format!("{READ}; DELETE FROM public.gate")).await.expect("read");
    // Whatever is deleted by then was chosen before.
    let looked = async || {
        gateway.send("q", r#"{"message":"a round of retention"}"#).await;
        gateway
            .database
            .execute("UPDATE pgmq.q_q SET enqueued_at = '2000-01-01' WHERE msg_id > 1")
            .await;
        (gateway.ids("q_q").await.len() < 2).then_some(())
    };
    eventually("retention goes on", looked).await;
    assert_eq!(gateway.ids("q_q").await.first(), Some(&1));
}
