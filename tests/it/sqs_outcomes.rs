//! What is done and what is left undone where a request of SQS is odd.

use serde_json::json;
use sqlx::{Connection, Executor};

use crate::support::{Answer, TestGateway, sqs::Sqs};

const MISSING: &str = "MissingParameter";
const VALUE: &str = "InvalidParameterValue";
const RECEIPT: &str = "ReceiptHandleIsInvalid";

/// What is wrong with an entry is told of it alone.
#[tokio::test]
async fn an_entry_that_cannot_be_sent_fails_alone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({"MaximumMessageSize": "1024"})).await;
    let text = json!({"DataType": "String", "StringValue": "v"});
    // No size of a message counts it.
    let long = json!({"DataType": "String", "StringValue": "x".repeat(2_049)});
    for (n, wrong) in [
        json!({"MessageBody": "x".repeat(1_025)}),
        json!({"MessageBody": "\u{1}"}),
        json!({"DelaySeconds": 901}),
        json!({"MessageGroupId": "a b"}),
        json!({"MessageDeduplicationId": "d"}),
        json!({"MessageAttributes": {"a b": text}}),
        json!({"MessageSystemAttributes": {"Colour": text}}),
        json!({"MessageSystemAttributes": {"AWSTraceHeader": long}}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut entry = json!({"Id": "b", "MessageBody": "x"});
        entry.as_object_mut().expect("an object").extend(wrong.as_object().expect("one").clone());
        let input = json!({"QueueUrl": url, "Entries": [{"Id": "a", "MessageBody": "x"}, entry]});
        let sent = sqs.done("SendMessageBatch", &input).await;
        assert_eq!(sent["Successful"][0]["Id"], "a", "{wrong}: {sent}");
        let failed = &sent["Failed"][0];
        assert_eq!((&failed["Id"], &failed["SenderFault"]), (&json!("b"), &json!(true)), "{sent}");
        assert_eq!(gateway.all("q").await.len(), n + 1, "{wrong}");
    }
    // In a FIFO queue, one that lacks what it needs fails them all.
    let url = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let good = json!({"Id": "a", "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "a"});
    for lacking in ["MessageGroupId", "MessageDeduplicationId"] {
        let mut entry = good.clone();
        entry["Id"] = json!("b");
        entry.as_object_mut().expect("an object").remove(lacking);
        let input = json!({"QueueUrl": url, "Entries": [good, entry]});
        assert_eq!(sqs.error("SendMessageBatch", &input).await.0, VALUE, "{lacking}");
        assert!(gateway.all("q.fifo").await.is_empty(), "{lacking}");
    }
}

/// One that is too long to be one is left out.
#[tokio::test]
async fn a_trace_is_stored_up_to_its_bound() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    for (length, stored) in [(2_048, true), (2_049, false)] {
        let request = gateway.request("POST", "/").header("x-amz-target", "AmazonSQS.SendMessage");
        let request = request.header("x-amzn-trace-id", "x".repeat(length));
        let input = json!({"QueueUrl": url, "MessageBody": "x"}).to_string();
        Answer::of(request.body(input)).await.expect(200);
        let received = sqs.receive(&url).await.remove(0);
        let trace = received["Attributes"]["AWSTraceHeader"].as_str();
        assert_eq!(trace.map(str::len), stored.then_some(length));
    }
}

/// The message that it means is still there.
#[tokio::test]
async fn a_handle_of_another_queue_is_none() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let other = sqs.create("other", &json!({})).await;
    sqs.done("SendMessage", &json!({"QueueUrl": url, "MessageBody": "x"})).await;
    let handle = sqs.receive(&url).await[0]["ReceiptHandle"].clone();
    let wrong = json!({"QueueUrl": other, "ReceiptHandle": handle});
    assert_eq!(sqs.error_in_both("DeleteMessage", &wrong).await, RECEIPT);
    let batch = json!({"QueueUrl": other, "Entries": [{"Id": "a", "ReceiptHandle": handle}]});
    let output = sqs.done("DeleteMessageBatch", &batch).await;
    assert_eq!(output["Failed"][0]["Code"], RECEIPT, "{output}");
    // A message there with the same number is none that it means.
    sqs.done("SendMessage", &json!({"QueueUrl": other, "MessageBody": "y"})).await;
    assert_eq!(sqs.receive(&other).await.len(), 1);
    assert_eq!(sqs.error_in_both("DeleteMessage", &wrong).await, RECEIPT);
    assert_eq!((gateway.all("q").await.len(), gateway.all("other").await.len()), (1, 1));
    let right = json!({"QueueUrl": url, "ReceiptHandle": handle});
    sqs.done("DeleteMessage", &right).await;
    sqs.done("DeleteMessage", &right).await;
    // With a queue that is dropped its messages are gone too, also where there is another of its name.
    sqs.done("DeleteQueue", &json!({"QueueUrl": url})).await;
    sqs.create("q", &json!({})).await;
    sqs.done("DeleteMessage", &right).await;
}

