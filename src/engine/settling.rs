//! Settling for several clients in one statement, and leasing for those of them that want the next messages.

use std::{collections::HashSet, sync::Arc};

use tokio::time::Instant;

use crate::{
    domain::{Message, QueueName, RetryBackoff, Settled, Target},
    store::{self, Action, Conn, EndedAndRead, Error, Read, Result, SettleRules},
    telemetry::MessageEvent,
};

use super::{
    Delivery, Shared,
    lane::BatchStatement,
    notifier::Notifier,
    quarantine::take_away,
    receivers::Receivers,
    separation::{SEPARATE, SharedSeparation},
    size::Size,
    takes::Shareable,
};

/// Rows that are worth a statement beside those under way: each is sought, ended or leased, by an UPDATE or a DELETE.
const WORTH_ANOTHER_SETTLE: usize = 32;

/// Settling messages of a queue.
pub(super) struct Settling {
    shared: Shared,
    notifier: Arc<Notifier>,
    receivers: Arc<Receivers>,
    /// For how long to delete plainly is not worth a try.
    odd: SharedSeparation,
}

/// What one client wants to settle, and whether it wants the next messages.
#[derive(Debug)]
pub struct SettleRequest {
    /// What to do to which messages, in order.
    pub entries: Vec<(Action, Target)>,
    /// Where dead letters go; the archive where nothing is said.
    pub dead_letter_queue: Option<QueueName>,
    /// How long those wait that are given back without a delay.
    pub backoff: Option<RetryBackoff>,
    /// What to read in the same commit, if that can be done.
    pub read: Option<Read>,
}

/// What a request to settle came to.
#[derive(Debug)]
pub struct SettleOutcome {
    /// What became of each entry, in order.
    pub settled: Vec<Settled>,
    /// What was read; nothing where that has to be asked for apart.
    pub delivery: Option<Delivery>,
}

type Outcomes = Vec<Shareable<SettleOutcome>>;

impl SettleRequest {
    /// What it weighs in a statement.
    pub(super) fn size(&self, row_bytes: usize) -> Size {
        let wanted = self.read.as_ref().map_or(0, |read| usize::try_from(read.qty).unwrap_or(1));
        let reasons: usize = self.entries.iter().map(|(action, _)| reason_bytes(action)).sum();
        let rows = (self.entries.len() + wanted).max(1);
        Size { rows, bytes: rows * row_bytes + reasons }
    }

    fn rules(&self) -> SettleRules<'_> {
        let dead_letter_queue = self.dead_letter_queue.as_ref();
        SettleRules { dead_letter_queue, backoff: self.backoff }
    }

    /// The read, if it takes what comes first.
    fn plain_read(&self) -> Option<&Read> {
        let plain = |read: &&Read| read.filter.is_none() && read.fifo.is_none() && !read.as_pgmq;
        self.read.as_ref().filter(plain)
    }

    /// Whether nothing that it settles can be delivered next. What is given back is visible only once the
    /// statement is over, so that a read in the same one would miss it.
    fn is_ends(&self) -> bool {
        self.entries.iter().all(|(action, _)| action.is_end())
    }
}

fn reason_bytes(action: &Action) -> usize {
    match action {
        Action::DeadLetter(Some(reason)) => reason.len(),
        _ => 0,
    }
}

/// Whether two reads are the same but for how many messages they want.
fn is_alike(one: &Read, other: &Read) -> bool {
    one.vt == other.vt && one.dead_letters == other.dead_letters
}

impl Settling {
    pub(super) fn new(
        shared: &Shared,
        notifier: &Arc<Notifier>,
        receivers: &Arc<Receivers>,
    ) -> Self {
        let (notifier, receivers) = (Arc::clone(notifier), Arc::clone(receivers));
        Self { shared: shared.clone(), notifier, receivers, odd: SharedSeparation::default() }
    }

