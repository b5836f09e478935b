//! One key may have its share of what all keys share, and leaves the rest to others.

use std::time::Duration;

use pgmq_gateway::config::{Settings, Strategy};
use serde_json::json;
use sqlx::{Connection, Executor};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::auth::{ADMIN, key, with_admin};
use crate::{
    slow_queues::GATE,
    support::{Answer, Client, TestGateway, eventually, gateway::patient, holder, raw},
};

const GREEDY: &str = "the-key-of-somebody-greedy";
const OTHER: &str = "the-key-of-somebody-else";

/// A gateway with two keys for everything beside the administrator's, and queues.
async fn start(queues: &[&str], change: impl FnOnce(&mut Settings)) -> (TestGateway, [Client; 3]) {
    let gateway = TestGateway::with(|settings| {
        with_admin(settings);
        settings.auth.keys =
            vec![key("greedy", GREEDY, &["admin:*"]), key("other", OTHER, &["admin:*"])];
        change(settings);
    })
    .await;
    let clients = [ADMIN, GREEDY, OTHER].map(|key| gateway.with_key(key));
    for queue in queues {
        clients[0].create(queue).await;
    }
    (gateway, clients)
}

/// What was refused for the sake of a limit.
pub async fn refused(admin: &Client, limit: &str) -> u64 {
    let text = admin.get("/metrics").await.expect(200).text;
    let name = format!("pgmq_gateway_refused_total{{limit=\"{limit}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |value| value.parse().expect("a number"))
}

/// A request whose body does not come to its end.
async fn half_a_post(gateway: &TestGateway, key: &str) -> TcpStream {
    let mut stream = raw::connect(gateway).await;
    let head = format!(
        "POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn requests_that_trickle_take_nothing_from_those_that_are_there() {
    let (gateway, [admin, _, other]) = start(&["q"], |settings| {
        settings.limits.max_requests = 2;
        settings.limits.max_arriving_requests = 8;
    })
    .await;
    let mut half = Vec::new();
    for _ in 0..20 {
        half.push(half_a_post(&gateway, GREEDY).await);
    }
    eventually("the greedy one is refused more", async || {
        (refused(&admin, "key_arriving_requests").await == 16).then_some(())
    })
    .await;
    other.send("q", r#"{"message":1}"#).await;
    assert_eq!(refused(&admin, "max_arriving_requests").await, 0);
    assert_eq!(refused(&admin, "max_requests").await, 0);
    drop(half);
}

/// Whoever logs in is not known before the form is there.
#[tokio::test]
async fn all_who_log_in_have_the_share_of_one_key() {
    let (gateway, [admin, greedy, _]) = start(&["q"], |settings| {
        settings.limits.max_arriving_requests = 4;
    })
    .await;
    let mut half = Vec::new();
    for _ in 0..4 {
        let mut stream = raw::connect(&gateway).await;
        let head = "POST /ui/login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\n\
                    Content-Length: 20000\r\n\r\nkey=";
        stream.write_all(head.as_bytes()).await.expect("sent");
        half.push(stream);
    }
    eventually("the strangers are refused more", async || {
        (refused(&admin, "key_arriving_requests").await == 2).then_some(())
    })
    .await;
    greedy.send("q", r#"{"message":1}"#).await;
    assert_eq!(refused(&admin, "max_arriving_requests").await, 0);
    // Those that are let in have little time.
    eventually("they are told so", async || {
        let metrics = admin.get("/metrics").await.expect(200).text;
        let late = metrics
            .lines()
            .find(|line| line.contains("route=\"/ui/login\"") && line.contains("status=\"408\""));
        late.filter(|line| line.ends_with("} 2")).map(drop)
    })
    .await;
    drop(half);
}

/// Each has a statement of its own, that waits, and the line has places for twenty.
#[tokio::test]
async fn one_key_does_not_fill_the_line_of_a_queue() {
    let (gateway, [admin, greedy, other]) = start(&["q"], |settings| {
        settings.engine.max_batch_rows = 1;
        settings.engine.max_pending_rows = 20;
        patient(settings);
    })
    .await;
    let slow = "CREATE TRIGGER slow BEFORE INSERT ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION wait_at_gate()";
    gateway.database.execute(&format!("{GATE}; {slow}")).await;
    let send = |client: &Client| {
        Answer::of(client.request("POST", "/queues/q/messages").body(r#"{"message":1}"#))
    };
    let mut sends = JoinSet::new();
    for _ in 0..80 {
        sends.spawn(send(&greedy));
    }
    let mut refusals = 0;
    while refusals < 50 {
        let answer = sends.join_next().await.expect("a send").expect("no panic");
        let answer = answer.problem(503, "overloaded");
        assert!(answer.detail().contains("in line"), "{}", answer.detail());
        refusals += 1;
    }
    let others = tokio::spawn(send(&other));
    eventually("the greedy one has its share", async || {
        (refused(&admin, "key_max_pending").await >= 60).then_some(())
    })
    .await;
    assert_eq!(refused(&admin, "max_pending").await, 0);
    gateway.database.execute("DELETE FROM public.gate").await;
    others.await.expect("no panic").expect(201);
    for answer in sends.join_all().await {
        assert!(matches!(answer.status, 201 | 503));
    }
}

/// Requests that wait for a table, so many at a time as one wishes.
fn stuck(client: &Client, count: usize, body: &str) -> JoinSet<Answer> {
    let mut sends = JoinSet::new();
    for _ in 0..count {
        let (client, body) = (client.clone(), body.to_owned());
        sends.spawn(async move { client.post("/queues/stuck/messages", &body).await });
    }
    sends
}

#[tokio::test]
async fn a_key_has_its_share_of_the_requests_and_of_the_bytes() {
    let (gateway, [admin, greedy, other]) = start(&["q", "stuck"], |settings| {
        settings.limits.max_requests = 6;
        settings.limits.max_message_bytes = 1_000_000;
        settings.limits.max_body_bytes = 1 << 20;
        settings.limits.max_answer_bytes = 1 << 20;
        settings.limits.max_in_flight_bytes = 4 << 20;
    })
    .await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_stuck IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let large = json!({"message": "a".repeat(700_000)}).to_string();
    for (body, count, limit, most) in
        [(r#"{"message":1}"#, 5, "key_requests", 2), (&*large, 3, "key_in_flight_bytes", 1)]
    {
        let mut sends = stuck(&greedy, count, body);
        let answer = sends.join_next().await.expect("one").expect("no panic");
        let answer = answer.problem(503, "overloaded");
        assert_eq!(answer.header("retry-after"), "1");
        assert!(answer.detail().contains("this key"), "{}", answer.detail());
        eventually("it is refused what is beyond its share", async || {
            (refused(&admin, limit).await == most).then_some(())
        })
        .await;
        other.post("/queues/q/messages", body).await.expect(201);
        sends.shutdown().await;
        eventually("nothing of it is left", async || {
            let metrics = admin.get("/metrics").await.text;
            metrics.contains("pgmq_gateway_requests_in_flight 1\n").then_some(())
        })
        .await;
    }
    for limit in ["max_requests", "max_in_flight_bytes"] {
        assert_eq!(refused(&admin, limit).await, 0, "{limit}");
    }
    lock.rollback().await.expect("unlocked");
}

/// Has clients wait; returns how many of them were refused, and those that wait.
async fn wait(client: &Client, count: usize, queue: &str) -> (usize, JoinSet<Answer>) {
    let mut waits = JoinSet::new();
    for _ in 0..count {
        let (client, path) = (client.clone(), format!("/queues/{queue}/messages?wait=20"));
        waits.spawn(async move { client.get(&path).await });
    }
    let mut refused = 0;
    while let Ok(Some(answer)) = timeout(Duration::from_secs(1), waits.join_next()).await {
        answer.expect("no panic").problem(503, "overloaded");
        refused += 1;
    }
    (refused, waits)
}

#[tokio::test]
async fn a_key_has_its_share_of_those_that_wait() {
    let (_gateway, [_, greedy, other]) =
        start(&["q", "r"], |settings| settings.long_poll.max_waiters = 6).await;
    let (refused, _waits) = wait(&greedy, 5, "q").await;
    assert_eq!(refused, 2);
    let (refused, _others) = wait(&other, 3, "r").await;
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn a_key_has_its_share_of_those_that_wait_at_a_queue() {
    let (_gateway, [_, greedy, other]) =
        start(&["q", "r"], |settings| settings.long_poll.max_waiters_per_queue = 6).await;
    let (refused, _waits) = wait(&greedy, 5, "q").await;
    assert_eq!(refused, 2);
    assert_eq!(wait(&greedy, 2, "r").await.0, 0, "it is that queue's");
    let (refused, _others) = wait(&other, 3, "q").await;
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn a_key_has_its_share_of_the_connections_with_which_clients_wait() {
    let (_gateway, [_, greedy, other]) = start(&["q"], |settings| {
        settings.long_poll.strategy = Strategy::ReadWithPoll;
        settings.long_poll.max_connections = 6;
    })
    .await;
    let (refused, _waits) = wait(&greedy, 5, "q").await;
    assert_eq!(refused, 2);
    let (refused, _others) = wait(&other, 3, "q").await;
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn a_percentage_of_a_hundred_is_no_share() {
    let (_gateway, [_, greedy, _]) = start(&["q"], |settings| {
        settings.long_poll.max_waiters = 4;
        settings.limits.max_share_per_key_percent.0 = 100;
    })
    .await;
    let (refused, _waits) = wait(&greedy, 5, "q").await;
    assert_eq!(refused, 1);
}

/// How long a few calls take at most.
async fn slowest(count: usize, mut call: impl AsyncFnMut()) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let began = Instant::now();
        call().await;
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

#[tokio::test]
async fn a_key_has_its_share_of_the_transactions() {
    let (gateway, [_, greedy, other]) = start(&["q", "stuck"], |_| {}).await;
    let mut connection = gateway.database.connect().await;
    let mut lock = connection.begin().await.expect("begun");
    lock.execute("LOCK TABLE pgmq.q_stuck IN ACCESS EXCLUSIVE MODE").await.expect("locked");
    let transaction =
        |queue: &str| json!({"operations": [{"send": {"queue": queue, "message": 1}}]}).to_string();
    let mut stuck = JoinSet::new();
    for _ in 0..20 {
        let (greedy, body) = (greedy.clone(), transaction("stuck"));
        stuck.spawn(async move {
            loop {
                greedy.post("/transactions", &body).await;
            }
        });
    }
    holder::wait_for_blocked(&gateway.database, "/* transact */").await;
    let body = transaction("q");
    let slowest = slowest(20, async || {
        other.post("/transactions", &body).await.expect(200);
    })
    .await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(holder::blocked_statements(&gateway.database, "/* transact */").await <= 2);
    stuck.shutdown().await;
    lock.rollback().await.expect("unlocked");
}

/// Reads of long queues, which take long.
#[tokio::test]
async fn a_key_has_one_dear_read_at_a_time() {
    let queues = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let (gateway, [_, greedy, other]) = start(&queues, |_| {}).await;
    for queue in queues {
        let message = "'{\"a\":[1,2,3],\"b\":\"some text that is looked at\"}'";
        gateway
            .database
            .execute(&format!(
                "INSERT INTO pgmq.q_{queue} (vt, message) \
                 SELECT now(), {message} FROM generate_series(1, 50000); \
                 INSERT INTO pgmq.a_{queue} (msg_id, vt, message) \
                 SELECT n, now(), {message} FROM generate_series(1, 50000) n"
            ))
            .await;
    }
    let paths = [
        ("metrics", ""),
        ("archive", "?filter=%7B%22a%22%3A%5B4%5D%7D"),
        ("messages", "?filter=%7B%22a%22%3A%5B4%5D%7D"),
    ];
    let mut reads = JoinSet::new();
    for queue in queues {
        for (path, query) in paths {
            for _ in 0..4 {
                let (greedy, path) = (greedy.clone(), format!("/queues/{queue}/{path}{query}"));
                reads.spawn(async move {
                    loop {
                        greedy.get(&path).await;
                    }
                });
            }
        }
    }
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND state = 'active' \
                   AND query SIMILAR TO '/\\* (metrics|archive|read_indexed) \\*/%'";
    // Until it is known that its filters are dear.
    sleep(Duration::from_secs(2)).await;
    let mut most = 0;
    for _ in 0..100 {
        most = most.max(gateway.database.value::<i64>(running).await);
    }
    assert!(most <= 2, "{most} at the same time");
    let slowest = slowest(20, async || {
        other.get("/queues/a/metrics").await.expect(200);
    })
    .await;
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    reads.shutdown().await;
}

/// At the door of SQS, too, a body is read as that of whoever has shown a key.
#[tokio::test]
async fn a_key_has_its_share_at_the_door_of_sqs_too() {
    let (gateway, [admin, ..]) = start(&["q"], |settings| {
        settings.limits.max_arriving_requests = 4;
    })
    .await;
    let half = async |key: &str| {
        let mut stream = raw::connect(&gateway).await;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             X-Amz-Target: AmazonSQS.SendMessage\r\nContent-Length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    };
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(half(GREEDY).await);
    }
    eventually("it is refused what is beyond its share", async || {
        (refused(&admin, "key_arriving_requests").await == 2).then_some(())
    })
    .await;
    assert_eq!(refused(&admin, "max_arriving_requests").await, 0);
    // Nobody reads what a stranger sends.
    let mut stranger = half("a-key-that-nobody-has").await;
    let mut said = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut stranger, &mut said).await.expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 403");
}