/// The same in a FIFO queue, where what stands under its number is looked at, in whatever state.
#[tokio::test]
async fn a_handle_of_another_fifo_queue_is_none_either() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let attributes = json!({"FifoQueue": "true", "ContentBasedDeduplication": "true"});
    let filled = async |name: &str| {
        let url = sqs.create(name, &attributes).await;
        let input = json!({"QueueUrl": url, "MessageBody": "x", "MessageGroupId": "g"});
        sqs.done("SendMessage", &input).await;
        let handle = sqs.receive(&url).await[0]["ReceiptHandle"].clone();
        (url, handle)
    };
    let (url, handle) = filled("q.fifo").await;
    let (other, _) = filled("other.fifo").await;
    let alone =
        |url: &str| json!({"QueueUrl": url, "ReceiptHandle": handle, "VisibilityTimeout": 1});
    let batch = |url: &str| {
        let entry = json!({"Id": "a", "ReceiptHandle": handle, "VisibilityTimeout": 1});
        json!({"QueueUrl": url, "Entries": [entry]})
    };
    let over =
        |queue: &str| format!("UPDATE pgmq.\"q_{queue}\" SET vt = now() - interval '1 second'");
    for is_over in [false, true] {
        if is_over {
            gateway.database.execute(&over("other.fifo")).await;
        }
        for action in ["DeleteMessage", "ChangeMessageVisibility"] {
            assert_eq!(sqs.error_in_both(action, &alone(&other)).await, RECEIPT, "{action}");
            let output = sqs.done(&format!("{action}Batch"), &batch(&other)).await;
            assert_eq!(output["Failed"][0]["Code"], RECEIPT, "{action}: {output}");
        }
    }
    // What was delivered is gone with its queue, whatever has its number now.
    sqs.done("DeleteQueue", &json!({"QueueUrl": url})).await;
    filled("q.fifo").await;
    for is_over in [false, true] {
        if is_over {
            gateway.database.execute(&over("q.fifo")).await;
        }
        assert_eq!(sqs.done("DeleteMessage", &alone(&url)).await, json!({}));
        let output = sqs.done("DeleteMessageBatch", &batch(&url)).await;
        assert_eq!(output, json!({"Successful": [{"Id": "a"}]}));
        assert_eq!(sqs.error("ChangeMessageVisibility", &alone(&url)).await.0, VALUE);
    }
    assert_eq!((gateway.all("q.fifo").await.len(), gateway.all("other.fifo").await.len()), (1, 1));
}

