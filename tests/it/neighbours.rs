//! What one message sets off, or one queue, and those beside it.

use std::collections::HashSet;

use serde_json::{Value, json};
use sqlx::{Connection, Executor};

use crate::support::{Answer, Client, TestGateway, guarded::together, sqs::Sqs};

/// A trigger on a queue's table that does something for each message that says `bad`.
async fn on_bad(gateway: &TestGateway, queue: &str, when: &str, deed: &str) {
    let sql = format!(
        "CREATE FUNCTION public.on_bad_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF coalesce((new).message, (old).message) = '\"bad\"' THEN {deed}; END IF;
             RETURN coalesce(new, old);
         END $$;
         CREATE TRIGGER t BEFORE {when} ON pgmq.q_{queue} FOR EACH ROW EXECUTE FUNCTION public.on_bad_{queue}()"
    );
    gateway.database.execute(&sql).await;
}

/// What concerns the whole transaction, though a trigger does it for one row.
const DEEDS: [&str; 2] =
    ["PERFORM set_config('role', 'pg_monitor', true)", "SET TRANSACTION READ ONLY"];

#[tokio::test]
async fn what_a_trigger_does_to_the_transaction_fails_no_other_send() {
    for deed in DEEDS {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        on_bad(&gateway, "q", "INSERT", deed).await;
        for round in 0..3 {
            let answers = together(24, |n| {
                let word = if n % 6 == 5 { "bad" } else { "good" };
                let request = gateway.request("POST", "/queues/q/messages");
                let request = if n % 2 == 0 {
                    request.header("idempotency-key", format!("{round}-{n}"))
                } else {
                    request
                };
                Answer::of(request.body(json!({"message": word}).to_string()))
            });
            for (n, answer) in answers.await.into_iter().enumerate() {
                assert!(n % 6 == 5 || answer.status == 201, "{deed}, {n}: {}", answer.text);
            }
        }
    }
}

#[tokio::test]
async fn what_a_trigger_does_to_the_transaction_keeps_no_other_from_being_settled() {
    for deed in DEEDS {
        let gateway = TestGateway::start().await;
        gateway.create("q").await;
        for n in 0..24 {
            let word = if n % 6 == 5 { "bad" } else { "good" };
            gateway.send("q", &json!({"message": word}).to_string()).await;
        }
        on_bad(&gateway, "q", "UPDATE OR DELETE", deed).await;
        let answers = together(24, |n| {
            let path = format!("/queues/q/messages/{}", n + 1);
            let hide = gateway.request("PATCH", &path).body(r#"{"vt":0}"#);
            Answer::of(if n % 2 == 0 { hide } else { gateway.request("DELETE", &path) })
        });
        for (n, answer) in answers.await.into_iter().enumerate() {
            assert!(n % 6 == 5 || answer.status < 300, "{deed}, {n}: {}", answer.text);
        }
    }
}

/// 12 messages that were delivered as often as they may be, and one that was not.
async fn exhausted(gateway: &TestGateway) {
    gateway.create("dead").await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    let fill = "INSERT INTO pgmq.q_q (vt, read_ct, message) SELECT now(), 1, '\"bad\"' FROM generate_series(1, 12)";
    gateway.database.execute(fill).await;
    gateway.send("q", r#"{"message":"new"}"#).await;
}

#[tokio::test]
async fn what_is_behind_dead_letters_that_cannot_go_is_received() {
    for deed in DEEDS {
        let gateway = TestGateway::start().await;
        exhausted(&gateway).await;
        on_bad(&gateway, "dead", "INSERT", deed).await;
        assert_eq!(gateway.receive_one("q", "vt=0").await["message"], "new", "{deed}");
    }
}

/// Each takes a second, and a statement may take three.
#[tokio::test]
async fn what_is_behind_dead_letters_that_go_slowly_is_received() {
    let gateway =
        TestGateway::with(|settings| settings.database.statement_timeout_ms = 3_000).await;
    exhausted(&gateway).await;
    on_bad(&gateway, "dead", "INSERT", "PERFORM pg_sleep(1)").await;
    assert_eq!(gateway.receive_one("q", "vt=0").await["message"], "new");
    let gone: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_dead").await;
    assert!((1..12).contains(&gone), "a few at a time: {gone}");
}

#[tokio::test]
async fn who_has_no_key_does_not_wait_for_the_table_of_keys() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    let sql = "LOCK TABLE pgmq_gateway.idempotency_keys IN SHARE ROW EXCLUSIVE MODE";
    lock.execute(sql).await.expect("locked");
    let transaction = json!({"operations": [{"send": {"queue": "q", "message": 1}}]});
    let hide = json!({"operations": [{"set_vt": {"queue": "q", "msg_id": 1, "vt": 0}}]});
    for (path, body, status) in [
        ("/transactions", &transaction, 200),
        ("/transactions", &hide, 200),
        ("/topics/t/messages", &json!({"message": 1}), 201),
    ] {
        gateway.post(path, &body.to_string()).await.expect(status);
    }
    lock.rollback().await.expect("unlocked");
}

/// How many messages 40 transactions are told of that send ten, each four times.
async fn told(gateway: &Client) -> usize {
    let answers = together(40, |n| {
        let id = format!("d{}", n % 10);
        let send = json!({"queue": "q", "message": 1, "headers": {"x-deduplication-id": id}});
        let body = json!({"operations": [{"send": send}]});
        Answer::of(gateway.request("POST", "/transactions").body(body.to_string()))
    });
    let id = |answer: Answer| answer.expect(200).json()["results"][0]["msg_id"].to_string();
    answers.await.into_iter().map(id).collect::<HashSet<String>>().len()
}

/// In force at this gateway at once.
#[tokio::test]
async fn a_queue_that_is_read_in_groups_from_now_on_deduplicates_what_transactions_send() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    assert_eq!(told(&gateway).await, 40);
    gateway.patch("/queues/q", r#"{"fifo":true}"#).await.expect(200);
    assert_eq!(told(&gateway).await, 10);
}

#[tokio::test]
async fn a_message_of_a_batch_that_meets_a_lock_fails_alone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    gateway.database.execute("CREATE TABLE public.counted AS SELECT 1 AS id, 0 AS n").await;
    on_bad(&gateway, "q", "INSERT", "UPDATE public.counted SET n = n + 1 WHERE id = 1").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("SELECT FROM public.counted FOR UPDATE").await.expect("locked");
    let entry =
        |n: usize| json!({"Id": n.to_string(), "MessageBody": if n == 3 { "bad" } else { "good" }});
    let entries: Vec<Value> = (0..8).map(entry).collect();
    let sent = sqs.done("SendMessageBatch", &json!({"QueueUrl": url, "Entries": entries})).await;
    assert_eq!(sent["Successful"].as_array().map(Vec::len), Some(7), "{sent}");
    assert_eq!(
        (&sent["Failed"][0]["Id"], sent["Failed"].as_array().map(Vec::len)),
        (&json!("3"), Some(1))
    );
    lock.rollback().await.expect("unlocked");
    assert_eq!(gateway.all("q").await.len(), 7);
}

