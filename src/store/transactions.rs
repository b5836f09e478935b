//! Several operations in one transaction, and requests that are answered once, in SQL.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sqlx::{Row, postgres::PgRow, types::Json};
use tracing::warn;

use crate::domain::{DeliveryId, NewMessage, QueueName, Scope, Target, Visibility, rfc3339};

use super::{
    Action, Conn, Idempotency,
    error::{Error, Result},
};

/// An operation of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Stores messages in a queue.
    Send(QueueName, Vec<NewMessage>),
    /// Stores messages in the queues that a routing key leads to, as far as they are within what the
    /// caller may send to.
    Publish(String, Vec<NewMessage>, Scope, PublishLimits),
    /// Ends or hides a message.
    Settle(QueueName, Action, Target),
}

/// How much one publication may store, all queues together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishLimits {
    /// Messages, each as often as there are queues.
    pub deliveries: usize,
    /// Bytes, each as often as there are queues.
    pub bytes: u64,
}

/// What a transaction came to.
#[derive(Debug)]
pub enum Transacted<T> {
    /// It is done.
    Done(Vec<T>),
    /// It was done before.
    Replayed(Vec<T>),
    /// It was done before, and what it came to is lost.
    Unreadable,
    /// Its key stands for another request.
    Conflict,
}

/// An operation as the function in the database reads it.
#[derive(Serialize)]
struct Step<'a> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_queues: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_deliveries: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<StepMessage<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ct: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_stamp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_id: Option<i64>,
    #[serde(flatten)]
    moment: Timestamp,
}

/// A message as the function in the database reads it.
#[derive(Serialize)]
struct StepMessage<'a> {
    message: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a RawValue>,
    bytes: u64,
    #[serde(flatten)]
    moment: Timestamp,
}

#[derive(Default, Serialize)]
struct Timestamp {
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visible_at: Option<String>,
}

impl From<Option<Visibility>> for Timestamp {
    fn from(visible: Option<Visibility>) -> Self {
        match visible {
            Some(Visibility::After(delay)) => {
                Self { delay: Some(delay.as_i32()), visible_at: None }
            }
            Some(Visibility::At(time)) => Self { delay: None, visible_at: Some(rfc3339(&time)) },
            None => Self::default(),
        }
    }
}

impl<'a> Step<'a> {
    fn new(action: &'static str) -> Self {
        Self {
            action,
            queue: None,
            routing_key: None,
            allowed_queues: None,
            max_deliveries: None,
            max_bytes: None,
            messages: None,
            msg_id: None,
            read_ct: None,
            read_stamp: None,
            queue_id: None,
            moment: Timestamp::default(),
        }
    }

    fn of(operation: &'a Operation) -> Self {
        match operation {
            Operation::Send(queue, messages) => Self {
                queue: Some(queue.as_str()),
                messages: Some(rows(messages)),
                ..Self::new("send")
            },
            Operation::Publish(routing_key, messages, within, limits) => Self {
                routing_key: Some(routing_key),
                allowed_queues: within.to_regex(),
                max_deliveries: Some(limits.deliveries),
                max_bytes: Some(limits.bytes),
                messages: Some(rows(messages)),
                ..Self::new("publish")
            },
            Operation::Settle(queue, action, target) => Self {
                queue: Some(queue.as_str()),
                msg_id: Some(target.msg_id),
                read_ct: target.delivered.map(|delivered| delivered.read_ct),
                read_stamp: target.delivered.and_then(DeliveryId::stamp),
                queue_id: target.delivered.map(|delivered| delivered.queue_id),
                moment: match action {
                    Action::Hide(visible) => Some(*visible).into(),
                    _ => Timestamp::default(),
                },
                ..Self::new(action.as_str())
            },
        }
    }
}

fn rows(messages: &[NewMessage]) -> Vec<StepMessage<'_>> {
    let sized = messages.iter().map(|new| StepMessage {
        message: &new.message,
        headers: new.headers.as_deref(),
        bytes: new.expanded_bytes(),
        moment: new.visible.into(),
    });
    sized.collect()
}

/// Does operations in order, all or none, and returns what each came to. With `once`, a request that
/// was done before is not done again. `at_once` says that nothing is left to be checked at the end of the
/// transaction, where it is not known any more which operation is to blame.
pub async fn transact<T: DeserializeOwned>(
    conn: &mut Conn,
    operations: &[Operation],
    once: Option<&Idempotency>,
    at_once: bool,
) -> Result<Transacted<T>> {
    let steps: Vec<Step<'_>> = operations.iter().map(Step::of).collect();
    let query = sqlx::query(
        "/* transact */ \
         SELECT outcome, results FROM pgmq_gateway.transact($1, $2, $3, $4, $5, $6)",
    )
    .bind(Json(steps))
    .bind(once.map(|once| &once.scope))
    .bind(once.map(|once| &once.key))
    .bind(once.map(|once| &once.fingerprint[..]))
    .bind(once.map(Idempotency::seconds))
    .bind(at_once);
    let rows = conn.store(query).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    let word = row.try_get("outcome").map_err(Error::unexpected)?;
    Transacted::from_row(word, row)?.ok_or_else(|| Error::unexpected_word(word))
}

/// Operations as the function in the database reads them: JSON.
pub(super) fn encode(operations: &[Operation]) -> Result<Vec<u8>> {
    let steps: Vec<Step<'_>> = operations.iter().map(Step::of).collect();
    serde_json::to_vec(&steps).map_err(|error| Error::unexpected(sqlx::Error::Encode(error.into())))
}

impl<T: DeserializeOwned> Transacted<T> {
    /// Reads what a function of ours says of a transaction; nothing if it is no word for one that went through.
    pub(super) fn from_row(word: &str, row: &PgRow) -> Result<Option<Self>> {
        let results =
            || row.try_get("results").map(|Json(results)| results).map_err(Error::unexpected);
        Ok(Some(match word {
            "conflict" => Self::Conflict,
            "replayed" => results().map_or_else(
                |error| {
                    warn!(%error, "an answer in pgmq_gateway.idempotency_keys makes no sense");
                    Self::Unreadable
                },
                Self::Replayed,
            ),
            "unreadable" => {
                warn!("an answer in pgmq_gateway.idempotency_keys makes no sense");
                Self::Unreadable
            }
            "done" => Self::Done(results()?),
            _ => return Ok(None),
        }))
    }
}
