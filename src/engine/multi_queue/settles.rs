//! Deleting and archiving messages of several queues at once.

use std::collections::HashSet;

use crate::{
    domain::{Settled, Target},
    store::{self, Action, Conn, QueueOutcome, Result},
};

use super::{
    super::{
        lane::ShareOutcome,
        statements::{End, Ended},
    },
    statement::{MultiQueueStatement, Part},
};

impl MultiQueueStatement for End {
    fn is_shareable(_: &Ended) -> bool {
        true
    }

    /// All do the same to their messages, as those that do another thing have lanes of another kind.
    async fn run_for_all(
        conn: &mut Conn,
        parts: &[Part<'_, Self>],
    ) -> Result<Vec<ShareOutcome<Settled>>> {
        let batches: Vec<_> = parts.iter().map(|part| (part.queue, part.targets())).collect();
        let action = parts.first().map_or(&Action::Delete, |part| &part.work.action);
        let outcomes = store::end_in_queues(conn, action, &batches).await?;
        let outcomes = parts.iter().zip(outcomes);
        Ok(outcomes.map(|(part, outcome)| part.ended(outcome)).collect())
    }
}

impl<'a> Part<'a, End> {
    fn targets(&self) -> Vec<&'a Target> {
        first_of_each(self.inputs.iter().map(|input| &input.target))
    }

    /// Of two requests for one message the first had it. What was not done is left to a statement of the queue,
    /// which tells why.
    fn ended(&self, outcome: QueueOutcome<Vec<i64>>) -> ShareOutcome<Settled> {
        let mut ended: HashSet<i64> = match outcome {
            QueueOutcome::Done(ids) => ids.into_iter().collect(),
            QueueOutcome::Retry => return ShareOutcome::Retry,
            QueueOutcome::Separate => return ShareOutcome::Separate,
        };
        if !ended.is_empty() && self.inputs.iter().any(|input| input.unblocks) {
            self.work.notifier.notify();
        }
        let done = |input: &&Ended| ended.remove(&input.target.msg_id).then_some(Settled::Done);
        ShareOutcome::Done(self.inputs.iter().map(done).collect())
    }
}

/// Of several requests for one message the first: only its delivery may have been ended, and the others are told
/// apart by a statement of the queue.
fn first_of_each<'a>(targets: impl Iterator<Item = &'a Target>) -> Vec<&'a Target> {
    let mut seen = HashSet::new();
    targets.filter(|target| seen.insert(target.msg_id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DeliveryId;

    #[test]
    fn a_stale_receipt_has_nothing_done_by_the_one_behind_it() {
        let delivery = |read_ct| {
            let delivered = DeliveryId { queue_id: 1, msg_id: 5, read_ct, read_stamp: 0 };
            Target { msg_id: 5, delivered: Some(delivered) }
        };
        let other = Target { msg_id: 6, delivered: None };
        let targets = [delivery(1), other, delivery(2), Target { delivered: None, ..other }];
        let sent = first_of_each(targets.iter());
        assert!(
            std::ptr::eq(sent[0], &raw const targets[0])
                && std::ptr::eq(sent[1], &raw const targets[1])
        );
        assert_eq!(sent.len(), 2);
    }
}
