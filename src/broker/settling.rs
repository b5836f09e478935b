//! What becomes of delivered messages.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use tracing::debug;

use crate::{
    domain::{
        Call, DeliveryId, InvalidReceipt, Message, QueueName, Settled, Target, Visibility,
        VisibilityTimeout,
    },
    engine::{Delivery, SettleOutcome, SettleRequest, Shareable},
    store::{self, Action, Read, Refusal, SettleRules, VisibilityChange},
    telemetry::MessageEvent,
};

use super::{Broker, Error, Part, Receive, Result, policies::Policy, retry::Retry, work::Kind};

/// The most entries of one settling.
pub const MAX_SETTLED: usize = 1_000;

/// A message that is meant, by its id, a receipt, or both.
#[derive(Clone, Debug, Default)]
pub struct SettleTarget {
    /// The message. Others than PGMQ may have given it any id.
    pub msg_id: Option<i64>,
    /// What was given out with the delivery that is spoken for.
    pub receipt: Option<String>,
}

/// Several things to do to messages of one queue.
#[derive(Clone, Debug, Default)]
pub struct Settle {
    /// What to do, in order.
    pub entries: Vec<(Action, SettleTarget)>,
}

/// What became of a message that was to be settled.
#[derive(Debug)]
pub struct SettledEntry {
    /// What was to be done.
    pub action: Action,
    /// The message, if it is known which.
    pub msg_id: Option<i64>,
    /// Why it was not done.
    pub error: Option<Error>,
}

impl Broker {
    /// Deletes a message.
    pub async fn delete(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        target: SettleTarget,
    ) -> Result<()> {
        let target = self.target(&target)?;
        let policy = self.policies.of(&queue).await?;
        self.check_name_unambiguous(&queue, &policy, call).await?;
        let settled = self.engine.delete(&queue, target, policy.fifo, call);
        let settled =
            self.within_time(settled).await.map_err(of_settling(&queue, target.msg_id))?;
        done(&queue, target.msg_id, settled)?;
        self.metrics.messages(queue.as_str(), MessageEvent::Deleted, 1);
        Ok(())
    }

    /// Moves a message into the archive.
    pub async fn archive(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        target: SettleTarget,
    ) -> Result<()> {
        let target = self.target(&target)?;
        let policy = self.policies.of(&queue).await?;
        self.check_name_unambiguous(&queue, &policy, call).await?;
        let settled = self.engine.archive(&queue, target, policy.fifo, call);
        let settled =
            self.within_time(settled).await.map_err(of_settling(&queue, target.msg_id))?;
        done(&queue, target.msg_id, settled)?;
        self.metrics.messages(queue.as_str(), MessageEvent::Archived, 1);
        Ok(())
    }

    /// Sets the moment from which a message may be delivered again.
    pub async fn set_visibility(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        target: SettleTarget,
        visible: Visibility,
    ) -> Result<Message> {
        let (msg_id, message) =
            self.change_visibility(call, &queue, &target, visible, true).await?;
        message.ok_or_else(|| Error::message_not_found(&queue, msg_id))
    }

    /// The same without looking at the message, however large it is.
    pub async fn hide(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        target: SettleTarget,
        visible: Visibility,
    ) -> Result<()> {
        self.change_visibility(call, &queue, &target, visible, false).await.map(drop)
    }

    /// Sets it, and returns the message's id and, if it is to be shown, the message.
    async fn change_visibility(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        target: &SettleTarget,
        visible: Visibility,
        shown: bool,
    ) -> Result<(i64, Option<Message>)> {
        let policy = self.policies.of(queue).await?;
        self.check_moment::<{ VisibilityTimeout::MAX }>(Part::HiddenUntil, visible)?;
        let target = self.target(target)?;
        self.check_name_unambiguous(queue, &policy, call).await?;
        let change = VisibilityChange { target, visible, shown };
        let changed = self.engine.set_visibility(queue, change, call);
        let (settled, mut message) = match self.within_time(changed).await {
            Err(store::Error::Unreadable) => Err(Error::MessageUnreadable(target.msg_id)),
            outcome => outcome.map_err(of_settling(queue, target.msg_id)),
        }?;
        done(queue, target.msg_id, settled)?;
        if let Some(message) = message.as_mut().filter(|_| target.delivered.is_some()) {
            message.sign(&self.receipt_key);
        }
        Ok((target.msg_id, message))
    }