/// As JavaScript writes a text that it has cut in the middle of a character.
#[tokio::test]
async fn half_a_character_fails_its_entry_alone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q", &json!({})).await;
    let send = async |action: &str, input: &str| {
        let target = format!("AmazonSQS.{action}");
        let request = gateway.request("POST", "/000000000000/q").header("x-amz-target", target);
        Answer::of(request.body(input.to_owned())).await
    };
    let illegal = "InvalidMessageContents";
    let whole = r#"{"Id":"a","MessageBody":"\ud83d\ude00\\ud800"}"#;
    for half in [
        r#""MessageBody":"x\ud800""#,
        r#""MessageBody":"x","MessageAttributes":{"a":{"DataType":"String","StringValue":"\udc00"}}"#,
        r#""MessageBody":"x","MessageAttributes":{"a":{"DataType":"String.\udc00","StringValue":"v"}}"#,
    ] {
        let answer =
            send("SendMessage", &format!(r#"{{"QueueUrl":"q",{half}}}"#)).await.expect(400);
        assert_eq!(answer.header("x-amzn-query-error"), format!("{illegal};Sender"), "{half}");
        let batch = format!(r#"{{"QueueUrl":"q","Entries":[{whole},{{"Id":"b",{half}}}]}}"#);
        let sent = send("SendMessageBatch", &batch).await.expect(200).json();
        assert_eq!(sent["Successful"][0]["Id"], "a", "{half}: {sent}");
        assert_eq!(sent["Failed"][0]["Code"], illegal, "{half}: {sent}");
    }
    let stored = gateway.all("q").await;
    assert_eq!(stored.len(), 3);
    assert_eq!(stored[0]["message"], "\u{1f600}\\ud800");
    for (action, input) in [
        ("SendMessage", r#"{"QueueUrl":"q","MessageBody":"\ud800"#),
        ("TagQueue", r#"{"QueueUrl":"q","Tags":{"a":"\ud800"}}"#),
    ] {
        let answer = send(action, input).await.expect(400);
        let code = answer.header("x-amzn-query-error");
        assert_eq!(code, "SerializationException;Sender", "{action}");
    }
}

/// As clients write them that do not take what they got.
#[tokio::test]
async fn a_queue_is_made_again_with_the_same_attributes() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let given = json!({
        "VisibilityTimeout": "05", "ReceiveMessageWaitTimeSeconds": "007",
        "KmsDataKeyReusePeriodSeconds": "60",
    });
    let url = sqs.create("q", &given).await;
    assert_eq!(sqs.create("q", &given).await, url);
    let wished = json!({"QueueUrl": url, "AttributeNames": ["VisibilityTimeout", "ReceiveMessageWaitTimeSeconds"]});
    let found = sqs.done("GetQueueAttributes", &wished).await;
    assert_eq!(
        found["Attributes"],
        json!({"VisibilityTimeout": "5", "ReceiveMessageWaitTimeSeconds": "7"})
    );
}

#[tokio::test]
async fn a_form_that_is_not_what_it_seems_stores_nothing() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q", &json!({})).await;
    let named = "MessageAttribute.1.Name=a&MessageAttribute.1.Value.DataType=String";
    let valued = "MessageAttribute.1.Value.StringValue=v";
    let again = named.replace(".1.", ".2.");
    for (body, code) in [
        // Other characters in place of what is no UTF-8 would make another message of it.
        ("MessageBody=%ff".to_owned(), VALUE),
        (format!("MessageBody=x&{}&{valued}", named.replace("Name", "Nome")), MISSING),
        (format!("MessageBody=x&{named}&{valued}&{again}&{}", valued.replace(".1.", ".2.")), VALUE),
        ("MessageBody=x&MessageBody=y".to_owned(), VALUE),
        ("MessageBody=x&Action=PurgeQueue".to_owned(), VALUE),
    ] {
        let request = gateway.request("POST", "/000000000000/q");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let form = format!("Action=SendMessage&{body}");
        let answer = Answer::of(request.body(form)).await.expect(400);
        assert!(answer.text.contains(&format!("<Code>{code}</Code>")), "{body}: {}", answer.text);
    }
    assert!(gateway.all("q").await.is_empty());
}

/// PostgreSQL has no place for it: that is said of what has it, and before it is asked.
#[tokio::test]
async fn a_character_that_no_text_can_have_is_refused_where_it_is() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    for (action, input, said) in [
        ("ListQueues", json!({"QueueNamePrefix": "a\0"}), "QueueNamePrefix"),
        ("ListQueues", json!({"MaxResults": 1, "NextToken": "YQA"}), "next token"),
        (
            "SetQueueAttributes",
            json!({"QueueUrl": url, "Attributes": {"KmsMasterKeyId": "\0"}}),
            "KmsMasterKeyId",
        ),
    ] {
        let (_, message) = sqs.error(action, &input).await;
        assert!(message.contains(said), "{action}: {message}");
    }
}

/// Neither what only looks nor what a browser sends by itself does anything.
#[tokio::test]
async fn an_action_is_posted() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("q", &json!({})).await;
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let request = gateway.request(method, "/").header("x-amz-target", "AmazonSQS.ListQueues");
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 404, "{method}: {}", answer.text);
        let request = gateway.request(method, "/?Action=DeleteQueue&QueueUrl=q");
        if method != "GET" {
            let answer = Answer::of(request).await;
            assert_eq!(answer.status, 404, "{method}: {}", answer.text);
        }
    }
    gateway.get("/queues/q").await.expect(200);
}

