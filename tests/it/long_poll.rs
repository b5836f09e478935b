//! Waiting for messages.

use std::time::Duration;

use pgmq_gateway::config::Strategy;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{TestGateway, eventually};

/// Every test here runs with either strategy.
macro_rules! with_both_strategies {
    ($($test:ident),* $(,)?) => {
        mod shared {
            $(#[tokio::test]
            async fn $test() {
                super::$test(pgmq_gateway::config::Strategy::Shared).await;
            })*
        }
        mod read_with_poll {
            $(#[tokio::test]
            async fn $test() {
                super::$test(pgmq_gateway::config::Strategy::ReadWithPoll).await;
            })*
        }
    };
}

with_both_strategies!(
    a_message_ends_the_wait,
    the_wait_ends_empty_when_the_time_is_up,
    a_client_that_left_swallows_no_message,
    leaving_and_arriving_at_the_same_moment_loses_nothing,
    waiting_with_a_filter,
    a_delay_that_runs_out_ends_the_wait,
    a_lease_that_runs_out_ends_the_wait,
    a_message_that_is_given_back_ends_the_wait,
    a_message_sent_by_sql_ends_the_wait,
    the_first_to_come_is_the_first_to_be_served,
    a_queue_that_is_dropped_ends_the_wait,
);

/// A gateway with a queue.
async fn start(strategy: Strategy, poll_interval_ms: u32) -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.long_poll.strategy = strategy;
        settings.long_poll.poll_interval_ms = poll_interval_ms;
    });
    let gateway = gateway.await;
    gateway.create("q").await;
    gateway
}

/// Begins to wait, and returns the connection to leave by.
async fn begin_to_wait(gateway: &TestGateway) -> TcpStream {
    let mut stream =
        TcpStream::connect(gateway.gateway.address().expect("TCP")).await.expect("connected");
    let request = b"GET /queues/q/messages?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    stream
}

async fn a_message_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let started = Instant::now();
    let (received, ()) = tokio::join!(gateway.receive("q", "wait=20"), async {
        gateway.wait_for_waiters("q", 1).await;
        gateway.send("q", r#"{"message":"awaited"}"#).await;
    });
    assert_eq!(received[0]["message"], "awaited");
    assert_eq!(received[0]["read_ct"], 1);
    assert!(started.elapsed() < Duration::from_secs(20), "it did not wait for the end");
    assert_eq!(gateway.waiters("q").await, 0);
}

async fn the_wait_ends_empty_when_the_time_is_up(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let started = Instant::now();
    assert!(gateway.receive("q", "wait=2").await.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(1_900));
    assert_eq!(gateway.waiters("q").await, 0);
    gateway.get("/queues/none/messages?wait=20").await.problem(404, "queue_not_found");
}

/// Clients that come back as soon as they are answered find their place free.
#[tokio::test]
async fn places_are_free_again_when_the_wait_is_over() {
    let gateway = TestGateway::with(|settings| {
        settings.long_poll.strategy = Strategy::ReadWithPoll;
        settings.long_poll.max_connections = 1;
    })
    .await;
    gateway.create("q").await;
    for _ in 0..3 {
        assert!(gateway.receive("q", "wait=1").await.is_empty());
    }
}

/// A client that leaves while it waits is given nothing: the next message goes to who is there.
async fn a_client_that_left_swallows_no_message(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    for round in 0..5 {
        let connection = begin_to_wait(&gateway).await;
        gateway.wait_for_waiters("q", 1).await;
        drop(connection);
        gateway.wait_for_waiters("q", 0).await;
        let id = gateway.send_message("q", round).await;
        let received = gateway.receive("q", "wait=10").await;
        assert_eq!(received.len(), 1, "round {round}: hidden by one that is not there");
        assert_eq!(received[0]["read_ct"], 1, "round {round}: counted as delivered to nobody");
        gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    }
}

