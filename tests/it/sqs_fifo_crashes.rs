//! Many producers and consumers of one FIFO queue of SQS at two gateways, while consumers die.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{Client, TestGateway, sqs::Sqs};

const QUEUE: &str = "crowd.fifo";
const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;
const GROUPS: usize = 500;
/// Entries of a batch.
const BATCH: usize = 10;

/// What became of a message, by its sequence number.
#[derive(Clone, Copy)]
enum State {
    /// The producer was told that it is stored.
    Sent,
    /// A consumer deletes it, under a lease that holds until then for certain.
    Deleting(usize, Instant),
    Deleted,
}

#[derive(Default)]
struct Group {
    messages: BTreeMap<u64, State>,
    /// A consumer, and until when its lease holds for certain.
    held: Option<(usize, Instant)>,
}

/// What is known of all messages.
#[derive(Default)]
struct Ledger {
    groups: HashMap<String, Group>,
    /// Sequence numbers by deduplication id.
    ids: HashMap<String, u64>,
    deleted: usize,
    deaths: usize,
}

type Shared = Arc<Mutex<Ledger>>;

/// A message as it was received.
struct Delivered {
    group: String,
    sequence: u64,
    handle: String,
}

impl Ledger {
    /// An id stands for one message, whoever sent it and however often.
    fn know(&mut self, id: &str, sequence: u64) {
        let known = *self.ids.entry(id.to_owned()).or_insert(sequence);
        assert_eq!(known, sequence, "{id} is stored twice");
    }

    fn sent(&mut self, group: &str, id: &str, sequence: u64) {
        self.know(id, sequence);
        let group = self.groups.entry(group.to_owned()).or_default();
        group.messages.entry(sequence).or_insert(State::Sent);
    }

    /// `consumer` was given these messages of a group, under a lease that holds until then for certain.
    fn delivered(&mut self, consumer: usize, name: &str, given: &[u64], until: Instant) {
        assert!(given.is_sorted_by(|a, b| a < b), "group {name} is out of order: {given:?}");
        let group = self.groups.entry(name.to_owned()).or_default();
        let now = Instant::now();
        if now < until {
            if let Some((holder, theirs)) = group.held.filter(|(_, theirs)| now < *theirs) {
                panic!("{consumer} was given group {name}, which {holder} has until {theirs:?}");
            }
            group.held = Some((consumer, until));
        }
        let Some(last) = given.last() else { return };
        let before = group.messages.range(..last);
        let waiting = before.filter(|(_, state)| matches!(state, State::Sent));
        for (sequence, _) in waiting {
            assert!(
                given.contains(sequence),
                "group {name}: {sequence} was passed over: {given:?}"
            );
        }
    }

    fn deleting(&mut self, consumer: usize, message: &Delivered, until: Instant) {
        let group = self.groups.get_mut(&message.group).expect("a group");
        let state = group.messages.entry(message.sequence).or_insert(State::Sent);
        match *state {
            State::Sent => {}
            State::Deleting(other, theirs) => {
                assert!(theirs <= Instant::now(), "{consumer} was given what {other} has");
            }
            State::Deleted => panic!("{} was given again", message.sequence),
        }
        *state = State::Deleting(consumer, until);
    }

    /// Whether it was deleted is what the gateway said.
    fn settled(&mut self, consumer: usize, message: &Delivered, is_deleted: bool) {
        let group = self.groups.get_mut(&message.group).expect("a group");
        let state = group.messages.get_mut(&message.sequence).expect("a message");
        match *state {
            State::Deleted => {}
            _ if is_deleted => {
                *state = State::Deleted;
                self.deleted += 1;
            }
            State::Deleting(by, _) if by == consumer => *state = State::Sent,
            State::Deleting(..) | State::Sent => {}
        }
    }

    fn release(&mut self, consumer: usize, group: &str) {
        let group = self.groups.get_mut(group).expect("a group");
        if group.held.is_some_and(|(holder, _)| holder == consumer) {
            group.held = None;
        }
    }
}

