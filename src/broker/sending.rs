//! Storing messages.

use std::sync::Arc;

use chrono::TimeDelta;

use crate::{
    domain::{
        Bounded, Call, Delay, GROUP_HEADER, MAX_GROUP_BYTES, NewMessage, QueueName, Unstorable,
        Visibility, check_storable, group_bytes,
    },
    store::{self, Idempotency},
    telemetry::MessageEvent,
};

use super::{
    Broker, Error, Part, Result, Subject,
    deduplication::{Sent, deduplicated, sent_from_ids},
    policies::Policy,
    work::Kind,
};

/// Refuses what must not be stored in a queue.
type Check = fn(&Broker, &[NewMessage], &Policy) -> Result<()>;

/// What stands for a request that is to be done once, however often it is sent.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// What the key is for: a method and a path.
    pub scope: String,
    /// The client's key.
    pub key: String,
    /// What tells one request from another.
    pub fingerprint: [u8; 32],
}

/// Something that was done, maybe before.
#[derive(Clone, Debug)]
pub struct Replayable<T> {
    /// What it came to.
    pub result: T,
    /// Whether that was the answer to an earlier request.
    pub replayed: bool,
}

impl<T> Replayable<T> {
    /// The same with something else made of the result.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Replayable<U> {
        Replayable { result: make(self.result), replayed: self.replayed }
    }
}

impl Broker {
    /// Stores a message and returns its id.
    pub async fn send(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        new: NewMessage,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<i64>> {
        let check: Check =
            |broker, batch, policy| batch.iter().try_for_each(|new| broker.check_new(new, policy));
        let sent = self.check_and_store(call, &queue, vec![new], once, check).await?;
        let id = sent.result.first().map(|sent| sent.msg_id);
        let id = id.ok_or_else(|| Error::Internal("no id for a stored message".into()))?;
        Ok(sent.map(|_| id))
    }

    /// Stores messages, all or none, and returns their ids in order. Where all of them were sent before, by their
    /// deduplication ids, that is the answer to an earlier request, too.
    pub async fn send_batch(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        batch: Vec<NewMessage>,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<Sent>>> {
        self.check_and_store(call, &queue, batch, once, Self::check_batch).await
    }

    async fn check_and_store(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        batch: Vec<NewMessage>,
        once: Option<IdempotencyKey>,
        check: Check,
    ) -> Result<Replayable<Vec<Sent>>> {
        let policy = self.policies.of(queue).await?;
        let (broker, of_queue) = (self.clone(), Arc::clone(&policy));
        let bytes = batch.iter().map(NewMessage::bytes).sum();
        let checked = self.cpu_pool.run(bytes, move || match check(&broker, &batch, &of_queue) {
            Ok(()) => Ok((batch, None)),
            Err(error) => match check(&broker, &batch, &Policy::default()) {
                Ok(()) => Ok((batch, Some(error))),
                Err(_) => Err(error),
            },
        });
        let (batch, over_queues_limit) = checked.await??;
        match (over_queues_limit, once) {
            (None, once) => self.store(call, queue, batch, &policy, once).await,
            (Some(error), None) => Err(error),
            // It may have been stored while the queue's limit was another one.
            (Some(error), Some(once)) => {
                let earlier = self.earlier_answer(call, queue, policy, once, &batch);
                let earlier = Box::pin(earlier).await?;
                earlier.ok_or(error)
            }
        }
    }

    /// What was answered to an earlier request with the same key.
    async fn earlier_answer(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        policy: Arc<Policy>,
        once: IdempotencyKey,
        batch: &[NewMessage],
    ) -> Result<Option<Replayable<Vec<Sent>>>> {
        let (once, count, flags) = (self.idempotency(once), batch.len(), deduplicated(batch));
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let (queue, once) = (&queue, &once);
            let earlier =
                broker.on_queue(Kind::Look, queue, &policy, &call, |mut conn| async move {
                    store::earlier_answer(&mut conn, queue, once, count).await
                });
            let earlier = earlier.await?.map_err(Error::of_sending(queue))?;
            earlier.map(|earlier| answered(earlier, flags)).transpose()
        })
        .await
    }

    /// Refuses a batch that is empty, too long, or has something in it that must not be stored.
    pub(super) fn check_batch(&self, batch: &[NewMessage], policy: &Policy) -> Result<()> {
        let most = self.limits.max_batch_messages;
        if !(1..=most).contains(&batch.len()) {
            let reason = format!("must hold 1 to {most} messages, not {}", batch.len());
            return Err(Error::invalid(Part::Messages, reason));
        }
        let mut expanded: u64 = 0;
        for (index, new) in batch.iter().enumerate() {
            let bytes = self.check_one(new, policy).map_err(|error| error.in_message(index))?;
            expanded = expanded.saturating_add(bytes);
        }
        self.check_total(Part::Messages, expanded)
    }

