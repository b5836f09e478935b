//! Rights on the columns of a queue's table: those that a statement touches are enough, and what is missing is told.

use serde_json::json;

use crate::support::{
    Answer, Holder,
    guarded::{Guarded, together},
};

/// What it takes besides the right to read the message.
const UNREAD: &str = "SELECT (ctid, msg_id, read_ct, enqueued_at, last_read_at, vt, headers), INSERT, UPDATE, DELETE";

/// What it takes to do everything, on columns where there are such rights.
const COLUMNS: &str = "SELECT (ctid, msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers), INSERT (vt, message), \
     UPDATE (vt, read_ct, last_read_at), DELETE";

/// A trigger that lets everything pass.
const PASSING: &str = "CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN coalesce(new, old); END $$;
    CREATE TRIGGER pass BEFORE UPDATE OR DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.pass()";

/// Leaves the role these rights on the table of a queue, and no others.
async fn leave(gateway: &Guarded, table: &str, rights: &str) {
    let sql = format!(
        "DO $$ BEGIN EXECUTE format('REVOKE ALL ON pgmq.{table} FROM %1$I; GRANT {rights} ON pgmq.{table} TO %1$I',
                                    'guarded_' || current_database()); END $$"
    );
    gateway.database.execute(&sql).await;
}

fn send(
    gateway: &Guarded,
    word: &str,
    key: Option<String>,
) -> impl Future<Output = Answer> + 'static {
    let body = json!({"message": {"word": word}}).to_string();
    let mut request = gateway.request("POST", "/queues/q/messages").body(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Answer::of(request)
}

#[tokio::test]
async fn queue_whose_messages_may_not_be_read_is_not_empty() {
    let fill = "SELECT pgmq.send('q', to_jsonb(n)) FROM generate_series(1, 4) n";
    let gateway = Guarded::start(fill).await;
    leave(&gateway, "q_q", UNREAD).await;
    let settle = r#"{"archive":[{"msg_id":1},{"msg_id":2}]}"#;
    for trigger in ["", PASSING] {
        gateway.database.execute(trigger).await;
        for (method, path, body) in [
            ("GET", "q/messages", ""),
            ("GET", "q/messages?wait=2", ""),
            ("GET", "q/messages?fifo=grouped", ""),
            ("POST", "q/messages/pop", ""),
            ("GET", "q/peek", ""),
            ("POST", "q/messages/1/archive", ""),
            ("POST", "q/messages/settle", settle),
        ] {
            let request = gateway.request(method, &format!("/queues/{path}")).body(body);
            let answer = Answer::of(request).await.problem(403, "forbidden");
            let detail = answer.detail();
            assert!(
                detail.contains("role may not do this to"),
                "{trigger} {method} {path}: {detail}"
            );
        }
    }
    // What reads none of them is done.
    let settle = r#"{"archive":[{"msg_id":1}],"delete":[{"msg_id":2}]}"#;
    let settled = gateway.post("/queues/q/messages/settle", settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([2]), "{settled}");
    gateway.delete("/queues/q/messages/3").await.expect(204);
    leave(&gateway, "q_q", COLUMNS).await;
    assert_eq!(gateway.receive("q", "qty=10").await.len(), 2);
}

#[tokio::test]
async fn refused_message_keeps_no_other_where_rights_are_on_columns() {
    let check = "ALTER TABLE pgmq.q_q ADD CONSTRAINT good CHECK (message ->> 'word' <> 'bad')";
    let gateway = Guarded::start(check).await;
    leave(&gateway, "q_q", COLUMNS).await;
    for round in 0..2 {
        for keyed in [false, true] {
            let word = |n| if n % 5 == 3 { "bad" } else { "good" };
            let key = |n| keyed.then(|| format!("{round}-{n}"));
            for (n, answer) in (0..).zip(together(20, |n| send(&gateway, word(n), key(n))).await) {
                if word(n) == "bad" {
                    answer.problem(422, "message_rejected");
                } else {
                    answer.expect(201);
                }
            }
        }
    }
    let bad = json!({"operations": [{"send": {"queue": "q", "message": {"word": "bad"}}}]});
    gateway.post("/transactions", &bad.to_string()).await.problem(422, "message_rejected");
    // Who brings headers, for which the right is missing, is alone with that.
    let headed = json!({"message": {"word": "good"}, "headers": {"a": 1}}).to_string();
    let request = |n| {
        let body =
            if n % 5 == 3 { headed.clone() } else { r#"{"message":{"word":"good"}}"#.into() };
        Answer::of(gateway.request("POST", "/queues/q/messages").body(body))
    };
    for (n, answer) in together(20, request).await.into_iter().enumerate() {
        assert_eq!(answer.status, if n % 5 == 3 { 403 } else { 201 }, "{n}: {}", answer.text);
    }
}

#[tokio::test]
async fn rights_on_columns_are_enough_one_by_one() {
    let fill =
        "SELECT pgmq.send('q', to_jsonb(n)), pgmq.send('other', '1') FROM generate_series(1, 12) n";
    let gateway = Guarded::start(fill).await;
    gateway.database.execute(PASSING).await;
    leave(&gateway, "q_q", COLUMNS).await;
    assert_eq!(gateway.receive("q", "qty=2&vt=0").await.len(), 2);
    assert_eq!(gateway.receive("q", "qty=2&vt=0&fifo=grouped").await.len(), 2);
    let popped = gateway.post("/queues/q/messages/pop?qty=2", "").await.expect(200).json();
    assert_eq!(popped["messages"].as_array().map(Vec::len), Some(2), "{popped}");
    let lock = "SELECT FROM pgmq.q_q WHERE msg_id = 12 FOR UPDATE";
    let holder = Holder::of(&gateway.database, lock).await;
    let hide = |n: i64| {
        let path = format!("/queues/q/messages/{}", 9 + n);
        Answer::of(gateway.request("PATCH", &path).body(r#"{"vt":60}"#))
    };
    let statuses: Vec<_> = together(4, hide).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 503]);
    holder.rollback().await;
}

#[tokio::test]
async fn sequence_that_lags_takes_the_right_to_read_ids_alone() {
    let fill = "INSERT INTO pgmq.q_q (msg_id, vt, message) OVERRIDING SYSTEM VALUE
                    SELECT i, now(), '1' FROM generate_series(1, 40) i;
                INSERT INTO pgmq.a_q (msg_id, vt, message) VALUES (50, now(), '1')";
    let gateway = Guarded::start(fill).await;
    leave(&gateway, "q_q", COLUMNS).await;
    leave(&gateway, "a_q", "SELECT (msg_id), INSERT").await;
    assert_eq!(gateway.send("q", r#"{"message":1}"#).await, 51);
}
