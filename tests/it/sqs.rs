//! SQS on the wire: what stands in requests and answers of both protocols.

use serde_json::json;

use crate::support::{Answer, TestGateway, eventually, sqs::Sqs};

#[tokio::test]
async fn a_message_goes_through_with_all_that_belongs_to_it() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("orders", &json!({})).await;
    assert_eq!(url, format!("{}/000000000000/orders", gateway.base));
    let body = "\"é\u{1f600}\r\n\t";
    let attributes = json!({
        "n": {"DataType": "Number.int", "StringValue": "1"},
        "b": {"DataType": "Binary", "BinaryValue": "AAEC"},
    });
    let input = json!({"QueueUrl": url, "MessageBody": body, "MessageAttributes": attributes});
    let trace = ("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793");
    let request = gateway.request("POST", "/").header("x-amz-target", "AmazonSQS.SendMessage");
    let request = request.header(trace.0, trace.1).body(input.to_string());
    let sent = Answer::of(request).await.expect(200).json();
    let received = sqs.receive(&url).await.remove(0);
    assert_eq!(received["Body"], body);
    assert_eq!(received["MessageId"], sent["MessageId"]);
    assert_eq!(received["MD5OfBody"], sent["MD5OfMessageBody"]);
    assert_eq!(received["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"]);
    assert_eq!(received["MessageAttributes"], attributes);
    assert_eq!(received["Attributes"]["ApproximateReceiveCount"], "1");
    assert_eq!(received["Attributes"]["AWSTraceHeader"], trace.1);
    let handle = json!({"QueueUrl": url, "ReceiptHandle": received["ReceiptHandle"]});
    assert_eq!(sqs.done("DeleteMessage", &handle).await, json!({}));
    assert!(gateway.all("orders").await.is_empty());
    // Twice is fine.
    sqs.done("DeleteMessage", &handle).await;
    let nothing = sqs.done("ReceiveMessage", &json!({"QueueUrl": url})).await;
    assert_eq!(nothing, json!({}));
}

