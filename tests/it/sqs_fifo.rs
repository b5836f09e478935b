//! FIFO queues of SQS under load, and from several gateways.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{Client, TestGateway, sqs::Sqs};

const IDS: usize = 20;

/// Sends every id once, and returns what was answered as its MessageId.
async fn send_all(client: Client) -> BTreeMap<usize, String> {
    let sqs = Sqs(&client);
    let mut told = BTreeMap::new();
    for id in 0..IDS {
        let input = json!({
            "QueueUrl": "race.fifo", "MessageBody": id.to_string(),
            "MessageGroupId": (id % 3).to_string(), "MessageDeduplicationId": format!("id-{id}"),
        });
        let sent = sqs.done("SendMessage", &input).await;
        told.insert(id, sent["MessageId"].as_str().expect("an id").to_owned());
    }
    told
}

#[tokio::test]
async fn what_many_send_at_once_is_stored_once() {
    let gateways = TestGateway::pair().await;
    Sqs(&gateways[0]).create("race.fifo", &json!({"FifoQueue": "true"})).await;
    let senders = (0..8).map(|n| tokio::spawn(send_all(gateways[n % 2].client.clone())));
    let mut told = Vec::new();
    for sender in senders.collect::<Vec<_>>() {
        told.push(sender.await.expect("all were sent"));
    }
    // Everybody is told of the same messages.
    assert!(told.iter().all(|other| *other == told[0]), "{told:?}");
    let stored = gateways[0].all("race.fifo").await;
    assert_eq!(stored.len(), IDS);
    let ids: BTreeSet<&str> =
        stored.iter().filter_map(|message| message["headers"]["x-message-id"].as_str()).collect();
    assert_eq!(ids, told[0].values().map(String::as_str).collect());
}

/// What was delivered, by whomever, in order: a group and a number.
type Log = Arc<Mutex<Vec<(String, u64)>>>;

/// Receives, notes and deletes until nothing comes any more. What stands behind a message in its group is
/// delivered once that one is deleted, so that the notes of all are in order.
async fn consume(client: Client, log: Log) {
    let sqs = Sqs(&client);
    loop {
        let input = json!({
            "QueueUrl": "race.fifo", "WaitTimeSeconds": 1, "MaxNumberOfMessages": 3,
            "AttributeNames": ["MessageGroupId"],
        });
        let received = sqs.done("ReceiveMessage", &input).await;
        let Some(messages) = received["Messages"].as_array() else { return };
        for message in messages {
            let group = message["Attributes"]["MessageGroupId"].as_str().expect("a group");
            let number = message["Body"].as_str().and_then(|body| body.parse().ok());
            let seen = (group.to_owned(), number.expect("a number"));
            log.lock().expect("nobody panicked").push(seen);
        }
        for message in messages {
            let handle =
                json!({"QueueUrl": "race.fifo", "ReceiptHandle": message["ReceiptHandle"]});
            sqs.done("DeleteMessage", &handle).await;
        }
    }
}

#[tokio::test]
async fn each_group_is_consumed_in_order_by_however_many() {
    let gateways = TestGateway::pair().await;
    let attributes = json!({"FifoQueue": "true", "VisibilityTimeout": "300"});
    Sqs(&gateways[0]).create("race.fifo", &attributes).await;
    send_all(gateways[0].client.clone()).await;
    let log = Log::default();
    let consume = |n: usize| consume(gateways[n % 2].client.clone(), Arc::clone(&log));
    let consumers: Vec<_> = (0..4).map(|n| tokio::spawn(consume(n))).collect();
    for consumer in consumers {
        consumer.await.expect("it ended");
    }
    let log = std::mem::take(&mut *log.lock().expect("nobody panicked"));
    assert_eq!(log.len(), IDS);
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for (group, number) in &log {
        let before = last.insert(group, *number);
        assert!(before.is_none_or(|before| before < *number), "{group}: {before:?}, {number}");
    }
    assert!(gateways[0].all("race.fifo").await.is_empty());
}

/// Over REST, too, what was sent before is told to be that.
#[tokio::test]
async fn a_duplicate_over_rest_is_told_to_be_one() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    let one = |id: &str| json!({"message": id, "headers": {"x-pgmq-group": "g", "x-deduplication-id": id}});
    let send = async |id: &str| {
        let body = one(id).to_string();
        let answer = gateway.post("/queues/q/messages", &body).await.expect(201);
        (answer.json()["msg_id"].clone(), answer.header("idempotency-replayed").to_owned())
    };
    assert_eq!(send("a").await, (json!(1), String::new()));
    assert_eq!(send("a").await, (json!(1), "true".to_owned()));
    let batch = async |ids: &[&str]| {
        let messages: Vec<_> = ids.iter().map(|id| one(id)).collect();
        let body = json!({"messages": messages}).to_string();
        let answer = gateway.post("/queues/q/messages/batch", &body).await.expect(201);
        (answer.json(), answer.header("idempotency-replayed").to_owned())
    };
    let mixed = json!({"msg_ids": [2, 1, 3], "duplicates": [1]});
    assert_eq!(batch(&["b", "a", "c"]).await, (mixed, String::new()));
    let all = json!({"msg_ids": [3, 2], "duplicates": [3, 2]});
    assert_eq!(batch(&["c", "b"]).await, (all, "true".to_owned()));
    assert_eq!(batch(&["d"]).await, (json!({"msg_ids": [4]}), String::new()));
    assert_eq!(gateway.all("q").await.len(), 4);
}