    /// Does several things to messages of a queue in one transaction; what cannot be done fails
    /// alone.
    pub async fn settle(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        what: Settle,
    ) -> Result<Vec<SettledEntry>> {
        let policy = self.policies.of(&queue).await?;
        let done = self.settle_and_read(call, &queue, what, policy, None).await;
        done.map(|(settled, _)| settled)
    }

    /// The same, and leases what is next in the same commit; nothing where that has to be asked for apart.
    pub async fn settle_and_receive(
        &self,
        call: &Arc<Call>,
        what: Settle,
        next: &Receive,
    ) -> Result<(Vec<SettledEntry>, Option<Delivery>)> {
        next.check()?;
        let policy = self.policies.of(&next.queue).await?;
        let read = self.read_of(next, &policy);
        let done = self.settle_and_read(call, &next.queue, what, policy, Some(read)).await?;
        let (settled, delivery) = done;
        Ok((settled, delivery.map(|delivery| self.signed(delivery))))
    }

    async fn settle_and_read(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        what: Settle,
        policy: Arc<Policy>,
        read: Option<Read>,
    ) -> Result<(Vec<SettledEntry>, Option<Delivery>)> {
        let count = what.entries.len();
        if count > MAX_SETTLED {
            let reason = format!("must hold at most {MAX_SETTLED} entries together, not {count}");
            return Err(Error::invalid(Part::Entries, reason));
        }
        let entry = |(action, target)| (action, self.target(&target));
        let entries: Vec<(Action, Result<Target>)> = what.entries.into_iter().map(entry).collect();
        let valid = |(action, target): &(Action, Result<Target>)| {
            target.as_ref().ok().map(|target| (action.clone(), *target))
        };
        let valid: Vec<(Action, Target)> = entries.iter().filter_map(valid).collect();
        // Where nothing is left to do, no statement says that there is no such queue.
        if valid.is_empty() && read.is_none() && !self.is_served(call, queue).await? {
            return Err(Error::QueueNotFound(queue.to_string()));
        }
        let outcome = self.settle_all(call, queue, valid, policy, read).await?;
        let mut settled = outcome.settled.into_iter();
        let result = |(action, target): (Action, Result<Target>)| match target {
            Err(error) => SettledEntry { action, msg_id: None, error: Some(error) },
            Ok(target) => {
                let settled = settled.next().unwrap_or(Settled::Missing);
                let error = match (settled, &action) {
                    (Settled::Conflict, Action::DeadLetter(_)) => {
                        Some(Error::dead_letter_conflict(queue.as_str(), target.msg_id))
                    }
                    _ => done(queue, target.msg_id, settled).err(),
                };
                SettledEntry { action, msg_id: Some(target.msg_id), error }
            }
        };
        Ok((entries.into_iter().map(result).collect(), outcome.delivery))
    }

