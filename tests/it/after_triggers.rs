//! Triggers that come after an update: what is said of a delivery is what is stored when they are done.

use serde_json::{Value, json};

use crate::support::{TestGateway, sqs::Sqs};

/// Has every delivery count five times, and last for two hours.
const CHANGES: &str = "CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF pg_trigger_depth() = 1 AND new.read_ct > old.read_ct THEN
                UPDATE pgmq.q_q SET read_ct = new.read_ct + 5, vt = now() + interval '2 h',
                                    headers = headers || '{\"seen\": true}' WHERE msg_id = new.msg_id;
            END IF;
            RETURN NULL;
        END $$;
    CREATE TRIGGER more AFTER UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.more();";

async fn gateway(settings: Value) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &settings).await;
    gateway.database.execute(CHANGES).await;
    let body = r#"{"message":{},"headers":{"x-pgmq-group":"g"}}"#;
    for _ in 0..3 {
        gateway.send("q", body).await;
    }
    gateway
}

#[tokio::test]
async fn a_delivery_is_told_as_such_triggers_leave_it() {
    for (settings, parameters) in [
        (json!({}), "vt=30"),
        (json!({}), "vt=30&filter=%7B%7D"),
        (json!({}), "vt=30&wait=1"),
        (json!({"fifo": true}), "vt=30&fifo=grouped"),
        (json!({"fifo": true}), "vt=30&fifo=round_robin"),
        (json!({"settings": {"fair": true}}), "vt=30"),
    ] {
        let gateway = gateway(settings).await;
        let message = gateway.receive_one("q", parameters).await;
        assert_eq!(message["read_ct"], 6, "{parameters}: {message}");
        assert_eq!(message["headers"]["seen"], true, "{parameters}: {message}");
        let stored: String = gateway
            .database
            .value(
                "SELECT to_char(vt AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM pgmq.q_q
                 WHERE read_ct > 0",
            )
            .await;
        assert_eq!(message["vt"], stored, "{parameters}");
        let receipt = message["receipt"].as_str().expect("a receipt");
        let path = format!("/queues/q/messages/{}?receipt={receipt}", message["msg_id"]);
        gateway.delete(&path).await.expect(204);
    }
}

#[tokio::test]
async fn deliveries_of_a_call_that_settles_and_of_sqs_can_be_ended() {
    let gateway = gateway(json!({})).await;
    let first = gateway.receive_one("q", "").await;
    let settle = json!({"settle": {"delete": [{"receipt": first["receipt"]}]}, "qty": 1});
    let second = gateway.post("/queues/q/messages/receive", &settle.to_string()).await.expect(200);
    assert_eq!(second.json()["settled"]["deleted"], json!([1]), "{}", second.text);
    let receipt = &second.messages()[0]["receipt"];
    let settle = json!({"delete": [{"receipt": receipt}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &settle).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([2]), "{settled}");
    let sqs = Sqs(&gateway);
    let url = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await["QueueUrl"].clone();
    let received = sqs.done("ReceiveMessage", &json!({"QueueUrl": url})).await;
    let handle = &received["Messages"][0]["ReceiptHandle"];
    sqs.done("DeleteMessage", &json!({"QueueUrl": url, "ReceiptHandle": handle})).await;
    assert!(gateway.all("q").await.is_empty());
}

/// One that such a trigger takes away is delivered, once.
#[tokio::test]
async fn what_such_a_trigger_deletes_is_given_out_once() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let sql = "CREATE FUNCTION public.take() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN DELETE FROM pgmq.q_q WHERE msg_id = new.msg_id; RETURN NULL; END $$;
        CREATE TRIGGER take AFTER UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.take();";
    gateway.database.execute(sql).await;
    for n in 1..=3 {
        gateway.send_message("q", n).await;
    }
    let received = gateway.receive("q", "qty=10").await;
    let said: Vec<_> = received.iter().map(|message| &message["message"]).collect();
    assert_eq!(said, [&json!(1), &json!(2), &json!(3)]);
    assert!(gateway.receive("q", "qty=10").await.is_empty());
}
