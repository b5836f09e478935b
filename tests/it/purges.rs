//! Purges that leave messages.

use serde_json::json;

use super::dashboard_actions::said;
use crate::support::{Browser, TestGateway, holder::Holder, sqs::Sqs};

/// How many are deleted in a first step, which may take as long as it likes.
const STEP: i64 = 50;

#[tokio::test]
async fn a_purge_that_leaves_messages_says_so() {
    let gateway = TestGateway::with(|settings| settings.server.request_timeout_seconds = 8).await;
    gateway.create("q").await;
    // With a trigger it is emptied step by step; each takes longer than half of a request's time.
    let slow = "INSERT INTO pgmq.q_q (vt, message) SELECT now(), '1' FROM generate_series(1, 70);
        CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(4.1); RETURN NULL; END';
        CREATE TRIGGER slow AFTER DELETE ON pgmq.q_q EXECUTE FUNCTION public.slow()";
    gateway.database.execute(slow).await;
    let first = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!(first, json!({"purged": STEP, "more": true}));
    let second = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!(second, json!({"purged": 70 - STEP}));
}

/// The second of three messages, or nothing, stays; all doors say so, and why.
async fn leaves_the_second(gateway: &TestGateway, code: &str, why: &str) {
    let sqs = Sqs(gateway);
    let queue = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await;
    let left = async || -> Vec<i64> {
        gateway.all("q").await.iter().filter_map(|message| message["msg_id"].as_i64()).collect()
    };

    let (told, text) = sqs.error("PurgeQueue", &queue).await;
    assert_eq!(told, code, "{text}");
    assert!(text.starts_with("2 messages were deleted; others stay: "), "{text}");
    assert!(text.contains(why) && text.contains("message 2 of queue `q`"), "{text}");
    assert!(!text.contains("nothing was done"), "{text}");
    assert_eq!(left().await, [2]);
    // It is not forbidden to try again, nor true that nothing is left.
    assert_eq!(sqs.error("PurgeQueue", &queue).await.0, code);

    gateway.send("q", r#"{"message":4}"#).await;
    let purged = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!((&purged["purged"], purged.get("more")), (&json!(1), None), "{purged}");
    let reason = purged["reason"].as_str().expect("a reason");
    assert!(reason.contains(why) && reason.contains("message 2 of queue `q`"), "{reason}");
    assert_eq!(left().await, [2]);

    gateway.send("q", r#"{"message":5}"#).await;
    let browser = Browser::new(&gateway.base);
    let purged = browser.post("/ui/queues/q/do", &[("action", "purge"), ("name", "q")]).await;
    let purged = purged.expect(200);
    assert!(said(&purged).starts_with("1 message was deleted. Others stay: "), "{}", said(&purged));
    assert!(said(&purged).contains(why), "{}", said(&purged));
    assert_eq!(left().await, [2]);
}

async fn of_three() -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=3 {
        gateway.send("q", &json!({"message": n}).to_string()).await;
    }
    gateway
}

#[tokio::test]
async fn a_purge_says_why_messages_stay_among_others() {
    for (when, deed) in [("BEFORE", "RETURN NULL"), ("AFTER", "RAISE EXCEPTION 'kept'")] {
        let gateway = of_three().await;
        let keep = format!(
            "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF OLD.msg_id = 2 THEN {deed}; END IF; RETURN OLD; END $$;
             CREATE TRIGGER keep {when} DELETE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()"
        );
        gateway.database.execute(&keep).await;
        leaves_the_second(&gateway, "AccessDenied", "a trigger").await;
        gateway.database.execute("DROP TRIGGER keep ON pgmq.q_q").await;
        let purged = gateway.post("/queues/q/purge", "").await.expect(200).json();
        assert_eq!(purged, json!({"purged": 1}), "{when}");
    }
}

#[tokio::test]
async fn a_purge_says_that_messages_stay_that_somebody_has_locked() {
    let gateway = of_three().await;
    let lock = "SELECT FROM pgmq.q_q WHERE msg_id = 2 FOR UPDATE";
    let holder = Holder::of(&gateway.database, lock).await;
    leaves_the_second(&gateway, "ServiceUnavailable", "has locked").await;
    holder.rollback().await;
    let sqs = Sqs(&gateway);
    let queue = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await;
    sqs.done("PurgeQueue", &queue).await;
    assert!(gateway.all("q").await.is_empty());
    assert_eq!(
        sqs.error("PurgeQueue", &queue).await.0,
        "AWS.SimpleQueueService.PurgeQueueInProgress"
    );
}
