//! Purges for which the time of a request is too short.

use crate::support::TestGateway;

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
    assert_eq!(first, serde_json::json!({"purged": STEP, "more": true}));
    let second = gateway.post("/queues/q/purge", "").await.expect(200).json();
    assert_eq!(second, serde_json::json!({"purged": 70 - STEP}));
}
