//! What each action of SQS refuses, which both protocols say alike.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{TestGateway, sqs::Sqs};

const ACTIONS: [&str; 23] = [
    "AddPermission",
    "CancelMessageMoveTask",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "CreateQueue",
    "DeleteMessage",
    "DeleteMessageBatch",
    "DeleteQueue",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListDeadLetterSourceQueues",
    "ListMessageMoveTasks",
    "ListQueueTags",
    "ListQueues",
    "PurgeQueue",
    "ReceiveMessage",
    "RemovePermission",
    "SendMessage",
    "SendMessageBatch",
    "SetQueueAttributes",
    "StartMessageMoveTask",
    "TagQueue",
    "UntagQueue",
];

const GONE: &str = "AWS.SimpleQueueService.NonExistentQueue";
const MISSING: &str = "MissingParameter";
const VALUE: &str = "InvalidParameterValue";
const NAME: &str = "InvalidAttributeName";
const ATTRIBUTE: &str = "InvalidAttributeValue";
const RECEIPT: &str = "ReceiptHandleIsInvalid";
const NO_RESOURCE: &str = "ResourceNotFoundException";
const EMPTY: &str = "AWS.SimpleQueueService.EmptyBatchRequest";
const MANY: &str = "AWS.SimpleQueueService.TooManyEntriesInBatchRequest";
const ID: &str = "AWS.SimpleQueueService.InvalidBatchEntryId";
const TWICE: &str = "AWS.SimpleQueueService.BatchEntryIdsNotDistinct";
const LONG: &str = "AWS.SimpleQueueService.BatchRequestTooLong";

/// An action, what stands in its input beside a queue that is there, and what it is answered.
type Case = (&'static str, Value, &'static str);

fn of_queues() -> Vec<Case> {
    let with = |name: &str, value: &str| json!({"Attributes": {name: value}});
    let new =
        |name: &str, fifo: &str| json!({"QueueName": name, "Attributes": {"FifoQueue": fifo}});
    let mut cases = vec![
        ("CreateQueue", json!({}), MISSING),
        ("CreateQueue", json!({"QueueName": "a b"}), VALUE),
        ("CreateQueue", json!({"QueueName": "a.fifo"}), VALUE),
        ("CreateQueue", json!({"QueueName": "x".repeat(81)}), VALUE),
        ("CreateQueue", new("no-suffix", "true"), VALUE),
        ("CreateQueue", new("standard", "false"), NAME),
        ("CreateQueue", json!({"QueueName": "tagged", "tags": {"aws:a": "b"}}), VALUE),
        ("GetQueueUrl", json!({}), MISSING),
        ("GetQueueUrl", json!({"QueueName": "none"}), GONE),
        ("ListQueues", json!({"MaxResults": 0}), VALUE),
        ("ListQueues", json!({"MaxResults": 1001}), VALUE),
        ("ListQueues", json!({"MaxResults": "many"}), "SerializationException"),
        ("ListQueues", json!({"NextToken": "?"}), VALUE),
        ("GetQueueAttributes", json!({"AttributeNames": ["VisibilityTimeout", "Colour"]}), NAME),
        ("SetQueueAttributes", json!({}), MISSING),
        ("SetQueueAttributes", with("Colour", "red"), NAME),
        ("SetQueueAttributes", with("QueueArn", "x"), NAME),
        ("SetQueueAttributes", with("FifoQueue", "true"), NAME),
        ("SetQueueAttributes", with("ContentBasedDeduplication", "true"), NAME),
        ("SetQueueAttributes", with("DeduplicationScope", "queue"), NAME),
        ("SetQueueAttributes", with("FifoThroughputLimit", "perQueue"), NAME),
        ("SetQueueAttributes", with("SqsManagedSseEnabled", "yes"), ATTRIBUTE),
        ("SetQueueAttributes", with("Policy", "[]"), ATTRIBUTE),
        ("SetQueueAttributes", with("Policy", &format!("{{{:8192}}}", "")), ATTRIBUTE),
        ("SetQueueAttributes", with("RedriveAllowPolicy", "{}"), ATTRIBUTE),
        ("SetQueueAttributes", with("RedrivePolicy", "x"), VALUE),
        ("SetQueueAttributes", with("RedrivePolicy", "{\"maxReceiveCount\":1}"), VALUE),
        ("ListDeadLetterSourceQueues", json!({"MaxResults": 0}), VALUE),
        ("ListDeadLetterSourceQueues", json!({"NextToken": "?"}), VALUE),
    ];
    for (target, count) in
        [("none", "1"), ("q", "1"), ("q.fifo", "1"), ("dead", "0"), ("dead", "1001")]
    {
        let arn = arn(target);
        let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": count}).to_string();
        cases.push(("SetQueueAttributes", with("RedrivePolicy", &policy), VALUE));
    }
    for (attribute, least, most) in [
        ("VisibilityTimeout", 0, 43_200),
        ("DelaySeconds", 0, 900),
        ("ReceiveMessageWaitTimeSeconds", 0, 20),
        ("MessageRetentionPeriod", 60, 1_209_600),
        ("MaximumMessageSize", 1_024, 1_048_576),
        ("KmsDataKeyReusePeriodSeconds", 60, 86_400),
    ] {
        for value in [(least - 1).to_string(), (most + 1).to_string()] {
            let mut new = with(attribute, &value);
            cases.push(("SetQueueAttributes", new.clone(), ATTRIBUTE));
            new["QueueName"] = json!("bounded");
            cases.push(("CreateQueue", new, ATTRIBUTE));
        }
        for value in ["", "x", "1.5", "+5", " 5", "99999999999999999999"] {
            cases.push(("SetQueueAttributes", with(attribute, value), ATTRIBUTE));
        }
    }
    cases
}

fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:us-east-1:000000000000:{queue}")
}

fn of_sending() -> Vec<Case> {
    let send = |more: Value| {
        let mut input = json!({"MessageBody": "x"});
        input
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("members").clone());
        input
    };
    let attribute = |name: &str, value: Value| send(json!({"MessageAttributes": {name: value}}));
    let text = |kind: &str, value: &str| json!({"DataType": kind, "StringValue": value});
    let system = |name: &str, value: Value| send(json!({"MessageSystemAttributes": {name: value}}));
    let entry = |id: &str| json!({"Id": id, "MessageBody": "x"});
    let batch = |entries: Vec<Value>| json!({"Entries": entries});
    let half = "x".repeat(600_000);
    let eleven = |at: usize| entry(&at.to_string());
    let many: serde_json::Map<_, _> =
        (0..11).map(|n| (format!("a{n}"), text("String", "v"))).collect();
    vec![
        ("SendMessage", json!({}), MISSING),
        ("SendMessage", json!({"MessageBody": ""}), MISSING),
        ("SendMessage", json!({"MessageBody": "\u{1}"}), "InvalidMessageContents"),
        ("SendMessage", json!({"MessageBody": "\u{fffe}"}), "InvalidMessageContents"),
        ("SendMessage", json!({"MessageBody": "x".repeat(1_048_577)}), VALUE),
        ("SendMessage", send(json!({"DelaySeconds": -1})), VALUE),
        ("SendMessage", send(json!({"DelaySeconds": 901})), VALUE),
        ("SendMessage", send(json!({"DelaySeconds": "soon"})), "SerializationException"),
        ("SendMessage", send(json!({"MessageGroupId": "a b"})), VALUE),
        ("SendMessage", send(json!({"MessageGroupId": "x".repeat(129)})), VALUE),
        ("SendMessage", send(json!({"MessageDeduplicationId": "d"})), VALUE),
        ("SendMessage", send(json!({"MessageAttributes": many})), VALUE),
        ("SendMessage", attribute("", text("String", "v")), VALUE),
        ("SendMessage", attribute("a b", text("String", "v")), VALUE),
        ("SendMessage", attribute(".a", text("String", "v")), VALUE),
        ("SendMessage", attribute("a..b", text("String", "v")), VALUE),
        ("SendMessage", attribute("AWS.a", text("String", "v")), VALUE),
        ("SendMessage", attribute("amazon.a", text("String", "v")), VALUE),
        ("SendMessage", attribute(&"x".repeat(257), text("String", "v")), VALUE),
        ("SendMessage", attribute("a", json!({})), VALUE),
        ("SendMessage", attribute("a", text("", "v")), VALUE),
        ("SendMessage", attribute("a", text("string", "v")), VALUE),
        ("SendMessage", attribute("a", text("String", "")), VALUE),
        ("SendMessage", attribute("a", text("String", "\u{1}")), "InvalidMessageContents"),
        ("SendMessage", attribute("a", text("Number", "x")), VALUE),
        ("SendMessage", attribute("a", text("Binary", "x")), VALUE),
        ("SendMessage", attribute("a", json!({"DataType": "Binary", "BinaryValue": "!"})), VALUE),
        ("SendMessage", system("Colour", text("String", "v")), VALUE),
        ("SendMessage", system("AWSTraceHeader", text("Number", "1")), VALUE),
        ("SendMessage", system("AWSTraceHeader", text("String", "")), VALUE),
        ("SendMessage", system("AWSTraceHeader", text("String", &"x".repeat(2_049))), VALUE),
        (
            "SendMessage",
            system("AWSTraceHeader", text("String", "\u{1}")),
            "InvalidMessageContents",
        ),
        ("SendMessageBatch", batch(vec![]), EMPTY),
        ("SendMessageBatch", batch((0..11).map(eleven).collect()), MANY),
        ("SendMessageBatch", batch(vec![entry("a"), entry("a")]), TWICE),
        ("SendMessageBatch", batch(vec![entry("a b")]), ID),
        ("SendMessageBatch", batch(vec![entry(&"x".repeat(81))]), ID),
        ("SendMessageBatch", batch(vec![entry("a"), json!({"Id": "b"})]), MISSING),
        (
            "SendMessageBatch",
            batch(["a", "b"].map(|id| json!({"Id": id, "MessageBody": half})).to_vec()),
            LONG,
        ),
    ]
}

