//! Queues whose tables take their time: who has nothing to do with them does not wait for them.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    auth::{ADMIN, with_admin},
    shared_transactions::transaction,
    support::{
        Answer, Client, TestDatabase, TestGateway, eventually, gateway::patient, guarded::together,
    },
};

/// As many as there are connections.
const CROWD: i64 = 8;

fn send(queue: &str, message: impl Into<Value>) -> Value {
    json!({"send": {"queue": queue, "message": message.into()}})
}

fn transact(client: &Client, queues: &[&str]) -> impl Future<Output = Answer> + use<> {
    let sends: Vec<Value> = queues.iter().map(|queue| send(queue, 1)).collect();
    Answer::of(client.request("POST", "/transactions").body(transaction(&sends)))
}

fn publish(client: &Client, routing_key: &str) -> impl Future<Output = Answer> + use<> {
    let path = format!("/topics/{routing_key}/messages");
    Answer::of(client.request("POST", &path).body(r#"{"message":1}"#))
}

/// A gateway, its client with a key or without, and queues, of which some take nothing for as long as there is a row in `gate`.
async fn start(with_key: bool, slow: &[&str]) -> (TestGateway, Client) {
    let gateway = TestGateway::with(|settings| {
        if with_key {
            with_admin(settings);
        }
        patient(settings);
    })
    .await;
    let client = if with_key { gateway.with_key(ADMIN) } else { gateway.client.clone() };
    gateway.database.execute(GATE).await;
    for queue in ["ok1", "ok2"].iter().chain(slow) {
        client.create(queue).await;
    }
    client.post("/queues/ok1/bindings", r#"{"pattern":"ok.*"}"#).await.expect(201);
    publish(&client, "ok.x").await.expect(201);
    for queue in slow {
        let trigger = format!(
            "CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_{queue} \
             FOR EACH ROW EXECUTE FUNCTION wait_at_gate()"
        );
        gateway.database.execute(&trigger).await;
    }
    (gateway, client)
}

pub(crate) const GATE: &str = "CREATE TABLE public.gate AS SELECT 1 AS closed; \
    CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.02); END LOOP; \
        RETURN NEW; END $$";

/// Waits until so many stand at the gate, each apart from others.
async fn wait_for_slow(database: &TestDatabase, count: i64) {
    let sql = "SELECT count(*) FILTER (WHERE query LIKE '/* transact */%') - \
                      100 * count(*) FILTER (WHERE query NOT LIKE '/* transact */%') \
               FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("slow ones are under way", async || {
        (database.value::<i64>(sql).await >= count).then_some(())
    })
    .await;
}

/// Some that come alone, and some that come together.
async fn others_are_served(client: &Client) {
    for _ in 0..5 {
        transact(client, &["ok1", "ok2"]).await.expect(200);
        publish(client, "ok.x").await.expect(201);
    }
    for _ in 0..3 {
        for answer in together(20, |_| transact(client, &["ok1", "ok2"])).await {
            answer.expect(200);
        }
        for answer in together(20, |_| publish(client, "ok.x")).await {
            answer.expect(201);
        }
    }
}

/// Lets the slow ones go on. None of them is told anything but what it came to.
async fn finish(gateway: &TestGateway, slow: JoinSet<Answer>) {
    gateway.database.execute("DELETE FROM public.gate").await;
    let answers = slow.join_all().await;
    assert!(answers.iter().any(|answer| matches!(answer.status, 200 | 201)));
    for answer in answers {
        if !matches!(answer.status, 200 | 201) {
            answer.problem(503, "overloaded");
        }
    }
}

#[tokio::test]
async fn transactions_with_a_slow_queue_leave_room_for_others() {
    for (with_key, count) in [(false, 2), (true, 1)] {
        let (gateway, client) = start(with_key, &["bad"]).await;
        let mut slow = JoinSet::new();
        for _ in 0..CROWD {
            slow.spawn(transact(&client, &["bad"]));
        }
        wait_for_slow(&gateway.database, count).await;
        others_are_served(&client).await;
        finish(&gateway, slow).await;
    }
}

#[tokio::test]
async fn publications_to_a_slow_queue_leave_room_for_others() {
    let (gateway, client) = start(true, &["bad"]).await;
    client.post("/queues/bad/bindings", r#"{"pattern":"bad.*"}"#).await.expect(201);
    let mut slow = JoinSet::new();
    for n in 0..CROWD {
        slow.spawn(publish(&client, &format!("bad.{n}")));
    }
    wait_for_slow(&gateway.database, 1).await;
    others_are_served(&client).await;
    finish(&gateway, slow).await;
}

#[tokio::test]
async fn transactions_with_several_slow_queues_leave_room_for_others() {
    let (gateway, client) = start(true, &["bad1", "bad2", "bad3"]).await;
    let mut slow = JoinSet::new();
    for _ in 0..CROWD {
        for queue in ["bad1", "bad2", "bad3"] {
            slow.spawn(transact(&client, &[queue]));
        }
    }
    wait_for_slow(&gateway.database, 2).await;
    others_are_served(&client).await;
    finish(&gateway, slow).await;
}

/// Queue `q` with a trigger at which a message "slow" waits for as long as there is a row in `gate`.
async fn start_with_slow_message(when: &str, statement_timeout_ms: u64) -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.database.statement_timeout_ms = statement_timeout_ms;
        settings.server.request_timeout_seconds = 90;
    })
    .await;
    gateway.create("q").await;
    let row = if when == "DELETE" { "OLD" } else { "NEW" };
    let trigger = format!(
        "{GATE}; CREATE TRIGGER slow AFTER {when} ON pgmq.q_q FOR EACH ROW \
         WHEN ({row}.message = '\"slow\"') EXECUTE FUNCTION wait_at_gate()"
    );
    gateway.database.execute(&trigger).await;
    gateway
}

