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
    lanes::{MultiQueueStatement, Part},
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
        self.inputs.iter().map(|input| &input.target).collect()
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
            self.work.news.tell();
        }
        let done = |input: &&Ended| ended.remove(&input.target.msg_id).then_some(Settled::Done);
        ShareOutcome::Done(self.inputs.iter().map(done).collect())
    }
}
