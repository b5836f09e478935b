//! Operations on messages.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::timeout;

use crate::{
    domain::{
        Bounded, CallStats, DEFAULT_VISIBILITY_TIMEOUT, Delay, MAX_BATCH, Message, MsgId,
        NewMessage, PageSize, Quantity, QueueName, RawJson, Visibility, VisibilityTimeout, Wait,
        check_storable,
    },
    engine::{Delivery, UnreadableSearch},
    store::{self, Read},
    telemetry::DoneTo,
};

use super::{Broker, Error, Result};

/// A receive.
#[derive(Clone, Debug)]
pub struct Receive {
    /// The queue.
    pub queue: QueueName,
    /// The most messages to return.
    pub qty: Quantity,
    /// How long they stay hidden; the default where nothing is said.
    pub vt: Option<VisibilityTimeout>,
    /// How long to wait for a first one.
    pub wait: Wait,
    /// A JSON object that they must contain.
    pub filter: Option<RawJson>,
}

/// A page of messages to look at.
#[derive(Clone, Debug)]
pub struct Peek {
    /// The queue.
    pub queue: QueueName,
    /// The id behind which to begin.
    pub after: i64,
    /// The most messages to return.
    pub limit: PageSize,
}

impl Broker {
    /// Stores a message and returns its id.
    pub async fn send(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        new: NewMessage,
    ) -> Result<i64> {
        self.check_new(&new, None)?;
        let ids = self.store(stats, &queue, vec![new]).await?;
        ids.first().copied().ok_or_else(|| Error::Internal("no id for a stored message".into()))
    }

    /// Stores messages, all or none, and returns their ids in order.
    pub async fn send_batch(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        batch: Vec<NewMessage>,
    ) -> Result<Vec<i64>> {
        if !(1..=MAX_BATCH).contains(&batch.len()) {
            return Err(Error::Invalid(format!(
                "`messages` must hold 1 to {MAX_BATCH} messages, not {}",
                batch.len()
            )));
        }
        for (index, new) in batch.iter().enumerate() {
            self.check_new(new, Some(index))?;
        }
        self.store(stats, &queue, batch).await
    }

    async fn store(
        &self,
        stats: &Arc<CallStats>,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<i64>> {
        self.admit(queue, stats).await?;
        let ids = self.engine.send(queue, messages, stats);
        let ids = self.within_time(ids).await.map_err(Error::on(queue))?;
        self.metrics.messages(queue.as_str(), DoneTo::Sent, ids.len());
        Ok(ids)
    }

    /// Leases what can be delivered, waiting for it if that is wished.
    pub async fn receive(&self, stats: &Arc<CallStats>, what: Receive) -> Result<Delivery> {
        let queue = what.queue;
        self.admit(&queue, stats).await?;
        let read = Read {
            queue: queue.clone(),
            vt: what.vt.unwrap_or(DEFAULT_VISIBILITY_TIMEOUT).as_i32(),
            qty: what.qty.as_i32(),
            filter: what.filter.filter(|filter| !is_empty_object(filter.get())),
        };
        let delivery = match self.engine.receive(read, what.wait, stats).await {
            Err(store::Error::Overloaded) if what.wait.get() > 0 => Err(Error::Overloaded(
                "as many clients wait as this gateway takes; try again in a moment",
            )),
            outcome => outcome.map_err(Error::on(&queue)),
        }?;
        self.metrics.messages(queue.as_str(), DoneTo::Received, delivery.messages.len());
        Ok(delivery)
    }

    /// Reads messages and deletes them in the same statement. A client that leaves before the
    /// statement is sent loses nothing; later than that, the messages are gone.
    pub async fn pop(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        qty: Quantity,
    ) -> Result<Vec<Message>> {
        let mut conn = self.open(&queue, stats).await?;
        let broker = self.clone();
        self.run(true, async move {
            let mut search = UnreadableSearch::new(&queue, &broker.metrics);
            let popped = loop {
                let popped = store::pop(&mut conn, &queue, qty.as_i32()).await;
                let cleared = search.cleared(&mut conn, popped.as_ref().err()).await;
                if !cleared.map_err(Error::on(&queue))? {
                    break popped;
                }
            };
            let messages = popped.map_err(Error::on(&queue))?;
            broker.metrics.messages(queue.as_str(), DoneTo::Received, messages.len());
            broker.metrics.messages(queue.as_str(), DoneTo::Deleted, messages.len());
            Ok(messages)
        })
        .await
    }

    /// One message, without leasing it.
    pub async fn message(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        id: MsgId,
    ) -> Result<Message> {
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(false, async move {
            let mut conn = broker.open(&queue, &stats).await?;
            match store::message(&mut conn, &queue, id).await {
                Ok(Some(message)) => Ok(message),
                Ok(None) => Err(not_found(&queue, id)),
                Err(store::Error::Unreadable) => Err(Error::MessageUnreadable(id.get())),
                Err(error) => Err(Error::on(&queue)(error)),
            }
        })
        .await
    }

    /// Messages in order of their ids, leasing none.
    pub async fn peek(&self, stats: &Arc<CallStats>, what: Peek) -> Result<Vec<Message>> {
        let (broker, stats) = (self.clone(), Arc::clone(stats));
        self.run(false, async move {
            let queue = &what.queue;
            let mut conn = broker.open(queue, &stats).await?;
            let mut search = UnreadableSearch::new(queue, &broker.metrics);
            let seen = loop {
                let seen = store::peek(&mut conn, queue, what.after, what.limit.as_i32()).await;
                let cleared = search.cleared(&mut conn, seen.as_ref().err()).await;
                if !cleared.map_err(Error::on(queue))? {
                    break seen;
                }
            };
            seen.map_err(Error::on(queue))
        })
        .await
    }

    /// Deletes a message.
    pub async fn delete(&self, stats: &Arc<CallStats>, queue: QueueName, id: MsgId) -> Result<()> {
        self.admit(&queue, stats).await?;
        let found = self.within_time(self.engine.delete(&queue, id, stats)).await;
        if !found.map_err(Error::on(&queue))? {
            return Err(not_found(&queue, id));
        }
        self.metrics.messages(queue.as_str(), DoneTo::Deleted, 1);
        Ok(())
    }

    /// Moves a message into the archive.
    pub async fn archive(&self, stats: &Arc<CallStats>, queue: QueueName, id: MsgId) -> Result<()> {
        self.admit(&queue, stats).await?;
        let found = self.within_time(self.engine.archive(&queue, id, stats)).await;
        if !found.map_err(Error::on(&queue))? {
            return Err(not_found(&queue, id));
        }
        self.metrics.messages(queue.as_str(), DoneTo::Archived, 1);
        Ok(())
    }

    /// Sets the moment from which a message may be delivered again.
    pub async fn set_visibility(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        id: MsgId,
        visible: Visibility,
    ) -> Result<Message> {
        check_moment::<{ VisibilityTimeout::MAX }>("visible_at", visible)?;
        self.admit(&queue, stats).await?;
        let changed = self.engine.set_visibility(&queue, id, visible, stats);
        match self.within_time(changed).await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(not_found(&queue, id)),
            Err(store::Error::Unreadable) => Err(Error::MessageUnreadable(id.get())),
            Err(error) => Err(Error::on(&queue)(error)),
        }
    }

