//! Sequences from which each session takes several ids in advance (CACHE).

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Answer, TestDatabase, TestGateway, guarded::together};

const ONE: &str = r#"{"message":1}"#;

/// As a restore does that sets the sequence aright: sessions that go on have taken ids from it.
async fn restore(database: &TestDatabase, queue: &str) {
    let sql = format!(
        "INSERT INTO pgmq.q_{queue} (msg_id, vt, message) OVERRIDING SYSTEM VALUE
             SELECT i, 'infinity', '0' FROM generate_series(1, 9000) i ON CONFLICT DO NOTHING;
         SELECT setval('pgmq.q_{queue}_msg_id_seq', 10000)"
    );
    database.execute(&sql).await;
}

async fn cache(database: &TestDatabase, queue: &str, ids: u32) {
    database.execute(&format!("ALTER SEQUENCE pgmq.q_{queue}_msg_id_seq CACHE {ids}")).await;
}

#[tokio::test]
async fn ids_that_a_restore_has_brought_are_gone_past() {
    let gateway = TestGateway::start().await;
    let database = &gateway.database;
    gateway.create("q").await;
    cache(database, "q", 200).await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let transaction = json!({"operations": [{"send": {"queue": "q", "message": 1}}]}).to_string();
    let request = |n: i64| match n % 4 {
        0 => gateway.request("POST", "/queues/q/messages").body(ONE.to_owned()),
        1 => gateway
            .request("POST", "/queues/q/messages")
            .header("idempotency-key", format!("k{n}"))
            .body(ONE.to_owned()),
        2 => gateway.request("POST", "/topics/t/messages").body(ONE.to_owned()),
        _ => gateway.request("POST", "/transactions").body(transaction.clone()),
    };
    // All connections take ids.
    for round in 0..4 {
        for answer in together(16, |n| Answer::of(request(n + 100 * round))).await {
            assert!((200..300).contains(&answer.status), "{}", answer.text);
        }
    }
    restore(database, "q").await;
    for round in 4..8 {
        for answer in together(16, |n| Answer::of(request(n + 100 * round))).await {
            assert!((200..300).contains(&answer.status), "{}", answer.text);
        }
    }
    for n in 0..16 {
        let answer = Answer::of(request(900 + n)).await;
        assert!((200..300).contains(&answer.status), "{}", answer.text);
    }
    let beyond = "SELECT count(*) FROM pgmq.q_q WHERE msg_id > 10000";
    assert_eq!(database.value::<i64>(beyond).await, 80);

    // One that has an id of its own is in nobody's way, and says what it is.
    database
        .execute(
            "CREATE FUNCTION public.number() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN new.msg_id := 1; RETURN new; END $$;
             CREATE TRIGGER number BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.number()",
        )
        .await;
    gateway.post("/queues/q/messages", ONE).await.problem(409, "message_conflict");
}

#[tokio::test]
async fn dead_letters_go_past_what_a_restore_has_brought() {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    cache(&gateway.database, "dead", 2000).await;
    let settings = json!({"max_receives": 1, "dead_letter_queue": "dead"});
    gateway.create_with("q", &json!({"settings": settings})).await;
    for message in ["first", "second"] {
        if message == "second" {
            restore(&gateway.database, "dead").await;
        }
        let body = json!({"message": message}).to_string();
        gateway.send("q", &body).await;
        gateway.receive_one("q", "vt=0").await;
        assert!(gateway.receive("q", "").await.is_empty());
        assert_eq!(gateway.receive_one("dead", "vt=600").await["message"], message);
    }
}

#[tokio::test]
async fn messages_in_groups_are_numbered_in_the_order_in_which_they_come() {
    let database = TestDatabase::new().await;
    let first = TestGateway::on(&database, |_| {}).await;
    first.create_with("q", &json!({"fifo": true})).await;
    // The other one knows from its start that the queue is read in groups.
    let gateways = [first, TestGateway::on(&database, |_| {}).await];
    cache(&database, "q", 10).await;
    let group = json!({"x-pgmq-group": "a"});
    let mut ids = Vec::new();
    for (n, gateway) in (1..=12).zip(gateways.iter().cycle()) {
        let body = json!({"message": n, "headers": group});
        ids.push(if n % 3 > 0 {
            gateway.send("q", &body.to_string()).await
        } else {
            let send = json!({"queue": "q", "message": n, "headers": group});
            let transaction = json!({"operations": [{"send": send}]}).to_string();
            let done = gateway.post("/transactions", &transaction).await.expect(200).json();
            done["results"][0]["msg_id"].as_i64().expect("an id")
        });
    }
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 12);
    let received = gateways[0].receive("q", "fifo=grouped&qty=20").await;
    let order: Vec<_> = received.iter().filter_map(|message| message["message"].as_i64()).collect();
    assert_eq!(order, (1..=12).collect::<Vec<_>>());
}
