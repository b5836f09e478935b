//! `Idempotency-Key`: a request that is repeated is done once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use pgmq_gateway::config::Settings;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sqlx::Executor;
use tokio::time::sleep;

use crate::support::{
    Answer, Client, TestDatabase, TestGateway, eventually,
    process::{Program, program},
};

const MESSAGES: &str = "/queues/q/messages";

async fn with_queue() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway
}

fn request(client: &Client, path: &str, key: &str, body: &str) -> RequestBuilder {
    client.request("POST", path).header("Idempotency-Key", key).body(body.to_owned())
}

async fn post(client: &Client, path: &str, key: &str, body: &str) -> Answer {
    Answer::of(request(client, path, key, body)).await
}

/// Insists that `answer` is `first` again, and says so.
#[track_caller]
fn is_replay(answer: &Answer, first: &Answer) {
    assert_eq!((answer.status, answer.json()), (first.status, first.json()));
    assert_eq!(answer.header("location"), first.header("location"));
    assert_eq!(answer.header("idempotency-replayed"), "true", "{}", answer.text);
}

/// Insists that `answer` is of a request that was done.
#[track_caller]
fn is_first(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert!(!answer.headers.contains_key("idempotency-replayed"), "{}", answer.text);
}

/// Sends twice what is done once, and then something else.
async fn is_done_once(client: &Client, path: &str, status: u16, body: &str, other: &str) -> Answer {
    let first = post(client, path, "key", body).await;
    is_first(&first, status);
    for _ in 0..3 {
        is_replay(&post(client, path, "key", body).await, &first);
    }
    post(client, path, "key", other).await.problem(409, "idempotency_conflict");
    is_replay(&post(client, path, "key", body).await, &first);
    is_first(&post(client, path, "another key", other).await, status);
    first
}