    /// Refuses messages that are larger than a body may be once their numbers are written out.
    pub(super) fn check_total(&self, what: Part, expanded: u64) -> Result<()> {
        let limit = self.limits.max_body_bytes;
        if expanded > limit {
            return Err(Error::MessageExpands { what: Subject::All(what), bytes: expanded, limit });
        }
        Ok(())
    }

    async fn store(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        mut messages: Vec<NewMessage>,
        policy: &Policy,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<Sent>>> {
        self.check_name_unambiguous(queue, policy, call).await?;
        for new in &mut messages {
            new.visible.get_or_insert(Visibility::After(policy.settings.delay));
        }
        let once = once.map(|once| self.idempotency(once));
        let flags = deduplicated(&messages);
        let stored = self.engine.send(queue, messages, policy.fifo, once, None, call);
        let stored = self.within_time(stored).await.map_err(Error::of_sending(queue))?;
        let is_new = matches!(stored, store::Sent::Stored(_));
        let answer = answered(stored, flags)?;
        if is_new {
            let stored = answer.result.iter().filter(|sent| !sent.is_duplicate).count();
            self.metrics.messages(queue.as_str(), MessageEvent::Sent, stored);
        }
        Ok(answer)
    }

    pub(super) fn idempotency(&self, once: IdempotencyKey) -> Idempotency {
        let IdempotencyKey { scope, key, fingerprint } = once;
        Idempotency { scope, key, fingerprint, lifetime: self.idempotency_lifetime }
    }

    /// Refuses what must not be stored, before anything is.
    pub(super) fn check_new(&self, new: &NewMessage, policy: &Policy) -> Result<()> {
        self.check_one(new, policy).map(drop)
    }

    /// The same; returns the message's length once its numbers are written out.
    fn check_one(&self, new: &NewMessage, policy: &Policy) -> Result<u64> {
        let headers = new.headers.as_deref().map_or("", |headers| headers.get());
        if !headers.is_empty() && !headers.starts_with('{') {
            return Err(Error::invalid(Part::Headers, "must be a JSON object"));
        }
        let of_queue = policy.settings.max_message_bytes.map(Bounded::get);
        let of_queue = of_queue.and_then(|bytes| u64::try_from(bytes).ok());
        let limit = of_queue.unwrap_or(u64::MAX).min(self.limits.max_message_bytes);
        let bytes = new.bytes();
        if bytes > limit {
            return Err(Error::MessageTooLarge { what: Subject::Message, bytes, limit });
        }
        let storable = self.limits.storable();
        let mut expanded: u64 = 0;
        for (part, json) in [(Part::Message, new.message.get()), (Part::Headers, headers)] {
            expanded += check_storable(json, storable).map_err(unstorable(part))?;
        }
        if expanded > limit {
            return Err(Error::MessageExpands { what: Subject::Message, bytes: expanded, limit });
        }
        let group = group_bytes(headers);
        if group > MAX_GROUP_BYTES {
            return Err(group_too_long(group));
        }
        if let Some(visible) = new.visible {
            self.check_moment::<{ Delay::MAX }>(Part::VisibleAt, visible)?;
        }
        Ok(expanded)
    }

    /// Refuses a moment too far ahead, by the database's clock.
    pub(super) fn check_moment<const MAX_SECONDS: i64>(
        &self,
        part: Part,
        visible: Visibility,
    ) -> Result<()> {
        let Visibility::At(time) = visible else {
            return Ok(());
        };
        // A second of grace for a client whose clock is ahead.
        if time <= self.policies.now() + TimeDelta::seconds(MAX_SECONDS + 1) {
            return Ok(());
        }
        let latest = Bounded::<0, MAX_SECONDS>::MAX;
        Err(Error::invalid(part, format!("must be at most {latest} seconds from now")))
    }
}

/// What the answer to a request is that stores messages.
fn answered(sent: store::Sent, flags: Vec<bool>) -> Result<Replayable<Vec<Sent>>> {
    match sent {
        store::Sent::Stored(ids) => {
            let result = sent_from_ids(ids, flags);
            Ok(Replayable { replayed: result.iter().all(|sent| sent.is_duplicate), result })
        }
        store::Sent::Replayed(ids) => {
            Ok(Replayable { result: sent_from_ids(ids, flags), replayed: true })
        }
        store::Sent::KeyConflict => Err(Error::IdempotencyConflict),
        store::Sent::AnswerLost => Err(Error::IdempotencyAnswerLost),
    }
}

/// What is said of a part that PostgreSQL could not store, or not give back.
pub(super) fn unstorable(part: Part) -> impl Fn(Unstorable) -> Error {
    move |reason| Error::MessageRejected { part: Some(part), reason: format!(": {reason}") }
}

/// What is said of a group's name of so many bytes.
pub(super) fn group_too_long(bytes: usize) -> Error {
    let reason =
        format!(": `{GROUP_HEADER}` must have at most {MAX_GROUP_BYTES} bytes, not {bytes}");
    Error::invalid(Part::Headers, reason)
}