fn send_word(gateway: &TestGateway, word: &str) -> impl Future<Output = Answer> + use<> {
    let body = json!({"message": word}).to_string();
    Answer::of(gateway.request("POST", "/queues/q/messages").body(body))
}

fn receive(gateway: &TestGateway, query: &str) -> impl Future<Output = Answer> + use<> {
    Answer::of(gateway.request("GET", &format!("/queues/q/messages?{query}")))
}

fn delete(gateway: &TestGateway, id: i64) -> impl Future<Output = Answer> + use<> {
    Answer::of(gateway.request("DELETE", &format!("/queues/q/messages/{id}")))
}

pub(crate) async fn wait_at_gate(database: &TestDatabase) {
    wait_for_all_at_gate(database, 1).await;
}

async fn wait_for_all_at_gate(database: &TestDatabase, count: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("they stand at the gate", async || {
        (database.value::<i64>(sql).await >= count).then_some(())
    })
    .await;
}

/// Sends them one after the other, and returns their ids.
async fn send_all(gateway: &TestGateway, words: &[&str]) -> Vec<i64> {
    let mut ids = Vec::new();
    for word in words {
        let sent = send_word(gateway, word).await.expect(201).json();
        ids.push(sent["msg_id"].as_i64().expect("an id"));
    }
    ids
}

#[tokio::test]
async fn sends_do_not_wait_for_a_slow_message() {
    let gateway = start_with_slow_message("INSERT", 60_000).await;
    let slow = tokio::spawn(send_word(&gateway, "slow"));
    wait_at_gate(&gateway.database).await;
    send_word(&gateway, "alone").await.expect(201);
    for answer in together(20, |_| send_word(&gateway, "together")).await {
        answer.expect(201);
    }
    assert!(!slow.is_finished());
    gateway.database.execute("DELETE FROM public.gate").await;
    slow.await.expect("no panic").expect(201);
}

/// As many as others go beside.
#[tokio::test]
async fn sends_do_not_wait_for_several_slow_messages() {
    let gateway = start_with_slow_message("INSERT", 60_000).await;
    let mut slow = JoinSet::new();
    for count in 1..=3 {
        slow.spawn(send_word(&gateway, "slow"));
        wait_for_all_at_gate(&gateway.database, count).await;
    }
    send_word(&gateway, "alone").await.expect(201);
    for answer in together(20, |_| send_word(&gateway, "together")).await {
        answer.expect(201);
    }
    assert!(slow.try_join_next().is_none());
    gateway.database.execute("DELETE FROM public.gate").await;
    for answer in slow.join_all().await {
        answer.expect(201);
    }
}

