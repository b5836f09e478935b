//! The shutdown delay: what clients meet that ask while the gateway goes away.

use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::time::{Instant, sleep};

use crate::support::{Answer, Client, TestGateway, eventually, report};

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// In the shutdown delay a client that asks again and again is held, and is given what comes.
#[tokio::test]
async fn a_long_poll_is_held_while_the_gateway_drains() {
    let gateway = TestGateway::with(|s| s.server.shutdown_delay_seconds = 5).await;
    gateway.create("q").await;
    let TestGateway { gateway, client, .. } = gateway;
    let receive = |client: Client| async move {
        let asked = client.request("GET", "/queues/q/messages?wait=20&vt=600").send().await;
        let answer = asked.map_err(|error| error.is_connect())?;
        assert_eq!((answer.status().as_u16(), &answer.headers()["connection"]), (200, &CLOSE));
        answer.json::<serde_json::Value>().await.map_err(|_| false)
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
        let (mut answered, mut failed, mut got) = (0, 0, Vec::new());
        loop {
            match receive(client.clone()).await {
                Ok(answer) => {
                    answered += 1;
                    got.extend(answer["messages"].as_array().expect("messages").clone());
                }
                // It is gone: nobody listens there any more.
                Err(true) => break (answered, failed, got),
                Err(false) => failed += 1,
            }
        }
    };
    let sending = async {
        sleep(Duration::from_secs(1)).await;
        Answer::of(client.request("POST", "/queues/q/messages").body(r#"{"message":7}"#)).await
    };
    let ((answered, failed, got), sent) = tokio::join!(looping, sending);
    sent.expect(201);
    assert_eq!(got[0]["message"], 7, "what comes meanwhile is delivered");
    report(&format!("a drain of 5 s: {answered} requests of a loop answered, {failed} failed"));
    assert_eq!(failed, 0);
    assert!((2..=4).contains(&answered), "{answered} requests in 5 s");
    let took = stopping.await.expect("stopped");
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(15), "{took:?}");
}
