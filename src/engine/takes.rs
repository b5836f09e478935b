//! Lanes of statements that give out messages without leasing them: popping, and looking by id.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    domain::{Call, Message, MsgId, QueueName},
    store::{self, Conn, Error, Pop, Popped, Result},
};

use super::{
    Shared, floors::Floors, heavy::HeavyQueues, kept_reports::KeptReports, lane::BatchStatement,
    notifier::Notifier, table_lock::Intent,
};

/// Popping messages for several clients.
pub(super) struct Popping {
    heavy: Arc<HeavyQueues>,
    kept: Arc<KeptReports>,
    floors: Arc<Floors>,
    notifier: Arc<Notifier>,
}

/// A client that pops.
pub(super) struct PopRequest {
    pub(super) pop: Pop,
    /// Whether others can be delivered then, of the same groups.
    pub(super) unblocks: bool,
    /// Tells whether there is room for what it gets.
    pub(super) call: Arc<Call>,
}

/// Looking at messages by their ids.
pub(super) struct Looking {
    heavy: Arc<HeavyQueues>,
    /// Bytes that all messages of one statement may come to.
    max_bytes: u64,
}

/// What one is told who looks at a message.
type Looked = Shareable<Option<Arc<Message>>>;

/// What a statement for several came to for one of them.
#[derive(Debug)]
pub enum Shareable<T> {
    /// It is done.
    Done(T),
    /// Nothing was done for it, and it has to be done on its own.
    Alone,
}

impl Popping {
    pub(super) fn new(shared: &Shared, notifier: &Arc<Notifier>) -> Self {
        let (heavy, kept) = (Arc::clone(&shared.heavy), Arc::clone(&shared.kept));
        Self { heavy, kept, floors: Arc::clone(&shared.floors), notifier: Arc::clone(notifier) }
    }

    /// Pops from where reads begin; from the beginning now and then if that is nothing.
    async fn pop(&self, conn: &mut Conn, mut pop: Pop) -> Result<Popped> {
        pop.since = self.floors.since(&pop.queue);
        let began = Instant::now();
        let popped = match store::pop(conn, &pop, false).await {
            // Of a row that refers to one of them, maybe: the others can be had without it.
            Err(Error::Locked | Error::Deadlock(_)) => return store::pop(conn, &pop, true).await,
            popped => popped?,
        };
        if pop.since.is_none() {
            self.notifier.note_read(began.elapsed());
        } else if popped.is_empty() && self.floors.may_read_fully(&pop.queue) {
            pop.since = None;
            return store::pop(conn, &pop, false).await;
        }
        Ok(popped)
    }

    /// Pops for those for whom there is room.
    async fn pop_for(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&PopRequest],
    ) -> Result<Vec<Shareable<Vec<Message>>>> {
        let Some(first) = inputs.first() else { return Ok(Vec::new()) };
        let qty = inputs.iter().map(|input| input.pop.qty).sum();
        let popped = match self.pop(conn, Pop { qty, ..first.pop.clone() }).await {
            Ok(popped) => popped,
            Err(error) if is_in_the_way(&error) => {
                if matches!(error, Error::Timeout) {
                    self.heavy.note(queue);
                }
                return Ok(inputs.iter().map(|_| Shareable::Alone).collect());
            }
            Err(error) => {
                if matches!(error, Error::OutcomeUnknown(None)) {
                    // Maybe because of one that takes too long: next time it is searched for.
                    self.heavy.note(queue);
                }
                return Err(error);
            }
        };
        self.kept.report(queue, popped.kept.as_ref());
        if !popped.messages.is_empty() && inputs.iter().any(|input| input.unblocks) {
            self.notifier.notify();
        }
        let mut dealt = Self::deal(inputs, popped.messages);
        if popped.more {
            // There are others, for which there was no room.
            for share in &mut dealt {
                if matches!(share, Shareable::Done(messages) if messages.is_empty()) {
                    *share = Shareable::Alone;
                }
            }
        }
        Ok(dealt)
    }

    /// Deals messages out in order of arrival.
    fn deal(inputs: &[&PopRequest], messages: Vec<Message>) -> Vec<Shareable<Vec<Message>>> {
        let mut messages = messages.into_iter();
        let share = |input: &&PopRequest| {
            let qty = usize::try_from(input.pop.qty).unwrap_or(0);
            Shareable::Done(messages.by_ref().take(qty).collect())
        };
        inputs.iter().map(share).collect()
    }
}

