//! Several operations in one transaction.

use std::sync::Arc;

use serde::Deserialize;
use tokio::time::timeout;

use crate::{
    domain::{CallStats, NewMessage, QueueName, Visibility, VisibilityTimeout},
    store::{self, Action, Conn, Idempotency, Operation, Refusal, Rejection, TooLarge, Transacted},
    telemetry::DoneTo,
};

use super::{
    Broker, Error, MaybeReplayed, Once, Result, SettleTarget, policies::Policy, retry::Retry,
};

/// The most operations of a transaction.
pub const MAX_OPERATIONS: usize = 100;
/// How often a transaction is tried whose queues are dropped meanwhile.
const MOST_DROPPED: u32 = 2;

/// An operation that a client asks for.
#[derive(Debug)]
pub enum Wish {
    /// Stores a message.
    Send(QueueName, NewMessage),
    /// Deletes a message.
    Delete(QueueName, SettleTarget),
    /// Moves a message into the archive.
    Archive(QueueName, SettleTarget),
    /// Sets when a message may be delivered again.
    SetVisibility(QueueName, SettleTarget, Visibility),
}

/// What an operation came to.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    /// The message.
    pub msg_id: Option<i64>,
    /// Messages that were stored.
    #[serde(default)]
    pub msg_ids: Vec<i64>,
    /// From when on it is visible, as it was set.
    pub vt: Option<String>,
    /// Messages that were stored in several queues.
    #[serde(default)]
    pub deliveries: Vec<TopicDelivery>,
}

/// A message that was stored in a queue because of a routing key.
#[derive(Clone, Debug, Deserialize)]
pub struct TopicDelivery {
    /// The queue.
    pub queue: String,
    /// The message.
    pub msg_id: i64,
}

impl Outcome {
    pub(super) fn into_ids(self) -> Vec<i64> {
        self.msg_ids
    }
}

impl Broker {
    /// Does operations across queues in order, all or none.
    pub async fn transact(
        &self,
        stats: &Arc<CallStats>,
        wishes: Vec<Wish>,
        once: Option<Once>,
    ) -> Result<MaybeReplayed<Vec<Outcome>>> {
        if !(1..=MAX_OPERATIONS).contains(&wishes.len()) {
            return Err(Error::Invalid(format!(
                "`operations` must hold 1 to {MAX_OPERATIONS} operations, not {}",
                wishes.len()
            )));
        }
        let mut operations = Vec::with_capacity(wishes.len());
        for (index, wish) in wishes.into_iter().enumerate() {
            let operation = self.operation(index, wish);
            operations.push(operation.map_err(|error| error.in_operation(index))?);
        }
        self.check_total("`operations`", operations.iter().map(expanded_bytes).sum())?;
        let once = once.map(|once| self.idempotency(once, None));
        self.do_all(stats, operations, once).await
    }

    fn operation(&self, index: usize, wish: Wish) -> Result<Operation> {
        let action = match &wish {
            Wish::Send(..) => "send",
            Wish::Delete(..) => "delete",
            Wish::Archive(..) => "archive",
            Wish::SetVisibility(..) => "set_vt",
        };
        let settle = |queue, action, target: SettleTarget| -> Result<Operation> {
            Ok(Operation::Settle(queue, action, self.target(&target)?))
        };
        match wish {
            Wish::Send(queue, new) => {
                // The queue's own limits are applied where the message is stored.
                self.check_new(&new, &Policy::default(), &|field| {
                    let dot = if field.is_empty() { "" } else { "." };
                    format!("operations[{index}].{action}{dot}{field}")
                })?;
                Ok(Operation::Send(queue, vec![new]))
            }
            Wish::Delete(queue, target) => settle(queue, Action::Delete, target),
            Wish::Archive(queue, target) => settle(queue, Action::Archive, target),
            Wish::SetVisibility(queue, target, visible) => {
                let field = format!("operations[{index}].{action}.visible_at");
                self.check_moment::<{ VisibilityTimeout::MAX }>(&field, visible)?;
                settle(queue, Action::Hide(visible), target)
            }
        }
    }