#[tokio::test]
async fn a_message_is_sent_once() {
    let gateway = with_queue().await;
    let (body, other) = (r#"{"message":1,"headers":{"h":1}}"#, r#"{"message":2}"#);
    let first = is_done_once(&gateway, MESSAGES, 201, body, other).await;
    assert_eq!(first.json(), json!({"msg_id": 1}));
    assert_eq!(first.header("location"), "/queues/q/messages/1");
    let all = gateway.all("q").await;
    assert_eq!(all.iter().map(|m| &m["message"]).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_batch_is_sent_once() {
    let gateway = with_queue().await;
    let batch = r#"{"messages":[{"message":1},{"message":2}]}"#;
    let path = "/queues/q/messages/batch";
    let first =
        is_done_once(&gateway, path, 201, batch, r#"{"messages":[{"message":3}]}"#).await.json();
    assert_eq!(first, json!({"msg_ids": [1, 2]}));
    let all = gateway.all("q").await;
    assert_eq!(all.iter().map(|m| &m["message"]).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_message_to_a_topic_is_sent_once() {
    let gateway = with_queue().await;
    gateway.create("p").await;
    for queue in ["p", "q"] {
        let path = format!("/queues/{queue}/bindings");
        gateway.post(&path, r#"{"pattern":"orders.#"}"#).await.expect(201);
    }
    let path = "/topics/orders.new/messages";
    let first =
        is_done_once(&gateway, path, 201, r#"{"message":1}"#, r#"{"message":2}"#).await.json();
    assert_eq!(first["deliveries"].as_array().map(Vec::len), Some(2), "{first}");
    for queue in ["p", "q"] {
        let all = gateway.all(queue).await;
        assert_eq!(all.iter().map(|m| &m["message"]).collect::<Vec<_>>(), [1, 2], "{queue}");
    }
}

#[tokio::test]
async fn a_batch_to_a_topic_is_sent_once() {
    let gateway = with_queue().await;
    gateway.post("/queues/q/bindings", r#"{"pattern":"orders.#"}"#).await.expect(201);
    let (batch, other) =
        (r#"{"messages":[{"message":1},{"message":2}]}"#, r#"{"messages":[{"message":3}]}"#);
    is_done_once(&gateway, "/topics/orders.new/messages/batch", 201, batch, other).await;
    let all = gateway.all("q").await;
    assert_eq!(all.iter().map(|m| &m["message"]).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_transaction_is_done_once() {
    let gateway = with_queue().await;
    gateway.create("next").await;
    for n in 1..=2 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    let step = |id: i64| {
        json!({"operations": [
            {"delete": {"queue": "q", "msg_id": id}},
            {"send": {"queue": "next", "message": id}},
        ]})
        .to_string()
    };
    let first = is_done_once(&gateway, "/transactions", 200, &step(1), &step(2)).await.json();
    assert_eq!(first["results"], json!([{"msg_id": 1}, {"msg_id": 1}]));
    let next = gateway.all("next").await;
    assert_eq!(next.iter().map(|m| &m["message"]).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_replay_does_not_need_the_message_to_be_there() {
    let gateway = with_queue().await;
    let first = post(&gateway, MESSAGES, "key", r#"{"message":1}"#).await;
    gateway.delete("/queues/q/messages/1").await.expect(204);
    is_replay(&post(&gateway, MESSAGES, "key", r#"{"message":1}"#).await, &first);
    assert!(gateway.all("q").await.is_empty());
}

#[tokio::test]
async fn queues_have_keys_of_their_own() {
    let gateway = with_queue().await;
    gateway.create("other").await;
    is_first(&post(&gateway, MESSAGES, "key", r#"{"message":1}"#).await, 201);
    let other = post(&gateway, "/queues/other/messages", "key", r#"{"message":1}"#).await;
    is_first(&other, 201);
    assert_eq!(other.header("location"), "/queues/other/messages/1");
}

#[tokio::test]
async fn a_key_has_1_to_255_characters() {
    let gateway = with_queue().await;
    let long = "k".repeat(256);
    for key in ["", &*long] {
        let refused = post(&gateway, MESSAGES, key, r#"{"message":1}"#).await;
        let detail = refused.problem(400, "invalid_request").detail();
        assert!(detail.to_lowercase().contains("idempotency-key"), "{detail}");
    }
    assert!(gateway.all("q").await.is_empty());
    for key in ["k", &long[1..], "a key: with \"everything\" /?&'"] {
        let first = post(&gateway, MESSAGES, key, r#"{"message":1}"#).await;
        is_first(&first, 201);
        is_replay(&post(&gateway, MESSAGES, key, r#"{"message":1}"#).await, &first);
    }
}

/// What was refused was not done, so there is nothing to repeat.
#[tokio::test]
async fn a_refusal_leaves_the_key_free() {
    let gateway = TestGateway::start().await;
    let body = r#"{"message":1}"#;
    post(&gateway, MESSAGES, "key", body).await.problem(404, "queue_not_found");
    gateway.create("q").await;
    is_first(&post(&gateway, MESSAGES, "key", body).await, 201);

    let set_vt = r#"{"operations":[{"set_vt":{"queue":"q","msg_id":2,"vt":0}}]}"#;
    let refused = post(&gateway, "/transactions", "key", set_vt).await;
    refused.problem(404, "message_not_found");
    gateway.send("q", body).await;
    is_first(&post(&gateway, "/transactions", "key", set_vt).await, 200);
}

#[tokio::test]
async fn a_replay_comes_from_any_gateway_and_after_a_restart() {
    let database = TestDatabase::new().await;
    let one = TestGateway::on(&database, |_| {}).await;
    one.create("q").await;
    let first = post(&one, MESSAGES, "key", r#"{"message":1}"#).await;
    is_first(&first, 201);
    let other = TestGateway::on(&database, |_| {}).await;
    is_replay(&post(&other, MESSAGES, "key", r#"{"message":1}"#).await, &first);
    let conflict = post(&other, MESSAGES, "key", r#"{"message":2}"#).await;
    conflict.problem(409, "idempotency_conflict");
    drop((one, other));
    let restarted = TestGateway::on(&database, |_| {}).await;
    is_replay(&post(&restarted, MESSAGES, "key", r#"{"message":1}"#).await, &first);
    assert_eq!(restarted.all("q").await.len(), 1);
}

#[tokio::test]
async fn a_queue_that_is_made_anew_knows_no_keys() {
    let gateway = with_queue().await;
    let body = r#"{"message":1}"#;
    is_first(&post(&gateway, MESSAGES, "key", body).await, 201);
    gateway.delete("/queues/q").await.expect(204);
    gateway.create("q").await;
    is_first(&post(&gateway, MESSAGES, "key", body).await, 201);
    gateway.database.execute("SELECT pgmq.drop_queue('q'); SELECT pgmq.create('q')").await;
    is_first(&post(&gateway, MESSAGES, "key", body).await, 201);
    assert_eq!(gateway.all("q").await.len(), 1);
}

#[tokio::test]
async fn a_key_is_free_again_when_its_time_is_over() {
    let short = |settings: &mut Settings| settings.maintenance.idempotency_lifetime_seconds = 1;
    let gateway = TestGateway::with(short).await;
    gateway.create("q").await;
    is_first(&post(&gateway, MESSAGES, "key", r#"{"message":1}"#).await, 201);
    let other = async || {
        let answer = post(&gateway, MESSAGES, "key", r#"{"message":2}"#).await;
        (answer.status != 409).then_some(answer)
    };
    is_first(&eventually("the key is forgotten", other).await, 201);
    assert_eq!(gateway.all("q").await.len(), 2);
}

#[tokio::test]
async fn a_path_may_be_written_in_two_ways() {
    let gateway = with_queue().await;
    let first = post(&gateway, MESSAGES, "key", r#"{"message":1}"#).await;
    is_first(&first, 201);
    let again = post(&gateway, "/queues/%71/messages", "key", r#"{"message":1}"#).await;
    is_replay(&again, &first);
}

/// Small steps, one gateway at a time, and only what is old.
#[tokio::test]
async fn old_keys_are_swept_little_by_little() {
    let idle = |settings: &mut Settings| settings.maintenance.interval_ms = 3_600_000;
    let gateway = TestGateway::with(idle).await;
    gateway.create("q").await;
    is_first(&post(&gateway, MESSAGES, "young", r#"{"message":1}"#).await, 201);
    let database = &gateway.database;
    let old = "INSERT INTO pgmq_gateway.idempotency_keys
               SELECT 'old', n::text, '', '[]', now() - interval '25 hours', 0
               FROM generate_series(1, 2500) n";
    database.execute(old).await;
    let keys =
        async || database.value::<i64>("SELECT count(*) FROM pgmq_gateway.idempotency_keys").await;
    let step = async || {
        database.value::<bool>("SELECT pgmq_gateway.delete_expired_keys(86400, 1000)").await
    };
    let mut other = database.connect().await;
    let lock = "BEGIN; SELECT FROM pgmq_gateway.idempotency_keys WHERE scope = 'old' FOR UPDATE";
    other.execute(lock).await.expect("locked");
    assert_eq!((step().await, keys().await), (false, 2501), "another gateway is at it");
    other.execute("ROLLBACK").await.expect("unlocked");
    assert_eq!((step().await, keys().await), (true, 1501), "there is more to do");
    let _other = TestGateway::on(database, |_| {}).await;
    eventually("a gateway does it by itself", async || (keys().await == 1).then_some(())).await;
    let again = post(&gateway, MESSAGES, "young", r#"{"message":1}"#).await;
    assert_eq!(again.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn of_a_crowd_with_one_key_one_is_first() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    for round in 0..5 {
        let key = format!("crowd {round}");
        let crowd = gateways.iter().cycle().take(50).map(|gateway| {
            let (client, key) = (gateway.client.clone(), key.clone());
            tokio::spawn(async move { post(&client, MESSAGES, &key, r#"{"message":1}"#).await })
        });
        let mut firsts = 0;
        let mut ids = Vec::new();
        for answer in crowd.collect::<Vec<_>>() {
            let answer = answer.await.expect("no panic").expect(201);
            firsts += usize::from(answer.header("idempotency-replayed") != "true");
            ids.push(answer.json()["msg_id"].clone());
        }
        ids.dedup();
        assert_eq!((firsts, ids.len()), (1, 1), "{ids:?}");
        assert_eq!(gateways[0].all("q").await.len(), round + 1);
    }
}

/// Two bodies race for a key: the answers are all of one of them, and conflicts.
#[tokio::test]
async fn of_two_bodies_with_one_key_one_is_stored() {
    let gateways = TestGateway::pair().await;
    gateways[0].create("q").await;
    let crowd = gateways.iter().cycle().take(40).enumerate().map(|(n, gateway)| {
        let client = gateway.client.clone();
        let body = json!({"message": n / 2 % 2}).to_string();
        tokio::spawn(async move { (n / 2 % 2, post(&client, MESSAGES, "key", &body).await) })
    });
    let mut done = Vec::new();
    for answer in crowd.collect::<Vec<_>>() {
        let (body, answer) = answer.await.expect("no panic");
        if answer.status == 201 {
            done.push(body);
        } else {
            answer.problem(409, "idempotency_conflict");
        }
    }
    let stored = gateways[0].all("q").await;
    assert_eq!(stored.len(), 1);
    assert_eq!(done.len(), 20);
    assert!(done.iter().all(|body| stored[0]["message"] == *body), "{done:?}: {stored:?}");
}

/// Keeps trying, first here and then there, until it is done.
async fn insist(here: Client, there: Client, key: String, answered: Arc<AtomicUsize>) -> Value {
    let mut client = here;
    loop {
        if let Ok(response) = request(&client, MESSAGES, &key, r#"{"message":1}"#).send().await {
            let status = response.status().as_u16();
            if let Ok(text) = response.text().await {
                answered.fetch_add(1, Relaxed);
                if status == 201 {
                    let body: Value = serde_json::from_str(&text).expect("JSON");
                    return body["msg_id"].clone();
                }
                assert_eq!(status, 503, "{text}");
            }
        }
        client = there.clone();
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_gateway_that_is_killed_sends_nothing_twice() {
    let other = with_queue().await;
    let url = other.database.url();
    for (round, kill_after) in [0, 1, 5, 20].into_iter().enumerate() {
        let environment = [("PGMQ_GATEWAY__SERVER__PORT", "0"), ("DATABASE_URL", &*url)];
        let mut killed = Program::start(program(&[], &environment));
        let client = killed.client().await;
        let answered = Arc::new(AtomicUsize::new(0));
        let crowd = (0..50).map(|_| {
            let (here, there) = (client.clone(), other.client.clone());
            tokio::spawn(insist(here, there, format!("round {round}"), Arc::clone(&answered)))
        });
        let crowd: Vec<_> = crowd.collect();
        eventually("it is in the middle of it", async || {
            (answered.load(Relaxed) >= kill_after).then_some(())
        })
        .await;
        killed.signal(Signal::SIGKILL);
        assert!(!killed.ended().await);
        let mut ids = Vec::new();
        for id in crowd {
            ids.push(id.await.expect("no panic"));
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        assert_eq!(other.all("q").await.len(), round + 1, "round {round}");
    }
}

/// What was stored is stored, whatever its queue takes by now.
#[tokio::test]
async fn a_limit_that_is_lowered_takes_back_no_answer() {
    let gateway = with_queue().await;
    let batches = format!("{MESSAGES}/batch");
    let large = json!({"message": "x".repeat(2_000)});
    let batch = json!({"messages": [{"message": 1}, large]}).to_string();
    let body = large.to_string();
    let one = post(&gateway, MESSAGES, "one", &body).await;
    let many = post(&gateway, &batches, "many", &batch).await;
    is_first(&one, 201);
    is_first(&many, 201);
    gateway.configure("q", json!({"max_message_bytes": 1_024})).await.expect(200);
    is_replay(&post(&gateway, MESSAGES, "one", &body).await, &one);
    is_replay(&post(&gateway, &batches, "many", &batch).await, &many);
    let other = body.replace('x', "y");
    post(&gateway, MESSAGES, "one", &other).await.problem(409, "idempotency_conflict");
    post(&gateway, MESSAGES, "new", &body).await.problem(413, "message_too_large");
    gateway.post(MESSAGES, &body).await.problem(413, "message_too_large");
    let old = "UPDATE pgmq_gateway.idempotency_keys SET created_at = now() - interval '2 days'";
    gateway.database.execute(old).await;
    post(&gateway, MESSAGES, "one", &body).await.problem(413, "message_too_large");
    assert_eq!(gateway.all("q").await.len(), 3);
}