/// So it is in transactions and topics, which count what was stored alone.
#[tokio::test]
async fn a_duplicate_of_a_transaction_or_a_topic_is_told_to_be_one() {
    let gateway = TestGateway::start().await;
    gateway.create_with("q", &json!({"fifo": true})).await;
    gateway.create("plain").await;
    for queue in ["q", "plain"] {
        let path = format!("/queues/{queue}/bindings");
        gateway.post(&path, r#"{"pattern":"a"}"#).await.expect(201);
    }
    let one = |id: &str| json!({"message": id, "headers": {"x-pgmq-group": "g", "x-deduplication-id": id}});
    let send = |id: &str, queue: &str| {
        let mut send = one(id);
        send["queue"] = queue.into();
        json!({"send": send})
    };
    let done = async |path: &str, body: Value| {
        let answer = gateway.post(path, &body.to_string()).await;
        (answer.json(), answer.header("idempotency-replayed").to_owned())
    };
    let (first, again) = (json!({"msg_id": 1}), json!({"msg_id": 1, "duplicate": true}));
    let twice = json!({"operations": [send("a", "q"), send("a", "q")]});
    let told = json!({"results": [first, again]});
    assert_eq!(done("/transactions", twice.clone()).await, (told, String::new()));
    let told = json!({"results": [again, again]});
    assert_eq!(done("/transactions", twice).await, (told, "true".to_owned()));
    let delivery = |queue: &str, id: i64| json!({"queue": queue, "msg_id": id});
    let mut same = delivery("q", 1);
    same["duplicate"] = true.into();
    let told = json!({"deliveries": [delivery("plain", 1), same]});
    assert_eq!(done("/topics/a/messages", one("a")).await, (told, String::new()));
    gateway.delete("/queues/plain/bindings?pattern=a").await.expect(204);
    let told = json!({"deliveries": [same]});
    assert_eq!(done("/topics/a/messages", one("a")).await, (told, "true".to_owned()));
    let batch = json!({"messages": [one("a"), one("b")]});
    let told = json!({"deliveries": [same, delivery("q", 2)]});
    assert_eq!(done("/topics/a/messages/batch", batch).await, (told, String::new()));
    assert_eq!(gateway.all("q").await.len(), 2);
    let metrics = gateway.get("/metrics").await.text;
    assert!(metrics.contains("pgmq_gateway_messages_sent_total{queue=\"q\"} 2"), "{metrics}");
}

/// Its name alone makes no FIFO queue of one: it would take the same twice, and keep no order.
#[tokio::test]
async fn a_queue_that_is_called_fifo_and_is_none_takes_no_message() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.create("rest.fifo").await;
    gateway.database.execute("SELECT pgmq.create('sql.fifo')").await;
    for queue in ["rest.fifo", "sql.fifo"] {
        let entry = json!({
            "Id": "a", "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d",
        });
        let mut alone = entry.clone();
        alone["QueueUrl"] = json!(queue);
        let batch = json!({"QueueUrl": queue, "Entries": [entry]});
        for (action, input) in [("SendMessage", &alone), ("SendMessageBatch", &batch)] {
            let (code, message) = sqs.error(action, input).await;
            assert_eq!(code, "AWS.SimpleQueueService.UnsupportedOperation", "{message}");
            let hint = format!("PATCH /queues/{queue} with {{\"fifo\":true}}");
            assert!(message.contains(&hint), "{message}");
        }
        assert!(gateway.all(queue).await.is_empty());
        let wished = json!({"QueueUrl": queue, "AttributeNames": ["All"]});
        let attributes =
            async || sqs.done("GetQueueAttributes", &wished).await["Attributes"].clone();
        assert_eq!(attributes().await["FifoQueue"], json!(null));
        gateway.patch(&format!("/queues/{queue}"), r#"{"fifo":true}"#).await.expect(200);
        let sent = sqs.done("SendMessage", &alone).await;
        assert_eq!(sqs.done("SendMessage", &alone).await, sent);
        assert_eq!(gateway.all(queue).await.len(), 1);
        assert_eq!(attributes().await["FifoQueue"], "true");
    }
}

/// As REST makes one: it is another queue for nobody.
#[tokio::test]
async fn a_queue_that_is_read_in_groups_is_made_again_under_any_name() {
    let gateway = TestGateway::start().await;
    let sqs = Sqs(&gateway);
    gateway.create_with("jobs", &json!({"fifo": true})).await;
    for attributes in [json!({}), json!({"VisibilityTimeout": "30"}), json!({})] {
        let url = sqs.create("jobs", &attributes).await;
        assert!(url.ends_with("/jobs"), "{url}");
    }
    let other = json!({"QueueName": "jobs", "Attributes": {"VisibilityTimeout": "31"}});
    assert_eq!(sqs.error("CreateQueue", &other).await.0, "QueueAlreadyExists");
}