/// Not even where a message has a trace, or was sent by a key.
#[tokio::test]
async fn a_message_without_attributes_has_none() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("q", &json!({})).await;
    let request = gateway.request("POST", "/").header("x-amz-target", "AmazonSQS.SendMessage");
    let request = request.header("x-amzn-trace-id", "Root=1");
    let input = json!({"QueueUrl": url, "MessageBody": "x"}).to_string();
    Answer::of(request.body(input)).await.expect(200);
    let headers = json!({"x-trace-header": "Root=1", "x-sender-id": "me", "a": "v"});
    gateway.send("q", &json!({"message": "y", "headers": headers}).to_string()).await;
    let mut received = sqs.receive(&url).await;
    received.sort_by_key(|message| message["Body"].to_string());
    assert_eq!(received[0]["Attributes"]["AWSTraceHeader"], "Root=1");
    assert_eq!(received[0]["MessageAttributes"], json!(null));
    assert_eq!(received[0]["MD5OfMessageAttributes"], json!(null));
    let attributes = received[1]["MessageAttributes"].as_object().expect("attributes");
    assert_eq!(attributes.keys().collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn one_queue_has_three_doors() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("doors", &json!({})).await;
    let input = json!({
        "QueueUrl": url, "MessageBody": "by SQS",
        "MessageAttributes": {"a": {"DataType": "String", "StringValue": "v"}},
    });
    let sent = sqs.done("SendMessage", &input).await;
    let seen = gateway.receive_one("doors", "vt=0").await;
    assert_eq!(seen["message"], "by SQS");
    assert_eq!(seen["headers"]["x-message-id"], sent["MessageId"]);
    assert_eq!(seen["headers"]["x-message-attributes"]["a"]["StringValue"], "v");
    gateway.delete("/queues/doors/messages/1").await.expect(204);

    let object = r#"{"message":{"price":12345678901234567890.5},"headers":{"trace":"abc"}}"#;
    gateway.send("doors", object).await;
    gateway.database.execute("SELECT pgmq.send('doors', '[1, null]')").await;
    let mut messages = sqs.receive(&url).await;
    messages.sort_by_key(|message| message["Body"].to_string());
    assert_eq!(messages[0]["Body"], "[1, null]");
    assert_eq!(messages[1]["Body"], r#"{"price": 12345678901234567890.5}"#);
    assert_eq!(messages[1]["MessageAttributes"]["trace"]["StringValue"], "abc");
    let id = messages[1]["MessageId"].as_str().expect("an id");
    assert_eq!(id.len(), 36, "{id}");
    // A queue of REST is one of SQS, and has sane attributes.
    gateway.create("rest").await;
    let url = sqs.done("GetQueueUrl", &json!({"QueueName": "rest"})).await["QueueUrl"].clone();
    let input = json!({"QueueUrl": url, "AttributeNames": ["All"]});
    let attributes = sqs.done("GetQueueAttributes", &input).await["Attributes"].clone();
    assert_eq!(attributes["VisibilityTimeout"], "30");
    assert_eq!(attributes["QueueArn"], "arn:aws:sqs:us-east-1:000000000000:rest");
}

#[tokio::test]
async fn the_query_protocol_says_the_same_in_xml() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let made =
        sqs.query("CreateQueue", &[("QueueName", "q"), ("Tag.1.Key", "k"), ("Tag.1.Value", "v")]);
    let made = made.await.expect(200);
    assert_eq!(made.header("content-type"), "text/xml");
    let url = format!("{}/000000000000/q", gateway.base);
    assert!(made.text.contains(&format!("<QueueUrl>{url}</QueueUrl>")), "{}", made.text);
    let sent = [
        ("QueueUrl", &*url),
        ("MessageBody", "a<b>\r\n"),
        ("MessageAttribute.1.Name", "n"),
        ("MessageAttribute.1.Value.DataType", "String"),
        ("MessageAttribute.1.Value.StringValue", "v"),
    ];
    sqs.query("SendMessage", &sent).await.expect(200);
    let wished =
        [("QueueUrl", &*url), ("MessageAttributeName.1", "All"), ("AttributeName.1", "All")];
    let received = sqs.query("ReceiveMessage", &wished).await.expect(200).text;
    for part in [
        "<Body>a&lt;b&gt;&#13;\n</Body>",
        "<MessageAttribute><Name>n</Name><Value><DataType>String</DataType><StringValue>v</StringValue>",
        "<Attribute><Name>ApproximateReceiveCount</Name><Value>1</Value></Attribute>",
    ] {
        assert!(received.contains(part), "{part}: {received}");
    }
    let tags = sqs.query("ListQueueTags", &[("QueueUrl", &url)]).await.expect(200).text;
    assert!(tags.contains("<Tag><Key>k</Key><Value>v</Value></Tag>"), "{tags}");
    let got = gateway.get("/?Action=GetQueueUrl&QueueName=q").await.expect(200);
    assert!(got.text.contains(&*url), "{}", got.text);
    for (answer, status, part) in [
        (sqs.query("FlyAway", &[]).await, 400, "<Code>InvalidAction</Code>"),
        (
            sqs.query("GetQueueUrl", &[("QueueName", "none")]).await,
            400,
            "<Code>AWS.SimpleQueueService.NonExistentQueue</Code>",
        ),
        (gateway.get("/?Action=ListQueues&Version=1").await, 400, "<Code>NoSuchVersion</Code>"),
        (gateway.get("/000000000000/q").await, 404, "<UnknownOperationException/>"),
        (
            sqs.query("SendMessage", &[("QueueUrl", &url)]).await,
            400,
            "<Code>MissingParameter</Code>",
        ),
    ] {
        let answer = answer.expect(status);
        assert!(answer.text.contains(part), "{}", answer.text);
    }
}