    async fn settle_all(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        entries: Vec<(Action, Target)>,
        policy: Arc<Policy>,
        read: Option<Read>,
    ) -> Result<SettleOutcome> {
        let (broker, queue, call) = (self.clone(), queue.clone(), Arc::clone(call));
        self.run(true, async move {
            let rules = rules_of(&policy);
            let outcome = broker.settle_together(&queue, &call, &entries, &policy, read).await?;
            let SettleOutcome { mut settled, mut delivery } = outcome;
            if settled.contains(&Settled::Locked) {
                // What was read goes back: its time would run while this waits.
                delivery = None;
                settled = broker.settle_locked(&queue, &call, &entries, rules, settled).await;
            }
            let mut dead_lettered = false;
            for ((action, _), _) in
                entries.iter().zip(&settled).filter(|(_, settled)| **settled == Settled::Done)
            {
                let done = match action {
                    Action::Delete => MessageEvent::Deleted,
                    Action::Archive => MessageEvent::Archived,
                    Action::DeadLetter(_) => MessageEvent::DeadLettered,
                    Action::Hide(_) | Action::Retry { .. } => continue,
                };
                dead_lettered |= done == MessageEvent::DeadLettered;
                broker.metrics.messages(queue.as_str(), done, 1);
            }
            if let Some(target) = rules.dead_letter_queue.filter(|_| dead_lettered) {
                broker.engine.tell(target);
            }
            Ok(SettleOutcome { settled, delivery })
        })
        .await
    }

    /// Settles together with others; alone where that may fail them.
    async fn settle_together(
        &self,
        queue: &QueueName,
        call: &Arc<Call>,
        entries: &[(Action, Target)],
        policy: &Policy,
        read: Option<Read>,
    ) -> Result<SettleOutcome> {
        self.check_name_unambiguous(queue, policy, call).await?;
        let rules = rules_of(policy);
        let request = SettleRequest {
            entries: entries.to_vec(),
            dead_letter_queue: rules.dead_letter_queue.cloned(),
            backoff: rules.backoff,
            read,
        };
        let settled = self.within_time(self.engine.settle(queue, request, call)).await;
        if let Shareable::Done(outcome) = settled.map_err(Error::on(queue))? {
            return Ok(outcome);
        }
        let settled = self.on_queue(Kind::Settle, queue, policy, call, |mut conn| async move {
            match store::settle(&mut conn, queue, entries, rules, false).await {
                Err(error) if error.is_about_rows() => {
                    store::settle(&mut conn, queue, entries, rules, true).await
                }
                outcome => outcome,
            }
        });
        let settled = settled.await?.map_err(Error::on(queue))?;
        self.engine.tell(queue);
        Ok(SettleOutcome { settled, delivery: None })
    }

    /// Tries what is locked again for a while, together with nothing else.
    async fn settle_locked(
        &self,
        queue: &QueueName,
        call: &Arc<Call>,
        entries: &[(Action, Target)],
        rules: SettleRules<'_>,
        mut settled: Vec<Settled>,
    ) -> Vec<Settled> {
        let locked = |settled: &[Settled]| -> Vec<usize> {
            let places = settled.iter().enumerate();
            places.filter(|(_, one)| **one == Settled::Locked).map(|(place, _)| place).collect()
        };
        let mut places = locked(&settled);
        let refusal = Refusal::Locked(queue.to_string(), None);
        let of_a_message = store::Error::Refused { operation: 0, refusal };
        let mut retry = Retry::new(self, Kind::SettleLocked, vec![queue.clone()]);
        while !places.is_empty() && retry.is_worth_it(&of_a_message).await {
            let again: Vec<_> = places.iter().map(|place| entries[*place].clone()).collect();
            // What is done already stays done, whatever becomes of these.
            let outcomes = match self.settle_again(&mut retry, queue, call, &again, rules).await {
                Ok(outcomes) => outcomes,
                Err(store::Error::OutcomeUnknown(_)) => vec![Settled::Unknown; places.len()],
                Err(store::Error::Locked | store::Error::Deadlock(_)) => continue,
                Err(error) => {
                    debug!(%queue, %error, "what was locked could not be tried again");
                    break;
                }
            };
            for (place, outcome) in places.iter().zip(outcomes) {
                settled[*place] = outcome;
            }
            places = locked(&settled);
        }
        self.engine.tell(queue);
        settled
    }

