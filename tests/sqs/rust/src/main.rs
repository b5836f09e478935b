//! The AWS SDK for Rust, with the gateway and a key in the variables that every SDK reads. Fails where an answer is
//! another than the service's.

use std::{collections::HashMap, time::Duration};

use aws_config::retry::RetryConfig;
use aws_sdk_sqs::{
    Client,
    config::Credentials,
    error::ProvideErrorMetadata,
    meta::PKG_VERSION,
    primitives::Blob,
    types::{
        ChangeMessageVisibilityBatchRequestEntry as ChangeEntry,
        DeleteMessageBatchRequestEntry as DeleteEntry, Message, MessageAttributeValue,
        MessageSystemAttributeName as System,
        QueueAttributeName::{self as Attribute, All},
        SendMessageBatchRequestEntry as SendEntry,
    },
};
use tokio::time::{sleep, timeout};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    println!("client: aws-sdk-sqs {PKG_VERSION} for Rust");
    let config = aws_config::from_env().retry_config(RetryConfig::disabled()).load().await;
    let sqs = Client::new(&config);
    let url = create(&sqs, "rust-Jobs", &[(Attribute::VisibilityTimeout, "5")]).await?;
    one_message(&sqs, &url).await?;
    println!("ok: send, receive, visibility, delete");
    batches(&sqs, &url).await?;
    println!("ok: batches that fail in part");
    waiting(&sqs, &url).await?;
    println!("ok: waiting, and leaving");
    errors(&sqs, &url).await?;
    signatures(&sqs).await?;
    println!("ok: errors by their classes, a wrong signature");
    fifo(&sqs).await?;
    println!("ok: FIFO and deduplication");
    dead_letters(&sqs).await?;
    println!("ok: dead letters and a move back");
    housekeeping(&sqs, &url).await?;
    println!("ok: tags, lists, attributes, purge, drop");
    Ok(())
}

/// Makes a queue.
async fn create(sqs: &Client, name: &str, attributes: &[(Attribute, &str)]) -> Result<String> {
    let mut request = sqs.create_queue().queue_name(name);
    for (attribute, value) in attributes {
        request = request.attributes(attribute.clone(), *value);
    }
    Ok(request.send().await?.queue_url.ok_or("a URL")?)
}

/// Up to ten messages with all there is to know of them, for which it waits some seconds.
async fn receive(sqs: &Client, url: &str, wait: i32) -> Result<Vec<Message>> {
    let request =
        sqs.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(wait);
    let request =
        request.message_attribute_names("All").message_system_attribute_names(System::All);
    Ok(request.send().await?.messages.unwrap_or_default())
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    let mut bodies: Vec<&str> = messages.iter().filter_map(Message::body).collect();
    bodies.sort_unstable();
    bodies
}

fn handle(message: &Message) -> &str {
    message.receipt_handle().expect("a handle")
}

fn system<'a>(message: &'a Message, name: &System) -> &'a str {
    &message.attributes().expect("attributes")[name]
}

async fn arn(sqs: &Client, url: &str) -> Result<String> {
    let answer = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(Attribute::QueueArn)
        .send()
        .await?;
    Ok(answer.attributes().ok_or("attributes")?[&Attribute::QueueArn].clone())
}

async fn one_message(sqs: &Client, url: &str) -> Result {
    let value = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let text = value("String.custom").string_value("ü").build()?;
    let number = value("Number").string_value("12345678901234567890.5").build()?;
    let bytes = value("Binary").binary_value(Blob::new([0, 255, 10, 13])).build()?;
    let attributes = HashMap::from([
        ("text".to_owned(), text),
        ("number".to_owned(), number),
        ("bytes".to_owned(), bytes),
    ]);
    let body = "héllo €\t\"1\"\r\n";
    let request = sqs.send_message().queue_url(url).message_body(body);
    let sent = request.set_message_attributes(Some(attributes.clone())).send().await?;
    let message = receive(sqs, url, 0).await?.remove(0);
    assert_eq!(message.body(), Some(body));
    assert_eq!(message.message_id(), sent.message_id());
    assert_eq!(message.md5_of_body(), sent.md5_of_message_body());
    assert_eq!(message.md5_of_message_attributes(), sent.md5_of_message_attributes());
    assert_eq!(message.message_attributes(), Some(&attributes));
    assert_eq!(system(&message, &System::ApproximateReceiveCount), "1");
    let request = sqs.change_message_visibility().queue_url(url).visibility_timeout(0);
    request.receipt_handle(handle(&message)).send().await?;
    let again = receive(sqs, url, 5).await?.remove(0);
    assert_eq!(system(&again, &System::ApproximateReceiveCount), "2");
    sqs.delete_message().queue_url(url).receipt_handle(handle(&again)).send().await?;
    assert!(receive(sqs, url, 0).await?.is_empty());
    Ok(())
}

