//! Triggers that leave a message's time as it was: nobody is told that it is hidden, or given back.

use serde_json::{Value, json};

use crate::support::{Answer, TestGateway, guarded::together, sqs::Sqs};

/// Keeps the time of those that have `bad` but for a delivery.
const KEEP: &str = "CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.read_ct = OLD.read_ct AND OLD.message ? 'bad' THEN NEW.vt := OLD.vt; END IF;
    RETURN NEW; END $$;
    CREATE TRIGGER keep BEFORE UPDATE ON pgmq.q_q FOR EACH ROW EXECUTE FUNCTION public.keep()";

const BAD: i64 = 2;

/// Four messages that are hidden for long, of which the second has its time kept.
async fn gateway() -> (TestGateway, Vec<Value>) {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    for n in 1..=4 {
        let message = if n == BAD { json!({"bad": n}) } else { json!({"n": n}) };
        gateway.send_message("q", message).await;
    }
    gateway.database.execute(KEEP).await;
    let mut received = gateway.receive("q", "qty=4&vt=600").await;
    received.sort_by_key(|message| message["msg_id"].as_i64());
    (gateway, received)
}

/// Those that are still hidden.
async fn hidden(gateway: &TestGateway) -> Vec<i64> {
    let hidden = "SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{}') FROM pgmq.q_q \
                  WHERE vt > now() + interval '60 s'";
    gateway.database.value(hidden).await
}

#[tokio::test]
async fn what_a_trigger_keeps_hidden_is_not_said_to_be_given_back() {
    let (gateway, received) = gateway().await;
    let path = |id: i64| format!("/queues/q/messages/{id}");
    let now = r#"{"vt":0}"#;
    gateway.patch(&path(BAD), now).await.problem(403, "forbidden");
    let brief = gateway.request("PATCH", &path(BAD)).header("prefer", "return=minimal");
    let brief = brief.header("content-type", "application/json").body(now);
    Answer::of(brief).await.problem(403, "forbidden");
    let hide = json!({"set_vt": {"queue": "q", "msg_id": BAD, "vt": 0}});
    let good = json!({"set_vt": {"queue": "q", "msg_id": 1, "vt": 0}});
    let both = json!({"operations": [good, hide]}).to_string();
    let refused = gateway.post("/transactions", &both).await.problem(403, "forbidden").json();
    assert_eq!(refused["index"], 1, "{refused}");
    assert_eq!(hidden(&gateway).await, [1, BAD, 3, 4]);

    let retry = json!({"retry": [{"msg_id": 1}, {"receipt": received[1]["receipt"]}]}).to_string();
    let settled = gateway.post("/queues/q/messages/settle", &retry).await.expect(200).json();
    assert_eq!(settled["retried"], json!([1]), "{settled}");
    assert_eq!(settled["failed"][0]["code"], "forbidden", "{settled}");
    assert_eq!(hidden(&gateway).await, [BAD, 3, 4]);

    let sqs = Sqs(&gateway);
    let url = sqs.done("GetQueueUrl", &json!({"QueueName": "q"})).await["QueueUrl"].clone();
    let entry = |n: usize| json!({"Id": n.to_string(), "ReceiptHandle": received[n]["receipt"], "VisibilityTimeout": 0});
    let mut one = entry(1);
    one["QueueUrl"] = url.clone();
    assert_eq!(sqs.error("ChangeMessageVisibility", &one).await.0, "AccessDenied");
    let entries = json!({"QueueUrl": url, "Entries": [entry(1), entry(2)]});
    let changed = sqs.done("ChangeMessageVisibilityBatch", &entries).await;
    assert_eq!(changed["Successful"], json!([{"Id": "2"}]), "{changed}");
    assert_eq!(changed["Failed"][0]["Id"], "1", "{changed}");
    assert_eq!(hidden(&gateway).await, [BAD, 4]);

    let answers = together(4, |n| {
        let (client, path) = (gateway.client.clone(), path(n + 1));
        async move { client.patch(&path, r#"{"vt":1000}"#).await }
    });
    let statuses: Vec<u16> = answers.await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 403, 200, 200]);
    assert_eq!(hidden(&gateway).await, [1, BAD, 3, 4]);
    let longest =
        "SELECT array_agg(msg_id) FROM pgmq.q_q WHERE vt > now() + interval '700 s' AND msg_id = 2";
    assert_eq!(gateway.database.value::<Option<Vec<i64>>>(longest).await, None);
}

/// It is hidden, and how long is told.
#[tokio::test]
async fn a_trigger_may_choose_another_time() {
    let (gateway, _) = gateway().await;
    let round = "CREATE OR REPLACE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.vt := least(date_trunc('second', NEW.vt), now() + interval '1 day'); RETURN NEW; END $$";
    gateway.database.execute(round).await;
    for seconds in [0, 30, 864_000] {
        let body = json!({"vt": seconds}).to_string();
        let changed = gateway.patch("/queues/q/messages/2", &body).await.expect(200).json();
        let said = changed["vt"].as_str().expect("a time");
        let is_so = format!("SELECT vt = '{said}'::timestamptz FROM pgmq.q_q WHERE msg_id = 2");
        assert!(gateway.database.value::<bool>(&is_so).await, "{changed}");
        let retry = json!({"retry": [{"msg_id": 2, "delay": seconds.min(600)}]}).to_string();
        let settled = gateway.post("/queues/q/messages/settle", &retry).await.expect(200).json();
        assert_eq!(settled["retried"], json!([2]), "{settled}");
    }
}
