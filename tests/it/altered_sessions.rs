//! Triggers that change the session which they run in, and not just their transaction: whoever has the connection
//! next is served as if they had not.

use serde_json::json;

use crate::support::{Answer, TestGateway, guarded::together};

/// What such a trigger does.
const DEEDS: [&str; 13] = [
    "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'SJIS'",
    "SET DateStyle = 'SQL, DMY'",
    "SET TimeZone = 'Asia/Kathmandu'",
    "SET standard_conforming_strings = off",
    "SET search_path = public",
    "SET lock_timeout = 1",
    "SET statement_timeout = 1",
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'serializable'",
    "SET session_replication_role = replica",
    "SET ROLE pg_monitor",
    "RESET ALL",
];

/// Queues `odd`, whose table has such a trigger, and `other`, of which a trigger notes every message.
async fn gateway() -> TestGateway {
    let gateway = TestGateway::with(|settings| settings.database.max_connections = 2).await;
    for queue in ["odd", "other"] {
        gateway.create(queue).await;
    }
    let marks = "CREATE TABLE public.marks (id bigint);
        CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO public.marks VALUES (new.msg_id); RETURN new; END';
        CREATE TRIGGER t AFTER INSERT ON pgmq.q_other FOR EACH ROW EXECUTE FUNCTION public.mark()";
    gateway.database.execute(marks).await;
    has_trigger(&gateway, "PERFORM 1").await;
    let trigger = "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON pgmq.q_odd
        FOR EACH ROW EXECUTE FUNCTION public.deed()";
    gateway.database.execute(trigger).await;
    gateway
}

/// From now on the trigger does this.
async fn has_trigger(gateway: &TestGateway, deed: &str) {
    let function = format!(
        "CREATE OR REPLACE FUNCTION public.deed() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN {deed}; RETURN coalesce(new, old); END $$"
    );
    gateway.database.execute(&function).await;
}

/// Does everything to the messages of a queue that is a matter of text, times and rights.
async fn use_queue(gateway: &TestGateway, queue: &str, deed: &str) {
    let path = |rest: &str| format!("/queues/{queue}/{rest}");
    let text = r"é € \u65e5 本 \\ '";
    let body = format!(r#"{{"message":{{"text":"{text}"}},"headers":{{"ü":"ß"}}}}"#);
    let message =
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["message"].clone();
    let is_it = |shown: &serde_json::Value| {
        assert_eq!(shown["message"], message, "{deed}");
        assert_eq!(shown["headers"], json!({"ü": "ß"}), "{deed}");
        let at = shown["enqueued_at"].as_str().expect("a time");
        assert!(at.ends_with('Z') && at.len() == 27, "{deed}: {at}");
    };
    let first = gateway.send(queue, &body).await;
    gateway
        .post(&path("messages/batch"), &format!(r#"{{"messages":[{body},{body}]}}"#))
        .await
        .expect(201);
    is_it(&gateway.get(&path(&format!("messages/{first}"))).await.expect(200).json());
    let received = gateway.receive_one(queue, "vt=60").await;
    is_it(&received);
    is_it(
        &gateway
            .patch(&path(&format!("messages/{first}")), r#"{"vt":60}"#)
            .await
            .expect(200)
            .json(),
    );
    for peeked in gateway.all(queue).await {
        is_it(&peeked);
    }
    let delete = json!({"delete": [{"receipt": received["receipt"]}]}).to_string();
    let settled = gateway.post(&path("messages/settle"), &delete).await.expect(200).json();
    assert_eq!(settled["deleted"], json!([first]), "{deed}");
    let send = format!(
        r#"{{"operations":[{{"send":{{"queue":"{queue}","message":{{"text":"{text}"}},"headers":{{"ü":"ß"}}}}}}]}}"#
    );
    gateway.post("/transactions", &send).await.expect(200);
    gateway.get(&path("metrics")).await.expect(200);
    is_it(&gateway.post(&path("messages/pop"), "").await.expect(200).messages()[0]);
    gateway.post(&path(&format!("messages/{}/archive", first + 2)), "").await.expect(204);
    let archived = gateway.get(&path("archive")).await.expect(200).messages();
    is_it(archived.last().expect("one"));
    let purged = gateway.post(&path("purge"), "").await.expect(200).json();
    assert_eq!(purged["purged"], 1, "{deed}");
}

#[tokio::test]
async fn what_a_trigger_does_to_its_session_is_felt_by_nobody() {
    let gateway = gateway().await;
    for deed in DEEDS {
        has_trigger(&gateway, deed).await;
        gateway.database.execute("TRUNCATE public.marks").await;
        for _ in 0..2 {
            gateway.send("odd", r#"{"message":1}"#).await;
            use_queue(&gateway, "other", deed).await;
        }
        let marked: i64 = gateway.database.value("SELECT count(*) FROM public.marks").await;
        assert_eq!(marked, 8, "{deed}: other triggers run");
    }
}

#[tokio::test]
async fn messages_of_such_a_queue_are_what_they_were() {
    let gateway = gateway().await;
    for deed in &DEEDS[..7] {
        has_trigger(&gateway, deed).await;
        use_queue(&gateway, "odd", deed).await;
    }
}

/// Those who share statements with others, too.
#[tokio::test]
async fn a_crowd_beside_such_a_trigger_is_served() {
    let gateway = gateway().await;
    has_trigger(&gateway, DEEDS[0]).await;
    for round in 0..3 {
        let answers = together(24, |n| {
            let queue = if n % 3 == 0 { "odd" } else { "other" };
            let body = json!({"message": format!("€ {round} {n}")}).to_string();
            Answer::of(gateway.request("POST", &format!("/queues/{queue}/messages")).body(body))
        });
        for answer in answers.await {
            answer.expect(201);
        }
    }
    for queue in ["odd", "other"] {
        for message in gateway.all(queue).await {
            assert!(message["message"].as_str().expect("text").starts_with("€ "), "{message}");
        }
    }
}
