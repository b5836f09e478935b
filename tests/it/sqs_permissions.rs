//! The permissions in the policies of queues of SQS.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Client, TestGateway, sqs::Sqs};

const LABELS: usize = 12;

/// The labels in the policy of `q`, by what a gateway shows of it.
async fn labels(client: &Client) -> BTreeSet<String> {
    let wished = json!({"QueueUrl": "q", "AttributeNames": ["Policy"]});
    let shown = Sqs(client).done("GetQueueAttributes", &wished).await;
    let Some(policy) = shown["Attributes"]["Policy"].as_str() else { return BTreeSet::new() };
    let policy: Value = serde_json::from_str(policy).expect("JSON");
    let statements = policy["Statement"].as_array().expect("statements");
    let label = |statement: &Value| statement["Sid"].as_str().expect("a label").to_owned();
    statements.iter().map(label).collect()
}

/// Does something with every label at once, by turns at each of the gateways.
async fn with_each(gateways: &[TestGateway], action: &'static str, more: &Value) {
    let done = (0..LABELS).map(|n| {
        let client = gateways[n % gateways.len()].client.clone();
        let mut input = more.clone();
        input["QueueUrl"] = json!("q");
        input["Label"] = json!(format!("l{n}"));
        tokio::spawn(async move { Sqs(&client).done(action, &input).await })
    });
    for done in done.collect::<Vec<_>>() {
        done.await.expect("it is done");
    }
}

#[tokio::test]
async fn permissions_that_are_changed_at_once_are_all_changed() {
    let gateways = TestGateway::pair().await;
    Sqs(&gateways[0]).create("q", &json!({})).await;
    let permission = json!({"AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"]});
    with_each(&gateways, "AddPermission", &permission).await;
    let all: BTreeSet<String> = (0..LABELS).map(|n| format!("l{n}")).collect();
    assert_eq!(labels(&gateways[1]).await, all);
    with_each(&gateways, "RemovePermission", &json!({})).await;
    assert_eq!(labels(&gateways[0]).await, BTreeSet::new());
}

/// Each of them may be within its bounds, and all of them together are not.
#[tokio::test]
async fn permissions_have_room_in_a_policy() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q", &json!({})).await;
    let add = |label: &str| {
        let accounts = vec!["1".repeat(12); 50];
        json!({"QueueUrl": "q", "Label": label, "AWSAccountIds": accounts, "Actions": ["*"]})
    };
    for label in ["a", "b", "c", "d"] {
        sqs.done("AddPermission", &add(label)).await;
    }
    let (code, message) = sqs.error("AddPermission", &add("e")).await;
    assert_eq!(code, "InvalidAttributeValue", "{message}");
    assert_eq!(labels(&gateway).await.len(), 4);
    sqs.done("RemovePermission", &json!({"QueueUrl": "q", "Label": "a"})).await;
    sqs.done("AddPermission", &add("e")).await;
}

/// SQL can write any policy: it is not kept in memory, and hides nothing else.
#[tokio::test]
async fn a_policy_that_is_too_long_is_not_there() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q", &json!({"ReceiveMessageWaitTimeSeconds": "1"})).await;
    let wished =
        json!({"QueueUrl": "q", "AttributeNames": ["Policy", "ReceiveMessageWaitTimeSeconds"]});
    for odd in ["repeat('x', 8193)", "7"] {
        let store = format!(
            "UPDATE pgmq_gateway.queue_attributes \
             SET attributes = attributes || jsonb_build_object('Policy', {odd})"
        );
        gateway.database.execute(&store).await;
        let shown = sqs.done("GetQueueAttributes", &wished).await;
        assert_eq!(shown["Attributes"], json!({"ReceiveMessageWaitTimeSeconds": "1"}), "{odd}");
        // Nor is it in the way of another one.
        let permission = json!({
            "QueueUrl": "q", "Label": "l", "AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"],
        });
        sqs.done("AddPermission", &permission).await;
        assert_eq!(labels(&gateway).await.len(), 1, "{odd}");
    }
}
