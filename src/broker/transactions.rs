//! Several operations in one transaction.

use std::{collections::BTreeSet, sync::Arc};

use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    domain::{Call, NewMessage, QueueName, Visibility, VisibilityTimeout},
    engine::{FairSlot, Ticket, Turn},
    store::{self, Action, Conn, Idempotency, Operation, Refusal, Rejection, TooLarge, Transacted},
    telemetry::MessageEvent,
};

use super::{
    Broker, Error, Once, Part, Permits, Replayable, Result, SettleTarget, Subject,
    policies::Policy,
    retry::{Kind, Retry},
};

/// The most operations of a transaction.
pub const MAX_OPERATIONS: usize = 100;
/// How often a transaction is tried whose queues are dropped meanwhile.
const MOST_DROPPED: u32 = 2;
/// How often the sequence of a queue's ids is advanced for one transaction: a sequence may be far behind.
const MOST_ADVANCED: u32 = 20;

/// Messages that publications store in a statement that they share.
const MOST_SHARED_DELIVERIES: usize = 64;

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

impl Wish {
    /// Bytes of text that have to be checked.
    fn bytes(&self) -> u64 {
        match self {
            Self::Send(_, new) => new.bytes(),
            Self::Delete(..) | Self::Archive(..) | Self::SetVisibility(..) => 0,
        }
    }
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

impl Broker {
    /// Does operations across queues in order, all or none.
    pub async fn transact(
        &self,
        call: &Arc<Call>,
        wishes: Vec<Wish>,
        once: Option<Once>,
    ) -> Result<Replayable<Vec<Outcome>>> {
        if !(1..=MAX_OPERATIONS).contains(&wishes.len()) {
            let count = wishes.len();
            let reason = format!("must hold 1 to {MAX_OPERATIONS} operations, not {count}");
            return Err(Error::invalid(Part::Operations, reason));
        }
        self.policies.ensure_fresh().await?;
        let (broker, bytes) = (self.clone(), wishes.iter().map(Wish::bytes).sum());
        let operations = self.cpu_pool.run(bytes, move || broker.operations(wishes)).await??;
        self.check_total(Part::Operations, operations.iter().map(expanded_bytes).sum())?;
        let once = once.map(|once| self.idempotency(once));
        self.execute(call, operations, once).await
    }

    fn operations(&self, wishes: Vec<Wish>) -> Result<Vec<Operation>> {
        let checked = wishes
            .into_iter()
            .enumerate()
            .map(|(index, wish)| self.operation(wish).map_err(|error| error.in_operation(index)));
        checked.collect()
    }

    fn operation(&self, wish: Wish) -> Result<Operation> {
        let settle = |queue, action, target: SettleTarget| -> Result<Operation> {
            Ok(Operation::Settle(queue, action, self.target(&target)?))
        };
        match wish {
            Wish::Send(queue, new) => {
                // The queue's own limits are applied where the message is stored.
                self.check_new(&new, &Policy::default())?;
                Ok(Operation::Send(queue, vec![new]))
            }
            Wish::Delete(queue, target) => settle(queue, Action::Delete, target),
            Wish::Archive(queue, target) => settle(queue, Action::Archive, target),
            Wish::SetVisibility(queue, target, visible) => {
                self.check_moment::<{ VisibilityTimeout::MAX }>(Part::HiddenUntil, visible)?;
                settle(queue, Action::Hide(visible), target)
            }
        }
    }

    /// Does operations, and tells whom it may concern.
    pub(super) async fn execute(
        &self,
        call: &Arc<Call>,
        operations: Vec<Operation>,
        once: Option<Idempotency>,
    ) -> Result<Replayable<Vec<Outcome>>> {
        let mut known = BTreeSet::new();
        for (index, operation) in operations.iter().enumerate() {
            if let Some(queue) = queue_of(operation).filter(|queue| known.insert(*queue)) {
                let checked = self.check_name(queue, call).await;
                checked.map_err(|error| error.in_operation(index))?;
            }
        }
        let (broker, call) = (self.clone(), Arc::clone(call));
        let operations: Arc<[Operation]> = operations.into();
        self.run(true, async move {
            let transacted = broker.share_or_persist(&call, &operations, once.as_ref()).await;
            match transacted.map_err(refused)? {
                Transacted::Done(result) => {
                    broker.record_and_notify(&operations, &result);
                    Ok(Replayable { result, replayed: false })
                }
                Transacted::Replayed(result) if result.len() == operations.len() => {
                    Ok(Replayable { result, replayed: true })
                }
                Transacted::Conflict => Err(Error::IdempotencyConflict),
                Transacted::Replayed(_) | Transacted::Unreadable => {
                    Err(Error::IdempotencyAnswerLost)
                }
            }
        })
        .await
    }

