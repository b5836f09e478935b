//! The kinds of statements that have lanes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    domain::{Message, MsgId, NewMessage, QueueName, Visibility},
    store::{self, Conn, Result},
};

use super::{lane::Work, news::News};

/// Storing messages; a request brings one, or several that are stored all or none.
pub(super) struct Send(pub(super) Arc<News>);

/// Deleting messages; the answer is whether it was there.
pub(super) struct Delete;

/// Archiving messages; the answer is whether it was there.
pub(super) struct Archive;

/// Setting the visibility of messages; the answer is the message, if it was there.
pub(super) struct SetVisibility(pub(super) Arc<News>);

impl Work for Send {
    type Input = Vec<NewMessage>;
    type Output = Vec<i64>;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Vec<NewMessage>],
    ) -> Result<Vec<Vec<i64>>> {
        let all: Vec<&NewMessage> = inputs.iter().flat_map(|input| input.iter()).collect();
        let ids = match *all {
            [one] => vec![store::send(conn, queue, one).await?],
            _ => store::send_batch(conn, queue, &all).await?,
        };
        self.0.tell();
        let mut ids = ids.into_iter();
        Ok(inputs.iter().map(|input| ids.by_ref().take(input.len()).collect()).collect())
    }
}

impl Work for Delete {
    type Input = MsgId;
    type Output = bool;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&MsgId],
    ) -> Result<Vec<bool>> {
        let found = store::delete(conn, queue, &distinct(inputs)).await?;
        Ok(first_of_each(inputs, found))
    }
}

impl Work for Archive {
    type Input = MsgId;
    type Output = bool;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&MsgId],
    ) -> Result<Vec<bool>> {
        let found = store::archive(conn, queue, &distinct(inputs)).await?;
        Ok(first_of_each(inputs, found))
    }
}

impl Work for SetVisibility {
    type Input = (MsgId, Visibility);
    type Output = Option<Message>;

    /// Of two wishes for one message the later one holds, as if they had come one by one; both are
    /// answered with the outcome.
    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&(MsgId, Visibility)],
    ) -> Result<Vec<Option<Message>>> {
        let last: BTreeMap<MsgId, Visibility> = inputs.iter().map(|(id, v)| (*id, *v)).collect();
        let wishes: Vec<_> = last.into_iter().collect();
        let found = store::set_visibility(conn, queue, &wishes).await?;
        self.0.tell();
        let found: HashMap<i64, Message> = found.into_iter().map(|m| (m.msg_id, m)).collect();
        Ok(inputs.iter().map(|(id, _)| found.get(&id.get()).cloned()).collect())
    }
}

/// Ids in ascending order, so that two batches lock rows in the same order.
fn distinct(inputs: &[&MsgId]) -> Vec<i64> {
    let mut ids: Vec<i64> = inputs.iter().map(|id| id.get()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Of two requests for one message the first had it; the second came too late.
fn first_of_each(inputs: &[&MsgId], found: Vec<i64>) -> Vec<bool> {
    let mut found: HashSet<i64> = found.into_iter().collect();
    inputs.iter().map(|id| found.remove(&id.get())).collect()
}