async fn batches(sqs: &Client, url: &str) -> Result {
    let entry = |id: &str, body: &str| SendEntry::builder().id(id).message_body(body).build();
    let entries = [entry("a", "one")?, entry("b", "bad \u{1}")?, entry("c", "three")?];
    let sent =
        sqs.send_message_batch().queue_url(url).set_entries(Some(entries.to_vec())).send().await?;
    assert_eq!(sent.successful().iter().map(|entry| entry.id()).collect::<Vec<_>>(), ["a", "c"]);
    let [failed] = sent.failed() else { panic!("{sent:?}") };
    assert_eq!(
        (failed.id(), failed.code(), failed.sender_fault()),
        ("b", "InvalidMessageContents", true)
    );
    let both = receive(sqs, url, 5).await?;
    assert_eq!(bodies(&both), ["one", "three"]);
    let mut change = sqs.change_message_visibility_batch().queue_url(url);
    let mut delete = sqs.delete_message_batch().queue_url(url);
    for (at, message) in both.iter().enumerate() {
        let entry = ChangeEntry::builder().id(at.to_string()).receipt_handle(handle(message));
        change = change.entries(entry.visibility_timeout(60).build()?);
        delete = delete.entries(
            DeleteEntry::builder().id(at.to_string()).receipt_handle(handle(message)).build()?,
        );
    }
    assert_eq!(change.send().await?.successful().len(), 2);
    let garbage = DeleteEntry::builder().id("x").receipt_handle("garbage").build()?;
    let deleted = delete.entries(garbage).send().await?;
    assert_eq!(deleted.successful().len(), 2);
    assert_eq!(deleted.failed()[0].code(), "ReceiptHandleIsInvalid");
    Ok(())
}

async fn waiting(sqs: &Client, url: &str) -> Result {
    let (received, sent) = tokio::join!(receive(sqs, url, 20), async {
        // It is waiting by then, or finds the message at once: both are fine.
        sleep(Duration::from_millis(200)).await;
        sqs.send_message().queue_url(url).message_body("waited for").send().await
    });
    sent?;
    let received = received?;
    assert_eq!(bodies(&received), ["waited for"]);
    sqs.delete_message().queue_url(url).receipt_handle(handle(&received[0])).send().await?;
    // One that leaves takes nothing along.
    assert!(timeout(Duration::from_millis(500), receive(sqs, url, 20)).await.is_err());
    sqs.send_message().queue_url(url).message_body("for another").send().await?;
    let received = receive(sqs, url, 20).await?;
    assert_eq!(bodies(&received), ["for another"]);
    assert_eq!(system(&received[0], &System::ApproximateReceiveCount), "1");
    sqs.delete_message().queue_url(url).receipt_handle(handle(&received[0])).send().await?;
    Ok(())
}

async fn errors(sqs: &Client, url: &str) -> Result {
    let error = sqs.get_queue_url().queue_name("rust-gone").send().await.expect_err("it is gone");
    assert_eq!(error.raw_response().map(|response| response.status().as_u16()), Some(400));
    assert!(error.into_service_error().is_queue_does_not_exist());
    let error =
        sqs.create_queue().queue_name("rust-Jobs").attributes(Attribute::VisibilityTimeout, "6");
    assert!(
        error.send().await.expect_err("it differs").into_service_error().is_queue_name_exists()
    );
    let error = sqs.delete_message().queue_url(url).receipt_handle("garbage").send().await;
    assert!(error.expect_err("no handle").into_service_error().is_receipt_handle_is_invalid());
    let error = sqs.send_message().queue_url(url).message_body("\u{1}").send().await;
    assert!(error.expect_err("illegal").into_service_error().is_invalid_message_contents());
    let error = sqs.send_message_batch().queue_url(url).set_entries(Some(Vec::new())).send().await;
    assert!(error.expect_err("empty").into_service_error().is_empty_batch_request());
    let error = sqs.send_message().queue_url(url).message_body("").send().await.expect_err("empty");
    assert_eq!(error.code(), Some("MissingParameter"));
    let error = sqs.send_message().queue_url(url).message_body("x").delay_seconds(901).send().await;
    assert_eq!(error.expect_err("too long").code(), Some("InvalidParameterValue"));
    Ok(())
}

/// Another secret, and a key that nobody has.
async fn signatures(sqs: &Client) -> Result {
    let id = std::env::var("AWS_ACCESS_KEY_ID")?;
    for (id, code) in
        [(id.as_str(), "SignatureDoesNotMatch"), ("PGMQNOBODY", "InvalidClientTokenId")]
    {
        let wrong = Credentials::new(id, "wrong", None, None, "test");
        let config = sqs.config().to_builder().credentials_provider(wrong).build();
        let error = Client::from_conf(config).list_queues().send().await.expect_err("refused");
        assert_eq!(error.code(), Some(code));
        assert_eq!(error.raw_response().map(|response| response.status().as_u16()), Some(403));
    }
    Ok(())
}

