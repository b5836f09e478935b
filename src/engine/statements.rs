//! The kinds of statements that have lanes.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::{
    domain::{Message, NewMessage, QueueName, Settled, Target},
    store::{
        self, Action, Conn, Error, Idempotency, Rejection, Result, SendOutcome, SendRequest, Sent,
        SettleRules, VisibilityChange,
    },
};

use super::{
    batch::WORTH_ANOTHER,
    lane::{BatchStatement, ShareOutcome},
    multi_queue::{MultiQueueStatement, Part},
    notifier::Notifier,
    separation::{RETRY_SEPARATE, SEPARATE, SharedSeparation},
};

/// Rows with a key that are worth a statement beside those under way: each is written with its key, at several times
/// the price of one without.
const WORTH_ANOTHER_ONCE: usize = 16;

/// Requests in a statement from which on their keys are taken for new ones: to look for each costs more than to undo
/// it all now and then. Fewer have no id wasted by a repeated one.
const CROWD: usize = 8;

/// Storing messages; a request brings one, or several that are stored all or none.
pub(super) struct Send {
    pub(super) notifier: Arc<Notifier>,
    /// For how long keys are looked for before anything is stored: requests were repeated just now.
    repeated: SharedSeparation,
}

/// Messages to store.
pub(super) struct NewMessages {
    pub(super) messages: Vec<NewMessage>,
    /// Whether ids have to grow from commit to commit, as somebody reads in that order.
    pub(super) in_turn: bool,
    /// What stands for the request, if it is to be done once.
    pub(super) once: Option<Idempotency>,
    /// Until when it is tried where something is locked, if not for as long as others.
    pub(super) locked_until: Option<Instant>,
}

/// Deleting or archiving messages.
pub(super) struct End {
    pub(super) action: Action,
    pub(super) notifier: Arc<Notifier>,
    /// For how long to delete plainly is not worth a try.
    odd: SharedSeparation,
}

/// A message that is done with.
pub(super) struct Ended {
    pub(super) target: Target,
    /// Whether others of its group can be delivered now.
    pub(super) unblocks: bool,
}

/// Setting the visibility of messages; the answer has the message, if it was there.
pub(super) struct SetVisibility(pub(super) Arc<Notifier>);

impl Send {
    pub(super) fn new(notifier: Arc<Notifier>) -> Self {
        Self { notifier, repeated: SharedSeparation::default() }
    }

    async fn store(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
    ) -> Result<Vec<SendOutcome>> {
        match self.store_all(conn, queue, inputs).await {
            // An id that is there already tells of a sequence that lags behind its table.
            Err(Error::Rejected(Rejection::Conflict(violated)))
                if Self::lagged(conn, queue, violated.as_deref()).await =>
            {
                self.store_all(conn, queue, inputs).await
            }
            outcomes => outcomes,
        }
    }

    async fn store_all(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
    ) -> Result<Vec<SendOutcome>> {
        let in_turn = inputs.iter().any(|input| input.in_turn);
        if inputs.iter().any(|input| input.once.is_some()) {
            return self.store_once(conn, queue, inputs, in_turn).await;
        }
        let all: Vec<&NewMessage> = inputs.iter().flat_map(|input| &input.messages).collect();
        let mut ids = store::send(conn, queue, &all, in_turn).await?.into_iter();
        let of = |input: &&NewMessages| {
            Ok(Sent::Stored(ids.by_ref().take(input.messages.len()).collect()))
        };
        Ok(inputs.iter().map(of).collect())
    }

    async fn store_once(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
        in_turn: bool,
    ) -> Result<Vec<SendOutcome>> {
        let look_first = inputs.len() < CROWD || self.repeated.holds();
        let outcomes =
            store::send_once(conn, queue, &requests(inputs), in_turn, look_first).await?;
        if outcomes.iter().any(|outcome| !matches!(outcome, Ok(Sent::Stored(_)))) {
            // What was stored with it had to be undone.
            self.repeated.begin(RETRY_SEPARATE);
        }
        Ok(outcomes)
    }

    /// Whether the sequence of a queue's ids lagged behind its table, and does not any more. That it
    /// cannot be told changes nothing of what was stored.
    async fn lagged(conn: &mut Conn, queue: &QueueName, violated: Option<&str>) -> bool {
        matches!(store::advance_sequence(conn, queue, violated).await, Ok(true))
    }
}

impl Send {
    /// Has those looked for who wait, if there is something new.
    fn notify_of(&self, outcomes: &[SendOutcome]) {
        if outcomes.iter().any(|outcome| matches!(outcome, Ok(Sent::Stored(_)))) {
            self.notifier.notify();
        }
    }

    /// Has those try again that met an id that was there already, if the sequence lagged behind its table.
    /// The others are stored, whatever becomes of that.
    async fn retry_ids(&self, conn: &mut Conn, queue: &QueueName, outcomes: &mut [SendOutcome]) {
        let violated: Vec<Option<Arc<str>>> = outcomes.iter().map(violated_by).collect();
        let mut constraints: Vec<&str> = violated.iter().flatten().map(|name| &**name).collect();
        constraints.sort_unstable();
        constraints.dedup();
        for constraint in constraints {
            let again = match store::advance_sequence(conn, queue, Some(constraint)).await {
                Ok(true) => Error::Locked,
                Err(error @ (Error::SequenceBehind | Error::Exhausted(_))) => error,
                Ok(false) | Err(_) => continue,
            };
            for (outcome, violated) in outcomes.iter_mut().zip(&violated) {
                if violated.as_deref() == Some(constraint) {
                    *outcome = Err(again.clone());
                }
            }
        }
    }
}

