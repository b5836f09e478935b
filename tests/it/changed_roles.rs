//! Triggers that set the role of their transaction: what they stand on is done, as the role is set back.

use serde_json::{Value, json};

use crate::support::{Answer, TestGateway};

/// All ways to do so.
const DEEDS: [&str; 4] = [
    "PERFORM set_config('role', 'pg_monitor', true)",
    "SET LOCAL ROLE pg_monitor",
    "SET ROLE pg_monitor",
    "SET LOCAL SESSION AUTHORIZATION pg_monitor",
];

/// Queues `q` and `f`, read in groups, with dead letters in `dead`, to which the topic `t` leads. Each has such a
/// trigger for all that is done to its rows, and so has the archive of `q`.
async fn with_trigger(deed: &str) -> TestGateway {
    let gateway = TestGateway::start().await;
    gateway.create("dead").await;
    let settings = json!({"max_receives": 50, "dead_letter_queue": "dead"});
    for (queue, fifo) in [("q", false), ("f", true)] {
        gateway.create_with(queue, &json!({"fifo": fifo, "settings": settings})).await;
        gateway.post(&format!("/queues/{queue}/bindings"), r#"{"pattern":"t"}"#).await.expect(201);
    }
    gateway
        .database
        .execute(&format!(
            "CREATE FUNCTION public.becomes() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {deed}; RETURN coalesce(new, old); END $$"
        ))
        .await;
    for table in ["q_q", "a_q", "q_f", "q_dead"] {
        gateway
            .database
            .execute(&format!(
                "CREATE TRIGGER becomes BEFORE INSERT OR UPDATE OR DELETE ON pgmq.{table}
                 FOR EACH ROW EXECUTE FUNCTION public.becomes()"
            ))
            .await;
    }
    gateway
}

async fn once(gateway: &TestGateway, path: &str, key: &str, body: &Value) -> Answer {
    let request = gateway.request("POST", path).header("idempotency-key", key);
    Answer::of(request.body(body.to_string())).await
}

async fn post(gateway: &TestGateway, path: &str, body: &Value) -> Value {
    gateway.post(path, &body.to_string()).await.expect(200).json()
}

#[tokio::test]
async fn what_is_stored_is_stored_once() {
    for deed in DEEDS {
        let gateway = with_trigger(deed).await;
        let headers = json!({"x-pgmq-group": "g", "x-deduplication-id": "d"});
        for queue in ["q", "f"] {
            let path = format!("/queues/{queue}/messages");
            let plain = json!({"message": 1});
            let noted = json!({"message": 2, "headers": headers});
            let batch = json!({"messages": [{"message": 3}, {"message": 4}]});
            let transaction = json!({"operations": [
                {"send": {"queue": queue, "message": 5}}, {"send": {"queue": "dead", "message": 6}},
                {"send": {"queue": queue, "message": 7}}]});
            for (n, (path, body)) in [
                (&*path, &plain),
                (&*path, &noted),
                (&*format!("{path}/batch"), &batch),
                ("/transactions", &transaction),
                ("/topics/t/messages", &plain),
            ]
            .into_iter()
            .enumerate()
            {
                let answer = gateway.post(path, &body.to_string()).await;
                assert!(answer.status < 300, "{deed}, {path}: {}", answer.text);
                for replayed in [false, true] {
                    let answer = once(&gateway, path, &format!("{queue}{n}"), body).await;
                    assert!(answer.status < 300, "{deed}, {path}: {}", answer.text);
                    let said = answer.header("idempotency-replayed") == "true";
                    // What was sent with its id before is said to be there, too.
                    assert!(said == replayed || body == &noted, "{deed}, {path}, {replayed}");
                }
            }
        }
        // Of the message that has an id, `f` takes one.
        for (queue, count) in [("q", 16), ("f", 15), ("dead", 4)] {
            let sql = format!("SELECT count(*) FROM pgmq.q_{queue}");
            assert_eq!(gateway.database.value::<i64>(&sql).await, count, "{deed}, {queue}");
        }
    }
}

#[tokio::test]
async fn what_is_settled_is_settled() {
    for deed in DEEDS {
        let gateway = with_trigger(deed).await;
        for n in 1..=20 {
            gateway.send("q", &json!({"message": n}).to_string()).await;
        }
        let received = gateway.receive("q", "qty=20&vt=600").await;
        let receipt = |n: usize| received[n - 1]["receipt"].as_str().expect("a receipt").to_owned();
        let message = |n: usize| format!("/queues/q/messages/{n}");

        let shown = gateway.patch(&message(1), r#"{"vt":600}"#).await.expect(200).json();
        assert_eq!(shown["msg_id"], 1, "{deed}");
        let minimal = gateway.request("PATCH", &message(2)).header("prefer", "return=minimal");
        Answer::of(minimal.body(r#"{"vt":600}"#)).await.expect(204);
        gateway.delete(&format!("{}?receipt={}", message(3), receipt(3))).await.expect(204);
        gateway.delete(&message(4)).await.expect(204);
        let archive = format!("{}/archive?receipt={}", message(5), receipt(5));
        gateway.post(&archive, "").await.expect(204);
        gateway.post(&format!("{}/archive", message(6)), "").await.expect(204);

        let settle = json!({
            "delete": [{"receipt": receipt(7)}, {"msg_id": 8}],
            "archive": [{"receipt": receipt(9)}],
            "retry": [{"receipt": receipt(10), "delay": 600}],
            "dead_letter": [{"receipt": receipt(11)}, {"msg_id": 12}],
        });
        let settled = post(&gateway, "/queues/q/messages/settle", &settle).await;
        assert_eq!(settled["failed"], json!([]), "{deed}: {settled}");

        let transaction = json!({"operations": [
            {"delete": {"queue": "q", "receipt": receipt(13)}},
            {"archive": {"queue": "q", "msg_id": 14}},
            {"set_vt": {"queue": "q", "msg_id": 15, "vt": 600}},
            {"send": {"queue": "dead", "message": 1}},
            {"delete": {"queue": "q", "msg_id": 16}}]});
        let done = post(&gateway, "/transactions", &transaction).await;
        assert_eq!(done["results"].as_array().map(Vec::len), Some(5), "{deed}: {done}");

        let next = json!({"delete": [{"receipt": receipt(17)}],
                          "dead_letter": [{"msg_id": 18}]});
        let next = json!({"settle": next});
        let next = post(&gateway, "/queues/q/messages/receive", &next).await;
        assert_eq!(next["settled"]["failed"], json!([]), "{deed}: {next}");

        let left = "SELECT array_agg(msg_id ORDER BY msg_id) FROM pgmq.q_q";
        let left = gateway.database.value::<Vec<i64>>(left).await;
        assert_eq!(left, [1, 2, 10, 15, 19, 20], "{deed}");
        let redriven = post(&gateway, "/queues/dead/redrive", &json!({})).await;
        assert_eq!(redriven["moved"], 3, "{deed}: {redriven}");
        let replayed = post(&gateway, "/queues/q/archive/replay", &json!({})).await;
        assert_eq!(replayed["replayed"], 4, "{deed}: {replayed}");
    }
}