#[tokio::test]
async fn queues_are_found_by_whatever_url_a_client_has() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let long = format!("Upper--Case-{}", "x".repeat(68));
    for name in ["plain", &long] {
        sqs.create(name, &json!({})).await;
        for url in [
            format!("https://sqs.eu-west-1.amazonaws.com/123456789012/{name}"),
            name.to_owned(),
            format!("http://elsewhere:1/000000000000/{name}/"),
        ] {
            sqs.done("SendMessage", &json!({"QueueUrl": url, "MessageBody": "x"})).await;
        }
        // Ruby and PHP post there.
        let path = format!("/000000000000/{name}");
        let input = json!({"QueueUrl": path, "MessageBody": "x"});
        sqs.json_at(&path, "SendMessage", &input).await.expect(200);
        assert_eq!(sqs.receive(name).await.len(), 4, "{name}");
    }
    let request = gateway.request("POST", "/").header("x-amz-target", "AmazonSQS.ListQueues");
    let request =
        request.header("x-forwarded-host", "queue.example").header("x-forwarded-proto", "https");
    let listed =
        Answer::of(request.header("x-forwarded-prefix", "/mq").body("{}")).await.expect(200);
    let urls = json!([
        format!("https://queue.example/mq/000000000000/{long}"),
        "https://queue.example/mq/000000000000/plain",
    ]);
    assert_eq!(listed.json()["QueueUrls"], urls);
    let page = sqs.done("ListQueues", &json!({"MaxResults": 1})).await;
    assert!(page["QueueUrls"][0].as_str().is_some_and(|url| url.ends_with(&long)));
    let input = json!({"MaxResults": 1, "NextToken": page["NextToken"]});
    let rest = sqs.done("ListQueues", &input).await;
    assert_eq!(rest["QueueUrls"], json!([format!("{}/000000000000/plain", gateway.base)]));
    assert_eq!(rest["NextToken"], json!(null));
}

#[tokio::test]
async fn fifo_queues_keep_order_and_take_nothing_twice() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let attributes = json!({"FifoQueue": "true", "VisibilityTimeout": "300"});
    let url = sqs.create("turns.fifo", &attributes).await;
    let send = |body: &str, group: &str, id: &str| json!({"QueueUrl": url, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": id});
    let first = sqs.done("SendMessage", &send("1", "a", "1")).await;
    let again = sqs.done("SendMessage", &send("1 again", "a", "1")).await;
    assert_eq!(first["MessageId"], again["MessageId"]);
    assert_eq!(first["SequenceNumber"], again["SequenceNumber"]);
    sqs.done("SendMessage", &send("2", "a", "2")).await;
    sqs.done("SendMessage", &send("3", "b", "3")).await;
    let one =
        json!({"QueueUrl": url, "AttributeNames": ["MessageGroupId", "MessageDeduplicationId"]});
    let head = sqs.done("ReceiveMessage", &one).await["Messages"][0].clone();
    assert_eq!(head["Body"], "1");
    assert_eq!(head["Attributes"], json!({"MessageGroupId": "a", "MessageDeduplicationId": "1"}));
    // What is in flight blocks its group, and no other.
    let other = sqs.done("ReceiveMessage", &one).await["Messages"][0].clone();
    assert_eq!(other["Body"], "3");
    let nothing = sqs.done("ReceiveMessage", &one).await;
    assert_eq!(nothing, json!({}));
    let handle = json!({"QueueUrl": url, "ReceiptHandle": head["ReceiptHandle"]});
    sqs.done("DeleteMessage", &handle).await;
    assert_eq!(sqs.receive(&url).await[0]["Body"], "2");
    // Deleted or not, it is not taken again.
    sqs.done("SendMessage", &send("1", "a", "1")).await;
    assert_eq!(gateway.all("turns.fifo").await.len(), 2);
    // Of a batch, those that are new are stored.
    let entry = |id: &str| json!({"Id": id, "MessageBody": id, "MessageGroupId": "c", "MessageDeduplicationId": id});
    let batch = json!({"QueueUrl": url, "Entries": [entry("3"), entry("4"), entry("5")]});
    let sent = sqs.done("SendMessageBatch", &batch).await;
    assert_eq!(sent["Successful"].as_array().map(Vec::len), Some(3));
    assert_eq!(gateway.all("turns.fifo").await.len(), 4);
    // An id is taken again when its time is over.
    let old = "UPDATE pgmq_gateway.deduplication_ids SET sent_at = sent_at - interval '5 minutes'";
    gateway.database.execute(old).await;
    sqs.done("SendMessage", &send("1", "a", "1")).await;
    assert_eq!(gateway.all("turns.fifo").await.len(), 5);
}

#[tokio::test]
async fn an_expired_handle_of_a_fifo_queue_deletes_nothing() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let attributes = json!({"FifoQueue": "true", "ContentBasedDeduplication": "true"});
    let url = sqs.create("late.fifo", &attributes).await;
    let input = json!({"QueueUrl": url, "MessageBody": "x", "MessageGroupId": "g"});
    sqs.done("SendMessage", &input).await;
    let handle = sqs.receive(&url).await[0]["ReceiptHandle"].clone();
    let handle = json!({"QueueUrl": url, "ReceiptHandle": handle});
    let over = "UPDATE pgmq.\"q_late.fifo\" SET vt = now() - interval '1 second'";
    gateway.database.execute(over).await;
    let (code, message) = sqs.error("DeleteMessage", &handle).await;
    assert_eq!(code, "InvalidParameterValue");
    assert!(message.ends_with("Reason: The receipt handle has expired."), "{message}");
    assert_eq!(gateway.all("late.fifo").await.len(), 1);
}