/// Even if it leaves in the very moment in which the message arrives: either the answer was sent, or
/// the message is there for the next.
async fn leaving_and_arriving_at_the_same_moment_loses_nothing(strategy: Strategy) {
    // Looks that are far apart, so that some leave before an SQL client's message is found.
    let gateway = start(strategy, 1_000).await;
    let mut given_back = 0;
    for delay_ms in [0, 0, 1, 5, 20, 100, 500, 900, 1_000, 1_100] {
        let mut connection = begin_to_wait(&gateway).await;
        gateway.wait_for_waiters("q", 1).await;
        let send = "SELECT msg_id FROM pgmq.send('q', '1') AS msg_id";
        let id: i64 = gateway.database.value(send).await;
        sleep(Duration::from_millis(delay_ms)).await;
        connection.shutdown().await.expect("half closed");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("closed by the gateway");
        if !answer.contains("msg_id") {
            let received = gateway.receive("q", "wait=10").await;
            assert_eq!(received.len(), 1, "{delay_ms} ms: neither answered nor given back");
            assert_eq!(received[0]["read_ct"], 1, "{delay_ms} ms");
            given_back += 1;
        }
        gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    }
    assert!(given_back > 0, "some left in time");
}

#[tokio::test]
async fn a_client_that_left_frees_its_place() {
    let gateway = TestGateway::with(|settings| {
        settings.long_poll.strategy = Strategy::ReadWithPoll;
        settings.long_poll.max_connections = 2;
    })
    .await;
    gateway.create("q").await;
    let connections = [begin_to_wait(&gateway).await, begin_to_wait(&gateway).await];
    gateway.wait_for_waiters("q", 2).await;
    gateway.get("/queues/q/messages?wait=1").await.problem(503, "overloaded");
    drop(connections);
    eventually("a place is free", async || {
        (gateway.get("/queues/q/messages?wait=1").await.status == 200).then_some(())
    })
    .await;
}

