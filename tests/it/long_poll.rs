//! Waiting for messages.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{TestGateway, eventually};

async fn waiters(gateway: &TestGateway) -> i64 {
    gateway.get("/queues/q/metrics").await.expect(200).json()["waiters"].as_i64().expect("a number")
}

async fn until_waiting(gateway: &TestGateway, count: i64) {
    let waiting = async || (waiters(gateway).await == count).then_some(());
    eventually(&format!("{count} clients wait"), waiting).await;
}

/// Begins to wait, and returns the connection to leave by.
async fn begin_to_wait(gateway: &TestGateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.gateway.address()).await.expect("connected");
    let request = b"GET /queues/q/messages?wait=20 HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    stream
}

#[tokio::test]
async fn a_message_ends_the_wait() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let started = Instant::now();
    let (received, ()) = tokio::join!(gateway.receive("q", "wait=20"), async {
        until_waiting(&gateway, 1).await;
        gateway.send("q", r#"{"message":"awaited"}"#).await;
    });
    assert_eq!(received[0]["message"], "awaited");
    assert_eq!(received[0]["read_ct"], 1);
    assert!(started.elapsed() < Duration::from_secs(20), "it did not wait for the end");
    assert_eq!(waiters(&gateway).await, 0);
}

#[tokio::test]
async fn the_wait_ends_empty_when_the_time_is_up() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let started = Instant::now();
    assert!(gateway.receive("q", "wait=2").await.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(1_900));
    assert_eq!(waiters(&gateway).await, 0);
    gateway.get("/queues/none/messages?wait=20").await.problem(404, "queue_not_found");
}

/// Clients that come back as soon as they are answered find their place free.
#[tokio::test]
async fn places_are_free_again_when_the_wait_is_over() {
    let gateway = TestGateway::with(|settings| settings.long_poll.max_connections = 1).await;
    gateway.create("q").await;
    for _ in 0..3 {
        assert!(gateway.receive("q", "wait=1").await.is_empty());
    }
}

/// A client that leaves while it waits is given nothing: the next message goes to who is there.
#[tokio::test]
async fn a_client_that_left_swallows_no_message() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for round in 0..5 {
        let connection = begin_to_wait(&gateway).await;
        until_waiting(&gateway, 1).await;
        drop(connection);
        until_waiting(&gateway, 0).await;
        let id = gateway.send("q", &format!(r#"{{"message":{round}}}"#)).await;
        let received = gateway.receive("q", "wait=10").await;
        assert_eq!(received.len(), 1, "round {round}: hidden by one that is not there");
        assert_eq!(received[0]["read_ct"], 1, "round {round}: counted as delivered to nobody");
        gateway.delete(&format!("/queues/q/messages/{id}")).await.expect(204);
    }
}

/// Even if it leaves in the very moment in which the message arrives: either the answer was sent, or
/// the message is there for the next.
#[tokio::test]
async fn leaving_and_arriving_at_the_same_moment_loses_nothing() {
    // Looks that are far apart, so that some leave before the message is found.
    let gateway = TestGateway::with(|settings| settings.long_poll.poll_interval_ms = 1_000).await;
    gateway.create("q").await;
    let mut given_back = 0;
    for delay_ms in [0, 0, 1, 5, 20, 100, 500, 900, 1_000, 1_100] {
        let mut connection = begin_to_wait(&gateway).await;
        until_waiting(&gateway, 1).await;
        let id = gateway.send("q", r#"{"message":1}"#).await;
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
    let gateway = TestGateway::with(|settings| settings.long_poll.max_connections = 2).await;
    gateway.create("q").await;
    let connections = [begin_to_wait(&gateway).await, begin_to_wait(&gateway).await];
    until_waiting(&gateway, 2).await;
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
    until_waiting(&gateway, 4).await;
    for n in 0..100 {
        gateway.send("other", &format!(r#"{{"message":{n}}}"#)).await;
    }
    assert_eq!(waiters(&gateway).await, 4, "all of that while they waited");
    // One without a place is given what there is at its one look.
    gateway.send("other", r#"{"message":"there"}"#).await;
    assert_eq!(gateway.receive("other", "wait=20").await.len(), 1);

    gateway.send("q", r#"{"message":"for one of them"}"#).await;
    let served = clients.join_next().await.expect("a client").expect("no panic").expect(200);
    assert_eq!(served.messages()[0]["message"], "for one of them");
    gateway.gateway.drain();
    while let Some(answer) = clients.join_next().await {
        assert!(answer.expect("no panic").expect(200).messages().is_empty());
    }
}

#[tokio::test]
async fn waiting_with_a_filter() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":{"for":"a"}}"#).await;
    let wait = gateway.receive("q", "wait=20&filter=%7B%22for%22%3A%22b%22%7D");
    let (received, ()) = tokio::join!(wait, async {
        until_waiting(&gateway, 1).await;
        gateway.send("q", r#"{"message":{"for":"b"}}"#).await;
    });
    assert_eq!(received[0]["message"]["for"], "b");
}
