//! Which message is meant, and which request: ids that the SQS door shows.

use serde_json::json;

use crate::support::{Answer, TestGateway, sqs::Sqs};

/// Some SDKs post there and say no more.
#[tokio::test]
async fn what_is_posted_to_a_queues_url_is_about_that_queue() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let other = sqs.create("other", &json!({})).await;
    sqs.create("q", &json!({})).await;
    for (path, input) in [
        ("/000000000000/q", json!({"MessageBody": "x"})),
        ("/000000000000/q", json!({"MessageBody": "x", "QueueUrl": null})),
        ("//000000000000/q/", json!({"MessageBody": "x"})),
    ] {
        sqs.json_at(path, "SendMessage", &input).await.expect(200);
    }
    assert_eq!(gateway.all("q").await.len(), 3);
    // What the request itself says counts.
    let named = json!({"MessageBody": "x", "QueueUrl": other});
    sqs.json_at("/000000000000/q", "SendMessage", &named).await.expect(200);
    assert_eq!((gateway.all("q").await.len(), gateway.all("other").await.len()), (3, 1));
    let listed = sqs.json_at("/000000000000/q", "ListQueues", &json!({})).await.expect(200);
    assert_eq!(listed.json()["QueueUrls"].as_array().map(Vec::len), Some(2));
    for path in ["/", "//", "/queues/q"] {
        let answer = sqs.json_at(path, "SendMessage", &json!({"MessageBody": "x"})).await;
        let code = answer.expect(400).header("x-amzn-query-error").to_owned();
        assert_eq!(code, "MissingParameter;Sender", "{path}");
    }
    let request = gateway.request("POST", "//");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(request.body("Action=SendMessage&MessageBody=x")).await.expect(400);
    assert!(answer.text.contains("<Code>MissingParameter</Code>"), "{}", answer.text);
}
