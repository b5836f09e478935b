//! Triggers that change the session which they run in, and not just their transaction: whoever has the connection
//! next is served as if they had not.

use pgmq_gateway::config::{ReadMode, Settings};
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
    gateway_with(2).await
}

async fn gateway_with(connections: u32) -> TestGateway {
    let change = |settings: &mut Settings| settings.database.max_connections = connections;
    let gateway = TestGateway::with(change).await;
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
    let popped = gateway.post(&path("messages/pop"), "").await.expect(200).messages();
    is_it(&popped[0]);
    // Of those that are due since the same moment, any may come first.
    let left = if popped[0]["msg_id"] == first + 2 { first + 1 } else { first + 2 };
    gateway.post(&path(&format!("messages/{left}/archive")), "").await.expect(204);
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

/// What such a session ends in the middle of its rows is asked for anew, too.
#[tokio::test]
async fn a_session_that_has_less_time_ends_no_answer_half_way() {
    let gateway = gateway().await;
    let fill =
        "SELECT pgmq.send('other', to_jsonb(repeat('x', 100000))) FROM generate_series(1, 50)";
    gateway.database.execute(fill).await;
    for limit in ["5ms", "10ms", "20ms", "40ms", "80ms"] {
        has_trigger(&gateway, &format!("SET statement_timeout = '{limit}'")).await;
        gateway.send("odd", r#"{"message":1}"#).await;
        // One of them gets that session.
        let answers =
            together(2, |_| Answer::of(gateway.request("GET", "/queues/other/peek?limit=50")));
        for answer in answers.await {
            assert_eq!(answer.expect(200).messages().len(), 50, "{limit}");
        }
    }
}

/// Those who share statements and connections with others, too.
#[tokio::test]
async fn a_crowd_beside_such_a_trigger_is_served() {
    let gateway = gateway_with(8).await;
    for deed in [DEEDS[0], "DEALLOCATE ALL", "SET LOCAL transaction_read_only = on"] {
        has_trigger(&gateway, deed).await;
        for round in 0..3 {
            let answers = together(36, |n| {
                let queue = if n % 3 == 0 { "odd" } else { "other" };
                let send = json!({"message": format!("€ {round} {n}")});
                let request = match n % 4 {
                    0 | 1 => gateway
                        .request("POST", &format!("/queues/{queue}/messages"))
                        .body(send.to_string()),
                    2 => gateway.request("GET", &format!("/queues/{queue}/messages?vt=0")),
                    _ => gateway.request("GET", &format!("/queues/{queue}/messages/1")),
                };
                Answer::of(request)
            });
            for (n, answer) in answers.await.into_iter().enumerate() {
                let is_fine = [200, 201].contains(&answer.status) || n % 4 == 3;
                assert!(is_fine || n % 3 == 0, "{deed}: {}", answer.text);
                assert!(answer.status != 500, "{deed}: {}", answer.text);
            }
        }
        for message in gateway.all("other").await {
            assert!(message["message"].as_str().expect("text").starts_with("€ "), "{message}");
        }
    }
}

/// What a trigger says of its own transaction is not what the server is like.
#[tokio::test]
async fn a_trigger_that_wants_no_changes_costs_nobody_a_connection() {
    let gateway = gateway().await;
    gateway.send("other", r#"{"message":1}"#).await;
    has_trigger(&gateway, "SET LOCAL transaction_read_only = on; CREATE TABLE public.no ()").await;
    let sessions = "SELECT coalesce(array_agg(pid ORDER BY pid), '{}') FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'pgmq-gateway'";
    let before: Vec<i32> = gateway.database.value(sessions).await;
    for _ in 0..3 {
        let refused = gateway.post("/queues/odd/messages", r#"{"message":1}"#).await;
        assert!([422, 503].contains(&refused.status), "{}", refused.text);
        gateway.send("other", r#"{"message":1}"#).await;
    }
    let after: Vec<i32> = gateway.database.value(sessions).await;
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} {after:?}");
    gateway.get("/readyz").await.expect(200);
}

/// Also where a statement writes something down first: which queue it is that SQL has made.
#[tokio::test]
async fn a_queue_that_was_not_known_is_not_read_in_a_session_that_was_changed() {
    for read in [ReadMode::Indexed, ReadMode::Pgmq] {
        let gateway = TestGateway::with(|settings| {
            settings.database.max_connections = 2;
            settings.engine.read = read;
        })
        .await;
        let sql = "CREATE TABLE public.marks (id bigint);
            CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN INSERT INTO public.marks VALUES (new.msg_id); RETURN NULL; END';
            CREATE FUNCTION public.deed() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN SET session_replication_role = replica; RETURN NULL; END';
            SELECT pgmq.create('odd');
            CREATE TRIGGER t AFTER INSERT ON pgmq.q_odd FOR EACH ROW EXECUTE FUNCTION public.deed()";
        gateway.database.execute(sql).await;
        for round in 0..8 {
            let queue = format!("new{round}");
            let create = format!(
                "SELECT pgmq.create('{queue}'), pgmq.send('{queue}', '1');
                 CREATE TRIGGER t AFTER UPDATE OR DELETE ON pgmq.q_{queue}
                 FOR EACH ROW EXECUTE FUNCTION public.mark()"
            );
            gateway.send("odd", r#"{"message":1}"#).await;
            gateway.database.execute(&create).await;
            let path = format!("/queues/{queue}/messages");
            let answer = match round % 2 {
                0 => gateway.post(&format!("{path}/pop"), "").await,
                _ => gateway.get(&path).await,
            };
            assert_eq!(answer.expect(200).messages().len(), 1);
            let marks: i64 = gateway.database.value("SELECT count(*) FROM public.marks").await;
            assert_eq!(marks, round + 1, "its trigger runs");
        }
    }
}