#[tokio::test]
async fn a_role_that_may_not_ask_for_the_servers_name_takes_no_other_database_for_its_own() {
    let gateway = TestGateway::start().await;
    let is_of_here = async |stamp: &str| {
        let sql = format!(
            "SELECT pgmq_gateway.is_of_here(format({stamp}, (SELECT oid FROM pg_database WHERE datname = current_database())))"
        );
        gateway.database.value::<bool>(&sql).await
    };
    assert!(is_of_here("'?/%s'").await);
    assert!(!is_of_here("'?/1%s'").await);
    assert!(!is_of_here("'7/%s'").await);
}

/// One that may call the gateway's functions, and may not work on its queues.
#[tokio::test]
async fn what_a_trigger_does_to_the_role_keeps_no_other_from_being_delivered() {
    for (queue, path) in [
        ("q", "/queues/q/messages?qty=3&vt=0"),
        ("grouped", "/queues/grouped/messages?qty=3&vt=0&fifo=head"),
        ("fair", "/queues/fair/messages?qty=3&vt=0"),
        ("popped", "/queues/popped/messages/pop?qty=3"),
    ] {
        let gateway = TestGateway::start().await;
        gateway.database.execute("GRANT USAGE ON SCHEMA pgmq_gateway TO pg_monitor").await;
        let body = json!({"fifo": queue == "grouped", "settings": {"fair": queue == "fair"}});
        gateway.create_with(queue, &body).await;
        on_bad(&gateway, queue, "UPDATE OR DELETE", DEEDS[0]).await;
        for (n, word) in ["bad", "good", "good"].iter().enumerate() {
            let headers = json!({"x-pgmq-group": n.to_string()});
            let body = json!({"message": word, "headers": headers}).to_string();
            gateway.send(queue, &body).await;
        }
        let method = if queue == "popped" { "POST" } else { "GET" };
        let answer = Answer::of(gateway.request(method, path)).await.expect(200);
        assert_eq!(answer.messages().len(), 3, "{queue}: {}", answer.text);
    }
}
