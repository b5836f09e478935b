//! Many consumers of one FIFO queue at two gateways, which often fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{Client, TestGateway};

const MODES: [&str; 3] = ["grouped", "round_robin", "head"];
const GROUPS: usize = 20;
const IN_EACH: usize = 15;

/// Who has which group, and how far it is.
#[derive(Default)]
struct Ledger {
    /// By group: a consumer, and until when its lease holds for certain.
    held: BTreeMap<String, (usize, Instant)>,
    done: BTreeMap<String, Vec<u64>>,
}

impl Ledger {
    /// `consumer` has been given messages of a group under a lease that holds until then.
    fn take(&mut self, consumer: usize, group: &str, until: Instant) {
        let now = Instant::now();
        if now >= until {
            return;
        }
        if let Some((holder, theirs)) = self.held.get(group) {
            assert!(
                *holder == consumer || *theirs <= now,
                "{consumer} was given group {group}, which {holder} has"
            );
        }
        self.held.insert(group.to_owned(), (consumer, until));
    }

    fn is_complete(&self) -> bool {
        self.done.values().map(Vec::len).sum::<usize>() == GROUPS * IN_EACH
    }
}

/// One of many that work on the same queue, and often fail.
async fn consume(consumer: usize, client: Client, ledger: Arc<Mutex<Ledger>>) {
    let ledger = || ledger.lock().expect("nobody has failed");
    while !ledger().is_complete() {
        let mode = MODES[rand::random_range(0..MODES.len())];
        let crashes = rand::random_ratio(1, 20);
        let vt = if crashes { 1 } else { 300 };
        let until = Instant::now() + Duration::from_secs(vt);
        let qty = rand::random_range(1..=6);
        let parameters = format!("fifo={mode}&qty={qty}&vt={vt}&wait=1");
        let received = client.receive("q", &parameters).await;
        let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for message in received {
            let group = message["headers"]["x-pgmq-group"].as_str().expect("a group").to_owned();
            groups.entry(group).or_default().push(message);
        }
        for group in groups.keys() {
            ledger().take(consumer, group, until);
        }
        if crashes {
            continue;
        }
        for (group, messages) in groups {
            let gives_up_at = if rand::random_ratio(1, 4) {
                rand::random_range(0..messages.len())
            } else {
                messages.len()
            };
            let last = messages.len() - 1;
            for (index, message) in messages[..gives_up_at].iter().enumerate() {
                let n = message["message"].as_u64().expect("a number");
                {
                    let mut ledger = ledger();
                    let done = ledger.done.entry(group.clone()).or_default();
                    assert_eq!(done.len() as u64, n, "group {group} is out of order");
                    done.push(n);
                    if index == last {
                        ledger.held.remove(&group);
                    }
                }
                let receipt = message["receipt"].as_str().expect("a receipt");
                let id = &message["msg_id"];
                client
                    .delete(&format!("/queues/q/messages/{id}?receipt={receipt}"))
                    .await
                    .expect(204);
            }
            // The first of those that are given back holds the others back until the end.
            for (index, message) in messages.iter().enumerate().skip(gives_up_at).rev() {
                if index == gives_up_at {
                    ledger().held.remove(&group);
                }
                let path = format!("/queues/q/messages/{}", message["msg_id"]);
                client.patch(&path, r#"{"vt":0}"#).await.expect(200);
            }
        }
    }
}

#[tokio::test]
async fn many_consumers_keep_every_group_in_order() {
    let gateways = TestGateway::pair().await;
    gateways[0].create_with("q", &json!({"fifo": true})).await;
    let message = |n: usize, group: usize| json!({"message": n, "headers": {"x-pgmq-group": format!("group {group}")}});
    let messages: Vec<_> =
        (0..IN_EACH).flat_map(|n| (0..GROUPS).map(move |group| message(n, group))).collect();
    let batch = json!({"messages": messages}).to_string();
    gateways[0].post("/queues/q/messages/batch", &batch).await.expect(201);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut consumers = JoinSet::new();
    for (consumer, gateway) in gateways.iter().cycle().take(16).enumerate() {
        consumers.spawn(consume(consumer, gateway.client.clone(), Arc::clone(&ledger)));
    }
    let all = async {
        while let Some(consumer) = consumers.join_next().await {
            consumer.expect("no consumer found anything wrong");
        }
    };
    tokio::time::timeout(Duration::from_secs(240), all).await.expect("they come to an end");
    assert!(gateways[0].all("q").await.is_empty());
    let ledger = ledger.lock().expect("nobody has failed");
    assert_eq!(ledger.done.len(), GROUPS);
    assert!(ledger.done.values().all(|done| done.iter().copied().eq(0..IN_EACH as u64)));
}