    /// Does operations, and tells whom it may concern.
    pub(super) async fn do_all(
        &self,
        stats: &Arc<CallStats>,
        operations: Vec<Operation>,
        once: Option<Idempotency>,
    ) -> Result<MaybeReplayed<Vec<Outcome>>> {
        for (index, operation) in operations.iter().enumerate() {
            if let Some(queue) = queue_of(operation) {
                let admitted = self.admit(queue, stats).await;
                admitted.map_err(|error| error.in_operation(index))?;
            }
        }
        let permit = match operations.first().and_then(queue_of) {
            Some(queue) => Some(self.permits(Some(queue), stats).await?),
            None => None,
        };
        // These may wait for each other inside the database.
        let apart = timeout(self.acquire_timeout, self.apart.acquire(stats.caller())).await;
        let apart = apart.map_err(|_| store::Error::Overloaded)?;
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(true, async move {
            let _permits = (permit, apart);
            let only = once.as_ref().and_then(|once| once.queue.clone());
            let transacted = broker.persist(&stats, &operations, once.as_ref()).await;
            let transacted = match (transacted, &only) {
                (Err(error), Some(queue)) => Err(Error::of_sending(queue)(error)),
                (Err(error), None) => Err(refused(error)),
                (Ok(transacted), _) => Ok(transacted),
            }?;
            match transacted {
                Transacted::Done(result) => {
                    broker.tell_of(&operations, &result);
                    Ok(MaybeReplayed { result, replayed: false })
                }
                Transacted::Replayed(result) => Ok(MaybeReplayed { result, replayed: true }),
                Transacted::Conflict => Err(Error::IdempotencyConflict),
            }
        })
        .await
    }

    /// Does operations, again if they were undone by what others did meanwhile, or something is locked.
    async fn persist(
        &self,
        stats: &Arc<CallStats>,
        operations: &[Operation],
        once: Option<&Idempotency>,
    ) -> store::Result<Transacted<Outcome>> {
        let publishes = operations.iter().any(|operation| queue_of(operation).is_none());
        let is_of_one = once.is_some_and(|once| once.queue.is_some());
        let mut retry = Retry::new();
        let (mut dropped, mut advanced) = (0, false);
        loop {
            let mut conn = self.db.acquire(stats).await?;
            let outcome = store::transact(&mut conn, operations, once).await;
            match &outcome {
                // An id that is there already tells of a sequence that lags behind its table.
                Err(error) if !advanced && met_twice(error) => {
                    advanced = true;
                    if !advance_sequences(&mut conn, operations, &outcome).await? {
                        return outcome;
                    }
                }
                // Dropped under our hands: next time it is known which, or no longer bound.
                Err(store::Error::QueueNotFound) if !is_of_one && dropped < MOST_DROPPED => {
                    dropped += 1;
                }
                Err(store::Error::Refused { refusal: Refusal::QueueNotFound(_), .. })
                    if publishes && dropped < MOST_DROPPED =>
                {
                    dropped += 1;
                }
                Err(error) => {
                    drop(conn);
                    if !retry.is_worth_it(error).await {
                        return outcome;
                    }
                }
                Ok(_) => return outcome,
            }
        }
    }

    /// Counts what was done, and has those looked for who wait for it.
    fn tell_of(&self, operations: &[Operation], outcomes: &[Outcome]) {
        for (operation, outcome) in operations.iter().zip(outcomes) {
            let (queue, done, count) = match operation {
                Operation::Send(queue, messages) => (queue, DoneTo::Sent, messages.len()),
                Operation::Settle(queue, Action::Delete, _) => (queue, DoneTo::Deleted, 1),
                Operation::Settle(queue, Action::Archive, _) => (queue, DoneTo::Archived, 1),
                Operation::Settle(queue, Action::Hide(_), _) => (queue, DoneTo::Received, 0),
                Operation::Publish(..) => {
                    self.tell_of_deliveries(&outcome.deliveries);
                    continue;
                }
            };
            self.metrics.messages(queue.as_str(), done, count);
            self.engine.tell(queue);
        }
    }

