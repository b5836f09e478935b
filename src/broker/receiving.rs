//! Delivering messages, and looking at them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    config::ReadMode,
    domain::{
        Bounded, Call, FifoMode, Filter, Message, MsgId, PageSize, Quantity, QueueName,
        VisibilityTimeout, Wait,
    },
    engine::{Delivery, Shareable},
    store::{self, DeadLetters, Page, Pop, Read},
    telemetry::MessageEvent,
};

use super::{Broker, Error, Result, policies::Policy, work::Kind};

/// A receive.
#[derive(Clone, Debug)]
pub struct Receive {
    /// The queue.
    pub queue: QueueName,
    /// The most messages to return.
    pub qty: Quantity,
    /// How long they stay hidden; as the queue's settings say where nothing is said.
    pub vt: Option<VisibilityTimeout>,
    /// How long to wait for a first one.
    pub wait: Wait,
    /// A JSON object that they must contain.
    pub filter: Option<Filter>,
    /// Whether and how to read in groups.
    pub fifo: Option<FifoMode>,
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

impl Receive {
    /// Refuses what makes no sense, whatever is in the database.
    pub fn check(&self) -> Result<()> {
        if self.fifo.is_some() && self.filter.is_some() {
            return Err(Error::FilterInGroups);
        }
        Ok(())
    }
}

impl Broker {
    /// Leases what can be delivered, waiting for it if that is wished.
    pub async fn receive(&self, call: &Arc<Call>, what: Receive) -> Result<Delivery> {
        what.check()?;
        let policy = self.policies.of(&what.queue).await?;
        self.receive_by(call, what, &policy).await
    }

    /// The same where its policy is known.
    pub(super) async fn receive_by(
        &self,
        call: &Arc<Call>,
        what: Receive,
        policy: &Policy,
    ) -> Result<Delivery> {
        let queue = &what.queue;
        self.check_name_unambiguous(queue, policy, call).await?;
        if policy.settings.paused && what.wait.get() == 0 {
            return Ok(Delivery::empty());
        }
        let read = self.read_of(&what, policy);
        let limit = self.request_timeout + Duration::from_secs(what.wait.get().unsigned_abs());
        let waiting = Waiting::begin(call, what.wait);
        let delivery = timeout(limit, self.engine.receive(read, what.wait, call)).await;
        if delivery.is_ok() {
            waiting.end();
        }
        let Ok(delivery) = delivery else {
            // Whatever comes too late is given back.
            return Err(self.not_in_time().await);
        };
        Ok(self.signed(delivery.map_err(Error::on(queue))?))
    }

    /// The read that a receive is.
    pub(super) fn read_of(&self, what: &Receive, policy: &Policy) -> Read {
        let filter = what.filter.clone().filter(Filter::is_selective);
        let takes_turns = policy.settings.fair && filter.is_none();
        Read {
            queue: what.queue.clone(),
            vt: what.vt.unwrap_or(policy.settings.visibility_timeout).as_i32(),
            qty: what.qty.as_i32(),
            filter,
            fifo: what.fifo.or(takes_turns.then_some(FifoMode::Fair)),
            after_group: None,
            dead_letters: dead_letters(policy),
            max_bytes: self.limits.max_answer_bytes,
            as_pgmq: self.read_mode == ReadMode::Pgmq,
            since: None,
        }
    }

    /// With the receipts of its messages.
    pub(super) fn signed(&self, mut delivery: Delivery) -> Delivery {
        for message in &mut delivery.messages {
            message.sign(&self.receipt_key);
        }
        delivery
    }

    /// Reads messages and deletes them in the same statement. A client that leaves before the
    /// statement is sent loses nothing; later than that, the messages are gone.
    pub async fn pop(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        qty: Quantity,
    ) -> Result<Vec<Message>> {
        let policy = self.policies.of(&queue).await?;
        if policy.settings.paused {
            return Ok(Vec::new());
        }
        self.check_name_unambiguous(&queue, &policy, call).await?;
        let what = Pop {
            queue: queue.clone(),
            qty: qty.as_i32(),
            max_bytes: self.limits.max_answer_bytes,
            as_pgmq: self.read_mode == ReadMode::Pgmq,
            dead_letters: dead_letters(&policy),
            since: None,
        };
        let popped = self.engine.pop(what.clone(), policy.fifo, call);
        match self.within_time(popped).await.map_err(Error::on(&queue))? {
            Shareable::Done(messages) => {
                self.metrics.messages(queue.as_str(), MessageEvent::Deleted, messages.len());
                Ok(messages)
            }
            Shareable::Alone => self.pop_alone(call, what, policy).await,
        }
    }