#[tokio::test]
async fn sends_do_not_wait_for_a_slow_batch_of_the_largest_size() {
    let gateway = TestGateway::with(|settings| {
        settings.engine.max_batch_bytes = 1_024;
        patient(settings);
    })
    .await;
    gateway.create("q").await;
    let trigger = "CREATE TRIGGER slow AFTER INSERT ON pgmq.q_q FOR EACH ROW \
        WHEN (length(NEW.message::text) > 1000) EXECUTE FUNCTION wait_at_gate()";
    gateway.database.execute(&format!("{GATE}; {trigger}")).await;
    let slow = tokio::spawn(send_word(&gateway, &"slow".repeat(1_000)));
    wait_at_gate(&gateway.database).await;
    for _ in 0..3 {
        send_word(&gateway, "small").await.expect(201);
    }
    assert!(!slow.is_finished());
    gateway.database.execute("DELETE FROM public.gate").await;
    slow.await.expect("no panic").expect(201);
}

#[tokio::test]
async fn deletes_do_not_wait_for_a_slow_message() {
    let gateway = start_with_slow_message("DELETE", 60_000).await;
    let ids = send_all(&gateway, &["slow", "1", "2", "3"]).await;
    let slow = tokio::spawn(delete(&gateway, ids[0]));
    wait_at_gate(&gateway.database).await;
    for id in &ids[1..] {
        delete(&gateway, *id).await.expect(204);
    }
    assert!(!slow.is_finished());
    gateway.database.execute("DELETE FROM public.gate").await;
    slow.await.expect("no panic").expect(204);
}

#[tokio::test]
async fn deletes_do_not_wait_for_several_slow_messages() {
    let gateway = start_with_slow_message("DELETE", 60_000).await;
    let ids = send_all(&gateway, &["slow", "slow", "slow", "1", "2"]).await;
    let mut slow = JoinSet::new();
    for (id, count) in ids[..3].iter().zip(1..) {
        slow.spawn(delete(&gateway, *id));
        wait_for_all_at_gate(&gateway.database, count).await;
    }
    for id in &ids[3..] {
        delete(&gateway, *id).await.expect(204);
    }
    assert!(slow.try_join_next().is_none());
    gateway.database.execute("DELETE FROM public.gate").await;
    for answer in slow.join_all().await {
        answer.expect(204);
    }
}

#[tokio::test]
async fn receives_do_not_wait_for_several_slow_messages() {
    let gateway = start_with_slow_message("UPDATE", 60_000).await;
    send_all(&gateway, &["slow", "slow", "slow", "1", "2"]).await;
    for word in ["1", "2"] {
        let received = receive(&gateway, "qty=1&vt=60").await.expect(200).messages();
        assert_eq!(received[0]["message"], word);
    }
    wait_for_all_at_gate(&gateway.database, 3).await;
    // Another queue, and what else is done to this one, have their connections.
    gateway.create("other").await;
    send_word(&gateway, "3").await.expect(201);
    gateway.database.execute("DELETE FROM public.gate").await;
    let mut received = Vec::new();
    while received.len() < 4 {
        received.extend(receive(&gateway, "qty=10&vt=60&wait=20").await.expect(200).messages());
    }
    assert!(received.iter().all(|message| message["read_ct"] == 1));
}

#[tokio::test]
async fn receives_do_not_wait_for_a_slow_message() {
    let gateway = start_with_slow_message("UPDATE", 60_000).await;
    send_all(&gateway, &["slow", "1", "2", "3"]).await;
    let receive = |query: &str| receive(&gateway, &format!("vt=60&{query}"));
    // The slow one comes first, and is in nobody's way.
    for word in ["1", "2"] {
        let received = receive("qty=1").await.expect(200).messages();
        assert_eq!(received[0]["message"], word);
    }
    wait_at_gate(&gateway.database).await;
    let received = receive("qty=10&wait=20").await.expect(200).messages();
    assert_eq!((received.len(), &received[0]["message"]), (1, &json!("3")));
    assert_eq!(receive("qty=1").await.expect(200).messages().len(), 0);
    let waiting = tokio::spawn(receive("qty=1&wait=20"));
    gateway.wait_for_waiters("q", 1).await;
    send_word(&gateway, "4").await.expect(201);
    let received = waiting.await.expect("no panic").expect(200).messages();
    assert_eq!(received[0]["message"], "4");
    gateway.database.execute("DELETE FROM public.gate").await;
    // Whom it was for has gone with another one.
    let received = receive("qty=1&wait=20").await.expect(200).messages();
    assert_eq!((&received[0]["message"], &received[0]["read_ct"]), (&json!("slow"), &json!(1)));
}

