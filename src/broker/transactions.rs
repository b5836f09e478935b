//! Several operations in one transaction.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    domain::{Bounded, Call, NewMessage, QueueName, Visibility, VisibilityTimeout},
    engine::{SeparateSlot, Ticket, Turn},
    store::{self, Action, Conn, Idempotency, Operation, Refusal, Rejection, Transacted},
    telemetry::MessageEvent,
};

use super::{
    Broker, Error, IdempotencyKey, Part, Permits, Replayable, Result, SettleTarget,
    policies::Policy, refusals::refused, retry::Retry, work::Kind,
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
pub enum RequestedOperation {
    /// Stores a message.
    Send(QueueName, NewMessage),
    /// Deletes a message.
    Delete(QueueName, SettleTarget),
    /// Moves a message into the archive.
    Archive(QueueName, SettleTarget),
    /// Sets when a message may be delivered again.
    SetVisibility(QueueName, SettleTarget, Visibility),
}

impl RequestedOperation {
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
pub struct OperationResult {
    /// The message.
    pub msg_id: Option<i64>,
    /// Messages that were stored.
    #[serde(default)]
    pub msg_ids: Vec<i64>,
    /// Whether that was stored before, with the same deduplication id.
    #[serde(default)]
    pub duplicate: bool,
    /// From when on it is visible, as it was set.
    pub vt: Option<String>,
    /// Messages that were stored in several queues.
    #[serde(default)]
    pub deliveries: Vec<TopicDelivery>,
}

impl OperationResult {
    /// Whether nothing was done, as all that was to be stored was stored before.
    fn is_as_before(&self) -> bool {
        let is_published = !self.deliveries.is_empty();
        self.duplicate || is_published && self.deliveries.iter().all(|one| one.duplicate)
    }
}

/// A message that was stored in a queue because of a routing key.
#[derive(Clone, Debug, Deserialize)]
pub struct TopicDelivery {
    /// The queue.
    pub queue: String,
    /// The message.
    pub msg_id: i64,
    /// Whether it was stored before, with the same deduplication id.
    #[serde(default)]
    pub duplicate: bool,
}

impl Broker {
    /// Does operations across queues in order, all or none.
    pub async fn transact(
        &self,
        call: &Arc<Call>,
        requested: Vec<RequestedOperation>,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<OperationResult>>> {
        if !(1..=MAX_OPERATIONS).contains(&requested.len()) {
            let count = requested.len();
            let reason = format!("must hold 1 to {MAX_OPERATIONS} operations, not {count}");
            return Err(Error::invalid(Part::Operations, reason));
        }
        self.policies.ensure_fresh().await?;
        let (broker, bytes) = (self.clone(), requested.iter().map(RequestedOperation::bytes).sum());
        let operations = self.cpu_pool.run(bytes, move || broker.operations(requested)).await??;
        self.check_total(Part::Operations, operations.iter().map(expanded_bytes).sum())?;
        let once = once.map(|once| self.idempotency(once));
        self.execute(call, operations, once).await
    }

    fn operations(&self, requested: Vec<RequestedOperation>) -> Result<Vec<Operation>> {
        let checked = requested.into_iter().enumerate().map(|(index, requested)| {
            self.operation(requested).map_err(|error| error.in_operation(index))
        });
        checked.collect()
    }

    fn operation(&self, requested: RequestedOperation) -> Result<Operation> {
        let settle = |queue, action, target: SettleTarget| -> Result<Operation> {
            Ok(Operation::Settle(queue, action, self.target(&target)?))
        };
        match requested {
            RequestedOperation::Send(queue, new) => {
                // The queue's own limits are applied where the message is stored.
                self.check_new(&new, &Policy::default())?;
                Ok(Operation::Send(queue, vec![new]))
            }
            RequestedOperation::Delete(queue, target) => settle(queue, Action::Delete, target),
            RequestedOperation::Archive(queue, target) => settle(queue, Action::Archive, target),
            RequestedOperation::SetVisibility(queue, target, visible) => {
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
    ) -> Result<Replayable<Vec<OperationResult>>> {
        let (mut policies, mut may_share) = (BTreeMap::new(), true);
        for (index, operation) in operations.iter().enumerate() {
            let Some(queue) = queue_of(operation) else { continue };
            let policy = match policies.entry(queue) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let checked = self.check_queue(queue, call).await;
                    new.insert(checked.map_err(|error| error.in_operation(index))?)
                }
            };
            may_share &= is_within_limits(operation, policy);
        }
        let (broker, call) = (self.clone(), Arc::clone(call));
        let operations: Arc<[Operation]> = operations.into();
        self.run(true, async move {
            let once = once.as_ref();
            let transacted = if may_share {
                broker.share_or_persist(&call, &operations, once).await
            } else {
                broker.persist(&call, &operations, once, None).await
            };
            match transacted.map_err(refused)? {
                Transacted::Done(result) => {
                    broker.record_and_notify(&operations, &result);
                    Ok(Replayable {
                        replayed: result.iter().all(OperationResult::is_as_before),
                        result,
                    })
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

    async fn check_queue(&self, queue: &QueueName, call: &Arc<Call>) -> Result<Arc<Policy>> {
        let policy = self.policies.of(queue).await?;
        self.check_name_unambiguous(queue, &policy, call).await?;
        Ok(policy)
    }

    /// Does operations together with those of others, or on their own.
    async fn share_or_persist(
        &self,
        call: &Arc<Call>,
        operations: &Arc<[Operation]>,
        once: Option<&Idempotency>,
    ) -> store::Result<Transacted<OperationResult>> {
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
        mut ticket: Option<Ticket<OperationResult>>,
    ) -> store::Result<Transacted<OperationResult>> {
        let publishes = operations.iter().any(|operation| queue_of(operation).is_none());
        let mut retry = self.retry_of(operations);
        let (mut dropped, mut advanced, mut at_once) = (0, 0, false);
        let mut met: Option<store::Error> = None;
        loop {
            // What it met when it last tried says more than that there is no more time to try.
            let turn = retry.turn().await;
            let turn =
                turn.map_err(|error| met.take().filter(store::Error::is_locked).unwrap_or(error))?;
            let permits = self.transaction_permits(operations, call).await?;
            let mut conn = self.db.acquire(call).await?;
            let work = store::transact(&mut conn, operations, once, at_once);
            let outcome = self.transactions.watch(operations, work).await;
            if matches!(&outcome, Ok(Transacted::Done(done)) if is_wide(done)) {
                self.transactions.note_wide(operations);
            }
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
            met = outcome.err();
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
    ) -> store::Result<(Permits, SeparateSlot)> {
        // The slot first: who waits for one takes nothing from what else is done to its queue.
        let slot =
            self.in_time(self.transactions.admit_separate(operations, call.caller())).await?;
        let queue = operations.first().and_then(queue_of);
        Ok((self.permits(queue, call).await?, slot))
    }

    /// Counts what was done, and has those looked for who wait for it.
    fn record_and_notify(&self, operations: &[Operation], outcomes: &[OperationResult]) {
        for (operation, outcome) in operations.iter().zip(outcomes) {
            let (queue, done, count) = match operation {
                Operation::Send(..) if outcome.duplicate => continue,
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
        for delivery in deliveries.iter().filter(|one| !one.duplicate) {
            self.metrics.messages(&delivery.queue, MessageEvent::Sent, 1);
            if let Ok(queue) = QueueName::parse(&delivery.queue) {
                self.engine.tell(&queue);
            }
        }
    }
}

/// Whether a queue takes what is sent to it, as far as is known: what is told where it does not is not worth the
/// time of those with whom the transaction would share a statement.
fn is_within_limits(operation: &Operation, policy: &Policy) -> bool {
    let (Operation::Send(_, messages), Some(limit)) =
        (operation, policy.settings.max_message_bytes.map(Bounded::get))
    else {
        return true;
    };
    let fits =
        |new: &NewMessage| i64::try_from(new.expanded_bytes()).is_ok_and(|bytes| bytes <= limit);
    messages.iter().all(fits)
}

/// Whether publications went to more queues than one that shares a statement may.
fn is_wide(outcomes: &[OperationResult]) -> bool {
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
        Some(Operation::Publish(routing_key, _, within, _)) => {
            let names = store::route(conn, routing_key, within).await?;
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
