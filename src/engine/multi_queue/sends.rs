//! Sending to several queues at once.

use crate::{
    domain::NewMessage,
    store::{self, Conn, QueueOutcome, Result, SendOutcome, Sent},
};

use super::{
    super::{
        lane::ShareOutcome,
        statements::{NewMessages, Send},
    },
    statement::{MultiQueueStatement, Part},
};

impl MultiQueueStatement for Send {
    /// What is sent in order, or once, holds others of its queue back.
    fn is_shareable(input: &NewMessages) -> bool {
        !input.in_turn && input.once.is_none()
    }

    async fn run_for_all(
        conn: &mut Conn,
        parts: &[Part<'_, Self>],
    ) -> Result<Vec<ShareOutcome<SendOutcome>>> {
        let batches: Vec<_> = parts.iter().map(|part| (part.queue, part.messages())).collect();
        let outcomes = store::send_to_queues(conn, &batches).await?;
        let outcomes = parts.iter().zip(outcomes);
        Ok(outcomes.map(|(part, outcome)| part.stored(outcome)).collect())
    }
}

impl<'a> Part<'a, Send> {
    fn messages(&self) -> Vec<&'a NewMessage> {
        self.inputs.iter().flat_map(|input| &input.messages).collect()
    }

    /// Has those told who wait, and deals the ids out.
    fn stored(&self, outcome: QueueOutcome<Vec<i64>>) -> ShareOutcome<SendOutcome> {
        let mut ids = match outcome {
            QueueOutcome::Done(ids) => ids.into_iter(),
            QueueOutcome::Retry => return ShareOutcome::Retry,
            QueueOutcome::Separate => return ShareOutcome::Separate,
        };
        self.work.notifier.notify();
        let sent = |input: &&NewMessages| {
            Some(Ok(Sent::Stored(ids.by_ref().take(input.messages.len()).collect())))
        };
        ShareOutcome::Done(self.inputs.iter().map(sent).collect())
    }
}
