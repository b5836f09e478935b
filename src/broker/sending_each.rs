//! Storing several messages of which each is stored or fails alone, and none twice.

use std::{collections::HashMap, future::Future, sync::Arc};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use crate::{
    domain::{
        Bounded, Call, MAX_GROUP_BYTES, NewMessage, QueueName, Visibility, check_storable,
        group_bytes, group_of,
    },
    engine::LockBackoff,
    store::{self, Error as StoreError, Rejection, Result as StoreResult},
    telemetry::MessageEvent,
};

use super::{
    Broker, Delivery, Error, Part, Receive, Result, Subject,
    deduplication::{Sent, deduplicated, sent_from_ids},
    policies::Policy,
    sending::{group_too_long, unstorable},
};

/// What a front end may add to a message that it has counted, beside what its text takes as JSON.
const MAX_ADDED_BYTES: u64 = 64 << 10;

/// Whether messages that failed together may fare better one by one.
fn may_be_one_messages(error: &StoreError) -> bool {
    match error {
        StoreError::Rejected(_) | StoreError::Locked | StoreError::Deadlock(_) => true,
        // Each of them would take as long.
        StoreError::Timeout => false,
        other => other.may_be_one_requests(),
    }
}

/// Whether what was not stored for this reason may be once its sender tries again.
fn may_pass(error: &StoreError) -> bool {
    !matches!(error, StoreError::Rejected(reason) if !matches!(reason, Rejection::Failed(_)))
}

/// Stores messages one after the other. What stands behind one of its group that its sender may send again is not
/// stored before that one, and not tried: it is told the same.
async fn in_order<F>(
    messages: Vec<NewMessage>,
    store: impl Fn(NewMessage) -> F,
) -> Vec<StoreResult<Sent>>
where
    F: Future<Output = StoreResult<Sent>>,
{
    let mut held_up: HashMap<Option<String>, StoreError> = HashMap::new();
    let mut outcomes = Vec::with_capacity(messages.len());
    for new in messages {
        let group = new.headers.as_deref().and_then(|headers| group_of(headers.get()));
        let outcome = match held_up.get(&group) {
            // Of this one it is known.
            Some(StoreError::OutcomeUnknown(_)) => Err(StoreError::Unavailable(None)),
            Some(error) => Err(error.clone()),
            None => store(new).await,
        };
        if let Err(error) = &outcome
            && may_pass(error)
        {
            held_up.entry(group).or_insert_with(|| error.clone());
        }
        outcomes.push(outcome);
    }
    outcomes
}

/// The tries of a batch, which have as much time together as one message has.
struct Tries<'a> {
    broker: &'a Broker,
    call: &'a Arc<Call>,
    queue: &'a QueueName,
    fifo: bool,
    /// Until when what is locked is tried, and until when anything is.
    locked_until: Instant,
    until: Instant,
}

impl<'a> Tries<'a> {
    fn begin(broker: &'a Broker, call: &'a Arc<Call>, queue: &'a QueueName, fifo: bool) -> Self {
        let locked_until = LockBackoff::new().until();
        let until = Instant::now() + broker.request_timeout;
        Self { broker, call, queue, fifo, locked_until, until }
    }

    /// Stores all or none, and returns what the store answers.
    async fn send(&self, messages: Vec<NewMessage>) -> StoreResult<Vec<i64>> {
        if Instant::now() >= self.until {
            return Err(StoreError::Unavailable(None));
        }
        let (engine, locked_until) = (&self.broker.engine, Some(self.locked_until));
        let sent = engine.send(self.queue, messages, self.fifo, None, locked_until, self.call);
        // What is over the time may still be done.
        let sent = timeout_at(self.until, sent).await;
        sent.unwrap_or(Err(StoreError::OutcomeUnknown(None))).map(store::Sent::into_ids)
    }

    async fn send_one(&self, new: NewMessage) -> StoreResult<Sent> {
        let flags = deduplicated(std::slice::from_ref(&new));
        let stored = sent_from_ids(self.send(vec![new]).await?, flags).into_iter().next();
        stored.ok_or(StoreError::OutcomeUnknown(None))
    }
}