/// Whatever a page of another site makes a browser send: a picture's address, or what comes before a request.
#[tokio::test]
async fn a_page_of_another_site_does_nothing_at_any_path() {
    let gateway = TestGateway::start().await;
    Sqs(&gateway).create("q", &json!({})).await;
    let action = "?Action=DeleteQueue&QueueUrl=q";
    for path in ["/", "//", "/000000000000/q", "/000000000000/q/", "//000000000000/q"] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let request = gateway.request(method, &format!("{path}{action}"));
            let request = request.header("sec-fetch-site", "cross-site");
            let request = request
                .header("origin", "https://evil.example")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "x-other");
            let answer = Answer::of(request).await;
            assert!(answer.status >= 400, "{method} {path}: {}", answer.text);
            gateway.get("/queues/q").await.expect(200);
        }
    }
    // As it is meant.
    gateway.get(&format!("/{action}")).await.expect(200);
    gateway.get("/queues/q").await.expect(404);
}

/// Somebody has the row locked in which it is noted.
#[tokio::test]
async fn a_purge_that_cannot_be_noted_is_done() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    gateway.send("q", r#"{"message":1}"#).await;
    let mut connection = gateway.database.connect().await;
    let mut holder = connection.begin().await.expect("begun");
    let lock = "SELECT FROM pgmq_gateway.queue_attributes WHERE queue_name = 'q' FOR UPDATE";
    holder.execute(lock).await.expect("locked");
    sqs.done("PurgeQueue", &json!({"QueueUrl": url})).await;
    assert!(gateway.all("q").await.is_empty());
    holder.rollback().await.expect("unlocked");
}

/// What was stored is told to be that, though nothing can be told of a duplicate beside it.
#[tokio::test]
async fn a_duplicate_whose_id_is_not_found_fails_alone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let entry = |id: &str| json!({"Id": id, "MessageBody": id, "MessageGroupId": "g", "MessageDeduplicationId": id});
    let batch = |ids: &[&str]| {
        let entries: Vec<_> = ids.iter().map(|id| entry(id)).collect();
        json!({"QueueUrl": url, "Entries": entries})
    };
    sqs.done("SendMessageBatch", &batch(&["a"])).await;
    let fail = "CREATE OR REPLACE FUNCTION pgmq_gateway.first_message_ids(queue text, headers jsonb[]) \
                RETURNS SETOF text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'";
    gateway.database.execute(fail).await;
    let sent = sqs.done("SendMessageBatch", &batch(&["a", "b"])).await;
    assert_eq!(sent["Successful"][0]["Id"], "b", "{sent}");
    assert_eq!(sent["Failed"][0]["Id"], "a", "{sent}");
    assert_eq!(gateway.all("q.fifo").await.len(), 2);
}