#[tokio::test]
async fn dead_letters_keep_their_ids_and_go_back_by_a_task() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let dead = sqs.create("dead", &json!({})).await;
    let arn = "arn:aws:sqs:us-east-1:000000000000:dead";
    let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": 1}).to_string();
    let attributes = json!({"RedrivePolicy": policy, "VisibilityTimeout": "0"});
    let url = sqs.create("work", &attributes).await;
    let sources = sqs.done("ListDeadLetterSourceQueues", &json!({"QueueUrl": dead})).await;
    assert_eq!(sources["queueUrls"], json!([url]));
    let sent = sqs.done("SendMessage", &json!({"QueueUrl": url, "MessageBody": "poison"})).await;
    assert_eq!(sqs.receive(&url).await.len(), 1);
    assert!(sqs.receive(&url).await.is_empty());
    let input = json!({"QueueUrl": dead, "AttributeNames": ["All"], "VisibilityTimeout": 0});
    let message = sqs.done("ReceiveMessage", &input).await["Messages"][0].clone();
    assert_eq!(message["MessageId"], sent["MessageId"]);
    assert_eq!(message["Attributes"]["ApproximateReceiveCount"], "2");
    let origin = "arn:aws:sqs:us-east-1:000000000000:work";
    assert_eq!(message["Attributes"]["DeadLetterQueueSourceArn"], origin);
    let started = sqs.done("StartMessageMoveTask", &json!({"SourceArn": arn})).await;
    assert!(started["TaskHandle"].is_string());
    eventually("the message is back", async || {
        (gateway.all("work").await.len() == 1).then_some(())
    })
    .await;
    let task = eventually("the task is over", async || {
        let tasks = sqs.done("ListMessageMoveTasks", &json!({"SourceArn": arn})).await;
        (tasks["Results"][0]["Status"] == "COMPLETED").then(|| tasks["Results"][0].clone())
    })
    .await;
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], 1);
    assert_eq!(task["TaskHandle"], json!(null));
    let input = json!({"TaskHandle": started["TaskHandle"]});
    assert_eq!(sqs.error("CancelMessageMoveTask", &input).await.0, "InvalidParameterValue");
    let input = json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:none"});
    assert_eq!(sqs.json("StartMessageMoveTask", &input).await.status, 404);
    let input = json!({"SourceArn": "arn:aws:sqs:us-east-1:000000000000:work"});
    assert_eq!(sqs.error("StartMessageMoveTask", &input).await.0, "InvalidParameterValue");
}

