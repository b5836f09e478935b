//! Which message is meant, and which request: ids that the SQS door shows.

use serde_json::json;

use crate::support::{Answer, TestGateway, sqs::Sqs};

/// One can be found in the log by whichever of them a client has noted.
#[tokio::test]
async fn an_answer_has_one_request_id() {
    let gateway = TestGateway::start().await;
    let long = "x".repeat(129);
    for given in [None, Some(&b"abc-1"[..]), Some(b"a b"), Some(b"\xe9"), Some(long.as_bytes())] {
        for action in ["ListQueues", "Fly"] {
            let request = |kind: &str| {
                let request = gateway.request("POST", "/").header("content-type", kind);
                match given {
                    Some(id) => request.header("x-request-id", id),
                    None => request,
                }
            };
            let request_json = request("application/x-amz-json-1.0");
            let request_json = request_json.header("x-amz-target", format!("AmazonSQS.{action}"));
            let json = Answer::of(request_json.body("{}")).await;
            let form = request("application/x-www-form-urlencoded");
            let query = Answer::of(form.body(format!("Action={action}"))).await;
            for answer in [&json, &query] {
                let id = answer.header("x-request-id");
                assert_eq!(answer.header("x-amzn-requestid"), id, "{given:?} {action}");
                assert!(!id.is_empty(), "{given:?} {action}");
                if given == Some(b"abc-1") {
                    assert_eq!(id, "abc-1");
                }
            }
            let told = format!("<RequestId>{}</RequestId>", query.header("x-request-id"));
            assert!(query.text.contains(&told), "{given:?}: {}", query.text);
        }
    }
}

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