fn requests<'a>(inputs: &[&'a NewMessages]) -> Vec<SendRequest<'a>> {
    let request = |input: &&'a NewMessages| SendRequest {
        messages: &input.messages,
        once: input.once.as_ref(),
    };
    inputs.iter().map(request).collect()
}

/// The unique constraint that refused a request's messages, if one did.
fn violated_by(outcome: &SendOutcome) -> Option<Arc<str>> {
    match outcome {
        Err(Error::Rejected(Rejection::Conflict(name))) => name.clone(),
        _ => None,
    }
}

impl BatchStatement for Send {
    type Input = NewMessages;
    type Output = SendOutcome;
    const NAME: &'static str = "send";

    fn worth_another(first: &NewMessages) -> usize {
        if first.once.is_some() && !first.in_turn { WORTH_ANOTHER_ONCE } else { WORTH_ANOTHER }
    }

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
    ) -> Result<Vec<SendOutcome>> {
        let outcomes = self.store(conn, queue, inputs).await?;
        self.notify_of(&outcomes);
        Ok(outcomes)
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&NewMessages],
    ) -> Result<Vec<SendOutcome>> {
        let in_turn = inputs.iter().any(|input| input.in_turn);
        let mut outcomes = store::send_each(conn, queue, &requests(inputs), in_turn).await?;
        self.notify_of(&outcomes);
        self.retry_ids(conn, queue, &mut outcomes).await;
        Ok(outcomes)
    }

    fn is_in_turn(input: &NewMessages) -> bool {
        input.in_turn
    }

    fn locked_until(input: &NewMessages) -> Option<Instant> {
        input.locked_until
    }

    fn is_locked(outcome: &SendOutcome) -> bool {
        matches!(outcome, Err(Error::Locked))
    }
}

impl End {
    pub(super) fn new(action: Action, notifier: Arc<Notifier>) -> Self {
        Self { action, notifier, odd: SharedSeparation::default() }
    }

    fn entries(&self, inputs: &[&Ended]) -> Vec<(Action, Target)> {
        inputs.iter().map(|input| (self.action.clone(), input.target)).collect()
    }

    fn tell(&self, inputs: &[&Ended]) {
        if inputs.iter().any(|input| input.unblocks) {
            self.notifier.notify();
        }
    }
}

impl BatchStatement for End {
    type Input = Ended;
    type Output = Settled;
    const NAME: &'static str = "end";

    /// Deletes what is at the delivery that is said: mostly that is all there is to do, and it takes half the time of
    /// a statement that tells what became of the others. Without a delivery the other one is as cheap.
    async fn run_plainly(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Ended],
    ) -> Result<Vec<Option<Settled>>> {
        let is_said = inputs.iter().any(|input| input.target.delivered.is_some());
        if !is_said || self.action != Action::Delete || self.odd.holds() {
            return Ok(Vec::new());
        }
        let part = Part { work: self, queue, inputs: inputs.to_vec() };
        Ok(match Self::run_for_all(conn, &[part]).await?.pop() {
            Some(ShareOutcome::Done(settled)) => settled,
            Some(ShareOutcome::Separate) => {
                self.odd.begin(SEPARATE);
                Vec::new()
            }
            Some(ShareOutcome::Retry) | None => Vec::new(),
        })
    }

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
            store::settle(conn, queue, &self.entries(inputs), SettleRules::default(), false).await?
        };
        self.tell(inputs);
        Ok(settled)
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Ended],
    ) -> Result<Vec<Settled>> {
        let settled =
            store::settle(conn, queue, &self.entries(inputs), SettleRules::default(), true).await?;
        self.tell(inputs);
        Ok(settled)
    }

    fn is_locked(settled: &Settled) -> bool {
        *settled == Settled::Locked
    }
}

impl BatchStatement for SetVisibility {
    type Input = VisibilityChange;
    type Output = (Settled, Option<Message>);
    const NAME: &'static str = "set_visibility";

    /// Of two wishes for one message the later one holds, as if they had come one by one; both are
    /// answered with the outcome.
    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&VisibilityChange],
    ) -> Result<Vec<(Settled, Option<Message>)>> {
        let settled = store::set_visibility(conn, queue, inputs, false).await?;
        self.0.notify();
        Ok(settled)
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&VisibilityChange],
    ) -> Result<Vec<(Settled, Option<Message>)>> {
        let settled = store::set_visibility(conn, queue, inputs, true).await?;
        self.0.notify();
        Ok(settled)
    }

    fn is_locked((settled, _): &(Settled, Option<Message>)) -> bool {
        *settled == Settled::Locked
    }
}

/// Ids in ascending order, so that two batches lock rows in the same order.
fn distinct(inputs: &[&Ended]) -> Vec<i64> {
    let mut ids: Vec<i64> = inputs.iter().map(|input| input.target.msg_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Of two requests for one message that is done with the first had it; the second came too late.
fn first_of_each(inputs: &[&Ended], found: Vec<(i64, Settled)>) -> Vec<Settled> {
    let mut found: HashMap<i64, Settled, RandomState> = found.into_iter().collect();
    let settled = |input: &&Ended| match found.get_mut(&input.target.msg_id) {
        Some(settled @ Settled::Done) => std::mem::replace(settled, Settled::Missing),
        Some(settled) => *settled,
        None => Settled::Missing,
    };
    inputs.iter().map(settled).collect()
}