/// More clients than places: those without one are told at once, senders are not held up, and a
/// message reaches one of those who wait.
#[tokio::test]
async fn waiting_clients_hold_nobody_up() {
    let gateway = TestGateway::with(|settings| {
        settings.long_poll.strategy = Strategy::ReadWithPoll;
        settings.long_poll.max_connections = 4;
        settings.database.max_connections = 4;
    })
    .await;
    gateway.create("q").await;
    gateway.create("other").await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let client = gateway.client.clone();
        clients.spawn(async move { client.get("/queues/q/messages?wait=20").await });
    }
    for _ in 0..16 {
        let refused = clients.join_next().await.expect("a client").expect("no panic");
        assert!(!refused.problem(503, "overloaded").header("retry-after").is_empty());
    }
    gateway.wait_for_waiters("q", 4).await;
    for n in 0..100 {
        gateway.send_message("other", n).await;
    }
    assert_eq!(gateway.waiters("q").await, 4, "all of that while they waited");
    // One without a place is given what there is at its one look.
    gateway.send("other", r#"{"message":"there"}"#).await;
    assert_eq!(gateway.receive("other", "wait=20").await.len(), 1);

    gateway.send("q", r#"{"message":"for one of them"}"#).await;
    let served = clients.join_next().await.expect("a client").expect("no panic").expect(200);
    assert_eq!(served.messages()[0]["message"], "for one of them");
    gateway.gateway.drain().await;
    while let Some(answer) = clients.join_next().await {
        assert!(answer.expect("no panic").expect(200).messages().is_empty());
    }
}

async fn waiting_with_a_filter(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    gateway.send("q", r#"{"message":{"for":"a"}}"#).await;
    let wait = gateway.receive("q", "wait=20&filter=%7B%22for%22%3A%22b%22%7D");
    let (received, ()) = tokio::join!(wait, async {
        gateway.wait_for_waiters("q", 1).await;
        gateway.send("q", r#"{"message":{"for":"b"}}"#).await;
    });
    assert_eq!(received[0]["message"]["for"], "b");
}

/// Ends a wait by something that happens on the way, and returns the message.
async fn wait_for(gateway: &TestGateway, happens: impl Future<Output = ()>) -> serde_json::Value {
    let (received, ()) = tokio::join!(gateway.receive("q", "wait=20&vt=600"), async {
        gateway.wait_for_waiters("q", 1).await;
        happens.await;
    });
    received.first().cloned().expect("a message")
}

async fn a_delay_that_runs_out_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let send = async {
        gateway.send("q", r#"{"message":"later","delay":1}"#).await;
    };
    assert_eq!(wait_for(&gateway, send).await["message"], "later");
}

async fn a_lease_that_runs_out_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    gateway.send("q", r#"{"message":"again"}"#).await;
    assert_eq!(gateway.receive("q", "vt=2").await.len(), 1);
    let message = wait_for(&gateway, async {}).await;
    assert_eq!(message["read_ct"], 2);
}

async fn a_message_that_is_given_back_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let id = gateway.send("q", r#"{"message":"back"}"#).await;
    gateway.receive("q", "vt=600").await;
    let give_back = async {
        let path = format!("/queues/q/messages/{id}");
        gateway.patch(&path, r#"{"vt":0}"#).await.expect(200);
    };
    assert_eq!(wait_for(&gateway, give_back).await["message"], "back");
}

async fn a_message_sent_by_sql_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let send = gateway.database.execute(r#"SELECT pgmq.send('q', '"by sql"')"#);
    assert_eq!(wait_for(&gateway, send).await["message"], "by sql");
}

async fn the_first_to_come_is_the_first_to_be_served(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let mut clients = JoinSet::new();
    for number in 0..5 {
        let client = gateway.client.clone();
        clients.spawn(async move {
            (number, client.receive("q", "wait=20&vt=600").await[0]["message"].clone())
        });
        gateway.wait_for_waiters("q", number + 1).await;
    }
    let batch =
        r#"{"messages":[{"message":0},{"message":1},{"message":2},{"message":3},{"message":4}]}"#;
    gateway.post("/queues/q/messages/batch", batch).await.expect(201);
    let mut served = Vec::new();
    while let Some(client) = clients.join_next().await {
        served.push(client.expect("no panic"));
    }
    served.sort_by_key(|(number, _)| *number);
    let messages: Vec<i64> = served.iter().map(|(_, m)| m.as_i64().expect("a number")).collect();
    match strategy {
        Strategy::Shared => assert_eq!(messages, [0, 1, 2, 3, 4]),
        // Each looks for itself.
        Strategy::ReadWithPoll => assert_eq!(messages.iter().sum::<i64>(), 10),
    }
}

async fn a_queue_that_is_dropped_ends_the_wait(strategy: Strategy) {
    let gateway = start(strategy, 100).await;
    let (answer, ()) = tokio::join!(gateway.get("/queues/q/messages?wait=20"), async {
        gateway.wait_for_waiters("q", 1).await;
        gateway.delete("/queues/q").await.expect(204);
    });
    answer.problem(404, "queue_not_found");
}

/// PGMQ's own insert notifications are heard where a queue has them on.
#[tokio::test]
async fn notifications_of_pgmq_end_the_wait() {
    let gateway = start(Strategy::Shared, 1_000).await;
    gateway.database.execute("SELECT pgmq.enable_notify_insert('q', 0)").await;
    let send = gateway.database.execute(r#"SELECT pgmq.send('q', '"notified"')"#);
    assert_eq!(wait_for(&gateway, send).await["message"], "notified");
}

/// Thousands wait with no connection but those of the pool and the one that listens.
#[tokio::test]
async fn waiting_takes_no_connection() {
    let gateway = TestGateway::with(|settings| settings.database.max_connections = 2).await;
    gateway.create("q").await;
    let mut connections = vec![begin_to_wait(&gateway).await];
    gateway.wait_for_waiters("q", 1).await;
    for _ in 1..200 {
        connections.push(begin_to_wait(&gateway).await);
    }
    gateway.wait_for_waiters("q", 200).await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'pgmq-gateway'";
    let open: i64 = gateway.database.value(sql).await;
    assert!(open <= 4, "{open} connections");
    gateway.send("q", r#"{"message":"for the first"}"#).await;
    let mut answer = [0; 1024];
    let length = connections[0].read(&mut answer).await.expect("an answer");
    assert!(String::from_utf8_lossy(&answer[..length]).contains("for the first"));
    gateway.wait_for_waiters("q", 199).await;
}

/// More than are allowed to wait are told so.
#[tokio::test]
async fn waiting_is_bounded() {
    let gateway = TestGateway::with(|settings| settings.long_poll.max_waiters = 2).await;
    gateway.create("q").await;
    let _connections = [begin_to_wait(&gateway).await, begin_to_wait(&gateway).await];
    gateway.wait_for_waiters("q", 2).await;
    let refused = gateway.get("/queues/q/messages?wait=20").await.problem(503, "overloaded");
    assert!(!refused.header("retry-after").is_empty());
}