async fn fifo(sqs: &Client) -> Result {
    let is = "true";
    let attributes = [(Attribute::FifoQueue, is), (Attribute::ContentBasedDeduplication, is)];
    let url = create(sqs, "rust-orders.fifo", &attributes).await?;
    let mut ids = Vec::new();
    for (group, body) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "3")] {
        let request = sqs.send_message().queue_url(&url).message_group_id(group).message_body(body);
        ids.push(request.send().await?.message_id().map(str::to_owned));
    }
    assert_eq!(ids[2], ids[3], "a duplicate is told the first id");
    // One of an id of its own is no duplicate of the same body, and one of the same id is, whatever its body.
    for (body, id) in [("3", "own"), ("4", "own")] {
        let request = sqs.send_message().queue_url(&url).message_group_id("c").message_body(body);
        request.message_deduplication_id(id).send().await?;
    }
    let request = sqs.receive_message().queue_url(&url).max_number_of_messages(1);
    let first = request.message_system_attribute_names(System::All).send().await?;
    let [first] = first.messages() else { panic!("{first:?}") };
    assert_eq!(bodies(&receive(sqs, &url, 0).await?), ["2", "3"], "the group `a` is in flight");
    sqs.delete_message().queue_url(&url).receipt_handle(handle(first)).send().await?;
    let rest = receive(sqs, &url, 0).await?;
    assert_eq!(bodies(&rest), ["3"]);
    assert_eq!(system(&rest[0], &System::MessageGroupId), "a");
    assert!(system(&rest[0], &System::SequenceNumber) > system(first, &System::SequenceNumber));
    let error = sqs.send_message().queue_url(&url).message_body("x").send().await;
    assert_eq!(error.expect_err("no group").code(), Some("MissingParameter"));
    Ok(())
}

async fn dead_letters(sqs: &Client) -> Result {
    let dead = create(sqs, "rust-dead", &[]).await?;
    let dead_arn = arn(sqs, &dead).await?;
    let policy = format!("{{\"deadLetterTargetArn\":\"{dead_arn}\",\"maxReceiveCount\":1}}");
    let attributes = [(Attribute::RedrivePolicy, &*policy), (Attribute::VisibilityTimeout, "0")];
    let work = create(sqs, "rust-work", &attributes).await?;
    sqs.send_message().queue_url(&work).message_body("poison").send().await?;
    assert_eq!(receive(sqs, &work, 0).await?.len(), 1);
    assert!(receive(sqs, &work, 0).await?.is_empty());
    let buried = receive(sqs, &dead, 20).await?.remove(0);
    assert_eq!(buried.body(), Some("poison"));
    assert_eq!(system(&buried, &System::DeadLetterQueueSourceArn), arn(sqs, &work).await?);
    let request = sqs.change_message_visibility().queue_url(&dead).visibility_timeout(0);
    request.receipt_handle(handle(&buried)).send().await?;
    let sources = sqs.list_dead_letter_source_queues().queue_url(&dead).send().await?;
    assert_eq!(sources.queue_urls(), [work.clone()]);
    sqs.start_message_move_task().source_arn(&dead_arn).send().await?;
    assert_eq!(bodies(&receive(sqs, &work, 20).await?), ["poison"]);
    let tasks = sqs.list_message_move_tasks().source_arn(&dead_arn).send().await?;
    assert_eq!(tasks.results()[0].approximate_number_of_messages_moved(), 1);
    Ok(())
}

async fn housekeeping(sqs: &Client, url: &str) -> Result {
    sqs.tag_queue().queue_url(url).tags("team", "a").tags("stage", "test").send().await?;
    sqs.untag_queue().queue_url(url).tag_keys("stage").send().await?;
    let tags = sqs.list_queue_tags().queue_url(url).send().await?;
    assert_eq!(tags.tags(), Some(&HashMap::from([("team".to_owned(), "a".to_owned())])));
    let mut listed = Vec::new();
    let pages = sqs.list_queues().queue_name_prefix("rust-").into_paginator().page_size(2);
    let mut pages = pages.send();
    while let Some(page) = pages.try_next().await? {
        let names = page.queue_urls().iter().filter_map(|url| url.rsplit('/').next());
        listed.extend(names.map(str::to_owned));
    }
    listed.sort_unstable();
    assert_eq!(listed, ["rust-Jobs", "rust-dead", "rust-orders.fifo", "rust-work"]);
    sqs.set_queue_attributes()
        .queue_url(url)
        .attributes(Attribute::DelaySeconds, "7")
        .send()
        .await?;
    let answer = sqs.get_queue_attributes().queue_url(url).attribute_names(All).send().await?;
    let attributes = answer.attributes().ok_or("attributes")?;
    let names = [
        Attribute::DelaySeconds,
        Attribute::VisibilityTimeout,
        Attribute::ApproximateNumberOfMessages,
    ];
    assert_eq!(names.each_ref().map(|name| &*attributes[name]), ["7", "5", "0"]);
    sqs.send_message().queue_url(url).message_body("to be purged").delay_seconds(0).send().await?;
    sqs.purge_queue().queue_url(url).send().await?;
    assert!(receive(sqs, url, 0).await?.is_empty());
    let error = sqs.purge_queue().queue_url(url).send().await.expect_err("too early");
    assert!(error.into_service_error().is_purge_queue_in_progress());
    sqs.delete_queue().queue_url(url).send().await?;
    let gone = sqs.receive_message().queue_url(url).send().await.expect_err("it is gone");
    assert!(gone.into_service_error().is_queue_does_not_exist());
    Ok(())
}
