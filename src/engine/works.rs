//! The kinds of statements that have lanes.

use std::{collections::HashSet, sync::Arc};

use crate::{
    domain::{Message, NewMessage, QueueName, Settled, Target, Visibility},
    store::{self, Action, Conn, Result},
};

use super::{lane::Work, news::News};

/// Storing messages; a request brings one, or several that are stored all or none.
pub(super) struct Send(pub(super) Arc<News>);

/// Messages to store.
pub(super) struct NewMessages {
    pub(super) messages: Vec<NewMessage>,
    /// Whether ids have to grow from commit to commit, as somebody reads in that order.
    pub(super) in_turn: bool,
}

/// Deleting or archiving messages.
pub(super) struct End {
    pub(super) action: Action,
    pub(super) news: Arc<News>,
}

/// A message that is done with.
pub(super) struct Ended {
    pub(super) target: Target,
    /// Whether others of its group can be delivered now.
    pub(super) unblocks: bool,
}

/// Setting the visibility of messages; the answer has the message, if it was there.
pub(super) struct SetVisibility(pub(super) Arc<News>);

impl Work for Send {
    type Input = NewMessages;
    type Output = Vec<i64>;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
    ) -> Result<Vec<Vec<i64>>> {
        let all: Vec<&NewMessage> = inputs.iter().flat_map(|input| &input.messages).collect();
        let in_turn = inputs.iter().any(|input| input.in_turn);
        let ids = store::send(conn, queue, &all, in_turn).await?;
        self.0.tell();
        let mut ids = ids.into_iter();
        Ok(inputs.iter().map(|input| ids.by_ref().take(input.messages.len()).collect()).collect())
    }
}

impl Work for End {
    type Input = Ended;
    type Output = Settled;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Ended],
    ) -> Result<Vec<Settled>> {
        let settled = if inputs.iter().all(|input| input.target.delivered.is_none()) {
            let ids = distinct(inputs);
            let found = match self.action {
                Action::Archive => store::archive(conn, queue, &ids).await?,
                _ => store::delete(conn, queue, &ids).await?,
            };
            first_of_each(inputs, found)
        } else {
            let entries: Vec<_> = inputs.iter().map(|input| (self.action, input.target)).collect();
            store::settle(conn, queue, &entries).await?
        };
        if inputs.iter().any(|input| input.unblocks) {
            self.news.tell();
        }
        Ok(settled)
    }
}

impl Work for SetVisibility {
    type Input = (Target, Visibility);
    type Output = (Settled, Option<Message>);

    /// Of two wishes for one message the later one holds, as if they had come one by one; both are
    /// answered with the outcome.
    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&(Target, Visibility)],
    ) -> Result<Vec<(Settled, Option<Message>)>> {
        let settled = store::set_visibility(conn, queue, inputs).await?;
        self.0.tell();
        Ok(settled)
    }
}

/// Ids in ascending order, so that two batches lock rows in the same order.
fn distinct(inputs: &[&Ended]) -> Vec<i64> {
    let mut ids: Vec<i64> = inputs.iter().map(|input| input.target.msg_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Of two requests for one message the first had it; the second came too late.
fn first_of_each(inputs: &[&Ended], found: Vec<i64>) -> Vec<Settled> {
    let mut found: HashSet<i64> = found.into_iter().collect();
    let settled = |input: &&Ended| {
        if found.remove(&input.target.msg_id) { Settled::Done } else { Settled::Missing }
    };
    inputs.iter().map(settled).collect()
}