fn of_receiving() -> Vec<Case> {
    let mut cases = vec![
        ("ReceiveMessage", json!({"MaxNumberOfMessages": 0}), VALUE),
        ("ReceiveMessage", json!({"MaxNumberOfMessages": 11}), VALUE),
        ("ReceiveMessage", json!({"VisibilityTimeout": -1}), VALUE),
        ("ReceiveMessage", json!({"VisibilityTimeout": 43_201}), VALUE),
        ("ReceiveMessage", json!({"WaitTimeSeconds": -1}), VALUE),
        ("ReceiveMessage", json!({"WaitTimeSeconds": 21}), VALUE),
        ("ReceiveMessage", json!({"AttributeNames": ["SenderId", "Colour"]}), NAME),
        ("ReceiveMessage", json!({"MessageSystemAttributeNames": ["Colour"]}), NAME),
        ("DeleteMessage", json!({}), MISSING),
        ("DeleteMessage", json!({"ReceiptHandle": "none"}), RECEIPT),
        ("ChangeMessageVisibility", json!({"VisibilityTimeout": 1}), MISSING),
        ("ChangeMessageVisibility", json!({"ReceiptHandle": "none"}), MISSING),
        (
            "ChangeMessageVisibility",
            json!({"ReceiptHandle": "none", "VisibilityTimeout": 43_201}),
            VALUE,
        ),
        (
            "ChangeMessageVisibility",
            json!({"ReceiptHandle": "none", "VisibilityTimeout": 1}),
            RECEIPT,
        ),
    ];
    for action in ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"] {
        let entry = |id: &str| json!({"Id": id, "ReceiptHandle": "none", "VisibilityTimeout": 1});
        let many: Vec<Value> = (0..11).map(|n| entry(&n.to_string())).collect();
        cases.extend([
            (action, json!({"Entries": []}), EMPTY),
            (action, json!({"Entries": many}), MANY),
            (action, json!({"Entries": [entry("a"), entry("a")]}), TWICE),
            (action, json!({"Entries": [entry("a b")]}), ID),
            (action, json!({"Entries": [{"ReceiptHandle": "none"}]}), ID),
            (action, json!({"Entries": [{"Id": "a", "VisibilityTimeout": 1}]}), MISSING),
        ]);
    }
    cases
}

