//! The shutdown delay: what clients meet that ask while the gateway goes away.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::support::{Answer, Client, TestGateway, eventually};

/// In the shutdown delay a client that asks again and again is held, and is given what comes.
#[tokio::test]
async fn a_long_poll_is_held_while_the_gateway_drains() {
    let gateway = TestGateway::with(|s| s.server.shutdown_delay_seconds = 5).await;
    gateway.create("q").await;
    let TestGateway { gateway, client, .. } = gateway;
    let receive = |client: Client| async move {
        let answer =
            client.request("GET", "/queues/q/messages?wait=20&vt=600").send().await.ok()?;
        assert_eq!(answer.headers()["connection"], "close");
        Some(answer.json::<serde_json::Value>().await.expect("JSON"))
    };
    let stopping = tokio::spawn({
        let started = Instant::now();
        async move {
            gateway.drain().await;
            gateway.shut_down().await;
            started.elapsed()
        }
    });
    eventually("it drains", async || (client.get("/readyz").await.status == 503).then_some(()))
        .await;
    let looping = async {
        let (mut requests, mut got) = (0, Vec::new());
        while let Some(answer) = receive(client.clone()).await {
            requests += 1;
            got.extend(answer["messages"].as_array().expect("messages").clone());
        }
        (requests, got)
    };
    let sending = async {
        sleep(Duration::from_secs(1)).await;
        Answer::of(client.request("POST", "/queues/q/messages").body(r#"{"message":7}"#)).await
    };
    let ((requests, got), sent) = tokio::join!(looping, sending);
    sent.expect(201);
    assert_eq!(got[0]["message"], 7, "what comes meanwhile is delivered");
    assert!((2..=4).contains(&requests), "{requests} requests in 5 s");
    let took = stopping.await.expect("stopped");
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
}
