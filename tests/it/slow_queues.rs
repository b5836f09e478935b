//! Queues whose tables take their time: who has nothing to do with them does not wait for them.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    auth::{ADMIN, with_admin},
    shared_transactions::transaction,
    support::{Answer, Client, TestDatabase, TestGateway, eventually, guarded::together},
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
        settings.database.statement_timeout_ms = 60_000;
        settings.server.request_timeout_seconds = 90;
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

const GATE: &str = "CREATE TABLE public.gate AS SELECT 1 AS closed; \
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