#[tokio::test]
async fn permissions_tags_and_attributes_are_kept_until_the_queue_is_gone() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("kept", &json!({"DelaySeconds": "0"})).await;
    let permission = json!({
        "QueueUrl": url, "Label": "l", "AWSAccountIds": ["111111111111"], "Actions": ["SendMessage"],
    });
    sqs.done("AddPermission", &permission).await;
    sqs.done("TagQueue", &json!({"QueueUrl": url, "Tags": {"a": "1", "b": ""}})).await;
    sqs.done("UntagQueue", &json!({"QueueUrl": url, "TagKeys": ["a"]})).await;
    let tags = sqs.done("ListQueueTags", &json!({"QueueUrl": url})).await;
    assert_eq!(tags, json!({"Tags": {"b": ""}}));
    let wished = json!({"QueueUrl": url, "AttributeNames": ["Policy", "RedrivePolicy"]});
    let policy = sqs.done("GetQueueAttributes", &wished).await["Attributes"].clone();
    let policy: serde_json::Value =
        serde_json::from_str(policy["Policy"].as_str().expect("a policy")).expect("JSON");
    assert_eq!(policy["Statement"][0]["Action"], "SQS:SendMessage");
    assert_eq!(policy["Statement"][0]["Principal"]["AWS"], "arn:aws:iam::111111111111:root");
    sqs.done("RemovePermission", &json!({"QueueUrl": url, "Label": "l"})).await;
    assert_eq!(sqs.done("GetQueueAttributes", &wished).await, json!({}));
    let changed = json!({"QueueUrl": url, "Attributes": {"ReceiveMessageWaitTimeSeconds": "1"}});
    sqs.done("SetQueueAttributes", &changed).await;
    // The same attributes: it is there. Others: it is another.
    sqs.create("kept", &json!({"ReceiveMessageWaitTimeSeconds": "1"})).await;
    let other = json!({"QueueName": "kept", "Attributes": {"DelaySeconds": "7"}});
    assert_eq!(sqs.error("CreateQueue", &other).await.0, "QueueAlreadyExists");
    sqs.done("DeleteQueue", &json!({"QueueUrl": url})).await;
    assert_eq!(
        sqs.error("ReceiveMessage", &json!({"QueueUrl": url})).await,
        (
            "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
            "The specified queue does not exist.".to_owned()
        )
    );
    let url = sqs.create("kept", &json!({})).await;
    assert_eq!(sqs.done("ListQueueTags", &json!({"QueueUrl": url})).await, json!({}));
}

#[tokio::test]
async fn what_is_not_enabled_is_not_there() {
    let gateway = TestGateway::with(|settings| settings.sqs.enabled = false).await;
    Sqs(&gateway).json("ListQueues", &json!({})).await.problem(405, "method_not_allowed");
}