    async fn settle_again(
        &self,
        retry: &mut Retry<'_>,
        queue: &QueueName,
        call: &Arc<Call>,
        entries: &[(Action, Target)],
        rules: SettleRules<'_>,
    ) -> store::Result<Vec<Settled>> {
        let _turn = retry.turn().await?;
        let _permits = self.permits(Some(queue), call).await?;
        let mut conn = self.db.acquire(call).await?;
        store::settle(&mut conn, queue, entries, rules, true).await
    }

    /// The delivery that a receipt stands for; nothing if it was not given out here.
    pub fn delivery_of(&self, receipt: &str) -> Option<DeliveryId> {
        self.receipt_key.verify(receipt).ok()
    }

    /// What time it is in the database, once something was loaded from there.
    pub fn now(&self) -> DateTime<Utc> {
        self.policies.now()
    }

    /// Which message is meant, and for which delivery.
    pub(super) fn target(&self, target: &SettleTarget) -> Result<Target> {
        let id = target.msg_id;
        let Some(receipt) = &target.receipt else {
            let msg_id = id.ok_or_else(|| Error::invalid(Part::Target, "must be given"))?;
            return Ok(Target { msg_id, delivered: None });
        };
        let delivered = self
            .receipt_key
            .verify(receipt)
            .map_err(|reason: InvalidReceipt| Error::invalid(Part::Receipt, reason.to_string()))?;
        match id {
            Some(id) if id != delivered.msg_id => {
                let reason = format!("is for message {}, not for {id}", delivered.msg_id);
                Err(Error::invalid(Part::Receipt, reason))
            }
            _ => Ok(Target { msg_id: delivered.msg_id, delivered: Some(delivered) }),
        }
    }
}

/// What a queue's settings say of messages that are settled.
fn rules_of(policy: &Policy) -> SettleRules<'_> {
    let settings = &policy.settings;
    let dead_letter_queue = settings.dead_letter_queue.as_ref().map(|queue| &queue.0);
    SettleRules { dead_letter_queue, backoff: settings.retry_backoff }
}

/// Sorts what the store said of one message that was to be settled.
fn of_settling(queue: &QueueName, msg_id: i64) -> impl Fn(store::Error) -> Error + use<'_> {
    move |error| match error {
        store::Error::Locked => Error::Locked(format!("message {msg_id} of queue `{queue}`")),
        store::Error::Rejected(_) => Error::MessageKept { queue: queue.to_string(), msg_id },
        other => Error::on(queue)(other),
    }
}

fn done(queue: &QueueName, msg_id: i64, settled: Settled) -> Result<()> {
    match settled {
        Settled::Done => Ok(()),
        Settled::Missing => Err(Error::message_not_found(queue, msg_id)),
        Settled::Stale => Err(Error::ReceiptStale { queue: queue.to_string(), msg_id }),
        Settled::Locked => Err(Error::Locked(format!("message {msg_id} of queue `{queue}`"))),
        Settled::Kept => Err(Error::MessageKept { queue: queue.to_string(), msg_id }),
        Settled::Conflict => Err(Error::archive_conflict(queue.as_str(), msg_id)),
        Settled::NoArchive => Err(Error::NoArchive(queue.to_string())),
        Settled::NoUncount => Err(too_old("taking a delivery back (`uncounted`)", "1.10.0")),
        Settled::NoReason => Err(too_old("a reason of a dead letter", "1.5.0")),
        Settled::Failed => Err(Error::TriggerFailed(format!("queue `{queue}`"))),
        Settled::Differs => Err(Error::TableDiffers {
            queue: queue.to_string(),
            what: "a column of them, or of those that its messages go to,".into(),
            source: None,
        }),
        Settled::Unknown => Err(store::Error::OutcomeUnknown(None).into()),
        Settled::Unreadable => Err(Error::MessageUnreadable(msg_id)),
    }
}

/// What the table of an older PGMQ has no column for.
fn too_old(what: &str, version: &str) -> Error {
    store::Error::NotSupported(format!("{what} needs PGMQ {version} or later").into()).into()
}