    /// Whether to delete plainly is worth a try: mostly that is all there is to do, and takes far less time.
    fn is_plain(&self, entries: &[(Action, Target)]) -> bool {
        let mut ids = HashSet::with_capacity(entries.len());
        let mut is_one_more = |target: &Target| ids.insert(target.msg_id);
        let mut ends = entries.iter();
        !self.odd.holds()
            && ends.all(|(action, target)| *action == Action::Delete && is_one_more(target))
    }

    /// Ends messages, deleting them `plainly` first, and reads if that is wanted.
    async fn end_and_read(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        entries: &[(Action, Target)],
        rules: SettleRules<'_>,
        read: Option<&Read>,
        plainly: bool,
    ) -> Result<EndedAndRead> {
        let done = store::settle_and_read(conn, queue, entries, rules, read, plainly).await?;
        if done.is_separate {
            self.odd.begin(SEPARATE);
        }
        Ok(done)
    }

    /// The read for as many as can share one, and how many messages each of them wants; none where others
    /// stand in line, who came first, or a message takes too long.
    fn shared_read(
        &self,
        queue: &QueueName,
        inputs: &[&SettleRequest],
    ) -> Option<(Read, Vec<i32>)> {
        let mut read = inputs.iter().find_map(|input| input.plain_read())?.clone();
        let is_free = !self.receivers.has_long_poll()
            && !self.shared.pauses.is_paused(queue)
            && !self.shared.slow_rows.has_any(queue);
        if !is_free || !inputs.iter().all(|input| input.is_ends()) {
            return None;
        }
        let most = self.shared.heavy.rows(queue, self.receivers.most_rows());
        let mut left = most;
        let wanted = inputs.iter().map(|input| {
            let alike = input.plain_read().filter(|other| is_alike(&read, other));
            let qty = alike.map(|other| other.qty).filter(|qty| *qty <= left).unwrap_or(0);
            left -= qty;
            qty
        });
        let wanted = wanted.collect();
        read.qty = most - left;
        read.since = self.shared.floors.since(queue);
        (read.qty > 0).then_some((read, wanted))
    }

