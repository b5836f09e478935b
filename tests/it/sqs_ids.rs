//! Which message is meant, and which request: ids that the SQS door shows.

use serde_json::json;

use crate::support::{Answer, TestGateway, sqs::Sqs};

/// As with one that SQS sent, whoever sent it.
#[tokio::test]
async fn a_dead_letter_of_another_door_keeps_its_id() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let dead = sqs.create("dead", &json!({})).await;
    let arn = "arn:aws:sqs:us-east-1:000000000000:dead";
    let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": 1}).to_string();
    let attributes = json!({"RedrivePolicy": policy, "VisibilityTimeout": "0"});
    let url = sqs.create("work", &attributes).await;
    // So that numbers differ.
    gateway.send("dead", r#"{"message":0}"#).await;
    gateway.delete("/queues/dead/messages/1").await.expect(204);
    gateway.send("work", r#"{"message":"by REST"}"#).await;
    gateway.database.execute("SELECT pgmq.send('work', '\"by SQL\"')").await;
    let ids = |mut messages: Vec<serde_json::Value>| {
        messages.sort_by_key(|message| message["Body"].to_string());
        messages.iter().map(|message| message["MessageId"].clone()).collect::<Vec<_>>()
    };
    let alive = ids(sqs.receive(&url).await);
    assert_eq!(alive.len(), 2);
    assert!(sqs.receive(&url).await.is_empty());
    let input = json!({"QueueUrl": dead, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0});
    let output = sqs.done("ReceiveMessage", &input).await;
    assert_eq!(ids(output["Messages"].as_array().expect("messages").clone()), alive);
    assert_eq!(ids(sqs.receive(&dead).await), alive, "with the ARN of where it comes from");
    // Whoever says so of what was never there makes none of its id.
    let headers = json!({"x-dead-letter-queue": "work", "x-dead-letter-msg-id": 1, "x-dead-letter-read-ct": 1});
    gateway.send("dead", &json!({"message": "made up", "headers": headers}).to_string()).await;
    let made_up = ids(sqs.receive(&dead).await);
    assert_eq!(made_up.len(), 1);
    assert!(!alive.contains(&made_up[0]));
    // Where that queue is gone there is an id all the same.
    sqs.done("DeleteQueue", &json!({"QueueUrl": url})).await;
    gateway.database.execute("UPDATE pgmq.q_dead SET vt = now()").await;
    let left = ids(sqs.receive(&dead).await);
    assert!(left.len() == 3 && left.iter().all(serde_json::Value::is_string), "{left:?}");
}

#[tokio::test]
async fn a_duplicate_of_what_rest_sent_has_its_id() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let headers = json!({"x-pgmq-group": "g", "x-deduplication-id": "a"});
    gateway.send("q.fifo", &json!({"message": "first", "headers": headers}).to_string()).await;
    let message =
        |id: &str| json!({"MessageBody": id, "MessageGroupId": "g", "MessageDeduplicationId": id});
    let mut again = message("a");
    again["QueueUrl"] = json!(url);
    let alone = sqs.done("SendMessage", &again).await;
    let (mut one, mut other) = (message("a"), message("b"));
    (one["Id"], other["Id"]) = (json!("one"), json!("other"));
    let batch = json!({"QueueUrl": url, "Entries": [other, one]});
    let batch = sqs.done("SendMessageBatch", &batch).await["Successful"].clone();
    let seen = sqs.receive(&url).await;
    assert_eq!(seen.len(), 2);
    assert_eq!((&seen[0]["Body"], &seen[1]["Body"]), (&json!("first"), &json!("b")));
    assert_eq!(alone["MessageId"], seen[0]["MessageId"]);
    assert_eq!((&batch[0]["Id"], &batch[1]["Id"]), (&json!("other"), &json!("one")));
    assert_eq!(batch[1]["MessageId"], seen[0]["MessageId"]);
    assert_eq!(batch[0]["MessageId"], seen[1]["MessageId"]);
}

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

/// One that SQL made under a name that stands for another queue here.
#[tokio::test]
async fn a_queue_that_no_action_finds_is_not_listed() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.database.execute("SELECT pgmq.create('jobs_part_idx')").await;
    let url = sqs.create("jobs", &json!({})).await;
    let gone = "AWS.SimpleQueueService.NonExistentQueue";
    assert_eq!(sqs.error("GetQueueUrl", &json!({"QueueName": "jobs_part_idx"})).await.0, gone);
    assert_eq!(sqs.done("ListQueues", &json!({})).await["QueueUrls"], json!([url]));
}

/// What the gateway says of a message is not for its sender to say.
#[tokio::test]
async fn nobody_says_by_rest_who_sent_a_message_and_under_which_id() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    sqs.done("SendMessage", &json!({"QueueUrl": url, "MessageBody": "by SQS"})).await;
    let sent = sqs.receive(&url).await.remove(0);
    let headers = json!({"x-sender-id": "somebody", "x-message-id": sent["MessageId"], "a": "b"});
    let message = json!({"message": "made up", "headers": headers});
    gateway.send("q", &message.to_string()).await;
    let escaped = message.to_string().replace("x-", "\\u0078-");
    gateway.send("q", &escaped).await;
    let batch = json!({"messages": [message]}).to_string();
    gateway.post("/queues/q/messages/batch", &batch).await.expect(201);
    let mut send = message.clone();
    send["queue"] = json!("q");
    let transaction = json!({"operations": [{"send": send}]}).to_string();
    gateway.post("/transactions", &transaction).await.expect(200);
    let received = sqs.receive(&url).await;
    assert_eq!(received.len(), 4);
    for message in received {
        assert_eq!(message["Attributes"]["SenderId"], sent["Attributes"]["SenderId"], "{message}");
        assert_ne!(message["MessageId"], sent["MessageId"], "{message}");
        assert_eq!(message["MessageAttributes"]["a"]["StringValue"], "b", "{message}");
    }
}

/// As it is grouped, and told from others, by the text of its header.
#[tokio::test]
async fn a_group_that_is_no_text_is_shown_as_one() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let headers = json!({"x-pgmq-group": 7, "x-deduplication-id": 12.50});
    gateway.send("q.fifo", &json!({"message": 1, "headers": headers}).to_string()).await;
    let received = sqs.receive(&url).await;
    assert_eq!(received[0]["Attributes"]["MessageGroupId"], "7", "{received:?}");
    assert_eq!(received[0]["Attributes"]["MessageDeduplicationId"], "12.5", "{received:?}");
}
