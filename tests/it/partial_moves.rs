//! What is done in several steps, between which others come first: what was done is told, whatever keeps the next step
//! from beginning.

use crate::support::{Client, TestGateway};

/// So long that others have given up waiting.
const SLOW: &str = "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(1.5); RETURN coalesce(NEW, OLD); END'";

/// With one connection, for which nobody waits for long.
async fn crowded() -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.database.max_connections = 1;
        settings.database.acquire_timeout_ms = 500;
    })
    .await;
    gateway.database.execute(SLOW).await;
    for queue in ["q", "dead"] {
        gateway.database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
    }
    gateway
}

/// Asks for something until there is nothing left to do, and adds up what was told.
async fn ask(client: Client, path: &str, body: &str, told: &str) -> i64 {
    let mut sum = 0;
    loop {
        let answer = client.post(path, body).await;
        if answer.status == 503 {
            answer.problem(503, "overloaded");
            continue;
        }
        match answer.expect(200).json()[told].as_i64().expect("a number") {
            0 => return sum,
            count => sum += count,
        }
    }
}

/// Several at once do.
async fn ask_all(
    gateway: &TestGateway,
    path: &'static str,
    body: &'static str,
    told: &'static str,
) -> i64 {
    let asking = (0..4).map(|_| tokio::spawn(ask(gateway.client.clone(), path, body, told)));
    let mut sum = 0;
    for asked in asking.collect::<Vec<_>>() {
        sum += asked.await.expect("no panic");
    }
    sum
}

async fn has_sent(gateway: &TestGateway, count: usize) {
    let metrics = gateway.get("/metrics").await.expect(200).text;
    let line = format!("pgmq_gateway_messages_sent_total{{queue=\"q\"}} {count}\n");
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test]
async fn replays_that_are_in_each_others_way_tell_of_every_message() {
    let gateway = crowded().await;
    let fill = "INSERT INTO pgmq.a_q (msg_id, enqueued_at, vt, message)
        SELECT n, now(), now(), to_jsonb(n) FROM generate_series(1, 1500) n;
        CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_q FOR EACH ROW
        WHEN ((NEW.message #>> '{}')::integer % 500 = 0) EXECUTE FUNCTION public.slow()";
    gateway.database.execute(fill).await;
    assert_eq!(ask_all(&gateway, "/queues/q/archive/replay", "{}", "replayed").await, 1_500);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 1_500);
    has_sent(&gateway, 1_500).await;
}

#[tokio::test]
async fn redrives_that_are_in_each_others_way_tell_of_every_message() {
    let gateway = crowded().await;
    let fill = "INSERT INTO pgmq.q_dead (vt, message)
        SELECT now(), to_jsonb(n) FROM generate_series(1, 1500) n;
        CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_q FOR EACH ROW
        WHEN ((NEW.message #>> '{}')::integer % 500 = 0) EXECUTE FUNCTION public.slow()";
    gateway.database.execute(fill).await;
    assert_eq!(ask_all(&gateway, "/queues/dead/redrive", r#"{"to":"q"}"#, "moved").await, 1_500);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 1_500);
    has_sent(&gateway, 1_500).await;
}

#[tokio::test]
async fn purges_that_are_in_each_others_way_tell_of_every_message() {
    let gateway = crowded().await;
    let fill = "INSERT INTO pgmq.q_q (vt, message)
        SELECT now(), '1' FROM generate_series(1, 15000);
        CREATE TRIGGER slow BEFORE DELETE ON pgmq.q_q FOR EACH ROW
        WHEN (OLD.msg_id % 5000 = 0) EXECUTE FUNCTION public.slow()";
    gateway.database.execute(fill).await;
    assert_eq!(ask_all(&gateway, "/queues/q/purge", "", "purged").await, 15_000);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 0);
}
