//! Where the dashboard says that dead letters are, as queues and settings change.

use serde_json::json;

use super::dashboard_actions::{ids, said};
use crate::support::{Browser, TestGateway, eventually};

const DEAD: &str = "/ui/queues/s/messages?list=dead";

/// A queue whose dead letters go to another one.
async fn with_dead_letters(gateway: &TestGateway) {
    for dead in ["d", "other"] {
        gateway.create(dead).await;
    }
    let settings = json!({"max_receives": 1, "dead_letter_queue": "d"});
    gateway.create_with("s", &json!({"settings": settings})).await;
}

async fn at(browser: &Browser) -> String {
    let page = browser.get(DEAD).await.expect(200).text;
    page.split("name=\"at\" value=\"")
        .nth(1)
        .unwrap_or(&page)
        .split('"')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn once_their_queue_is_gone_they_are_in_the_archive() {
    let gateway = TestGateway::start().await;
    with_dead_letters(&gateway).await;
    let browser = Browser::new(&gateway.base);
    browser.get(DEAD).await.expect(200);
    gateway.database.execute("SELECT pgmq.drop_queue('d')").await;
    gateway.send("s", r#"{"message":"dies"}"#).await;
    eventually("it is dead", async || {
        gateway.receive("s", "vt=0").await;
        (ids(&gateway, "a_s").await == [1]).then_some(())
    })
    .await;
    eventually("that it is gone is known", async || {
        let queue = browser.get("/ui/queues/s").await.expect(200).text;
        queue.contains("the archive (d is not there)").then_some(())
    })
    .await;
    let queue = browser.get("/ui/queues/s").await.expect(200).text;
    assert!(!queue.contains("Dead letters go to <a"), "{queue}");
    let page = browser.get(DEAD).await.expect(200).text;
    assert!(page.contains("/ui/queues/s/messages/1?from=archive"), "{page}");
    assert!(page.contains("value=\"replay\"") && !page.contains("value=\"redrive\""), "{page}");
    let all = "/ui/queues/s/do?list=dead&at=s&action=replay&all=1";
    let preview = browser.get(all).await.expect(200).text;
    assert!(preview.contains("<strong>1 message.</strong>"), "{preview}");
    let fields = [("action", "replay"), ("list", "dead"), ("at", "s"), ("ids", "1")];
    let done = browser.post("/ui/queues/s/do", &fields).await.expect(200);
    assert_eq!(said(&done), "Moved back into the queue 1 of 1.");
    assert_eq!(ids(&gateway, "q_s").await.len(), 1);
}

/// Where a list has a message, it says what queue it is about.
async fn one_in_each(gateway: &TestGateway) {
    for queue in ["d", "other"] {
        gateway.send(queue, r#"{"message":1,"headers":{"x-dead-letter-queue":"s"}}"#).await;
    }
    let archived = "INSERT INTO pgmq.a_s (msg_id, vt, read_ct, enqueued_at, message, headers)
        VALUES (99, now(), 1, now(), '1', '{\"x-dead-letter-queue\": \"s\"}')";
    gateway.database.execute(archived).await;
}

#[tokio::test]
async fn what_was_changed_here_is_shown_at_once() {
    let gateway = TestGateway::start().await;
    with_dead_letters(&gateway).await;
    one_in_each(&gateway).await;
    let browser = Browser::new(&gateway.base);
    for (most, dead) in [(2, "other"), (3, "d"), (4, "other"), (5, "d")] {
        let settings = json!({"max_receives": most, "dead_letter_queue": dead});
        gateway.configure("s", settings.clone()).await.expect(200);
        assert_eq!(at(&browser).await, dead);
        gateway.configure("s", json!({"max_receives": most + 10})).await.expect(200);
        let page = browser.get("/ui/queues/s").await.expect(200).text;
        assert!(page.contains(&format!("<dd>{}</dd>", most + 10)), "{page}");
        gateway.configure("s", json!({"max_receives": most + 20})).await.expect(200);
        eventually("it is known", async || {
            let page = browser.get("/ui").await.expect(200).text;
            page.contains("data-queue=\"s\"").then_some(())
        })
        .await;
        gateway.configure("s", json!({"max_receives": most + 30})).await.expect(200);
        let page = browser.get("/ui").await.expect(200).text;
        assert!(page.contains(&format!("dead after {}", most + 30)), "{page}");
    }
}

#[tokio::test]
async fn a_queue_that_is_dropped_or_made_here_counts_at_once() {
    let gateway = TestGateway::start().await;
    with_dead_letters(&gateway).await;
    one_in_each(&gateway).await;
    let browser = Browser::new(&gateway.base);
    for _ in 0..3 {
        assert_eq!(at(&browser).await, "d");
        gateway.delete("/queues/d?force=true").await.expect(204);
        assert_eq!(at(&browser).await, "s");
        gateway.create("d").await;
        gateway.send("d", r#"{"message":1,"headers":{"x-dead-letter-queue":"s"}}"#).await;
    }
}
