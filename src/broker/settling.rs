//! What becomes of delivered messages.

use std::sync::Arc;

use crate::{
    domain::{
        CallStats, InvalidReceipt, Message, MsgId, QueueName, Settled, Target, Visibility,
        VisibilityTimeout,
    },
    store::{self, Action},
    telemetry::DoneTo,
};

use super::{Broker, Error, Result, sending::check_moment, undone};

/// The most entries of one settling.
pub const MAX_SETTLED: usize = 1_000;

/// A message that is meant, by its id, a receipt, or both.
#[derive(Clone, Debug, Default)]
pub struct SettleTarget {
    /// The message.
    pub msg_id: Option<MsgId>,
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
        stats: &Arc<CallStats>,
        queue: QueueName,
        target: SettleTarget,
    ) -> Result<()> {
        let target = self.target(&target)?;
        let unblocks = self.policies.of(&queue).await?.fifo;
        self.admit(&queue, stats).await?;
        let settled = self.engine.delete(&queue, target, unblocks, stats);
        let settled = self.within_time(settled).await.map_err(Error::on(&queue))?;
        done(&queue, target.msg_id, settled)?;
        self.metrics.messages(queue.as_str(), DoneTo::Deleted, 1);
        Ok(())
    }

    /// Moves a message into the archive.
    pub async fn archive(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        target: SettleTarget,
    ) -> Result<()> {
        let target = self.target(&target)?;
        let unblocks = self.policies.of(&queue).await?.fifo;
        self.admit(&queue, stats).await?;
        let settled = self.engine.archive(&queue, target, unblocks, stats);
        let settled = self.within_time(settled).await.map_err(Error::on(&queue))?;
        done(&queue, target.msg_id, settled)?;
        self.metrics.messages(queue.as_str(), DoneTo::Archived, 1);
        Ok(())
    }

    /// Sets the moment from which a message may be delivered again.
    pub async fn set_visibility(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        target: SettleTarget,
        visible: Visibility,
    ) -> Result<Message> {
        check_moment::<{ VisibilityTimeout::MAX }>("visible_at", visible)?;
        let target = self.target(&target)?;
        self.admit(&queue, stats).await?;
        let changed = self.engine.set_visibility(&queue, target, visible, stats);
        let (settled, message) = match self.within_time(changed).await {
            Err(store::Error::Unreadable) => Err(Error::MessageUnreadable(target.msg_id)),
            outcome => outcome.map_err(Error::on(&queue)),
        }?;
        done(&queue, target.msg_id, settled)?;
        let mut message = message.ok_or_else(|| not_found(&queue, target.msg_id))?;
        if target.delivered.is_some() {
            message.sign(&self.receipt_key);
        }
        Ok(message)
    }

    /// Does several things to messages of a queue in one transaction; what cannot be done fails
    /// alone.
    pub async fn settle(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        what: Settle,
    ) -> Result<Vec<SettledEntry>> {
        let count = what.entries.len();
        if count > MAX_SETTLED {
            return Err(Error::Invalid(format!(
                "`delete`, `archive` and `retry` must hold at most {MAX_SETTLED} entries together, \
                 not {count}"
            )));
        }
        let entry = |(action, target): &(Action, SettleTarget)| (*action, self.target(target));
        let entries: Vec<(Action, Result<Target>)> = what.entries.iter().map(entry).collect();
        let valid = entries
            .iter()
            .filter_map(|(action, target)| target.as_ref().ok().map(|target| (*action, *target)));
        let valid: Vec<(Action, Target)> = valid.collect();
        let settled = self.settle_all(stats, &queue, valid).await?;
        let mut settled = settled.into_iter();
        let result = |(action, target): (Action, Result<Target>)| match target {
            Err(error) => SettledEntry { action, msg_id: None, error: Some(error) },
            Ok(target) => {
                let settled = settled.next().unwrap_or(Settled::Missing);
                let error = done(&queue, target.msg_id, settled).err();
                SettledEntry { action, msg_id: Some(target.msg_id), error }
            }
        };
        Ok(entries.into_iter().map(result).collect())
    }

    async fn settle_all(
        &self,
        stats: &Arc<CallStats>,
        queue: &QueueName,
        entries: Vec<(Action, Target)>,
    ) -> Result<Vec<Settled>> {
        let (broker, queue, stats) = (self.clone(), queue.clone(), Arc::clone(stats));
        self.run(true, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            let mut settled = store::settle(&mut conn, &queue, &entries).await;
            if undone(&settled) {
                settled = store::settle(&mut conn, &queue, &entries).await;
            }
            let settled = settled.map_err(Error::on(&queue))?;
            for ((action, _), settled) in entries.iter().zip(&settled) {
                let done = match action {
                    Action::Delete => DoneTo::Deleted,
                    Action::Archive => DoneTo::Archived,
                    Action::Hide(_) => continue,
                };
                let count = usize::from(*settled == Settled::Done);
                broker.metrics.messages(queue.as_str(), done, count);
            }
            broker.engine.tell(&queue);
            Ok(settled)
        })
        .await
    }

    /// Which message is meant, and for which delivery.
    pub(super) fn target(&self, target: &SettleTarget) -> Result<Target> {
        let id = target.msg_id.map(MsgId::get);
        let Some(receipt) = &target.receipt else {
            let msg_id = id.ok_or_else(|| {
                Error::Invalid("either `msg_id` or `receipt` must be given".to_owned())
            })?;
            return Ok(Target { msg_id, delivered: None });
        };
        let delivered = self
            .receipt_key
            .verify(receipt)
            .map_err(|reason: InvalidReceipt| Error::Invalid(format!("`receipt` {reason}")))?;
        match id {
            Some(id) if id != delivered.msg_id => Err(Error::Invalid(format!(
                "`receipt` is for message {}, not for {id}",
                delivered.msg_id
            ))),
            _ => Ok(Target { msg_id: delivered.msg_id, delivered: Some(delivered) }),
        }
    }
}

fn done(queue: &QueueName, msg_id: i64, settled: Settled) -> Result<()> {
    match settled {
        Settled::Done => Ok(()),
        Settled::Missing => Err(not_found(queue, msg_id)),
        Settled::Stale => Err(Error::ReceiptStale { queue: queue.to_string(), msg_id }),
    }
}

pub(super) fn not_found(queue: &QueueName, msg_id: i64) -> Error {
    Error::MessageNotFound { queue: queue.to_string(), msg_id }
}