/// What holds for a queue. Whoever asks for it hands it on to what it does to the queue then.
#[derive(Clone, Debug)]
pub struct QueueRules {
    /// Bytes of a message.
    pub max_bytes: u64,
    /// Whether the queue is read in groups.
    pub fifo: bool,
    /// Whether its groups take turns.
    pub fair: bool,
    policy: Arc<Policy>,
}

impl Broker {
    /// What holds for a queue, as its settings say.
    pub async fn queue_rules(&self, queue: &QueueName) -> Result<QueueRules> {
        let policy = self.policies.of(queue).await?;
        let of_queue = policy.settings.max_message_bytes.map(Bounded::get);
        let of_queue = of_queue.and_then(|bytes| u64::try_from(bytes).ok());
        let of_server = self.limits.max_message_bytes;
        let max_bytes = of_queue.map_or(of_server, |bytes| bytes.min(of_server));
        let (fifo, fair) = (policy.fifo, policy.settings.fair);
        Ok(QueueRules { max_bytes, fifo, fair, policy })
    }

    /// As [`Broker::receive`] does, by rules that are known of its queue.
    pub async fn receive_by_rules(
        &self,
        call: &Arc<Call>,
        what: Receive,
        rules: &QueueRules,
    ) -> Result<Delivery> {
        what.check()?;
        self.receive_by(call, what, &rules.policy).await
    }

    /// Stores messages in order; each is stored or fails alone. Their front end has counted their bytes in
    /// its own way. They go through the lane together.
    pub async fn send_each(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        messages: Vec<NewMessage>,
        QueueRules { policy, .. }: &QueueRules,
    ) -> Result<Vec<Result<Sent>>> {
        self.check_name_unambiguous(queue, policy, call).await?;
        let (broker, bytes) = (self.clone(), messages.iter().map(NewMessage::bytes).sum());
        let delay = policy.settings.delay;
        let checked = self.cpu_pool.run(bytes, move || {
            let check = |mut new: NewMessage| {
                new.visible.get_or_insert(Visibility::After(delay));
                broker.check_alone(&new).map(|()| new)
            };
            messages.into_iter().map(check).collect::<Vec<_>>()
        });
        let checked: Vec<Result<NewMessage>> = checked.await?;
        let good: Vec<NewMessage> =
            checked.iter().filter_map(|one| one.as_ref().ok().cloned()).collect();
        let mut sent = self.store_each(call, queue, good, policy.fifo).await?.into_iter();
        let outcome = |one: Result<NewMessage>| match one {
            Err(error) => Err(error),
            Ok(_) => sent.next().unwrap_or_else(|| {
                Err(Error::Internal("no outcome for a message that was sent".into()))
            }),
        };
        Ok(checked.into_iter().map(outcome).collect())
    }

