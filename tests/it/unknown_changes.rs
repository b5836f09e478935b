//! Changes that were cut off while they were committed: they may be done, and are not done again without a word.

use pgmq_gateway::config::Strategy;
use serde_json::json;

use crate::{
    support::{Answer, sqs::Sqs},
    unknown_leases::{cut_off, start, wait_for},
};

#[tokio::test]
async fn a_change_whose_commit_is_cut_off_may_be_done() {
    let (server, _gateway, client) = start(Strategy::Shared).await;
    client.create("q").await;
    for (method, path, body, statement) in [
        ("PATCH", "/queues/q", r#"{"settings":{"delay":7}}"#, "change_settings"),
        ("POST", "/queues/q/bindings", r#"{"pattern":"a.#"}"#, "bind"),
    ] {
        wait_for(&server, "nobody").await;
        let answer = tokio::spawn(Answer::of(client.request(method, path).body(body)));
        cut_off(&server, statement).await;
        wait_for(&server, "").await;
        answer.await.expect("no panic").problem(503, "outcome_unknown");
    }
    // They are, and asking again tells.
    assert_eq!(client.get("/queues/q").await.expect(200).json()["settings"]["delay"], 7);
    client.post("/queues/q/bindings", r#"{"pattern":"a.#"}"#).await.expect(200);
}

/// What is stored then says whether it was.
#[tokio::test]
async fn a_permission_whose_commit_is_cut_off_is_added_once() {
    let (server, _gateway, client) = start(Strategy::Shared).await;
    let url = Sqs(&client).create("q", &json!({})).await;
    wait_for(&server, "nobody").await;
    let permission = json!({
        "QueueUrl": url, "Label": "l", "AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"],
    });
    let added = tokio::spawn({
        let (client, permission) = (client.clone(), permission.clone());
        async move { Sqs(&client).json("AddPermission", &permission).await }
    });
    cut_off(&server, "change_queue_attributes").await;
    wait_for(&server, "").await;
    added.await.expect("no panic").expect(200);
    let again = Sqs(&client).error("AddPermission", &permission).await;
    assert_eq!(again.0, "InvalidParameterValue", "there is one of this label");
}
