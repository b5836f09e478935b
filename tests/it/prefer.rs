//! `Prefer: return=minimal`: a heartbeat that does not carry the message.

use crate::support::{Answer, TestGateway};

#[tokio::test]
async fn a_minimal_heartbeat_hides_the_message_and_does_not_show_it() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":"large"}"#).await;
    let message = gateway.receive_one("q", "vt=5").await;
    let receipt = message["receipt"].as_str().expect("a receipt");
    let path = format!("/queues/q/messages/1?receipt={receipt}");
    let patch = || gateway.request("PATCH", &path).body(r#"{"vt":600}"#);
    let answer = Answer::of(patch().header("prefer", "return=minimal")).await.expect(204);
    assert_eq!((&*answer.text, answer.header("preference-applied")), ("", "return=minimal"));
    let sql = "SELECT vt > now() + interval '9 min' FROM pgmq.q_q";
    assert!(gateway.database.value::<bool>(sql).await, "it is hidden");
    assert_eq!(Answer::of(patch()).await.expect(200).json()["message"], "large");
    let whole = patch().header("prefer", "return=representation");
    assert_eq!(Answer::of(whole).await.expect(200).json()["message"], "large");
    // The receipt counts as it does otherwise.
    gateway.database.execute("UPDATE pgmq.q_q SET read_ct = 2").await;
    let late = patch().header("prefer", "return=minimal");
    Answer::of(late).await.problem(409, "receipt_stale");
    let missing = gateway.request("PATCH", "/queues/q/messages/9").body(r#"{"vt":6}"#);
    let missing = missing.header("prefer", "return=minimal");
    Answer::of(missing).await.problem(404, "message_not_found");
}

/// One that nobody can read can be kept hidden all the same.
#[tokio::test]
async fn a_minimal_heartbeat_does_not_read_the_message() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    let huge = "INSERT INTO pgmq.q_q (vt, message) VALUES (now(), (SELECT jsonb_agg(n.x) FROM \
                (SELECT '1e131071'::numeric AS x FROM generate_series(1, 9000)) n))";
    gateway.database.execute(huge).await;
    let patch = || gateway.request("PATCH", "/queues/q/messages/1").body(r#"{"vt":600}"#);
    Answer::of(patch().header("prefer", "return=minimal")).await.expect(204);
    Answer::of(patch()).await.problem(422, "message_rejected");
}
