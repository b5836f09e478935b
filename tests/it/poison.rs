//! Messages that can be stored and never be read again.

use tokio::sync::Mutex;

use crate::support::{Answer, Client, TestGateway};

#[tokio::test]
async fn what_could_never_be_read_is_not_stored() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let poison = format!("[{}0]", "1e131071,".repeat(9_000));
    for body in [
        format!(r#"{{"message":{poison}}}"#),
        format!(r#"{{"message":1,"headers":{{"h":{poison}}}}}"#),
    ] {
        let rejected = gateway.post("/queues/q/messages", &body).await;
        let detail = rejected.problem(422, "message_rejected").detail();
        assert!(detail.contains("written out in full"), "{detail}");
    }
    let batch = format!(r#"{{"messages":[{{"message":1}},{{"message":{poison}}}]}}"#);
    let rejected = gateway.post("/queues/q/messages/batch", &batch).await;
    assert!(rejected.problem(422, "message_rejected").detail().contains("messages[1].message"));
    assert_eq!(gateway.get("/queues/q/metrics").await.json()["total_messages"], 0);
}

/// Each takes a processor and a gibibyte for as long as PostgreSQL tries; what counts here is what comes
/// of it, however busy the machine is.
static TURN: Mutex<()> = Mutex::const_new(());

async fn patient_gateway() -> TestGateway {
    let gateway = TestGateway::with(|settings| {
        settings.server.request_timeout_seconds = 600;
        settings.database.statement_timeout_ms = 200_000;
    })
    .await;
    gateway.create("q").await;
    gateway
}

/// Puts a message into the queue that PostgreSQL cannot write out, and one behind it that must be
/// had all the same.
async fn not_blocked_by(poison: &str, method: &str, path: &str) {
    let _turn = TURN.lock().await;
    let gateway = patient_gateway().await;
    gateway.database.execute(&format!("SELECT pgmq.send('q', {poison})")).await;
    gateway.send("q", r#"{"message":"behind it"}"#).await;
    let client = Client::patient(&gateway.base);
    let answer = Answer::of(client.request(method, path)).await;
    assert!(answer.text.len() < 1000, "{} bytes", answer.text.len());
    let messages = answer.expect(200).messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["message"], "behind it");
    if path.contains("peek") {
        // Looking moves nothing: it leaves out what cannot be read.
        assert_eq!(gateway.database.value::<i64>("SELECT count(*) FROM pgmq.q_q").await, 2);
        return;
    }
    let archived: i64 = gateway.database.value("SELECT msg_id FROM pgmq.a_q").await;
    assert_eq!(archived, 1);
    let metrics = gateway.get("/metrics").await.text;
    let line = "pgmq_gateway_messages_quarantined_total{queue=\"q\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

/// Numbers that are over a gibibyte once they are written out, which also takes long.
const NUMBERS: &str = "('[' || repeat('1e131071,', 9000) || '0]')::jsonb";
/// Text that is over a gibibyte once its characters are escaped.
const TEXT: &str = "to_jsonb(repeat(chr(1), 180000000))";

#[tokio::test]
async fn unreadable_numbers_do_not_block_a_receive() {
    not_blocked_by(NUMBERS, "GET", "/queues/q/messages?qty=10").await;
}

#[tokio::test]
async fn unreadable_text_does_not_block_a_wait() {
    not_blocked_by(TEXT, "GET", "/queues/q/messages?qty=10&wait=5").await;
}

#[tokio::test]
async fn unreadable_numbers_do_not_block_a_pop() {
    not_blocked_by(NUMBERS, "POST", "/queues/q/messages/pop?qty=10").await;
}

#[tokio::test]
async fn unreadable_numbers_do_not_block_a_look() {
    not_blocked_by(NUMBERS, "GET", "/queues/q/peek").await;
}

/// What cannot be archived is hidden for good.
#[tokio::test]
async fn unreadable_numbers_do_not_block_a_queue_without_archive() {
    let _turn = TURN.lock().await;
    let gateway = patient_gateway().await;
    let send = format!("DROP TABLE pgmq.a_q; SELECT pgmq.send('q', {NUMBERS})");
    gateway.database.execute(&send).await;
    gateway.send("q", r#"{"message":"behind it"}"#).await;
    let received = Client::patient(&gateway.base).receive_one("q", "qty=10").await;
    assert_eq!(received["message"], "behind it");
}

/// A read that is given up on while PostgreSQL is still writing the message out.
#[tokio::test]
async fn unreadable_numbers_do_not_block_an_impatient_gateway() {
    let gateway = TestGateway::with(|settings| settings.database.statement_timeout_ms = 500).await;
    gateway.create("q").await;
    gateway.database.execute(&format!("SELECT pgmq.send('q', {NUMBERS})")).await;
    gateway.send("q", r#"{"message":"behind it"}"#).await;
    let received = gateway.receive("q", "qty=10").await;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0]["message"], "behind it");
}