/// Whichever way a message comes into a FIFO queue, and whoever empties it.
#[tokio::test]
async fn all_doors_take_an_id_once_and_a_purge_by_any_ends_it() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("once.fifo", &json!({"FifoQueue": "true"})).await;
    gateway.post("/queues/once.fifo/bindings", r#"{"pattern":"t"}"#).await.expect(201);
    let input = json!({"QueueUrl": url, "MessageBody": "1", "MessageGroupId": "g", "MessageDeduplicationId": "d"});
    sqs.done("SendMessage", &input).await;
    let one = r#"{"message":2,"headers":{"x-pgmq-group":"g","x-deduplication-id":"d"}}"#;
    let queued = one.replacen('{', r#"{"queue":"once.fifo","#, 1);
    let transaction = format!(r#"{{"operations":[{{"send":{queued}}}]}}"#);
    assert_eq!(gateway.send("once.fifo", one).await, 1);
    let done = gateway.post("/transactions", &transaction).await.expect(200).json();
    assert_eq!(done["results"][0]["msg_id"], 1, "{done}");
    let published = gateway.post("/topics/t/messages", one).await.expect(201).json();
    assert_eq!(published["deliveries"][0]["msg_id"], 1, "{published}");
    assert_eq!(gateway.all("once.fifo").await.len(), 1);

    // One that a transaction took first is taken by nobody behind it.
    let other = transaction.replace(r#":"d""#, r#":"e""#);
    let done = gateway.post("/transactions", &other).await.expect(200).json();
    let id = done["results"][0]["msg_id"].clone();
    assert_eq!(gateway.send("once.fifo", &one.replace(r#":"d""#, r#":"e""#)).await, id);
    assert_eq!(gateway.all("once.fifo").await.len(), 2);

    gateway.post("/queues/once.fifo/purge", "").await.expect(200);
    assert!(gateway.send("once.fifo", one).await > 2);
    assert_eq!(gateway.all("once.fifo").await.len(), 1);
}

/// A purge step by step ends what was sent before it began, and nothing of what came meanwhile.
#[tokio::test]
async fn what_a_purge_leaves_is_not_stored_again() {
    let gateway = TestGateway::start().await;
    Sqs(&gateway).create("once.fifo", &json!({"FifoQueue": "true"})).await;
    let one = |id: &str| {
        json!({"message": 1, "headers": {"x-pgmq-group": "g", "x-deduplication-id": id}})
            .to_string()
    };
    for (id, number) in [("gone", 1), ("here", 2)] {
        assert_eq!(gateway.send("once.fifo", &one(id)).await, number);
    }
    let step = "SELECT deleted FROM pgmq_gateway.delete_next('once.fifo', 0, 1, 5000)";
    assert_eq!(gateway.database.value::<i64>(step).await, 1);
    assert_eq!(gateway.send("once.fifo", &one("here")).await, 2);
    assert!(gateway.send("once.fifo", &one("gone")).await > 2);
    assert_eq!(gateway.all("once.fifo").await.len(), 2);
}

/// A purge that came to nothing may be asked for again at once.
#[tokio::test]
async fn a_purge_that_failed_is_none() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let url = sqs.create("full", &json!({})).await;
    gateway.send("full", r#"{"message":1}"#).await;
    let keep = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
                CREATE TRIGGER keep BEFORE DELETE ON pgmq.q_full FOR EACH ROW EXECUTE FUNCTION keep()";
    gateway.database.execute(keep).await;
    let queue = json!({"QueueUrl": url});
    assert_eq!(sqs.error("PurgeQueue", &queue).await.0, "AccessDenied");
    gateway.database.execute("DROP TRIGGER keep ON pgmq.q_full").await;
    sqs.done("PurgeQueue", &queue).await;
    assert!(gateway.all("full").await.is_empty());
    assert_eq!(
        sqs.error("PurgeQueue", &queue).await.0,
        "AWS.SimpleQueueService.PurgeQueueInProgress"
    );
}

/// One that another door made, or whose maker broke off.
#[tokio::test]
async fn creating_a_queue_that_is_there_writes_what_is_missing_beside_it() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.create("half").await;
    gateway.create("plain.fifo").await;
    let attributes = json!({"VisibilityTimeout": "30", "ReceiveMessageWaitTimeSeconds": "1"});
    let input = json!({"QueueName": "half", "Attributes": attributes, "tags": {"a": "b"}});
    let url = sqs.done("CreateQueue", &input).await["QueueUrl"].clone();
    let kept = json!({"QueueUrl": url, "AttributeNames": ["ReceiveMessageWaitTimeSeconds"]});
    let kept = sqs.done("GetQueueAttributes", &kept).await;
    assert_eq!(kept["Attributes"]["ReceiveMessageWaitTimeSeconds"], "1");
    let tags = sqs.done("ListQueueTags", &json!({"QueueUrl": url})).await;
    assert_eq!(tags["Tags"], json!({"a": "b"}));
    // What differs is told, and a name makes no FIFO queue of one that is none.
    let attributes = json!({"VisibilityTimeout": "31"});
    let input = json!({"QueueName": "half", "Attributes": attributes});
    assert_eq!(sqs.error("CreateQueue", &input).await.0, "QueueAlreadyExists");
    let input = json!({"QueueName": "plain.fifo", "Attributes": {"FifoQueue": "true"}});
    assert_eq!(sqs.error("CreateQueue", &input).await.0, "QueueAlreadyExists");
}

/// A task is over when nothing is left that could be moved, not when something is in the way.
#[tokio::test]
async fn a_task_goes_on_behind_what_is_locked() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    let dead = sqs.create("dlq", &json!({})).await;
    let arn = "arn:aws:sqs:us-east-1:000000000000:dlq";
    for queue in ["away", "free"] {
        gateway
            .create_with(
                queue,
                &json!({"settings": {"max_receives": 3, "dead_letter_queue": "dlq"}}),
            )
            .await;
    }
    let fill = "SELECT pgmq.send('dlq', to_jsonb(n), jsonb_build_object('x-dead-letter-queue', \
                CASE WHEN n % 2 = 0 THEN 'free' ELSE 'away' END)) FROM generate_series(1, 20) n";
    gateway.database.execute(fill).await;
    let mut connection = gateway.database.connect().await;
    let mut lock = sqlx::Connection::begin(&mut connection).await.expect("begun");
    let locked = "LOCK TABLE pgmq.q_away IN ACCESS EXCLUSIVE MODE";
    sqlx::Executor::execute(&mut *lock, locked).await.expect("locked");
    sqs.done("StartMessageMoveTask", &json!({"SourceArn": arn})).await;
    eventually("those that can go have gone", async || {
        (gateway.all("free").await.len() == 10).then_some(())
    })
    .await;
    let task = sqs.done("ListMessageMoveTasks", &json!({"SourceArn": arn})).await;
    assert_eq!(task["Results"][0]["Status"], "RUNNING", "{task}");
    lock.rollback().await.expect("unlocked");
    let task = eventually("the task is over", async || {
        let tasks = sqs.done("ListMessageMoveTasks", &json!({"SourceArn": arn})).await;
        (tasks["Results"][0]["Status"] == "COMPLETED").then(|| tasks["Results"][0].clone())
    })
    .await;
    assert_eq!(task["ApproximateNumberOfMessagesMoved"], 20);
    assert_eq!(gateway.all("away").await.len(), 10);
    assert!(sqs.receive(&dead).await.is_empty());
    let same = json!({"SourceArn": arn, "DestinationArn": arn});
    assert_eq!(sqs.error("StartMessageMoveTask", &same).await.0, "InvalidParameterValue");
}

/// A tenant with a backlog holds up no other, once a message names one.
#[tokio::test]
async fn groups_of_a_standard_queue_take_turns() {
    for fair_queues in [true, false] {
        let gateway = TestGateway::with(|s| s.sqs.fair_queues = fair_queues).await;
        let sqs = Sqs(&gateway);
        let url = sqs.create("jobs", &json!({})).await;
        let send = async |tenant: Option<&str>| {
            let mut input = json!({"QueueUrl": url, "MessageBody": tenant.unwrap_or("none")});
            if let Some(tenant) = tenant {
                input["MessageGroupId"] = json!(tenant);
            }
            sqs.done("SendMessage", &input).await;
        };
        send(None).await;
        let settings =
            async || gateway.get("/queues/jobs").await.expect(200).json()["settings"].clone();
        assert_eq!(settings().await["fair"], false);
        let entries: Vec<serde_json::Value> = (0..10)
            .map(|n| json!({"Id": n.to_string(), "MessageBody": "busy", "MessageGroupId": "busy"}))
            .collect();
        sqs.done("SendMessageBatch", &json!({"QueueUrl": url, "Entries": entries})).await;
        send(Some("quiet")).await;
        if fair_queues {
            eventually("they take turns", async || {
                (settings().await["fair"] == true).then_some(())
            })
            .await;
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let received = sqs.done("ReceiveMessage", &json!({"QueueUrl": url})).await;
            seen.push(received["Messages"][0]["Body"].as_str().expect("text").to_owned());
        }
        seen.sort();
        if fair_queues {
            assert_eq!(seen, ["busy", "none", "quiet"]);
        } else {
            assert_eq!(seen, ["busy", "busy", "none"]);
            assert_eq!(settings().await["fair"], false);
        }
    }
}
