//! Those who receive, in every way; some vanish.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::support::Client;

use super::{Delivery, Dice, Id, Journal, QUEUES, ask, queue};

const PAUSE: Duration = Duration::from_millis(50);

/// A client with what it knows.
struct Receiver {
    client: Client,
    journal: Arc<Journal>,
    dice: Dice,
}

pub(super) async fn work(
    number: usize,
    client: Client,
    journal: Arc<Journal>,
    stop: Arc<AtomicBool>,
) {
    let mut receiver = Receiver { client, journal, dice: Dice(number as u64 + 1_001) };
    while !stop.load(Relaxed) {
        let queue = queue(receiver.dice.index(QUEUES));
        match number % 4 {
            0 => receiver.delete_one_by_one(&queue).await,
            1 => receiver.settle_and_receive(&queue).await,
            2 => receiver.pop(&queue).await,
            _ => receiver.vanish(&queue).await,
        }
    }
}

impl Receiver {
    async fn delete_one_by_one(&mut self, queue: &str) {
        for message in self.receive(queue, "qty=3&vt=2&wait=1").await {
            // It comes back.
            if self.dice.throw(7) == 0 {
                continue;
            }
            let id = id_of(queue, &message);
            let receipt = message["receipt"].as_str().expect("a receipt");
            let path = format!("/queues/{queue}/messages/{}?receipt={receipt}", id.1);
            match ask(&self.client, "DELETE", &path, None, None).await {
                Some((204, _)) => self.end(vec![id]),
                Some((404 | 409, _)) => {}
                Some((503, problem)) if problem["code"] != "outcome_unknown" => {}
                Some((503, _)) | None => self.maybe_end(vec![id]),
                Some((status, answer)) => panic!("{path} answered {status}: {answer}"),
            }
        }
    }

    /// A few rounds, each of which settles what the one before it brought.
    async fn settle_and_receive(&mut self, queue: &str) {
        let path = format!("/queues/{queue}/messages/receive");
        let mut in_hand: Vec<Value> = Vec::new();
        for _ in 0..5 {
            let ids: Vec<Id> = in_hand.iter().map(|message| id_of(queue, message)).collect();
            let entries: Vec<Value> =
                in_hand.drain(..).map(|message| json!({"receipt": message["receipt"]})).collect();
            let body = json!({"settle": {"delete": entries}, "qty": 4, "vt": 2, "wait": 1});
            let (settled, failed) = match ask(&self.client, "POST", &path, Some(&body), None).await
            {
                Some((200, answer)) => {
                    in_hand = self.note(queue, &answer, false);
                    (answer["settled"].clone(), false)
                }
                Some((503, problem)) if problem["settled"].is_object() => {
                    (problem["settled"].clone(), true)
                }
                Some((503, problem)) if problem["code"] != "outcome_unknown" => return,
                Some((503, _)) | None => return self.maybe_end(ids),
                Some((status, answer)) => panic!("{path} answered {status}: {answer}"),
            };
            let done = settled["deleted"].as_array().expect("ids").iter();
            self.end(done.map(|id| (queue.to_owned(), id.as_i64().expect("an id"))).collect());
            let unknown = settled["failed"].as_array().expect("entries").iter();
            let unknown = unknown.filter(|entry| entry["code"] == "outcome_unknown");
            let unknown = unknown.filter_map(|entry| entry["msg_id"].as_i64());
            self.maybe_end(unknown.map(|id| (queue.to_owned(), id)).collect());
            if failed {
                return;
            }
        }
    }

    async fn pop(&mut self, queue: &str) {
        let path = format!("/queues/{queue}/messages/pop?qty=2");
        match ask(&self.client, "POST", &path, None, None).await {
            Some((200, answer)) => {
                let popped = self.note(queue, &answer, true);
                self.end(popped.iter().map(|message| id_of(queue, message)).collect());
            }
            Some((503, problem)) if problem["code"] != "outcome_unknown" => sleep(PAUSE).await,
            answer => panic!("{path} was answered {answer:?}"),
        }
    }

    /// Leaves while it waits.
    async fn vanish(&mut self, queue: &str) {
        let patience = Duration::from_millis(self.dice.throw(300));
        let _ = timeout(patience, self.receive(queue, "qty=2&vt=2&wait=2")).await;
    }

    async fn receive(&mut self, queue: &str, parameters: &str) -> Vec<Value> {
        let path = format!("/queues/{queue}/messages?{parameters}");
        match ask(&self.client, "GET", &path, None, None).await {
            Some((200, answer)) => self.note(queue, &answer, false),
            Some((503, _)) | None => {
                sleep(PAUSE).await;
                Vec::new()
            }
            Some((status, answer)) => panic!("{path} answered {status}: {answer}"),
        }
    }

    /// Writes down what was delivered. What is popped has no lease, and is delivered now.
    fn note(&self, queue: &str, answer: &Value, is_popped: bool) -> Vec<Value> {
        let messages = answer["messages"].as_array().expect("messages").clone();
        let now = Utc::now();
        let moment = |message: &Value, field: &str| -> DateTime<Utc> {
            message[field].as_str().and_then(|text| text.parse().ok()).expect("a moment")
        };
        let mut book = self.journal.write();
        book.deliveries.extend(messages.iter().map(|message| Delivery {
            id: id_of(queue, message),
            name: message["message"].as_str().expect("a name").to_owned(),
            read_ct: message["read_ct"].as_i64().expect("a number") + i64::from(is_popped),
            from: if is_popped { now } else { moment(message, "last_read_at") },
            until: if is_popped { now } else { moment(message, "vt") },
        }));
        messages
    }

    fn end(&self, ids: Vec<Id>) {
        let now = Utc::now();
        self.journal.write().ended.extend(ids.into_iter().map(|id| (id, now)));
    }

    fn maybe_end(&self, ids: Vec<Id>) {
        self.journal.write().maybe_ended.extend(ids);
    }
}

fn id_of(queue: &str, message: &Value) -> Id {
    (queue.to_owned(), message["msg_id"].as_i64().expect("an id"))
}