    async fn settle(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&SettleRequest],
        one_by_one: bool,
    ) -> Result<Vec<Settled>> {
        // Settings are never older than those of who came before.
        let Some(last) = inputs.last() else { return Ok(Vec::new()) };
        let (entries, rules) = (entries(inputs), last.rules());
        if !one_by_one && self.is_plain(&entries) {
            let done = self.end_and_read(conn, queue, &entries, rules, None, true).await;
            return done.map(|done| done.settled);
        }
        store::settle(conn, queue, &entries, rules, one_by_one).await
    }

    /// The same with a read behind it; nothing if that cannot be done in one statement.
    async fn settle_and_read(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&SettleRequest],
    ) -> Result<Option<Outcomes>> {
        let Some((read, wanted)) = self.shared_read(queue, inputs) else { return Ok(None) };
        let rules = inputs.last().map(|last| last.rules()).unwrap_or_default();
        let began = Instant::now();
        let entries = entries(inputs);
        let plainly = self.is_plain(&entries);
        let done = self.end_and_read(conn, queue, &entries, rules, Some(&read), plainly).await;
        let EndedAndRead { settled, found, .. } = match done {
            Ok(done) => done,
            // It was undone as a whole: without the read, it may be done.
            Err(Error::Timeout) => {
                self.shared.heavy.note(queue);
                return Ok(None);
            }
            Err(error) if error.is_about_rows() && !matches!(error, Error::Deadlock(_)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if read.since.is_none() {
            self.notifier.note_read(began.elapsed());
        }
        self.shared.kept.report(queue, found.kept.as_ref());
        take_away(conn, queue, &found.unreadable, &self.shared.metrics).await;
        let event = MessageEvent::DeadLettered;
        self.shared.metrics.messages(queue.as_str(), event, found.dead);
        // From later on than the beginning, to find nothing says little.
        let is_all = !found.more && found.kept.is_none() && read.since.is_none();
        Ok(Some(self.deal(queue, inputs, settled, found.messages, &wanted, is_all)))
    }

    /// Deals out what was read, in order of arrival; `is_all` says that there was nothing else. What nobody wants
    /// goes back.
    fn deal(
        &self,
        queue: &QueueName,
        inputs: &[&SettleRequest],
        settled: Vec<Settled>,
        messages: Vec<Message>,
        wanted: &[i32],
        is_all: bool,
    ) -> Outcomes {
        let mut messages = messages.into_iter();
        let mut outcomes = outcomes(inputs, settled);
        for (outcome, qty) in outcomes.iter_mut().zip(wanted) {
            let share: Vec<Message> =
                messages.by_ref().take(usize::try_from(*qty).unwrap_or(0)).collect();
            let is_known = *qty > 0 && (is_all || !share.is_empty());
            if let Shareable::Done(outcome) = outcome
                && is_known
            {
                outcome.delivery = Some(self.delivery(queue, share));
            }
        }
        drop(self.delivery(queue, messages.collect()));
        outcomes
    }

    fn delivery(&self, queue: &QueueName, messages: Vec<Message>) -> Delivery {
        Delivery::new(queue, messages, &self.shared)
    }
}

impl BatchStatement for Settling {
    type Input = SettleRequest;
    type Output = Shareable<SettleOutcome>;
    const NAME: &'static str = "settle";

    fn worth_another(_first: &SettleRequest) -> usize {
        WORTH_ANOTHER_SETTLE
    }

    async fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&SettleRequest],
    ) -> Result<Outcomes> {
        let outcomes = match self.settle_and_read(conn, queue, inputs).await? {
            Some(outcomes) => outcomes,
            None => match self.settle(conn, queue, inputs, false).await {
                Ok(settled) => outcomes(inputs, settled),
                Err(error) if is_for_one_alone(&error, inputs) => return Ok(alone(inputs)),
                Err(error) => return Err(error),
            },
        };
        // What is given back can be delivered, and what stood behind it in its group.
        self.notifier.notify();
        Ok(outcomes)
    }

    async fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&SettleRequest],
    ) -> Result<Outcomes> {
        let outcomes = match self.settle(conn, queue, inputs, true).await {
            Ok(settled) => outcomes(inputs, settled),
            Err(error) if is_for_one_alone(&error, inputs) => return Ok(alone(inputs)),
            Err(error) => return Err(error),
        };
        self.notifier.notify();
        Ok(outcomes)
    }

    fn is_locked(_: &Shareable<SettleOutcome>) -> bool {
        // Of several entries some are done; who asked tries the others again.
        false
    }
}

/// Whether it may be one request that failed the statement of several, so that each is to be tried alone.
fn is_for_one_alone(error: &Error, inputs: &[&SettleRequest]) -> bool {
    let is_for_all = matches!(
        error,
        Error::Locked
            | Error::Deadlock(_)
            | Error::QueueNotFound
            | Error::Overloaded
            | Error::TooManyPending
            | Error::Unavailable(_)
            | Error::OutcomeUnknown(_)
    );
    inputs.len() > 1 && !is_for_all && !error.is_about_rows()
}

fn alone(inputs: &[&SettleRequest]) -> Outcomes {
    inputs.iter().map(|_| Shareable::Alone).collect()
}

fn entries(inputs: &[&SettleRequest]) -> Vec<(Action, Target)> {
    inputs.iter().flat_map(|input| input.entries.iter().cloned()).collect()
}

/// Gives each request what became of its entries.
fn outcomes(inputs: &[&SettleRequest], settled: Vec<Settled>) -> Outcomes {
    let mut settled = settled.into_iter();
    let of = |input: &&SettleRequest| {
        let settled = settled.by_ref().take(input.entries.len()).collect();
        Shareable::Done(SettleOutcome { settled, delivery: None })
    };
    inputs.iter().map(of).collect()
}
