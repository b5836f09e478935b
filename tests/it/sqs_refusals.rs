//! What the SQS door refuses, and which refusal comes first where several would do.

use serde_json::{Value, json};

use super::limits::in_flight_bytes;
use crate::support::{TestGateway, eventually, sqs::Sqs};

/// Clients make a queue on being told that it is not there, whatever else is wrong.
#[tokio::test]
async fn that_a_queue_is_gone_comes_before_what_is_wrong_with_a_handle() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let gone = "AWS.SimpleQueueService.NonExistentQueue";
    for queue in ["orders", "orders.fifo"] {
        let attributes = if queue == "orders" { json!({}) } else { json!({"FifoQueue": "true"}) };
        let url = sqs.create(queue, &attributes).await;
        let entry = json!({"Id": "a", "ReceiptHandle": "no handle", "VisibilityTimeout": 1});
        let alone = json!({"QueueUrl": url, "ReceiptHandle": "no handle", "VisibilityTimeout": 1});
        let batch = json!({"QueueUrl": url, "Entries": [entry]});
        for action in ["DeleteMessage", "ChangeMessageVisibility"] {
            let (code, message) = sqs.error(action, &alone).await;
            assert_eq!(code, "ReceiptHandleIsInvalid", "{action}: {message}");
            let output = sqs.done(&format!("{action}Batch"), &batch).await;
            assert_eq!(output["Failed"][0]["Code"], "ReceiptHandleIsInvalid", "{output}");
        }
        sqs.done("DeleteQueue", &json!({"QueueUrl": url})).await;
        for action in ["DeleteMessage", "ChangeMessageVisibility"] {
            assert_eq!(sqs.error(action, &alone).await.0, gone, "{action} {queue}");
            let batched = format!("{action}Batch");
            assert_eq!(sqs.error(&batched, &batch).await.0, gone, "{batched} {queue}");
        }
    }
}

/// As the service's own documentation writes a form with one attribute.
#[tokio::test]
async fn one_attribute_of_a_form_needs_no_number() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let form = [("QueueUrl", &*url), ("Attribute.Name", "DelaySeconds"), ("Attribute.Value", "7")];
    sqs.query("SetQueueAttributes", &form).await.expect(200);
    let input = json!({"QueueUrl": url, "AttributeNames": ["DelaySeconds"]});
    let found: Value = sqs.done("GetQueueAttributes", &input).await;
    assert_eq!(found["Attributes"], json!({"DelaySeconds": "7"}));
}

#[tokio::test]
async fn a_list_of_values_is_no_input() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let (code, message) = sqs.error("DeleteQueue", &json!([url])).await;
    assert_eq!(code, "SerializationException", "{message}");
    let entries = json!({"QueueUrl": url, "Entries": [[url, "a", "body"]]});
    assert_eq!(sqs.error("SendMessageBatch", &entries).await.0, "SerializationException");
    assert!(gateway.all("q").await.is_empty(), "it is there, and nothing was sent");
    // Null is nothing, also in a map.
    let input = json!({"QueueUrl": url, "Attributes": {"DelaySeconds": "7", "Policy": null}});
    sqs.done("SetQueueAttributes", &input).await;
}

#[tokio::test]
async fn a_number_has_digits() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let with = |number: &str| {
        let value = json!({"DataType": "Number", "StringValue": number});
        json!({"QueueUrl": url, "MessageBody": "x", "MessageAttributes": {"n": value}})
    };
    for number in ["1", "-1.50", "+2e-3", "12345678901234567890123456789012345678"] {
        sqs.done("SendMessage", &with(number)).await;
    }
    for word in ["NaN", "inf", "-Infinity", "0x10", "e", "1 2"] {
        let (code, message) = sqs.error("SendMessage", &with(word)).await;
        assert_eq!(code, "InvalidParameterValue", "{word}: {message}");
        assert!(message.contains("Can't cast"), "{word}: {message}");
    }
}

#[tokio::test]
async fn a_queue_on_which_a_view_depends_is_there_under_no_other_name() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    gateway.database.execute("CREATE VIEW public.v AS SELECT * FROM pgmq.q_q").await;
    let (code, message) = sqs.error("DeleteQueue", &json!({"QueueUrl": url})).await;
    assert_eq!(code, "AWS.SimpleQueueService.UnsupportedOperation", "{message}");
    assert!(message.contains("such as a view"), "{message}");
    assert_eq!(sqs.done("ListQueues", &json!({})).await["QueueUrls"], json!([url]));
}

/// Clients compare the digest with the body as they read it.
#[tokio::test]
async fn what_xml_has_no_place_for_is_replaced_before_the_digest_is_made() {
    let gateway = TestGateway::start().await;
    gateway.create("q").await;
    gateway.send("q", r#"{"message":"a\u0001b\uffff\t"}"#).await;
    let fields = [("QueueUrl", "q"), ("VisibilityTimeout", "0")];
    let answer = Sqs(&gateway).query("ReceiveMessage", &fields).await.expect(200).text;
    let md5 = |text: &str| {
        let sql = format!("SELECT md5(convert_to('{text}', 'UTF8'))");
        let database = &gateway.database;
        async move { database.value::<String>(&sql).await }
    };
    let read = "a\u{fffd}b\u{fffd}\t";
    assert!(answer.contains(&format!("<Body>{read}</Body>")), "{answer}");
    assert!(answer.contains(&md5(read).await), "{answer}");
    let input = json!({"QueueUrl": "q", "VisibilityTimeout": 0});
    let message = Sqs(&gateway).done("ReceiveMessage", &input).await["Messages"][0].clone();
    assert_eq!(message["Body"], "a\u{1}b\u{ffff}\t");
    assert_eq!(message["MD5OfBody"], md5("a\u{1}b\u{ffff}\t").await);
}

/// Escapes make an answer longer than its messages: those for which there is no room are others', and one alone is
/// answered in the end.
#[tokio::test]
async fn messages_that_have_no_room_in_xml_are_given_back() {
    let gateway = TestGateway::with(|settings| {
        settings.limits.max_message_bytes = 100_000;
        settings.limits.max_body_bytes = 256 << 10;
        settings.limits.max_answer_bytes = 256 << 10;
        settings.limits.max_in_flight_bytes = 256 << 10;
    })
    .await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({"VisibilityTimeout": "600"})).await;
    let body = "&".repeat(60_000);
    for _ in 0..2 {
        sqs.done("SendMessage", &json!({"QueueUrl": url, "MessageBody": body})).await;
    }
    let fields = [("QueueUrl", &*url), ("MaxNumberOfMessages", "2")];
    let untouched = "SELECT count(*) FROM pgmq.q_q WHERE read_ct = 0 AND vt <= clock_timestamp()";
    for left in [1, 0] {
        let nothing = async || (in_flight_bytes(&gateway).await == 0.0).then_some(());
        eventually("there is room", nothing).await;
        let answer = sqs.query("ReceiveMessage", &fields).await.expect(200).text;
        assert_eq!(answer.matches("<Body>&amp;&amp;").count(), 1, "{answer:.1000}");
        eventually("the other one is given back", async || {
            (gateway.database.value::<i64>(untouched).await == left).then_some(())
        })
        .await;
    }
}
