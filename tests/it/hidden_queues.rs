//! Policies that hide a queue in PGMQ's list, while its table is there: what is set for it is not taken for nothing,
//! nor it for missing.

use serde_json::{Value, json};

use super::supabase::call;
use crate::support::{eventually, guarded::Guarded, sqs::Sqs};

const HIDE: &str = "CREATE POLICY p ON pgmq.meta USING (queue_name <> 'q');
    ALTER TABLE pgmq.meta ENABLE ROW LEVEL SECURITY";

/// Hides the queue, and waits until the gateway knows.
async fn hide(gateway: &Guarded) {
    gateway.database.execute(HIDE).await;
    let is_known = async || {
        let looked = gateway.get("/queues/q/metrics").await;
        (looked.status == 403).then_some(looked)
    };
    let detail = eventually("it is known to be hidden", is_known).await.detail();
    assert!(detail.contains("pgmq.meta"), "{detail}");
}

#[tokio::test]
async fn a_hidden_queue_does_not_go_by_other_settings_than_its_own() {
    let gateway = Guarded::start("").await;
    let settings =
        json!({"max_receives": 1, "dead_letter_queue": "other", "max_message_bytes": 10});
    gateway.configure("q", settings).await.expect(200);
    gateway.send("q", r#"{"message":1}"#).await;
    hide(&gateway).await;

    let long = "a message over the limit";
    let send = json!({"send": {"queue": "q", "message": long}});
    let post = async |path: &str, body: &Value| gateway.post(path, &body.to_string()).await;
    for answer in [
        post("/queues/q/messages", &json!({"message": long})).await,
        post("/queues/q/messages/batch", &json!({"messages": [{"message": long}]})).await,
        gateway.get("/queues/q/messages?vt=0").await,
        gateway.post("/queues/q/messages/pop", "").await,
        post("/queues/q/messages/settle", &json!({"dead_letter": [{"msg_id": 1}]})).await,
        post("/transactions", &json!({"operations": [send]})).await,
    ] {
        let detail = answer.problem(403, "forbidden").detail();
        assert!(detail.contains("pgmq.meta"), "{detail}");
    }
    for (function, body) in [
        ("send", json!({"queue_name": "q", "message": {"a": long}})),
        ("read", json!({"queue_name": "q", "sleep_seconds": 0, "n": 1})),
        ("pop", json!({"queue_name": "q"})),
    ] {
        let answer = call(&gateway, function, body).await;
        assert!(answer.status >= 400 && answer.text.contains("pgmq.meta"), "{}", answer.text);
    }
    let untouched = "SELECT array_agg(msg_id) FROM pgmq.q_q WHERE read_ct = 0";
    assert_eq!(gateway.database.value::<Vec<i64>>(untouched).await, [1]);
    // Others go on.
    gateway.send("other", r#"{"message":2}"#).await;
    gateway.receive_one("other", "").await;

    gateway
        .database
        .execute("DROP POLICY p ON pgmq.meta; CREATE POLICY p ON pgmq.meta USING (true)")
        .await;
    let is_back = async || {
        let sent = post("/queues/q/messages", &json!({"message": long})).await;
        (sent.status != 403).then_some(sent)
    };
    let sent = eventually("it is shown again", is_back).await;
    sent.problem(413, "message_too_large");
    gateway.receive_one("q", "vt=0").await;
}

/// Who waited there before goes on waiting.
#[tokio::test]
async fn a_paused_queue_that_is_hidden_delivers_nothing() {
    let gateway = Guarded::start("").await;
    gateway.configure("q", json!({"paused": true})).await.expect(200);
    gateway.send("q", r#"{"message":1}"#).await;
    let client = gateway.client.clone();
    let waiter = tokio::spawn(async move { client.receive("q", "wait=5").await });
    gateway.wait_for_waiters("q", 1).await;
    hide(&gateway).await;
    gateway.database.execute("SELECT pgmq.send('q', '2')").await;
    assert!(waiter.await.expect("no panic").is_empty());
}

#[tokio::test]
async fn clients_of_sqs_are_not_told_that_a_hidden_queue_is_missing() {
    let gateway = Guarded::start(HIDE).await;
    let sqs = Sqs(&gateway);
    let other = sqs.done("GetQueueUrl", &json!({"QueueName": "other"})).await["QueueUrl"].clone();
    let url = other.as_str().expect("a URL").replace("other", "q");
    let asked = json!({"QueueUrl": other, "AttributeNames": ["QueueArn"]});
    let arn = sqs.done("GetQueueAttributes", &asked).await["Attributes"]["QueueArn"].clone();
    let arn = arn.as_str().expect("an ARN").replace("other", "q");
    let redrive = json!({"deadLetterTargetArn": arn, "maxReceiveCount": 3}).to_string();
    for (action, input) in [
        ("GetQueueUrl", json!({"QueueName": "q"})),
        ("SendMessage", json!({"QueueUrl": url, "MessageBody": "x"})),
        ("ReceiveMessage", json!({"QueueUrl": url})),
        ("TagQueue", json!({"QueueUrl": url, "Tags": {"a": "b"}})),
        ("ListQueueTags", json!({"QueueUrl": url})),
        ("GetQueueAttributes", json!({"QueueUrl": url, "AttributeNames": ["All"]})),
        ("SetQueueAttributes", json!({"QueueUrl": url, "Attributes": {"DelaySeconds": "1"}})),
        (
            "SetQueueAttributes",
            json!({"QueueUrl": other, "Attributes": {"RedrivePolicy": redrive}}),
        ),
        ("PurgeQueue", json!({"QueueUrl": url})),
        ("StartMessageMoveTask", json!({"SourceArn": arn})),
        ("CreateQueue", json!({"QueueName": "q"})),
        ("DeleteQueue", json!({"QueueUrl": url})),
    ] {
        let (code, text) = sqs.error(action, &input).await;
        assert_eq!(code, "AccessDenied", "{action}: {text}");
        assert!(text.contains("pgmq.meta"), "{action}: {text}");
    }
    let none = json!({"QueueUrl": url.replace("/q", "/none")});
    let (code, _) = sqs.error("ReceiveMessage", &none).await;
    assert_eq!(code, "AWS.SimpleQueueService.NonExistentQueue");
}