/// Sends its messages to every group, some of them again as a client does that has lost the answer.
async fn produce(producer: usize, in_each: usize, client: Client, ledger: Shared) {
    let sqs = Sqs(&client);
    for n in 0..in_each {
        for first in (0..GROUPS).step_by(BATCH) {
            let entry = |group: usize| {
                let id = format!("{producer}-{group}-{n}");
                json!({
                    "Id": format!("{group}"), "MessageBody": id, "MessageGroupId": format!("group-{group}"),
                    "MessageDeduplicationId": id,
                })
            };
            let entries: Vec<Value> = (first..first + BATCH).map(entry).collect();
            for _ in 0..if rand::random_ratio(1, 10) { 2 } else { 1 } {
                let input = json!({"QueueUrl": QUEUE, "Entries": entries});
                let sent = sqs.done("SendMessageBatch", &input).await;
                let told = sent["Successful"].as_array().expect("all are stored");
                assert_eq!(told.len(), BATCH, "{sent}");
                let mut ledger = ledger.lock().expect("nobody has failed");
                for entry in told {
                    let group = entry["Id"].as_str().expect("an id");
                    let id = format!("{producer}-{group}-{n}");
                    ledger.sent(&format!("group-{group}"), &id, number(&entry["SequenceNumber"]));
                }
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|digits| digits.parse().ok()).expect("a number")
}

/// How a consumer ends.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Lives,
    /// It leaves while it is answered.
    DiesReceiving,
    /// It stops behind some of its messages.
    DiesWorking,
}

fn fate() -> Fate {
    match rand::random_range(0..30) {
        0 => Fate::DiesReceiving,
        1..3 => Fate::DiesWorking,
        _ => Fate::Lives,
    }
}

/// Receives, and deletes message by message. Whoever dies is followed by another.
async fn consume(client: Client, ledger: Shared, numbers: Arc<AtomicUsize>, all: usize) {
    let sqs = Sqs(&client);
    while ledger.lock().expect("nobody has failed").deleted < all {
        let consumer = numbers.fetch_add(1, Relaxed);
        let fate = fate();
        let lease: u64 = if fate == Fate::Lives { 300 } else { 1 };
        let input = json!({
            "QueueUrl": QUEUE, "MaxNumberOfMessages": rand::random_range(1..=10), "WaitTimeSeconds": 1,
            "VisibilityTimeout": lease, "AttributeNames": ["All"],
        });
        let until = Instant::now() + Duration::from_secs(lease);
        let receive = sqs.done("ReceiveMessage", &input);
        let received = if fate == Fate::DiesReceiving {
            let patience = Duration::from_millis(rand::random_range(0..20));
            timeout(patience, receive).await.ok()
        } else {
            Some(receive.await)
        };
        let delivered = received.map(|received| take(&ledger, consumer, &received, until));
        let delivered = delivered.unwrap_or_default();
        let mut done = delivered.len();
        if fate != Fate::Lives {
            done = rand::random_range(0..=done / 2);
            ledger.lock().expect("nobody has failed").deaths += 1;
        }
        for (at, message) in delivered.iter().enumerate().take(done) {
            {
                let mut ledger = ledger.lock().expect("nobody has failed");
                ledger.deleting(consumer, message, until);
                let is_last = delivered[at + 1..].iter().all(|next| next.group != message.group);
                if is_last {
                    ledger.release(consumer, &message.group);
                }
            }
            let input = json!({"QueueUrl": QUEUE, "ReceiptHandle": message.handle});
            let answer = sqs.json("DeleteMessage", &input).await;
            let has_expired = answer.text.contains("The receipt handle has expired");
            assert!(
                answer.status == 200 || (has_expired && fate != Fate::Lives),
                "{}",
                answer.text
            );
            let mut ledger = ledger.lock().expect("nobody has failed");
            ledger.settled(consumer, message, answer.status == 200);
        }
    }
}

/// Notes what a consumer was given.
fn take(ledger: &Shared, consumer: usize, received: &Value, until: Instant) -> Vec<Delivered> {
    let mut ledger = ledger.lock().expect("nobody has failed");
    let mut all = Vec::new();
    let mut groups: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in received["Messages"].as_array().into_iter().flatten() {
        let attributes = &message["Attributes"];
        let group = attributes["MessageGroupId"].as_str().expect("a group").to_owned();
        let sequence = number(&attributes["SequenceNumber"]);
        let id = attributes["MessageDeduplicationId"].as_str().expect("an id");
        assert_eq!(message["Body"], id);
        ledger.know(id, sequence);
        groups.entry(group.clone()).or_default().push(sequence);
        let handle = message["ReceiptHandle"].as_str().expect("a handle").to_owned();
        all.push(Delivered { group, sequence, handle });
    }
    for (group, given) in &groups {
        ledger.delivered(consumer, group, given, until);
    }
    all
}

/// Every producer sends so many messages to each group; returns the gateways and what is known then.
async fn crowd(in_each: usize, limit: Duration) -> (Vec<TestGateway>, Ledger) {
    let gateways: Vec<TestGateway> = TestGateway::pair().await.into_iter().collect();
    Sqs(&gateways[0]).create(QUEUE, &json!({"FifoQueue": "true"})).await;
    let ledger = Shared::default();
    let numbers = Arc::new(AtomicUsize::new(0));
    let all = PRODUCERS * GROUPS * in_each;
    let mut tasks = JoinSet::new();
    for producer in 0..PRODUCERS {
        let client = gateways[producer % 2].client.clone();
        tasks.spawn(produce(producer, in_each, client, Arc::clone(&ledger)));
    }
    for consumer in 0..CONSUMERS {
        let client = gateways[consumer % 2].client.clone();
        tasks.spawn(consume(client, Arc::clone(&ledger), Arc::clone(&numbers), all));
    }
    let all_end = async {
        while let Some(ended) = tasks.join_next().await {
            ended.expect("nobody found anything wrong");
        }
    };
    timeout(limit, all_end).await.expect("they come to an end");
    let ledger = std::mem::take(&mut *ledger.lock().expect("nobody has failed"));
    assert_eq!((ledger.deleted, ledger.ids.len(), ledger.groups.len()), (all, all, GROUPS));
    assert!(ledger.deaths > 0, "nobody died");
    assert!(gateways[0].all(QUEUE).await.is_empty());
    (gateways, ledger)
}

#[tokio::test]
async fn every_group_keeps_its_order_and_nothing_comes_twice_while_consumers_die() {
    let (gateways, ledger) = crowd(1, Duration::from_secs(240)).await;
    // What was deleted is not stored again within the five minutes.
    let sqs = Sqs(&gateways[1]);
    let sample: Vec<(&String, &u64)> = ledger.ids.iter().take(50).collect();
    for (id, sequence) in sample {
        let group = id.split('-').nth(1).expect("a group");
        let sent = sqs
            .done(
                "SendMessage",
                &json!({
                    "QueueUrl": QUEUE, "MessageBody": "again", "MessageDeduplicationId": id,
                    "MessageGroupId": format!("group-{group}"),
                }),
            )
            .await;
        assert_eq!(number(&sent["SequenceNumber"]), *sequence, "{id}");
    }
    assert!(gateways[0].all(QUEUE).await.is_empty());
}

#[tokio::test]
#[ignore = "takes minutes: 40,000 messages"]
async fn every_group_keeps_its_order_for_long() {
    crowd(10, Duration::from_secs(1_800)).await;
}
