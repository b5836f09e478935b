//! Transactions of several requests that only send, in one statement, in SQL.

use std::{collections::BTreeMap, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;

use crate::domain::{NewMessage, QueueName};

use super::{
    Conn, Operation, PublishLimits,
    decode::{Text, get},
    error::{Error, Result},
    messages::{body, headers, moment},
};

/// Messages that one publication may come to where it shares a statement, all queues together.
const MOST_DELIVERIES: u64 = 256;

/// What became of transactions that only send.
#[derive(Debug)]
pub enum SentTogether<T> {
    /// All are done: what the operations of each came to.
    Done(Vec<Vec<T>>),
    /// Nothing was done, as these operations are not for such a statement: they are counted through, those of
    /// the first transaction first.
    Hindered(Vec<usize>),
}

/// Where a message is to go: queues first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Destination<'a> {
    Queue(&'a QueueName),
    /// What a routing key leads to, as far as it is within a regular expression.
    Topic(&'a str, Option<String>),
}

/// What is to go there.
#[derive(Default)]
struct Load<'a> {
    /// The messages, and the operation of each.
    messages: Vec<(usize, &'a NewMessage)>,
    /// Bytes of the largest.
    largest: u64,
    /// The most queues that it may be.
    most_queues: u64,
}

impl<'a> Load<'a> {
    fn add(&mut self, op: usize, messages: &'a [NewMessage], limits: Option<&PublishLimits>) {
        let sizes = || messages.iter().map(NewMessage::expanded_bytes);
        self.largest = self.largest.max(sizes().max().unwrap_or(0));
        let most = limits.map_or(1, |limits| {
            let deliveries = MOST_DELIVERIES.min(limits.deliveries as u64);
            let bytes: u64 = sizes().fold(0, u64::saturating_add);
            (deliveries / (messages.len() as u64).max(1)).min(limits.bytes / bytes.max(1))
        });
        self.most_queues = if self.messages.is_empty() { most } else { most.min(self.most_queues) };
        self.messages.extend(messages.iter().map(|message| (op, message)));
    }

    /// The operation of each message.
    fn ops(&self) -> impl Iterator<Item = usize> + Clone {
        self.messages.iter().map(|(op, _)| *op)
    }
}

/// What is to go where.
fn loads<'a>(
    operations: impl Iterator<Item = &'a Operation>,
) -> Result<Vec<(Destination<'a>, Load<'a>)>> {
    let mut loads: BTreeMap<Destination<'a>, Load<'a>> = BTreeMap::new();
    for (op, operation) in operations.enumerate() {
        let (destination, messages, limits) = match operation {
            Operation::Send(queue, messages) => (Destination::Queue(queue), messages, None),
            Operation::Publish(key, messages, within, limits) => {
                (Destination::Topic(key, within.to_regex()), messages, Some(limits))
            }
            Operation::Settle(..) => {
                return Err(Error::unexpected(sqlx::Error::ColumnNotFound("queue".to_owned())));
            }
        };
        loads.entry(destination).or_default().add(op, messages, limits);
    }
    Ok(loads.into_iter().collect())
}

/// Does the transactions of several requests, all or none: each sends, or publishes once, and does nothing else.
/// What takes longer than `limit` is undone, unless it cannot be cancelled.
pub async fn send_together<T: DeserializeOwned>(
    conn: &mut Conn,
    requests: &[&[Operation]],
    limit: Duration,
) -> Result<SentTogether<T>> {
    let loads = loads(requests.iter().copied().flatten())?;
    let rows = store(conn, &loads, limit).await?;
    let mut of_ops: Vec<Stored> = vec![Stored::new(); requests.iter().map(|r| r.len()).sum()];
    // A queue of a destination has all of its messages, in turn.
    let mut turns: Vec<_> = loads.iter().map(|(_, load)| load.ops().cycle()).collect();
    let mut hindered = Vec::new();
    for row in &rows {
        let place = usize::try_from(get::<i32>(row, "place")? - 1).unwrap_or(usize::MAX);
        let (Some((destination, load)), Some(turn)) = (loads.get(place), turns.get_mut(place))
        else {
            return Err(Error::unexpected(sqlx::Error::RowNotFound));
        };
        let Some(id) = get::<Option<i64>>(row, "id")? else {
            hindered.extend(load.ops());
            continue;
        };
        if let Destination::Queue(queue) = destination {
            conn.known_tables().learn(queue, row).map_err(Error::unexpected)?;
        }
        if let Some(stored) = turn.next().and_then(|op| of_ops.get_mut(op)) {
            stored.push((get::<Text>(row, "target")?.0, id));
        }
    }
    if !hindered.is_empty() {
        return Ok(SentTogether::Hindered(hindered));
    }
    let mut of_ops = of_ops.into_iter();
    let done = requests.iter().map(|operations| {
        operations.iter().zip(of_ops.by_ref()).map(|(op, stored)| result(op, stored)).collect()
    });
    done.collect::<Result<_>>().map(SentTogether::Done)
}

/// What was stored for an operation: in which queue, and under which id.
type Stored = Vec<(String, i64)>;

async fn store(
    conn: &mut Conn,
    loads: &[(Destination<'_>, Load<'_>)],
    limit: Duration,
) -> Result<Vec<PgRow>> {
    let queues = || {
        loads.iter().map(|(destination, _)| match destination {
            Destination::Queue(queue) => Some(*queue),
            Destination::Topic(..) => None,
        })
    };
    let topics: (Vec<Option<&str>>, Vec<Option<&str>>) = loads
        .iter()
        .map(|(destination, _)| match destination {
            Destination::Queue(_) => (None, None),
            Destination::Topic(key, within) => (Some(*key), within.as_deref()),
        })
        .unzip();
    let all = || loads.iter().flat_map(|(_, load)| &load.messages).map(|(_, message)| *message);
    let (delays, times): (Vec<_>, Vec<_>) = all().map(|message| moment(message.visible)).unzip();
    let number = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    let known = conn.known_tables().tell(queues().flatten());
    let query = sqlx::query(
        "/* send_together */ SELECT * FROM pgmq_gateway.send_together( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(queues().map(|queue| queue.map(QueueName::as_str)).collect::<Vec<_>>())
    .bind(topics.0)
    .bind(topics.1)
    .bind(loads.iter().map(|(_, load)| number(load.most_queues)).collect::<Vec<_>>())
    .bind(loads.iter().map(|(_, load)| number(load.messages.len() as u64)).collect::<Vec<_>>())
    .bind(loads.iter().map(|(_, load)| number(load.largest)).map(i64::from).collect::<Vec<_>>())
    .bind(all().map(body).collect::<Vec<_>>())
    .bind(all().map(headers).collect::<Vec<_>>())
    .bind(delays)
    .bind(times);
    let query = known.bind(query);
    conn.store_within(query, limit).await
}

/// What an operation came to, as `transact` would say it.
fn result<T: DeserializeOwned>(operation: &Operation, stored: Stored) -> Result<T> {
    let value = match operation {
        Operation::Publish(..) => {
            let delivery = |(queue, id)| json!({"queue": queue, "msg_id": id});
            json!({ "deliveries": stored.into_iter().map(delivery).collect::<Vec<Value>>() })
        }
        Operation::Send(_, messages) if stored.len() == messages.len() => {
            json!({ "msg_ids": stored.into_iter().map(|(_, id)| id).collect::<Vec<i64>>() })
        }
        _ => return Err(Error::unexpected(sqlx::Error::RowNotFound)),
    };
    serde_json::from_value(value)
        .map_err(|error| Error::unexpected(sqlx::Error::Decode(error.into())))
}