    async fn check_name(&self, queue: &QueueName, call: &Arc<Call>) -> Result<()> {
        let policy = self.policies.of(queue).await?;
        self.check_name_unambiguous(queue, &policy, call).await
    }

    /// Does operations together with those of others, or on their own.
    async fn share_or_persist(
        &self,
        call: &Arc<Call>,
        operations: &Arc<[Operation]>,
        once: Option<&Idempotency>,
    ) -> store::Result<Transacted<Outcome>> {
        let ticket = if self.retry_of(operations).is_locked_out() {
            None
        } else {
            match self.transactions.submit(operations, once, call).await {
                Turn::Settled(transacted) => return Ok(transacted),
                Turn::Failed(error) => return Err(error),
                Turn::Alone(ticket) => ticket,
            }
        };
        self.persist(call, operations, once, ticket).await
    }

    /// Does operations, again if they were undone by what others did meanwhile, or something is locked. Those
    /// who come meanwhile wait for the first try.
    async fn persist(
        &self,
        call: &Arc<Call>,
        operations: &[Operation],
        once: Option<&Idempotency>,
        mut ticket: Option<Ticket<Outcome>>,
    ) -> store::Result<Transacted<Outcome>> {
        let publishes = operations.iter().any(|operation| queue_of(operation).is_none());
        let mut retry = self.retry_of(operations);
        let (mut dropped, mut advanced, mut at_once) = (0, 0, false);
        loop {
            let turn = retry.turn().await?;
            let permits = self.transaction_permits(operations, call).await?;
            let mut conn = self.db.acquire(call).await?;
            let began = Instant::now();
            let outcome = store::transact(&mut conn, operations, once, at_once).await;
            let is_wide = matches!(&outcome, Ok(Transacted::Done(done)) if is_wide(done));
            self.transactions.note_apart(operations, began.elapsed(), is_wide);
            drop(ticket.take());
            match &outcome {
                // Refused at the end: the operation that is to blame is not known.
                Err(store::Error::Rejected(_)) if !at_once => at_once = true,
                // An id that is there already tells of a sequence that lags behind its table.
                Err(error) if advanced < MOST_ADVANCED && Taken::of(error).is_some() => {
                    advanced += 1;
                    match advance_sequences(&mut conn, operations, error).await {
                        Ok(true) => {}
                        Err(
                            error @ (store::Error::SequenceBehind | store::Error::Exhausted(_)),
                        ) => return Err(error),
                        Ok(false) | Err(_) => return outcome,
                    }
                }
                // Dropped under our hands: next time it is known which, or no longer bound.
                Err(store::Error::QueueNotFound) if dropped < MOST_DROPPED => dropped += 1,
                Err(store::Error::Refused { refusal: Refusal::QueueNotFound(_), .. })
                    if publishes && dropped < MOST_DROPPED =>
                {
                    dropped += 1;
                }
                Err(error) => {
                    drop((conn, permits, turn));
                    if !retry.is_worth_it(error).await {
                        return outcome;
                    }
                }
                Ok(_) => return outcome,
            }
        }
    }

    fn retry_of(&self, operations: &[Operation]) -> Retry<'_> {
        let queues: BTreeSet<&QueueName> = operations.iter().filter_map(queue_of).collect();
        match operations {
            // Its queues are known to the database.
            [Operation::Publish(routing_key, ..)] => {
                Retry::unknown(self, Kind::Transact, &format!("topic {routing_key}"))
            }
            _ => Retry::new(self, Kind::Transact, queues.into_iter().cloned().collect()),
        }
    }

    /// Leave for one try: it counts as a statement of its first queue, and there are few transactions at the
    /// same time, as these may wait for each other inside the database.
    async fn transaction_permits(
        &self,
        operations: &[Operation],
        call: &Call,
    ) -> store::Result<(Permits, FairSlot)> {
        // The slot first: who waits for one takes nothing from what else is done to its queue.
        let slot = self.in_time(self.transactions.slots().acquire(call.caller())).await?;
        let queue = operations.first().and_then(queue_of);
        Ok((self.permits(queue, call).await?, slot))
    }

