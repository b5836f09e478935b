//! `paused`: nothing is delivered, and all else goes on.

use pgmq_gateway::config::{Settings, Strategy};
use serde_json::json;
use tokio::time::{Duration, sleep, timeout};

use crate::support::{Client, PATIENCE, TestGateway, eventually};

/// Time after which what was going to be delivered would have been, on a busy machine.
const WHILE: Duration = Duration::from_secs(2);

const WAYS: [fn(&mut Settings); 2] =
    [|_| {}, |settings| settings.long_poll.strategy = Strategy::ReadWithPoll];

async fn pause(client: &Client, paused: bool) {
    let queue = client.configure("q", json!({"paused": paused})).await.expect(200).json();
    assert_eq!(queue["settings"]["paused"], paused);
}

#[tokio::test]
async fn receives_and_pop_get_nothing_and_all_else_goes_on() {
    for way in WAYS {
        let gateway = TestGateway::with(way).await;
        gateway.create("q").await;
        gateway.send("q", r#"{"message":1}"#).await;
        let held = gateway.receive_one("q", "vt=600").await;
        gateway.send("q", r#"{"message":2}"#).await;
        pause(&gateway, true).await;
        gateway.send("q", r#"{"message":3}"#).await;
        for parameters in ["", "qty=10", "wait=1", "fifo=head", "filter=%7B%7D"] {
            assert!(gateway.receive("q", parameters).await.is_empty(), "{parameters}");
        }
        let popped = gateway.post("/queues/q/messages/pop", "").await.expect(200);
        assert!(popped.messages().is_empty());
        let body = json!({"delete": [{"receipt": held["receipt"]}], "retry": [{"msg_id": 2}]});
        let settled =
            gateway.post("/queues/q/messages/settle", &body.to_string()).await.expect(200);
        assert_eq!(settled.json()["deleted"], json!([1]));
        let both = json!({"settle": {"archive": [{"msg_id": 2}]}}).to_string();
        let both = gateway.post("/queues/q/messages/receive", &both).await.expect(200).json();
        assert_eq!((&both["settled"]["archived"], &both["messages"]), (&json!([2]), &json!([])));
        assert_eq!(gateway.all("q").await[0]["read_ct"], 0, "nothing was delivered in between");
        pause(&gateway, false).await;
        assert_eq!(gateway.receive_one("q", "").await["msg_id"], 3);
    }
}

/// Those who wait when it begins, and those who come while it lasts, at every gateway.
#[tokio::test]
async fn who_waits_goes_on_waiting_and_is_woken_when_it_ends() {
    for way in WAYS {
        let database = crate::support::TestDatabase::new().await;
        let gateways =
            [TestGateway::on(&database, way).await, TestGateway::on(&database, way).await];
        gateways[0].create("q").await;
        let wait = |client: &Client| {
            let client = client.clone();
            tokio::spawn(async move { client.receive_one("q", "wait=20").await })
        };
        let before = wait(&gateways[1]);
        gateways[1].wait_for_waiters("q", 1).await;
        pause(&gateways[0], true).await;
        // In force everywhere within a second.
        sleep(WHILE).await;
        let during = [wait(&gateways[0]), wait(&gateways[1])];
        eventually("they wait", async || {
            let counts = (gateways[0].waiters("q").await, gateways[1].waiters("q").await);
            (counts == (1, 2)).then_some(())
        })
        .await;
        for n in 0..3 {
            gateways[n % 2].send("q", &json!({"message": n}).to_string()).await;
        }
        sleep(WHILE).await;
        assert!(gateways[0].all("q").await.iter().all(|message| message["read_ct"] == 0));
        pause(&gateways[0], false).await;
        let mut received = Vec::new();
        for waiting in [before].into_iter().chain(during) {
            let message = timeout(PATIENCE, waiting).await.expect("woken").expect("a message");
            received.push(message["msg_id"].as_i64().expect("an id"));
        }
        received.sort_unstable();
        assert_eq!(received, [1, 2, 3]);
    }
}

/// The time of who waits ends as it would otherwise.
#[tokio::test]
async fn who_waits_in_vain_is_answered_in_time() {
    for way in WAYS {
        let gateway = TestGateway::with(way).await;
        gateway.create_with("q", &json!({"settings": {"paused": true}})).await;
        gateway.send("q", r#"{"message":1}"#).await;
        let received = timeout(Duration::from_secs(15), gateway.receive("q", "wait=1")).await;
        assert!(received.expect("in time").is_empty());
        assert_eq!(gateway.waiters("q").await, 0);
    }
}

/// What an SQL client writes into the settings counts as well.
#[tokio::test]
async fn a_pause_that_ends_by_sql_wakes_who_waits() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"settings": {"paused": true}})).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.receive_one("q", "wait=20").await });
    gateway.wait_for_waiters("q", 1).await;
    gateway.database.execute("UPDATE pgmq_gateway.queue_settings SET settings = '{}'").await;
    let received =
        timeout(Duration::from_secs(15), waiting).await.expect("woken").expect("received");
    assert_eq!(received["msg_id"], 1);
}

/// Who may not drop it, and who is told that it is full, change nothing of its being paused.
#[tokio::test]
async fn nothing_is_delivered_where_a_drop_is_refused_or_every_place_is_taken() {
    let gateway = TestGateway::with(|settings| {
        settings.long_poll.strategy = Strategy::ReadWithPoll;
        settings.long_poll.max_connections = 1;
    })
    .await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    pause(&gateway, true).await;
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/queues/q/messages?wait=5").await }
    });
    gateway.wait_for_waiters("q", 1).await;
    gateway.get("/queues/q/messages?wait=5").await.problem(503, "overloaded");
    gateway.database.execute("CREATE VIEW looks AS TABLE pgmq.q_q").await;
    gateway.delete("/queues/q").await.problem(409, "queue_conflict");
    assert!(waiting.await.expect("no panic").expect(200).messages().is_empty());
    assert_eq!(gateway.all("q").await[0]["read_ct"], 0);
}

/// The same for those who wait in line.
#[tokio::test]
async fn who_waits_gets_nothing_by_a_drop_that_is_refused() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":1}"#).await;
    gateway.database.execute("CREATE VIEW looks AS TABLE pgmq.q_q").await;
    pause(&gateway, true).await;
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.receive("q", "wait=5").await }
    });
    gateway.wait_for_waiters("q", 1).await;
    gateway.delete("/queues/q").await.problem(409, "queue_conflict");
    assert!(waiting.await.expect("no panic").is_empty());
    assert_eq!(gateway.all("q").await[0]["read_ct"], 0);
}