    /// Outside the lanes, as something is in the way.
    async fn pop_alone(
        &self,
        call: &Arc<Call>,
        what: Pop,
        policy: Arc<Policy>,
    ) -> Result<Vec<Message>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(true, async move {
            if !call.has_room() {
                return Err(Error::Overloaded(
                    "the requests in hand, of all or of this key, hold as many bytes as may be; try again in a \
                     moment",
                ));
            }
            let (engine, what, queue) = (&broker.engine, &what, &what.queue);
            let popped = broker.on_queue(Kind::Pop, queue, &policy, &call, |mut conn| async move {
                engine.pop_alone(&mut conn, what).await
            });
            let messages = popped.await?.map_err(Error::on(queue))?.messages;
            broker.metrics.messages(queue.as_str(), MessageEvent::Deleted, messages.len());
            if policy.fifo {
                engine.tell(queue);
            }
            Ok(messages)
        })
        .await
    }

    /// One message, without leasing it.
    pub async fn message(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        id: MsgId,
    ) -> Result<Arc<Message>> {
        let policy = self.policies.of(&queue).await?;
        self.check_name_unambiguous(&queue, &policy, call).await?;
        let looked = timeout(self.request_timeout, self.engine.look(&queue, id, call)).await;
        let Ok(looked) = looked else { return Err(self.not_in_time().await) };
        match looked.map_err(Error::on(&queue))? {
            Shareable::Done(found) => {
                found.ok_or_else(|| Error::message_not_found(&queue, id.get()))
            }
            Shareable::Alone => self.message_alone(call, queue, policy, id).await,
        }
    }

    /// Outside the lanes, as something is in the way.
    async fn message_alone(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
        policy: Arc<Policy>,
        id: MsgId,
    ) -> Result<Arc<Message>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let one = &queue;
            let found = broker.on_queue(Kind::Look, one, &policy, &call, |mut conn| async move {
                store::message(&mut conn, one, id).await
            });
            match found.await? {
                Ok(Some(message)) => Ok(Arc::new(message)),
                Ok(None) => Err(Error::message_not_found(&queue, id.get())),
                Err(store::Error::Unreadable) => Err(Error::MessageUnreadable(id.get())),
                Err(error) => Err(Error::on(&queue)(error)),
            }
        })
        .await
    }

    /// Messages in order of their ids, leasing none.
    pub async fn peek(&self, call: &Arc<Call>, what: Peek) -> Result<Page<Message>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let (queue, after) = (&what.queue, what.after);
            let (limit, most) = (what.limit.as_i32(), broker.limits.max_answer_bytes);
            let heavy = broker.engine.heavy_queues();
            let policy = broker.policies.of(queue).await?;
            let seen =
                broker.on_queue(Kind::Browse, queue, &policy, &call, |mut conn| async move {
                    let mut limit = heavy.rows(queue, limit);
                    let mut readable_only = false;
                    loop {
                        match store::peek(&mut conn, queue, after, limit, most, readable_only).await
                        {
                            Err(store::Error::Timeout) if limit > 1 => {
                                heavy.note(queue);
                                limit = 1;
                            }
                            // One that cannot be sent is left out, and hides no other.
                            Err(store::Error::Unreadable) if !readable_only => readable_only = true,
                            seen => return seen,
                        }
                    }
                });
            seen.await?.map_err(Error::on(queue))
        })
        .await
    }
}

/// A receive that may wait. The engine tells how long it has waited when it is over; dropped before that,
/// as its client has left, this does.
struct Waiting<'a> {
    call: Option<&'a Call>,
    begun: Instant,
}

impl<'a> Waiting<'a> {
    fn begin(call: &'a Call, wait: Wait) -> Self {
        Self { call: (wait.get() > 0).then_some(call), begun: Instant::now() }
    }

    fn end(mut self) {
        self.call = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            call.add_waited(self.begun.elapsed());
        }
    }
}

fn dead_letters(policy: &Policy) -> Option<DeadLetters> {
    let settings = &policy.settings;
    let max_receives = settings.max_receives.map(Bounded::as_i32)?;
    let queue = settings.dead_letter_queue.as_ref().map(|queue| queue.0.clone());
    Some(DeadLetters { max_receives, queue })
}