/// More than others go beside, and each takes all the time that there is, each time.
#[tokio::test]
async fn messages_behind_many_slow_ones_are_received() {
    for (is_fair, query) in [(false, ""), (false, "&fifo=head"), (true, "")] {
        let gateway = start_with_slow_message("UPDATE", 2_000).await;
        let before = "DROP TRIGGER slow ON pgmq.q_q; CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_q FOR EACH ROW \
                      WHEN (NEW.message = '\"slow\"') EXECUTE FUNCTION wait_at_gate()";
        gateway.database.execute(before).await;
        if is_fair {
            gateway.configure("q", json!({"fair": true})).await.expect(200);
        }
        for n in 0..11 {
            let word = if n < 8 { "slow".to_owned() } else { n.to_string() };
            let group = json!({"x-pgmq-group": n.to_string()});
            gateway.send("q", &json!({"message": word, "headers": group}).to_string()).await;
        }
        let mut received = Vec::new();
        eventually("the others are received", async || {
            let answer = receive(&gateway, &format!("qty=1&vt=600{query}")).await;
            if answer.status == 200 {
                received.extend(answer.messages().iter().map(|one| one["message"].clone()));
            } else {
                answer.problem(503, "database_unavailable");
            }
            (received.len() == 3).then_some(())
        })
        .await;
        assert!(received.iter().all(|word| word != "slow"), "{received:?}");
        // They are as they were.
        let left = "SELECT count(*) FROM pgmq.q_q WHERE read_ct = 0 AND vt <= now()";
        assert_eq!(gateway.database.value::<i64>(left).await, 8);
    }
}

#[tokio::test]
async fn who_is_sent_with_a_message_that_takes_too_long_is_stored() {
    let gateway = start_with_slow_message("INSERT", 3_000).await;
    let answers =
        together(40, |n| send_word(&gateway, if n == 20 { "slow" } else { "other" })).await;
    for (n, answer) in answers.into_iter().enumerate() {
        if n == 20 {
            answer.problem(503, "database_unavailable");
        } else {
            answer.expect(201);
        }
    }
    let stored: i64 = gateway.database.value("SELECT count(*) FROM pgmq.q_q").await;
    assert_eq!(stored, 39);
}

#[tokio::test]
async fn who_is_deleted_with_a_message_that_takes_too_long_is_gone() {
    let gateway = start_with_slow_message("DELETE", 3_000).await;
    let mut words = vec!["other"; 40];
    words[20] = "slow";
    let ids = send_all(&gateway, &words).await;
    for (n, answer) in together(40, |n| delete(&gateway, ids[usize::try_from(n).expect("small")]))
        .await
        .into_iter()
        .enumerate()
    {
        if n == 20 {
            answer.problem(503, "database_unavailable");
        } else {
            answer.expect(204);
        }
    }
    let left: i64 = gateway.database.value("SELECT sum(msg_id)::bigint FROM pgmq.q_q").await;
    assert_eq!(left, ids[20]);
}

#[tokio::test]
async fn who_is_not_served_in_time_is_told_so() {
    let gateway = TestGateway::with(|settings| {
        settings.database.statement_timeout_ms = 60_000;
        settings.server.request_timeout_seconds = 3;
    })
    .await;
    gateway.create("q").await;
    let trigger = "CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION wait_at_gate()";
    gateway.database.execute(&format!("{GATE}; {trigger}")).await;
    gateway.send("q", r#"{"message":"slow"}"#).await;
    let answer = receive(&gateway, "qty=1").await.problem(503, "overloaded");
    assert!(answer.detail().contains("`server.request_timeout_seconds`"), "{}", answer.detail());
    assert!(!answer.detail().contains("statement_timeout"), "{}", answer.detail());
    gateway.database.execute("DELETE FROM public.gate").await;
}
