//! Pops and looks by id that come together: they share statements, and what is in the way of one is in the way of
//! no other.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};

use crate::support::{
    Answer, Client, Holder, TestGateway, eventually,
    holder::{LOCK_LIMIT, LOCK_PATIENCE},
};

fn pop(client: &Client, qty: usize) -> JoinHandle<Answer> {
    let path = format!("/queues/q/messages/pop?qty={qty}");
    tokio::spawn(Answer::of(client.request("POST", &path)))
}

fn look(client: &Client, id: i64) -> JoinHandle<Answer> {
    let path = format!("/queues/q/messages/{id}");
    tokio::spawn(Answer::of(client.request("GET", &path)))
}

async fn all(requests: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for request in requests {
        answers.push(request.await.expect("no panic"));
    }
    answers
}

/// Stores messages, numbered from 1.
async fn fill(client: &Client, count: usize) {
    let messages: Vec<Value> = (1..=count).map(|n| json!({"message": n})).collect();
    let batch = json!({"messages": messages}).to_string();
    client.post("/queues/q/messages/batch", &batch).await.expect(201);
}

async fn with_messages(count: usize) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    fill(&gateway, count).await;
    gateway
}

/// Notes each statement that deletes messages.
const NOTE_DELETES: &str = "CREATE TABLE deletes (n serial);
    CREATE FUNCTION note_delete() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.deletes DEFAULT VALUES; RETURN NULL; END';
    CREATE TRIGGER note AFTER DELETE ON pgmq.q_q EXECUTE FUNCTION note_delete()";

/// Waits until a gateway has so many requests in hand, besides the one that asks.
async fn until_in_hand(gateway: &TestGateway, requests: usize) {
    let line = format!("pgmq_gateway_requests_in_flight {}", requests + 1);
    eventually("they are in hand", async || {
        let metrics = gateway.get("/metrics").await.text;
        metrics.lines().any(|one| one == line).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_crowd_that_pops_shares_statements_and_each_message_is_given_once() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    for _ in 0..3 {
        fill(&gateways[0], 100).await;
    }
    gateways[0].database.execute(NOTE_DELETES).await;
    let pops = (0..100).map(|n| pop(&gateways[n % 2], 1 + n % 5)).collect();
    let mut seen = BTreeMap::new();
    for (n, answer) in all(pops).await.into_iter().enumerate() {
        let messages = answer.expect(200).messages();
        assert!(messages.len() <= 1 + n % 5, "{n} was given {}", messages.len());
        assert!(messages.is_sorted_by_key(|message| message["msg_id"].as_i64()));
        for message in messages {
            *seen.entry(message["msg_id"].as_i64().expect("an id")).or_insert(0) += 1;
        }
    }
    assert_eq!(seen.len(), 300);
    assert!(seen.values().all(|count| *count == 1), "{seen:?}");
    assert!(gateways[0].all("q").await.is_empty());
    let database = &gateways[0].database;
    let statements = database.value::<i64>("SELECT count(*) FROM deletes").await;
    assert!(statements < 60, "{statements} statements for 100 requests");
    let metrics = gateways[0].get("/metrics").await.text;
    assert!(metrics.contains("pgmq_gateway_messages_deleted_total{queue=\"q\"}"), "{metrics}");
}

/// In order of arrival, and what is left over goes to nobody.
#[tokio::test]
async fn there_are_fewer_messages_than_are_wanted() {
    let gateway = with_messages(7).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "EXCLUSIVE").await;
    let pops: Vec<_> = (0..5).map(|_| pop(&gateway, 2)).collect();
    until_in_hand(&gateway, 5).await;
    holder.commit().await;
    let mut counts = Vec::new();
    for answer in all(pops).await {
        counts.push(answer.expect(200).messages().len());
    }
    counts.sort_unstable();
    assert_eq!(counts, [0, 1, 2, 2, 2]);
}

/// One that would make an answer too large stays, and those it was meant for get it all the same.
#[tokio::test]
async fn what_does_not_fit_in_one_answer_is_still_there() {
    for trigger in [false, true] {
        let gateway = TestGateway::with(|settings| settings.limits.max_answer_bytes = 4_000).await;
        gateway.create("q").await;
        if trigger {
            // Rows are deleted one by one then.
            let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END';
                CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION keep()";
            gateway.database.execute(keep).await;
        }
        for n in 0..12 {
            let length = if n == 11 { 8_000 } else { 1_500 };
            gateway.send("q", &json!({"message": "x".repeat(length)}).to_string()).await;
        }
        let popped = pop(&gateway, 10).await.expect("no panic").expect(200).messages();
        assert_eq!(popped.len(), 2, "{trigger}");
        let pops: Vec<_> = (0..10).map(|_| pop(&gateway, 1)).collect();
        for answer in all(pops).await {
            assert_eq!(answer.expect(200).messages().len(), 1, "{trigger}: there is one for each");
        }
        assert!(gateway.all("q").await.is_empty(), "{trigger}");
    }
}

#[tokio::test]
async fn a_row_that_may_not_be_deleted_keeps_no_other_from_being_popped() {
    let gateway = with_messages(30).await;
    let held = "CREATE TABLE held (msg_id bigint REFERENCES pgmq.q_q (msg_id)); INSERT INTO held VALUES (1), (9)";
    gateway.database.execute(held).await;
    let pops: Vec<_> = (0..28).map(|_| pop(&gateway, 1)).collect();
    for answer in all(pops).await {
        assert_eq!(answer.expect(200).messages().len(), 1);
    }
    let left: Vec<_> = gateway.all("q").await.iter().map(|m| m["msg_id"].clone()).collect();
    assert_eq!(left, [1, 9]);
}

#[tokio::test]
async fn a_crowd_that_looks_shares_statements_and_each_sees_its_own() {
    let gateway = with_messages(50).await;
    gateway.post("/queues/q/messages/pop?qty=5", "").await.expect(200);
    let looks = (1..=60).chain(1..=60).map(|id| look(&gateway, id)).collect();
    for (n, answer) in all(looks).await.into_iter().enumerate() {
        let id = n % 60 + 1;
        if (6..=50).contains(&id) {
            let message = answer.expect(200).json();
            assert_eq!((&message["msg_id"], &message["message"]), (&json!(id), &json!(id)));
            assert_eq!(message["read_ct"], 0, "it is not leased");
        } else {
            answer.problem(404, "message_not_found");
        }
    }
    let nowhere = gateway.get("/queues/nowhere/messages/1").await;
    nowhere.problem(404, "queue_not_found");
}

/// Large ones are not all held at once, and one that cannot be read fails who wants it; not who wants the one before
/// it, which is gone.
#[tokio::test]
async fn a_message_that_is_in_the_way_of_a_look_concerns_who_wants_it() {
    let gateway = TestGateway::with(|settings| settings.limits.max_answer_bytes = 4_000).await;
    gateway.create("q").await;
    for n in 0..20 {
        gateway.send("q", &json!({"message": [n, "x".repeat(1_500)]}).to_string()).await;
    }
    let ones = format!("[{}0]", "1e131071,".repeat(9_000));
    gateway
        .database
        .execute(&format!(
            "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), '{ones}');
             DELETE FROM pgmq.q_q WHERE msg_id = 20"
        ))
        .await;
    let looks = (1..=21).map(|id| look(&gateway, id)).collect();
    for (n, answer) in all(looks).await.into_iter().enumerate() {
        if n == 20 {
            answer.problem(422, "message_rejected");
        } else if n == 19 {
            answer.problem(404, "message_not_found");
        } else {
            assert_eq!(answer.expect(200).json()["message"][0], n);
        }
    }
}

/// To look needs no more than that: it goes on where the table is locked against changes.
#[tokio::test]
async fn a_table_that_is_locked_against_changes_can_be_looked_at() {
    let gateway = with_messages(3).await;
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "EXCLUSIVE").await;
    let stuck = pop(&gateway, 1);
    until_in_hand(&gateway, 1).await;
    let looks = (1..=3).map(|id| look(&gateway, id)).collect();
    for answer in timeout(LOCK_PATIENCE, all(looks)).await.expect("at once") {
        answer.expect(200);
    }
    holder.commit().await;
    assert_eq!(stuck.await.expect("no panic").expect(200).messages().len(), 1);
    let holder = Holder::of_tables(&gateway.database, &["q_q"], "ACCESS EXCLUSIVE").await;
    let stuck = timeout(LOCK_LIMIT, look(&gateway, 2)).await.expect("told").expect("no panic");
    assert!(stuck.problem(503, "overloaded").detail().contains("another transaction"));
    holder.commit().await;
    look(&gateway, 2).await.expect("no panic").expect(200);
}