fn of_the_rest() -> Vec<Case> {
    let permission = |name: &str, value: Value| {
        let mut input =
            json!({"Label": "l", "AWSAccountIds": ["123456789012"], "Actions": ["SendMessage"]});
        input[name] = value;
        input
    };
    let task = |source: &str, destination: &str| json!({"SourceArn": arn(source), "DestinationArn": arn(destination)});
    let eight: Vec<&str> = std::iter::repeat_n("SendMessage", 8).collect();
    vec![
        ("TagQueue", json!({}), MISSING),
        ("TagQueue", json!({"Tags": {"": "v"}}), VALUE),
        ("TagQueue", json!({"Tags": {"aws:a": "v"}}), VALUE),
        ("TagQueue", json!({"Tags": {"a": "x".repeat(257)}}), VALUE),
        ("TagQueue", json!({"Tags": {"a\u{1}": "v"}}), VALUE),
        ("UntagQueue", json!({}), MISSING),
        ("AddPermission", permission("Label", json!("")), MISSING),
        ("AddPermission", permission("Label", json!("a b")), VALUE),
        ("AddPermission", permission("Label", json!("x".repeat(81))), VALUE),
        ("AddPermission", permission("AWSAccountIds", json!([])), MISSING),
        ("AddPermission", permission("AWSAccountIds", json!(["123"])), VALUE),
        (
            "AddPermission",
            permission("AWSAccountIds", json!(vec!["1".repeat(12); 51])),
            "OverLimit",
        ),
        ("AddPermission", permission("Actions", json!([])), MISSING),
        ("AddPermission", permission("Actions", json!(["Fly"])), VALUE),
        ("AddPermission", permission("Actions", json!(eight)), "OverLimit"),
        ("RemovePermission", json!({}), MISSING),
        ("RemovePermission", json!({"Label": "none"}), VALUE),
        ("StartMessageMoveTask", json!({}), MISSING),
        ("StartMessageMoveTask", json!({"SourceArn": "dead"}), NO_RESOURCE),
        ("StartMessageMoveTask", json!({"SourceArn": arn("none")}), NO_RESOURCE),
        ("StartMessageMoveTask", json!({"SourceArn": arn("q")}), VALUE),
        ("StartMessageMoveTask", task("dead", "none"), NO_RESOURCE),
        ("StartMessageMoveTask", task("dead", "dead"), VALUE),
        ("StartMessageMoveTask", task("dead", "q.fifo"), VALUE),
        (
            "StartMessageMoveTask",
            json!({"SourceArn": arn("dead"), "MaxNumberOfMessagesPerSecond": 501}),
            VALUE,
        ),
        ("ListMessageMoveTasks", json!({}), MISSING),
        ("ListMessageMoveTasks", json!({"SourceArn": arn("none")}), NO_RESOURCE),
        ("ListMessageMoveTasks", json!({"SourceArn": arn("dead"), "MaxResults": 11}), VALUE),
        ("CancelMessageMoveTask", json!({}), MISSING),
        ("CancelMessageMoveTask", json!({"TaskHandle": "none"}), VALUE),
    ]
}

/// What is required of an action, so that a queue that is gone is all that is wrong.
fn otherwise_right(action: &str) -> Value {
    let entry = json!([{
        "Id": "a", "MessageBody": "x", "ReceiptHandle": "none", "VisibilityTimeout": 1,
    }]);
    match action {
        "SetQueueAttributes" => json!({"Attributes": {"DelaySeconds": "1"}}),
        "TagQueue" => json!({"Tags": {"a": "b"}}),
        "UntagQueue" => json!({"TagKeys": ["a"]}),
        "AddPermission" => {
            json!({"Label": "l", "AWSAccountIds": ["123456789012"], "Actions": ["*"]})
        }
        "RemovePermission" => json!({"Label": "l"}),
        "SendMessage" => json!({"MessageBody": "x"}),
        "DeleteMessage" => json!({"ReceiptHandle": "none"}),
        "ChangeMessageVisibility" => json!({"ReceiptHandle": "none", "VisibilityTimeout": 1}),
        action if action.ends_with("Batch") => json!({ "Entries": entry }),
        _ => json!({}),
    }
}

/// Those that name no queue by its URL.
const WITHOUT_URL: [&str; 6] = [
    "CreateQueue",
    "GetQueueUrl",
    "ListQueues",
    "StartMessageMoveTask",
    "ListMessageMoveTasks",
    "CancelMessageMoveTask",
];

#[tokio::test]
async fn every_action_says_what_is_wrong_in_both_protocols() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    sqs.create("dead", &json!({})).await;
    let policy = json!({"deadLetterTargetArn": arn("dead"), "maxReceiveCount": 9}).to_string();
    let url = sqs.create("q", &json!({"RedrivePolicy": policy})).await;
    sqs.create("q.fifo", &json!({"FifoQueue": "true"})).await;
    let mut seen = BTreeSet::new();
    for action in ACTIONS.into_iter().filter(|action| !WITHOUT_URL.contains(action)) {
        let mut input = otherwise_right(action);
        assert_eq!(sqs.error_in_both(action, &input).await, MISSING, "{action} {input}");
        input["QueueUrl"] = json!(url.replace("/q", "/none"));
        assert_eq!(sqs.error_in_both(action, &input).await, GONE, "{action} {input}");
        seen.insert(action);
    }
    let cases = [of_queues(), of_sending(), of_receiving(), of_the_rest()].concat();
    for (action, mut input, expected) in cases {
        if !WITHOUT_URL.contains(&action) {
            input["QueueUrl"] = json!(url);
        }
        let told = sqs.error_in_both(action, &input).await;
        assert_eq!(told, expected, "{action} {:.200}", input.to_string());
        seen.insert(action);
    }
    assert_eq!(seen, BTreeSet::from(ACTIONS));
    assert!(gateway.all("q").await.is_empty(), "nothing was half done");
    let queues = gateway.get("/queues").await.expect(200).json();
    assert_eq!(queues["queues"].as_array().map(Vec::len), Some(3), "{queues}");
}