    async fn store_each(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        messages: Vec<NewMessage>,
        fifo: bool,
    ) -> Result<Vec<Result<Sent>>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let alone = messages.len() > 1;
        let flags = deduplicated(&messages);
        let again = if alone { messages.clone() } else { Vec::new() };
        let tries = Tries::begin(self, call, queue, fifo);
        let outcomes = match tries.send(messages).await {
            Ok(stored) => sent_from_ids(stored, flags).into_iter().map(Ok).collect(),
            // Nothing of it was stored.
            Err(error) if alone && may_be_one_messages(&error) => {
                if fifo {
                    in_order(again, |new| tries.send_one(new)).await
                } else {
                    // At once, as each may wait for what somebody has locked.
                    join_all(again.into_iter().map(|new| tries.send_one(new))).await
                }
            }
            Err(error) => return Err(Error::of_sending(queue)(error)),
        };
        let stored = outcomes.iter().flatten().filter(|sent: &&Sent| !sent.is_duplicate).count();
        self.metrics.messages(queue.as_str(), MessageEvent::Sent, stored);
        let outcome = |outcome: StoreResult<Sent>| outcome.map_err(Error::of_sending(queue));
        Ok(outcomes.into_iter().map(outcome).collect())
    }

    /// Refuses what PostgreSQL cannot store, and what is far over the limit, whatever its front end counts: as
    /// JSON, what it has counted takes twice the bytes at most.
    fn check_alone(&self, new: &NewMessage) -> Result<()> {
        let (bytes, limit) = (new.bytes(), self.limits.max_message_bytes);
        if bytes > limit.saturating_mul(2).saturating_add(MAX_ADDED_BYTES) {
            return Err(Error::MessageTooLarge { what: Subject::Message, bytes, limit });
        }
        let headers = new.headers.as_deref().map_or("", |headers| headers.get());
        for (part, json) in [(Part::Message, new.message.get()), (Part::Headers, headers)] {
            check_storable(json, self.limits.storable()).map_err(unstorable(part))?;
        }
        let group = group_bytes(headers);
        if group > MAX_GROUP_BYTES {
            return Err(group_too_long(group));
        }
        Ok(())
    }

    /// What the senders of messages were told as their ids that have the same deduplication ids as these; no id
    /// where that is not known any more.
    pub async fn first_message_ids(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Option<String>>> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let headers: Vec<_> =
                messages.iter().filter_map(|new| new.headers.as_deref()).collect();
            let (queue, headers) = (&queue, &*headers);
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::first_message_ids(&mut conn, queue, headers).await
            });
            Ok(found.await??)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn new(group: Option<&str>, number: usize) -> NewMessage {
        let raw = |value| to_raw_value(&value).expect("JSON");
        let headers = group.map(|group| raw(json!({"x-pgmq-group": group})));
        NewMessage { message: raw(json!(number)), sql_null: false, headers, visible: None }
    }

    /// Which were tried, and what became of each.
    async fn stored(
        groups: &[Option<&str>],
        fails: &[(usize, StoreError)],
    ) -> (Vec<usize>, String) {
        let tried = Mutex::new(Vec::new());
        let messages = groups.iter().enumerate().map(|(number, group)| new(*group, number));
        let store = |new: NewMessage| {
            let number: usize = new.message.get().parse().expect("a number");
            tried.lock().expect("nobody panicked").push(number);
            let failed = fails.iter().find(|(which, _)| *which == number);
            let id = i64::try_from(number).expect("small");
            let sent = Sent { msg_id: id, is_duplicate: false };
            std::future::ready(failed.map_or(Ok(sent), |(_, error)| Err(error.clone())))
        };
        let outcomes = in_order(messages.collect(), store).await;
        let letter = |outcome: &StoreResult<Sent>| match outcome {
            Ok(_) => 's',
            Err(StoreError::Locked) => 'l',
            Err(StoreError::Rejected(_)) => 'r',
            Err(StoreError::OutcomeUnknown(_)) => '?',
            Err(_) => 'u',
        };
        let outcomes = outcomes.iter().map(letter).collect();
        (tried.into_inner().expect("nobody panicked"), outcomes)
    }

    #[tokio::test]
    async fn what_stands_behind_one_of_its_group_that_may_come_yet_is_not_tried() {
        let groups = [Some("a"), Some("b"), Some("a"), None, Some("b"), None];
        for (fails, tried, outcomes) in [
            (vec![], vec![0, 1, 2, 3, 4, 5], "ssssss"),
            (vec![(0, StoreError::Locked)], vec![0, 1, 3, 4, 5], "lslsss"),
            (vec![(3, StoreError::Locked)], vec![0, 1, 2, 3, 4], "ssslsl"),
            (vec![(1, StoreError::OutcomeUnknown(None))], vec![0, 1, 2, 3, 5], "s?ssus"),
            // It would be refused again.
            (
                vec![(0, StoreError::Rejected(Rejection::NotStored))],
                vec![0, 1, 2, 3, 4, 5],
                "rsssss",
            ),
            (
                vec![(0, StoreError::Rejected(Rejection::Failed("53100".into())))],
                vec![0, 1, 3, 4, 5],
                "rsrsss",
            ),
        ] {
            let expected = (tried, outcomes.to_owned());
            assert_eq!(stored(&groups, &fails).await, expected);
        }
    }
}
