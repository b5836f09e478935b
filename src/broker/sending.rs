//! Storing messages.

use std::sync::Arc;

use chrono::TimeDelta;

use crate::{
    domain::{
        Bounded, CallStats, Delay, GROUP_HEADER, MAX_GROUP_BYTES, NewMessage, QueueName,
        Visibility, check_storable, group_bytes,
    },
    store::{self, Idempotency},
    telemetry::MessageEvent,
};

use super::{Broker, Error, Result, Sent, policies::Policy};

/// What stands for a request that is to be done once, however often it is sent.
#[derive(Clone, Debug)]
pub struct Once {
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
        stats: &Arc<CallStats>,
        queue: QueueName,
        new: NewMessage,
        once: Option<Once>,
    ) -> Result<Replayable<i64>> {
        let policy = self.policies.of(&queue).await?;
        let (broker, of_queue) = (self.clone(), Arc::clone(&policy));
        let checked = self.cpu_pool.run(new.bytes(), move || {
            broker.check_new(&new, &of_queue, &|field| field.to_owned()).map(|()| new)
        });
        let new = checked.await??;
        let sent = self.store(stats, &queue, vec![new], &policy, once).await?;
        let id = sent.result.first().copied();
        let id = id.ok_or_else(|| Error::Internal("no id for a stored message".into()))?;
        Ok(sent.map(|_| id))
    }

    /// Stores messages, all or none, and returns their ids in order.
    pub async fn send_batch(
        &self,
        stats: &Arc<CallStats>,
        queue: QueueName,
        batch: Vec<NewMessage>,
        once: Option<Once>,
    ) -> Result<Replayable<Vec<i64>>> {
        let policy = self.policies.of(&queue).await?;
        let (broker, of_queue) = (self.clone(), Arc::clone(&policy));
        let bytes = batch.iter().map(NewMessage::bytes).sum();
        let checked =
            self.cpu_pool.run(bytes, move || broker.check_batch(&batch, &of_queue).map(|()| batch));
        let batch = checked.await??;
        self.store(stats, &queue, batch, &policy, once).await
    }

    /// Refuses a batch that is empty, too long, or has something in it that must not be stored.
    pub(super) fn check_batch(&self, batch: &[NewMessage], policy: &Policy) -> Result<()> {
        let most = self.limits.max_batch_messages;
        if !(1..=most).contains(&batch.len()) {
            return Err(Error::Invalid(format!(
                "`messages` must hold 1 to {most} messages, not {}",
                batch.len()
            )));
        }
        let mut expanded: u64 = 0;
        for (index, new) in batch.iter().enumerate() {
            let at = |field: &str| format!("messages[{index}]{}", dotted(field));
            expanded = expanded.saturating_add(self.check_one(new, policy, &at)?);
        }
        self.check_total("`messages`", expanded)
    }

    /// Refuses messages that are larger than a body may be once their numbers are written out.
    pub(super) fn check_total(&self, what: &str, expanded: u64) -> Result<()> {
        let limit = self.limits.max_body_bytes;
        if expanded > limit {
            return Err(Error::MessageExpands { what: what.to_owned(), bytes: expanded, limit });
        }
        Ok(())
    }

    async fn store(
        &self,
        stats: &Arc<CallStats>,
        queue: &QueueName,
        mut messages: Vec<NewMessage>,
        policy: &Policy,
        once: Option<Once>,
    ) -> Result<Replayable<Vec<i64>>> {
        self.check_name_unambiguous(queue, stats).await?;
        for new in &mut messages {
            new.visible.get_or_insert(Visibility::After(policy.settings.delay));
        }
        let once = once.map(|once| self.idempotency(once));
        let sent = self.engine.send(queue, messages, policy.fifo, once, stats);
        match self.within_time(sent).await.map_err(Error::of_sending(queue))? {
            store::Sent::Stored(ids) => {
                let sent: Vec<Sent> = ids.into_iter().map(Sent::of).collect();
                let stored = sent.iter().filter(|sent| !sent.is_duplicate).count();
                self.metrics.messages(queue.as_str(), MessageEvent::Sent, stored);
                Ok(Replayable { result: ids_of(sent), replayed: false })
            }
            store::Sent::Replayed(ids) => {
                let sent = ids.into_iter().map(Sent::of).collect();
                Ok(Replayable { result: ids_of(sent), replayed: true })
            }
            store::Sent::KeyConflict => Err(Error::IdempotencyConflict),
            store::Sent::AnswerLost => Err(Error::IdempotencyAnswerLost),
        }
    }

    pub(super) fn idempotency(&self, once: Once) -> Idempotency {
        let Once { scope, key, fingerprint } = once;
        Idempotency { scope, key, fingerprint, lifetime: self.idempotency_lifetime }
    }

    /// Refuses what must not be stored, before anything is. `at` names a field, or the whole.
    pub(super) fn check_new(
        &self,
        new: &NewMessage,
        policy: &Policy,
        at: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        self.check_one(new, policy, at).map(drop)
    }

    /// The same; returns the message's length once its numbers are written out.
    fn check_one(
        &self,
        new: &NewMessage,
        policy: &Policy,
        at: &dyn Fn(&str) -> String,
    ) -> Result<u64> {
        let headers = new.headers.as_deref().map_or("", |headers| headers.get());
        if !headers.is_empty() && !headers.starts_with('{') {
            return Err(Error::Invalid(format!("`{}` must be a JSON object", at("headers"))));
        }
        let of_queue = policy.settings.max_message_bytes.map(Bounded::get);
        let of_queue = of_queue.and_then(|bytes| u64::try_from(bytes).ok());
        let limit = of_queue.unwrap_or(u64::MAX).min(self.limits.max_message_bytes);
        let what = || {
            let whole = at("");
            if whole.is_empty() { "the message".to_owned() } else { format!("`{whole}`") }
        };
        let bytes = new.bytes();
        if bytes > limit {
            return Err(Error::MessageTooLarge { what: what(), bytes, limit });
        }
        let storable = self.limits.storable();
        let mut expanded: u64 = 0;
        for (field, json) in [("message", new.message.get()), ("headers", headers)] {
            expanded += check_storable(json, storable)
                .map_err(|reason| Error::MessageRejected(format!("`{}`: {reason}", at(field))))?;
        }
        if expanded > limit {
            return Err(Error::MessageExpands { what: what(), bytes: expanded, limit });
        }
        let group = group_bytes(headers);
        if group > MAX_GROUP_BYTES {
            return Err(Error::Invalid(format!(
                "`{}`: `{GROUP_HEADER}` must have at most {MAX_GROUP_BYTES} bytes, not {group}",
                at("headers")
            )));
        }
        if let Some(visible) = new.visible {
            self.check_moment::<{ Delay::MAX }>(&at("visible_at"), visible)?;
        }
        Ok(expanded)
    }

    /// Refuses a moment too far ahead, by the database's clock.
    pub(super) fn check_moment<const MAX_SECONDS: i64>(
        &self,
        field: &str,
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
        Err(Error::Invalid(format!("`{field}` must be at most {latest} seconds from now")))
    }
}

fn ids_of(sent: Vec<Sent>) -> Vec<i64> {
    sent.into_iter().map(|sent| sent.msg_id).collect()
}

fn dotted(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(".{field}") }
}
