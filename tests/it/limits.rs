//! What a request may take, and what a client is told that takes more.

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::task::JoinSet;

use super::{
    floods::{WAIT_FOR_GO, until_it_waits},
    support::{TestGateway, eventually, raw},
};

/// `count` entries, and then one that is none.
fn spoiled(entry: &str, count: usize) -> String {
    format!("[{}1]", format!("{entry},").repeat(count))
}

#[tokio::test]
async fn a_list_is_read_no_further_than_it_may_be_long() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let entry = r#"{"msg_id":1}"#;
    for (path, field, list, bound) in [
        ("/transactions", "operations", spoiled("{}", 101), "1 to 100 entries"),
        ("/queues/q/messages/settle", "delete", spoiled(entry, 1001), "0 to 1000 entries"),
        ("/queues/q/messages/settle", "archive", spoiled(entry, 1001), "0 to 1000 entries"),
        ("/queues/q/messages/settle", "retry", spoiled(entry, 1001), "0 to 1000 entries"),
        (
            "/queues/q/messages/batch",
            "messages",
            spoiled(r#"{"message":1}"#, 1001),
            "1 to 1000 entries",
        ),
        ("/queues/q/archive/replay", "msg_ids", spoiled("1", 1001) + "x", "0 to 1000 entries"),
    ] {
        let refused = gateway.post(path, &format!("{{\"{field}\":{list}}}")).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.starts_with(&format!("`{field}` must hold {bound}")), "{detail}");
    }
}

#[tokio::test]
async fn a_problem_repeats_little_of_what_was_sent() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let long = "ä".repeat(1 << 20);
    let body = format!("{{\"{long}\":1}}");
    for path in ["/queues/q/messages", "/queues/q/messages/settle", "/transactions"] {
        let refused = gateway.post(path, &body).await.problem(400, "invalid_request");
        let detail = refused.detail();
        assert!(detail.starts_with("body: unknown field `ä"), "{detail}");
        assert!(detail.chars().count() == 1_001 && detail.ends_with('…'), "{}", detail.len());
    }
}

/// A figure of the gateway's.
pub async fn figure(gateway: &TestGateway, name: &str) -> f64 {
    let text = gateway.get("/metrics").await.expect(200).text;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or("0").parse().expect("a number")
}

pub async fn in_flight_bytes(gateway: &TestGateway) -> f64 {
    figure(gateway, "pgmq_gateway_in_flight_bytes").await
}

/// What a client left behind in a lane counts until it is stored or given up.
#[tokio::test]
async fn bytes_count_for_as_long_as_they_are_there() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.database.execute(WAIT_FOR_GO).await;
    let mut senders = JoinSet::new();
    for _ in 0..3 {
        let client = gateway.client.clone();
        let batch = json!({"messages": [{"message": "a".repeat(1_000_000)}]}).to_string();
        senders.spawn(async move { client.post("/queues/q/messages/batch", &batch).await });
    }
    let all = eventually("all is in hand", async || {
        Some(in_flight_bytes(&gateway).await).filter(|bytes| *bytes >= 3e6)
    })
    .await;
    until_it_waits(&gateway.database).await;
    senders.shutdown().await;
    eventually("the clients have gone", async || {
        let requests = figure(&gateway, "pgmq_gateway_requests_in_flight").await;
        (requests <= 1.0).then_some(())
    })
    .await;
    let held = in_flight_bytes(&gateway).await;
    assert!(held >= 1e6 && held <= all, "{held} of {all}");
    gateway.database.execute("INSERT INTO public.go VALUES (1)").await;
    nothing_in_flight(&gateway).await;
}

