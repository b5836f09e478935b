//! Topics: messages that go to every queue whose patterns match their routing key.

use std::sync::Arc;

use crate::{
    domain::{Call, NewMessage, QueueName, Scope},
    store::{self, BindOutcome, Binding, Operation, PublishLimits},
};

use super::{
    Broker, Error, IdempotencyKey, Part, Replayable, Result, policies::Policy,
    transactions::TopicDelivery, work::Kind,
};

/// The most bindings that are listed at once.
pub const MAX_BINDINGS: usize = 10_000;
/// The most wildcards of a pattern: what it takes to compare one grows with them.
const MAX_WILDCARDS: usize = 8;

/// Bindings, by pattern and then by queue.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Those that are listed.
    pub listed: Vec<Binding>,
    /// Whether there are more, and these are any of them.
    pub is_cut: bool,
}

/// Where messages are published to.
#[derive(Clone, Debug)]
pub struct Topic {
    /// What the bindings' patterns are compared with.
    pub routing_key: String,
    /// The queues that it may lead to; others that are bound to it get nothing.
    pub within: Scope,
}

impl Broker {
    /// The bindings of all queues, or of one, as far as they are `visible`; at most [`MAX_BINDINGS`].
    pub async fn bindings(
        &self,
        call: &Arc<Call>,
        queue: Option<QueueName>,
        visible: Scope,
    ) -> Result<Bindings> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let _leave = broker.dear(queue.as_ref(), &call).await?;
            let (queue, visible) = (queue.as_ref(), &visible);
            let found = broker.on_catalogue(&call, "bindings", |mut conn| async move {
                match queue {
                    Some(queue) if !store::exists(&mut conn, queue).await? => Ok(None),
                    _ => {
                        // One more tells whether there are more.
                        let found =
                            store::bindings(&mut conn, queue, visible, MAX_BINDINGS + 1).await;
                        found.map(Some)
                    }
                }
            });
            let missing =
                || Error::QueueNotFound(queue.map(ToString::to_string).unwrap_or_default());
            let mut listed = found.await??.ok_or_else(missing)?;
            let is_cut = listed.len() > MAX_BINDINGS;
            listed.truncate(MAX_BINDINGS);
            Ok(Bindings { listed, is_cut })
        })
        .await
    }

    /// Binds a queue to a pattern; true if it was not bound to it before.
    pub async fn bind(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        pattern: String,
    ) -> Result<(bool, Binding)> {
        check_wildcards(&pattern)?;
        let (broker, call) = (self.clone(), Arc::clone(call));
        let most = self.limits.max_bindings_per_queue;
        self.run(true, async move {
            let (queue, pattern) = (&queue, &*pattern);
            let policy = broker.policies.of(queue).await?;
            let bound =
                broker.on_queue(Kind::Define, queue, &policy, &call, |mut conn| async move {
                    store::bind(&mut conn, queue, pattern, most).await
                });
            let (outcome, bound) = bound.await?.map_err(Error::of_changing(queue))?;
            let new = match outcome {
                BindOutcome::Done => true,
                BindOutcome::AsBefore => false,
                BindOutcome::NoQueue => return Err(Error::QueueNotFound(queue.to_string())),
                BindOutcome::Full => {
                    let reason = format!(
                        "queue `{queue}` has {most} bindings, as many as \
                         `limits.max_bindings_per_queue` allows"
                    );
                    return Err(Error::invalid(None, reason));
                }
            };
            Ok((new, bound.ok_or_else(|| no_binding(queue, pattern))?))
        })
        .await
    }

    /// Ends a binding.
    pub async fn unbind(&self, call: &Arc<Call>, queue: QueueName, pattern: String) -> Result<()> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            let (queue, pattern) = (&queue, &*pattern);
            let policy = broker.policies.of(queue).await?;
            let unbound =
                broker.on_queue(Kind::Define, queue, &policy, &call, |mut conn| async move {
                    store::unbind(&mut conn, queue, pattern).await
                });
            match unbound.await?.map_err(Error::of_changing(queue))? {
                BindOutcome::Done => Ok(()),
                BindOutcome::NoQueue => Err(Error::QueueNotFound(queue.to_string())),
                BindOutcome::AsBefore | BindOutcome::Full => Err(no_binding(queue, pattern)),
            }
        })
        .await
    }

    /// The queues that a routing key leads to, as far as they are `visible`.
    pub async fn routed_to(
        &self,
        call: &Arc<Call>,
        routing_key: String,
        visible: Scope,
    ) -> Result<Vec<String>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let (key, visible) = (&*routing_key, &visible);
            let found = broker.on_catalogue(&call, "bindings", |mut conn| async move {
                store::route(&mut conn, key, visible).await
            });
            Ok(found.await??)
        })
        .await
    }

    /// Stores a message in every queue that the topic leads to, all or none.
    pub async fn publish(
        &self,
        call: &Arc<Call>,
        topic: Topic,
        new: NewMessage,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<TopicDelivery>>> {
        self.policies.ensure_fresh().await?;
        let (broker, bytes) = (self.clone(), new.bytes());
        let checked = self
            .cpu_pool
            .run(bytes, move || broker.check_new(&new, &Policy::default()).map(|()| new));
        let new = checked.await??;
        self.publish_all(call, topic, vec![new], once).await
    }

    /// Stores messages in every queue that the topic leads to, all or none.
    pub async fn publish_batch(
        &self,
        call: &Arc<Call>,
        topic: Topic,
        batch: Vec<NewMessage>,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<TopicDelivery>>> {
        self.policies.ensure_fresh().await?;
        let (broker, bytes) = (self.clone(), batch.iter().map(NewMessage::bytes).sum());
        let checked = self
            .cpu_pool
            .run(bytes, move || broker.check_batch(&batch, &Policy::default()).map(|()| batch));
        let batch = checked.await??;
        self.publish_all(call, topic, batch, once).await
    }

    async fn publish_all(
        &self,
        call: &Arc<Call>,
        topic: Topic,
        messages: Vec<NewMessage>,
        once: Option<IdempotencyKey>,
    ) -> Result<Replayable<Vec<TopicDelivery>>> {
        let Topic { routing_key, within } = topic;
        let once = once.map(|once| self.idempotency(once));
        let limits = PublishLimits {
            deliveries: self.limits.max_publish_messages,
            bytes: self.limits.max_publish_bytes,
        };
        let operations = vec![Operation::Publish(routing_key, messages, within, limits)];
        let outcomes = self.execute(call, operations, once).await;
        let outcomes = outcomes.map_err(Error::without_operation)?;
        Ok(outcomes.map(|outcomes| outcomes.into_iter().flat_map(|o| o.deliveries).collect()))
    }
}

fn check_wildcards(pattern: &str) -> Result<()> {
    let wildcards = pattern.matches(['*', '#']).count();
    if wildcards > MAX_WILDCARDS {
        let reason = format!("must have at most {MAX_WILDCARDS} wildcards, not {wildcards}");
        return Err(Error::invalid(Part::Pattern, reason));
    }
    Ok(())
}

fn no_binding(queue: &QueueName, pattern: &str) -> Error {
    Error::BindingNotFound { queue: queue.to_string(), pattern: pattern.to_owned() }
}