    /// Counts what was done, and has those looked for who wait for it.
    fn record_and_notify(&self, operations: &[Operation], outcomes: &[Outcome]) {
        for (operation, outcome) in operations.iter().zip(outcomes) {
            let (queue, done, count) = match operation {
                Operation::Send(queue, messages) => (queue, MessageEvent::Sent, messages.len()),
                Operation::Settle(queue, Action::Delete, _) => (queue, MessageEvent::Deleted, 1),
                Operation::Settle(queue, Action::Archive, _) => (queue, MessageEvent::Archived, 1),
                Operation::Settle(queue, ..) => (queue, MessageEvent::Received, 0),
                Operation::Publish(..) => {
                    self.record_and_notify_deliveries(&outcome.deliveries);
                    continue;
                }
            };
            self.metrics.messages(queue.as_str(), done, count);
            self.engine.tell(queue);
        }
    }

    fn record_and_notify_deliveries(&self, deliveries: &[TopicDelivery]) {
        for delivery in deliveries {
            self.metrics.messages(&delivery.queue, MessageEvent::Sent, 1);
            if let Ok(queue) = QueueName::parse(&delivery.queue) {
                self.engine.tell(&queue);
            }
        }
    }
}

/// Whether publications went to more queues than one that shares a statement may.
fn is_wide(outcomes: &[Outcome]) -> bool {
    outcomes.iter().map(|outcome| outcome.deliveries.len()).sum::<usize>() > MOST_SHARED_DELIVERIES
}

/// That something of a row was there already, maybe its id.
struct Taken<'a> {
    /// The unique constraint that says so, where that is known.
    constraint: Option<&'a str>,
}

impl Taken<'_> {
    fn of(error: &store::Error) -> Option<Taken<'_>> {
        let constraint = match error {
            store::Error::Rejected(Rejection::Conflict(name))
            | store::Error::Refused {
                refusal: Refusal::Rejected(_, Rejection::Conflict(name)),
                ..
            } => Some(&**name.as_ref()?),
            store::Error::Refused { refusal: Refusal::Conflict(..), .. } => None,
            _ => return None,
        };
        Some(Taken { constraint })
    }
}

/// Brings the sequences of ids up to what is in the queues that were sent to, or archived in; true if one
/// lagged behind.
async fn advance_sequences(
    conn: &mut Conn,
    operations: &[Operation],
    error: &store::Error,
) -> store::Result<bool> {
    let store::Error::Refused { operation, .. } = error else { return Ok(false) };
    let violated = Taken::of(error).and_then(|taken| taken.constraint);
    let queues = match operations.get(*operation) {
        Some(Operation::Send(queue, _) | Operation::Settle(queue, Action::Archive, _)) => {
            vec![queue.clone()]
        }
        Some(Operation::Publish(routing_key, ..)) => {
            let names = store::route(conn, routing_key).await?;
            names.iter().filter_map(|name| QueueName::parse(name).ok()).collect()
        }
        _ => Vec::new(),
    };
    let mut lagged = false;
    for queue in &queues {
        lagged |= store::advance_sequence(conn, queue, violated).await?;
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
        store::Error::Locked => {
            return Error::Locked("one of these queues, or something in it".to_owned());
        }
        error => return error.into(),
    };
    let error = match refusal {
        Refusal::QueueNotFound(queue) => Error::QueueNotFound(queue),
        Refusal::MessageNotFound(queue, msg_id) => Error::MessageNotFound { queue, msg_id },
        Refusal::Stale(queue, msg_id) => Error::ReceiptStale { queue, msg_id },
        Refusal::Locked(queue, Some(msg_id)) => {
            Error::Locked(format!("message {msg_id} of queue `{queue}`"))
        }
        Refusal::Locked(queue, None) => {
            Error::Locked(format!("queue `{queue}`, or something that this message needs"))
        }
        Refusal::Kept(queue, msg_id) => Error::MessageKept { queue, msg_id },
        Refusal::Conflict(queue, msg_id) => Error::archive_conflict(&queue, msg_id),
        Refusal::Failed(queue, _) => Error::TriggerFailed(format!("queue `{queue}`")),
        Refusal::NoArchive(queue) => Error::NoArchive(queue),
        Refusal::TableDiffers(queue, what) => Error::TableDiffers { queue, what, source: None },
        Refusal::Rejected(queue, rejection) => Error::rejected(&queue, &rejection),
        Refusal::PublicationTooLarge { what: TooLarge::Deliveries(count), limit } => {
            Error::PublicationTooLarge { what: format!("{count} messages"), limit }
        }
        Refusal::PublicationTooLarge { what: TooLarge::Bytes(bytes), limit } => {
            Error::PublicationTooLarge { what: format!("{bytes} bytes"), limit }
        }
        Refusal::MessageTooLarge { queue, bytes, limit } => {
            Error::MessageTooLarge { what: Subject::MessageFor(queue), bytes, limit }
        }
    };
    error.in_operation(operation)
}