/// Bodies and answers that there is no room for are refused, and small ones are not.
#[tokio::test]
async fn bytes_in_hand_are_bounded() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.limits.max_in_flight_bytes = 1 << 20;
    })
    .await;
    gateway.create("q").await;
    gateway.create("stuck").await;
    let large = json!({"message": "a".repeat(700_000)}).to_string();
    let id = gateway.send("q", &large).await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_stuck IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let (client, body) = (gateway.client.clone(), large.clone());
    let sender = tokio::spawn(async move { client.post("/queues/stuck/messages", &body).await });
    eventually("the first is in hand", async || {
        (in_flight_bytes(&gateway).await > 0.0).then_some(())
    })
    .await;
    gateway.send("q", r#"{"message":"small"}"#).await;
    let message = format!("/queues/q/messages/{id}");
    let answers = [
        gateway.post("/queues/q/messages", &large).await,
        gateway.get(&message).await,
        gateway.patch(&message, r#"{"vt":0}"#).await,
        gateway.get("/queues/q/peek").await,
        gateway.get("/queues/q/messages?qty=2").await,
    ];
    for answer in answers {
        let answer = answer.problem(503, "overloaded");
        assert_eq!(answer.header("retry-after"), "1");
    }
    let refused =
        figure(&gateway, "pgmq_gateway_refused_total{limit=\"max_in_flight_bytes\"}").await;
    assert!((refused - 5.0).abs() < 0.1, "{refused}");
    lock.rollback().await.expect("unlocked");
    sender.await.expect("no panic").expect(201);
    // What was refused as an answer was given back.
    eventually("there is room", async || {
        let answer = gateway.get("/queues/q/messages?vt=0&qty=2").await;
        (answer.status == 200 && answer.messages().len() == 2).then_some(())
    })
    .await;
}

/// What is popped cannot be given back: where there is no room it stays.
#[tokio::test]
async fn nothing_is_popped_where_there_is_no_room() {
    let gateway = TestGateway::with(|settings| {
        settings.supabase.enabled = true;
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.limits.max_in_flight_bytes = 1 << 20;
    })
    .await;
    gateway.create("q").await;
    let large = json!({"message": "a".repeat(700_000)}).to_string();
    for _ in 0..5 {
        gateway.send("q", &large).await;
    }
    let left = async || gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await;
    // The second is more than there is room for, and whoever comes then is told so.
    let mut client = raw::unwilling(gateway.gateway.address().expect("TCP")).await;
    let mut answers = Vec::new();
    for status in [200, 200, 503, 503] {
        let request = hyper::Request::post("http://localhost/queues/q/messages/pop");
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let answer = client.send_request(request).await.expect("answered");
        assert_eq!(answer.status(), status);
        answers.push(answer);
    }
    assert_eq!(left().await, 3);
    gateway.post("/rest/v1/rpc/pop", r#"{"queue_name":"q"}"#).await.expect(503);
    assert_eq!(left().await, 3);
    drop((answers, client));
    nothing_in_flight(&gateway).await;
    for _ in 0..3 {
        gateway.post("/queues/q/messages/pop", "").await.expect(200);
    }
    assert_eq!(left().await, 0);
}

async fn nothing_in_flight(gateway: &TestGateway) {
    eventually("nothing is in hand", async || {
        (in_flight_bytes(gateway).await == 0.0).then_some(())
    })
    .await;
}

/// The limits are no multiples of what is taken at a time.
#[tokio::test]
async fn what_is_just_within_the_limits_is_served() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 2_000_000;
        settings.limits.max_answer_bytes = 2_000_000;
        settings.limits.max_in_flight_bytes = 2_000_000;
    })
    .await;
    gateway.create("q").await;
    let message = json!({"message": "a".repeat(985_000)});
    let batch = json!({"messages": [&message, &message]}).to_string();
    assert!(batch.len() > 30 * (64 << 10) && batch.len() < 2_000_000);
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    nothing_in_flight(&gateway).await;
    assert_eq!(gateway.receive("q", "qty=2&vt=600").await.len(), 2);
}

/// It cannot be parted, and would stand in the way of all others.
#[tokio::test]
async fn a_message_that_is_larger_than_all_of_the_room_is_received() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 1_000_000;
        settings.limits.max_answer_bytes = 1_000_000;
        settings.limits.max_in_flight_bytes = 1_000_000;
    })
    .await;
    gateway.create("q").await;
    let fill = "SELECT pgmq.send('q', to_jsonb(repeat('a', 3000000)))";
    gateway.database.execute(fill).await;
    let message = gateway.receive_one("q", "vt=600").await;
    assert_eq!(message["message"].as_str().map(str::len), Some(3_000_000));
    nothing_in_flight(&gateway).await;
    gateway.get("/queues/q/messages/1").await.expect(200);
}

const LARGE: usize = 400_000;

/// A gateway whose answers hold two of the five messages in `q`.
async fn with_large_messages() -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_answer_bytes = 1 << 20;
    })
    .await;
    gateway.create("q").await;
    for _ in 0..5 {
        gateway.send("q", &json!({"message": "a".repeat(LARGE)}).to_string()).await;
    }
    gateway
}

fn ids(messages: &[Value]) -> Vec<i64> {
    messages.iter().filter_map(|message| message["msg_id"].as_i64()).collect()
}

