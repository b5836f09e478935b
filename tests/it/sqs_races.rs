//! Clients of SQS that do the same at once.

use serde_json::json;

use crate::support::{TestGateway, guarded::together, sqs::Sqs};

const ROUNDS: usize = 6;

/// Whoever is told that a queue is there has what is kept beside it as it was asked for.
#[tokio::test]
async fn of_those_who_make_a_queue_otherwise_at_once_one_does() {
    let gateways = TestGateway::pair().await;
    for round in 0..ROUNDS {
        let name = format!("q{round}");
        let answers = together(6, |n| {
            let client = gateways[usize::try_from(n).expect("small") % 2].client.clone();
            let attributes = json!({"ReceiveMessageWaitTimeSeconds": (n + 1).to_string()});
            let input = json!({"QueueName": name, "Attributes": attributes});
            async move { Sqs(&client).json("CreateQueue", &input).await }
        });
        let mut made = Vec::new();
        for (answer, n) in answers.await.iter().zip(1..) {
            if answer.status == 200 {
                made.push(n.to_string());
            } else {
                let code = answer.header("x-amzn-query-error").to_owned();
                assert!(code.starts_with("QueueAlreadyExists"), "{code}: {}", answer.text);
            }
        }
        let wished = json!({"QueueUrl": name, "AttributeNames": ["ReceiveMessageWaitTimeSeconds"]});
        let shown = Sqs(&gateways[0]).done("GetQueueAttributes", &wished).await;
        assert_eq!(json!(made), json!([shown["Attributes"]["ReceiveMessageWaitTimeSeconds"]]));
    }
}
