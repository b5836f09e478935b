//! Those who send, in every way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::Client;

use super::{Dice, Journal, Name, QUEUES, ask, queue};

/// How often a request with a key is sent before it is given up on.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// A request, and what it stores.
struct Order {
    path: String,
    body: Value,
    names: Vec<Name>,
    key: Option<String>,
}

/// What is known of an order that was sent.
enum Outcome {
    Done,
    Refused,
    Unknown,
}

pub(super) async fn work(
    number: usize,
    client: Client,
    journal: Arc<Journal>,
    stop: Arc<AtomicBool>,
) {
    let mut dice = Dice(number as u64 + 1);
    let mut count = 0;
    while !stop.load(Relaxed) {
        let order = order(number % 5, &format!("{number}-{count}"), &mut dice);
        count += 1;
        let outcome = place(&client, &order).await;
        let mut book = journal.write();
        match outcome {
            Outcome::Done => book.sent.extend(order.names.iter().cloned()),
            Outcome::Refused => book.refused.extend(order.names.iter().cloned()),
            Outcome::Unknown => {}
        }
        if order.names.len() > 1 {
            book.wholes.push(order.names);
        }
    }
}

fn order(kind: usize, name: &str, dice: &mut Dice) -> Order {
    let to = queue(dice.index(QUEUES));
    let one = json!({"message": name, "headers": {"x-pgmq-group": format!("g{}", dice.throw(5))}});
    let key = Some(format!("key-{name}"));
    match kind {
        0 | 1 => Order {
            path: format!("/queues/{to}/messages"),
            body: one,
            names: vec![(to, name.to_owned())],
            key: key.filter(|_| kind == 1),
        },
        2 => {
            let names: Vec<String> = (0..3).map(|n| format!("{name}-{n}")).collect();
            let messages: Vec<Value> = names.iter().map(|name| json!({"message": name})).collect();
            Order {
                path: format!("/queues/{to}/messages/batch"),
                body: json!({"messages": messages}),
                names: names.into_iter().map(|name| (to.clone(), name)).collect(),
                key: key.filter(|_| dice.throw(2) == 0),
            }
        }
        3 => {
            let queues = [to.clone(), queue(dice.index(QUEUES))];
            let names = queues.clone().into_iter().enumerate();
            let names: Vec<Name> = names.map(|(n, queue)| (queue, format!("{name}-{n}"))).collect();
            let send = |(queue, name): &Name| json!({"send": {"queue": queue, "message": name}});
            Order {
                path: "/transactions".to_owned(),
                body: json!({"operations": names.iter().map(send).collect::<Vec<_>>()}),
                names,
                key: key.filter(|_| dice.throw(2) == 0),
            }
        }
        _ => {
            let topic = dice.index(QUEUES);
            let names = [topic, topic + 7].map(|bound| (queue(bound), name.to_owned()));
            Order {
                path: format!("/topics/t.{topic}/messages"),
                body: one,
                names: names.to_vec(),
                key: key.filter(|_| dice.throw(2) == 0),
            }
        }
    }
}

/// Sends an order; with a key, until there is an answer.
async fn place(client: &Client, order: &Order) -> Outcome {
    let mut outcome = Outcome::Refused;
    for _ in 0..TRIES {
        match ask(client, "POST", &order.path, Some(&order.body), order.key.as_deref()).await {
            Some((200 | 201, _)) => return Outcome::Done,
            Some((503, problem)) if problem["code"] == "outcome_unknown" => {
                outcome = Outcome::Unknown;
            }
            Some((503, _)) => {}
            Some((status, answer)) => panic!("{} answered {status}: {answer}", order.path),
            None => outcome = Outcome::Unknown,
        }
        sleep(PAUSE).await;
        if order.key.is_none() {
            break;
        }
    }
    outcome
}