    /// Bounds a change that goes through a lane. What is over the time may still be done.
    async fn within_time<T>(
        &self,
        change: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let outcome = timeout(self.request_timeout, change).await;
        outcome.unwrap_or(Err(store::Error::OutcomeUnknown(None)))
    }

    /// Refuses what must not be stored, before anything is.
    fn check_new(&self, new: &NewMessage, index: Option<usize>) -> Result<()> {
        let at = |field: &str| match index {
            Some(index) => format!("messages[{index}].{field}"),
            None => field.to_owned(),
        };
        let headers = new.headers.as_deref().map_or("", |headers| headers.get());
        if !headers.is_empty() && !headers.starts_with('{') {
            return Err(Error::Invalid(format!("`{}` must be a JSON object", at("headers"))));
        }
        let bytes = (new.message.get().len() + headers.len()) as u64;
        let limit = self.limits.max_message_bytes;
        if bytes > limit {
            let what = match index {
                Some(index) => format!("`messages[{index}]`"),
                None => "the message".to_owned(),
            };
            return Err(Error::MessageTooLarge { what, bytes, limit });
        }
        for (field, json) in [("message", new.message.get()), ("headers", headers)] {
            check_storable(json, self.limits.max_expanded_message_bytes)
                .map_err(|reason| Error::MessageRejected(format!("`{}`: {reason}", at(field))))?;
        }
        check_moment::<{ Delay::MAX }>(&at("visible_at"), new.visible)
    }
}

/// Refuses a moment too far ahead.
fn check_moment<const MAX_SECONDS: i64>(field: &str, visible: Visibility) -> Result<()> {
    let Visibility::At(time) = visible else {
        return Ok(());
    };
    let now: DateTime<Utc> = Utc::now();
    // A second of grace for a client whose clock is ahead.
    if time <= now + TimeDelta::seconds(MAX_SECONDS + 1) {
        return Ok(());
    }
    let latest = Bounded::<0, MAX_SECONDS>::MAX;
    Err(Error::Invalid(format!("`{field}` must be at most {latest} seconds from now")))
}

/// What everything contains, and not objects alone.
fn is_empty_object(json: &str) -> bool {
    let inside = json.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| inside.trim().is_empty())
}

fn not_found(queue: &QueueName, id: MsgId) -> Error {
    Error::MessageNotFound { queue: queue.to_string(), msg_id: id.get() }
}