/// What the first one took is gone unseen, maybe; a second one would take more.
#[tokio::test]
async fn a_pop_that_got_no_answer_is_not_repeated() {
    let gateway = TestGateway::with(|settings| settings.database.statement_timeout_ms = 500).await;
    gateway.create("q").await;
    fill(&gateway, 5).await;
    // A delete waits, whoever tells it to stop, until a message is gone that takes too much to be read.
    let sql = "SELECT pgmq.send('q', ('[' || repeat('1e131071,', 600) || '0]')::jsonb);
        CREATE FUNCTION public.linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            WHILE EXISTS (SELECT FROM pgmq.q_q WHERE msg_id = 6) LOOP
                BEGIN PERFORM pg_sleep(0.01); EXCEPTION WHEN query_canceled THEN NULL; END;
            END LOOP;
            RETURN NULL;
        END $$;
        CREATE TRIGGER linger AFTER DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.linger()";
    gateway.database.execute(sql).await;
    let mut unknown = 0_i64;
    let popped = eventually("whoever pops next is not held up", async || {
        let answer = gateway.post("/queues/q/messages/pop", "").await;
        if answer.status == 200 {
            return Some(answer.messages());
        }
        answer.problem(503, "outcome_unknown");
        unknown += 1;
        None
    })
    .await;
    assert_eq!(popped.len(), 1);
    let under_way = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '/* pop */%' AND state <> 'idle'";
    eventually("all have ended", async || {
        (gateway.database.value::<i64>(under_way).await == 0).then_some(())
    })
    .await;
    // Each took one at most, of those that nobody was told of.
    let left = "SELECT count(*) FROM pgmq.q_q WHERE msg_id < 6";
    let left: i64 = gateway.database.value(left).await;
    assert!(unknown > 0 && left >= 4 - unknown, "{left} are left, {unknown} are unknown");
}