#[tokio::test]
async fn an_answer_holds_what_fits_and_the_rest_is_given_back() {
    let gateway = with_large_messages().await;
    assert_eq!(ids(&gateway.receive("q", "qty=5&vt=600").await), [1, 2]);
    let untouched = "SELECT count(*) FROM pgmq.q_q WHERE read_ct = 0 AND vt <= clock_timestamp()";
    eventually("the others are given back", async || {
        (gateway.database.value::<i64>(untouched).await == 3).then_some(())
    })
    .await;
    let popped = gateway.post("/queues/q/messages/pop?qty=5", "").await.expect(200).messages();
    assert_eq!(popped.len(), 2);
    assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 3);
    // One always fits.
    gateway.send("q", &json!({"message": "a".repeat(1_048_570)}).to_string()).await;
    let last = gateway.receive("q", "qty=5&vt=600").await;
    assert_eq!(last.len(), 1);
    let last = gateway.receive("q", "qty=5&vt=600&wait=20").await;
    assert_eq!(last.len(), 1);
}

#[tokio::test]
async fn pages_hold_what_fits() {
    let gateway = with_large_messages().await;
    for path in ["/queues/q/peek", "/queues/q/archive"] {
        let (mut seen, mut after) = (Vec::new(), "0".to_owned());
        loop {
            let page = gateway.get(&format!("{path}?limit=5&after={after}")).await.expect(200);
            assert!(page.messages().len() <= 2);
            seen.extend(ids(&page.messages()));
            match page.json()["next"].as_str() {
                Some(next) => next.clone_into(&mut after),
                None => break,
            }
        }
        assert_eq!(seen, [1, 2, 3, 4, 5], "{path}");
        for id in 1..=5 {
            let archived = gateway.post(&format!("/queues/q/messages/{id}/archive"), "").await;
            assert!([204, 404].contains(&archived.status));
        }
    }
}

/// Those who are served by the same read, and find that it was cut short, are looked for again.
#[tokio::test]
async fn a_read_for_several_is_bounded_too() {
    let gateway = TestGateway::with(|settings| settings.engine.statements_per_lane = 1).await;
    gateway.create("q").await;
    let mut clients = JoinSet::new();
    for _ in 0..30 {
        let client = gateway.client.clone();
        clients.spawn(async move { client.receive("q", "vt=600&wait=20").await });
    }
    let waiting = "pgmq_gateway_long_poll_waiters";
    eventually("all wait", async || (figure(&gateway, waiting).await >= 30.0).then_some(())).await;
    // Together more than one read may hold.
    let sql = "SELECT pgmq.send('q', to_jsonb(repeat('a', 1000000))) FROM generate_series(1, 30)";
    gateway.database.execute(sql).await;
    let mut received = Vec::new();
    while let Some(messages) = clients.join_next().await {
        received.extend(ids(&messages.expect("no panic")));
    }
    received.sort_unstable();
    assert_eq!(received, (1..=30).collect::<Vec<_>>());
    assert_eq!(gateway.database.value::<i32>("SELECT max(read_ct) FROM pgmq.q_q").await, 1);
}

/// As many requests as may be: others are told to come again, and an orchestrator is answered.
#[tokio::test]
async fn requests_at_the_same_time_are_bounded() {
    let gateway = TestGateway::with(|settings| settings.limits.max_requests = 2).await;
    gateway.create("q").await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_q IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let mut stuck = JoinSet::new();
    for _ in 0..2 {
        let client = gateway.client.clone();
        stuck.spawn(async move {
            // The place may be taken by the one that looks whether there is one.
            loop {
                let answer = client.post("/queues/q/messages", r#"{"message":1}"#).await;
                if answer.status != 503 {
                    return answer.status;
                }
            }
        });
    }
    let refused = eventually("there is no more room", async || {
        Some(gateway.get("/queues").await).filter(|answer| answer.status != 200)
    });
    let refused = refused.await.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), "1");
    gateway.get("/livez").await.expect(200);
    gateway.get("/readyz").await.expect(200);
    lock.rollback().await.expect("unlocked");
    while let Some(status) = stuck.join_next().await {
        assert_eq!(status.expect("no panic"), 201);
    }
    gateway.get("/queues").await.expect(200);
    assert!(figure(&gateway, "pgmq_gateway_refused_total{limit=\"max_requests\"}").await >= 1.0);
}

#[tokio::test]
async fn requests_in_a_second_are_bounded() {
    let gateway = TestGateway::with(|settings| settings.limits.requests_per_second = Some(1)).await;
    let refused = eventually("they come too fast", async || {
        Some(gateway.get("/queues").await).filter(|answer| answer.status != 200)
    });
    let refused = refused.await.problem(429, "rate_limited");
    assert_eq!(refused.header("retry-after"), "1");
    gateway.get("/livez").await.expect(200);
    eventually("it is taken later", async || {
        (gateway.get("/queues").await.status == 200).then_some(())
    })
    .await;
}