    fn tell_of_deliveries(&self, deliveries: &[TopicDelivery]) {
        for delivery in deliveries {
            self.metrics.messages(&delivery.queue, DoneTo::Sent, 1);
            if let Ok(queue) = QueueName::parse(&delivery.queue) {
                self.engine.tell(&queue);
            }
        }
    }
}

/// Whether a unique constraint refused a row that was to be stored.
fn met_twice(error: &store::Error) -> bool {
    matches!(
        error,
        store::Error::Rejected(Rejection::Conflict(_))
            | store::Error::Refused { refusal: Refusal::Rejected(_, Rejection::Conflict(_)), .. }
    )
}

/// Brings the sequences of ids up to what is in the queues that were sent to; true if one lagged behind.
async fn advance_sequences(
    conn: &mut Conn,
    operations: &[Operation],
    outcome: &store::Result<Transacted<Outcome>>,
) -> store::Result<bool> {
    let Err(store::Error::Refused { operation, .. }) = outcome else { return Ok(false) };
    let queues = match operations.get(*operation) {
        Some(Operation::Send(queue, _)) => vec![queue.clone()],
        Some(Operation::Publish(routing_key, ..)) => {
            let names = store::route(conn, routing_key).await?;
            names.iter().filter_map(|name| QueueName::parse(name).ok()).collect()
        }
        _ => Vec::new(),
    };
    let mut lagged = false;
    for queue in &queues {
        lagged |= store::advance_sequence(conn, queue).await?;
    }
    Ok(lagged)
}

/// Bytes of what an operation stores, once numbers are written out.
fn expanded_bytes(operation: &Operation) -> u64 {
    match operation {
        Operation::Send(_, messages) => messages.iter().map(NewMessage::expanded_bytes).sum(),
        Operation::Publish(..) | Operation::Settle(..) => 0,
    }
}

fn queue_of(operation: &Operation) -> Option<&QueueName> {
    match operation {
        Operation::Send(queue, _) | Operation::Settle(queue, ..) => Some(queue),
        Operation::Publish(..) => None,
    }
}

/// What a transaction was refused for, with the operation that is to blame.
pub(super) fn refused(error: store::Error) -> Error {
    let (operation, refusal) = match error {
        store::Error::Refused { operation, refusal } => (operation, refusal),
        // Nothing was done.
        store::Error::QueueNotFound => return store::Error::Unavailable(None).into(),
        error => return error.into(),
    };
    let error = match refusal {
        Refusal::QueueNotFound(queue) => Error::QueueNotFound(queue),
        Refusal::MessageNotFound(queue, msg_id) => Error::MessageNotFound { queue, msg_id },
        Refusal::Stale(queue, msg_id) => Error::ReceiptStale { queue, msg_id },
        Refusal::Kept(queue, msg_id) => Error::MessageKept { queue, msg_id },
        Refusal::Rejected(queue, rejection) => Error::rejected(&queue, &rejection),
        Refusal::PublicationTooLarge { what: TooLarge::Deliveries(count), limit } => {
            Error::PublicationTooLarge { what: format!("{count} messages"), limit }
        }
        Refusal::PublicationTooLarge { what: TooLarge::Bytes(bytes), limit } => {
            Error::PublicationTooLarge { what: format!("{bytes} bytes"), limit }
        }
        Refusal::MessageTooLarge { queue, bytes, limit } => {
            let what = format!("a message for queue `{queue}`");
            Error::MessageTooLarge { what, bytes, limit }
        }
    };
    error.in_operation(operation)
}