impl BatchStatement for Popping {
    type Input = PopRequest;
    type Output = Shareable<Vec<Message>>;
    const NAME: &'static str = "pop";

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&PopRequest],
    ) -> Result<Vec<Shareable<Vec<Message>>>> {
        // What is popped cannot be put back, and a request may have stood in line while the room was used up.
        let fit: Vec<bool> = inputs.iter().map(|input| input.call.has_room()).collect();
        let served: Vec<&PopRequest> =
            inputs.iter().zip(&fit).filter(|(_, fits)| **fits).map(|(input, _)| *input).collect();
        let mut dealt = self.pop_for(conn, queue, &served).await?.into_iter();
        let share = |fits: bool| if fits { dealt.next() } else { None };
        Ok(fit.into_iter().map(share).map(|share| share.unwrap_or(Shareable::Alone)).collect())
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&PopRequest],
    ) -> Result<Vec<Shareable<Vec<Message>>>> {
        self.run(conn, queue, inputs).await
    }

    fn is_locked(_: &Shareable<Vec<Message>>) -> bool {
        // One that is locked is passed over.
        false
    }
}

impl Looking {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { heavy: Arc::clone(&shared.heavy), max_bytes: shared.max_answer_bytes }
    }

    /// Gives each what it looks for. Several may want the same, which is there once.
    fn deal(inputs: &[&MsgId], looked: store::Looked) -> Vec<Looked> {
        let of_id = |message: Message| (message.msg_id, Arc::new(message));
        let found: HashMap<i64, Arc<Message>> = looked.messages.into_iter().map(of_id).collect();
        let outcome = |id: &&MsgId| match found.get(&id.get()) {
            Some(message) => Shareable::Done(Some(Arc::clone(message))),
            None if looked.left_out.contains(&id.get()) => Shareable::Alone,
            None => Shareable::Done(None),
        };
        inputs.iter().map(outcome).collect()
    }
}

impl BatchStatement for Looking {
    type Input = MsgId;
    type Output = Looked;
    const NAME: &'static str = "look";

    const INTENT: Intent = Intent::Look;

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&MsgId],
    ) -> Result<Vec<Looked>> {
        let mut ids: Vec<i64> = inputs.iter().map(|id| id.get()).collect();
        ids.sort_unstable();
        ids.dedup();
        let looked = match store::look(conn, queue, &ids, self.max_bytes).await {
            Ok(looked) => looked,
            Err(error) if is_in_the_way(&error) => {
                if matches!(error, Error::Timeout) {
                    self.heavy.note(queue);
                }
                return Ok(inputs.iter().map(|_| Shareable::Alone).collect());
            }
            Err(error) => return Err(error),
        };
        Ok(Self::deal(inputs, looked))
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&MsgId],
    ) -> Result<Vec<Looked>> {
        self.run(conn, queue, inputs).await
    }

    fn is_locked(_: &Looked) -> bool {
        // To look takes no lock on a message.
        false
    }
}

/// Whether it may be one message that failed a statement: then it is to fail nobody but who wants it.
fn is_in_the_way(error: &Error) -> bool {
    let is_everybodys =
        matches!(error, Error::Locked | Error::Deadlock(_) | Error::TableDiffers { .. });
    matches!(error, Error::Timeout) || error.is_about_rows() && !is_everybodys
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn message(msg_id: i64) -> Message {
        Message {
            msg_id,
            read_ct: 0,
            enqueued_at: DateTime::UNIX_EPOCH,
            last_read_at: None,
            vt: DateTime::UNIX_EPOCH,
            message: serde_json::from_str("1").expect("JSON"),
            headers: None,
            queue_id: 0,
            receipt: None,
        }
    }

    #[test]
    fn those_who_look_at_the_same_message_have_it_together() {
        let ids = [1, 2, 1, 3, 1].map(MsgId::saturating);
        let inputs: Vec<&MsgId> = ids.iter().collect();
        let looked = store::Looked { messages: vec![message(1)], left_out: vec![3] };
        let dealt = Looking::deal(&inputs, looked);
        let Shareable::Done(Some(first)) = &dealt[0] else { panic!("it is there") };
        assert_eq!((first.msg_id, Arc::strong_count(first)), (1, 3));
        assert!(matches!(dealt[1], Shareable::Done(None)), "it is not there");
        assert!(matches!(dealt[3], Shareable::Alone), "it did not fit");
    }
}
