//! Doing something to messages: to some, or to all that a search finds, a bounded part at a time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    broker::{
        self, Archived, Broker, BrowseMessages, MessageSearch, Position, Replay, Settle,
        SettleTarget, SettledEntry,
    },
    domain::{CallStats, MsgId, QueueName, Right, Visibility},
    http::Caller,
};

use super::{
    super::{failure::Failure, text},
    action::Action,
};

/// Messages that are dealt with in one transaction, and looked for at once.
const STEP: i32 = 500;
/// Messages that are dealt with for one request.
const MOST: usize = 10_000;
/// Time after which a request does no more.
const TIME: Duration = Duration::from_secs(8);
/// Messages, and looks, after which a preview does not count on.
const MOST_COUNTED: i64 = 10_000;
const MOST_LOOKS: usize = 20;

/// Which messages are meant.
#[derive(Clone, Debug)]
pub(in super::super) enum Messages {
    /// These.
    These(Vec<MsgId>),
    /// All that a search finds, from a place on.
    Found(MessageSearch, Option<Position>),
}

/// How many a search finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Count {
    pub(in super::super) number: i64,
    /// Whether there may be more.
    pub(in super::super) is_more: bool,
}

/// What came of an action.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Outcome {
    pub(in super::super) asked: i64,
    pub(in super::super) done: i64,
    /// Why it was not done to others, and to how many.
    pub(in super::super) reasons: BTreeMap<String, i64>,
    /// Where to go on.
    pub(in super::super) next: Option<Position>,
}

/// For whom, and where.
pub(in super::super) struct Work<'a> {
    pub(in super::super) broker: &'a Broker,
    pub(in super::super) stats: &'a Arc<CallStats>,
    pub(in super::super) caller: &'a Caller,
    pub(in super::super) queue: &'a QueueName,
}

impl Outcome {
    /// In words: how many of how many, and why not the others.
    pub(in super::super) fn said(&self, action: Action) -> String {
        let (done, asked) = (text::count(self.done), text::count(self.asked));
        let mut said = format!("{} {done} of {asked}", action.done());
        let mut missing = self.asked - self.done;
        let reasons = self.reasons.iter().map(|(reason, count)| {
            missing -= count;
            format!("{} {reason}", text::count(*count))
        });
        let mut reasons: Vec<String> = reasons.collect();
        if missing > 0 {
            reasons.push(format!("{} stayed", text::count(missing)));
        }
        if !reasons.is_empty() {
            said.push_str(": ");
            said.push_str(&reasons.join(", "));
        }
        said.push('.');
        said
    }

    fn not(&mut self, reason: impl Into<String>, count: i64) {
        if count > 0 {
            *self.reasons.entry(reason.into()).or_default() += count;
        }
    }
}

/// How many messages are meant, counting no further than makes sense.
pub(in super::super) async fn count(
    work: &Work<'_>,
    messages: &Messages,
) -> Result<Count, Failure> {
    let (search, mut after) = match messages {
        Messages::These(ids) => {
            let number = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            return Ok(Count { number, is_more: false });
        }
        Messages::Found(search, after) => (search, *after),
    };
    let mut number = 0;
    for _ in 0..MOST_LOOKS {
        let found = find(work, search, after).await?;
        number += i64::try_from(found.messages.len()).unwrap_or(0);
        after = found.next;
        if after.is_none() || number >= MOST_COUNTED {
            break;
        }
    }
    Ok(Count { number, is_more: after.is_some() })
}

async fn find(
    work: &Work<'_>,
    search: &MessageSearch,
    after: Option<Position>,
) -> Result<broker::Browsed, Failure> {
    let what = BrowseMessages {
        queue: work.queue.clone(),
        search: search.clone(),
        after,
        limit: STEP,
        ids_only: true,
    };
    Ok(work.broker.browse_messages(work.stats, what).await?)
}

/// Does it. What was done before something went wrong is done, and told.
pub(in super::super) async fn perform(
    work: &Work<'_>,
    action: Action,
    messages: Messages,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    match messages {
        Messages::These(ids) => {
            for ids in ids.chunks(STEP as usize) {
                if let Err(error) = step(work, action, ids.to_vec(), &mut outcome).await {
                    broken_off(error, &mut outcome)?;
                    break;
                }
            }
        }
        Messages::Found(search, mut after) => {
            let begun = Instant::now();
            loop {
                let found = find(work, &search, after).await?;
                let ids =
                    found.messages.iter().filter_map(|message| MsgId::new(message.msg_id).ok());
                let ids: Vec<MsgId> = ids.collect();
                if !ids.is_empty()
                    && let Err(error) = step(work, action, ids, &mut outcome).await
                {
                    outcome.next = after;
                    broken_off(error, &mut outcome)?;
                    break;
                }
                after = found.next;
                let asked = usize::try_from(outcome.asked).unwrap_or(usize::MAX);
                if after.is_none() || asked >= MOST || begun.elapsed() >= TIME {
                    outcome.next = after;
                    break;
                }
            }
        }
    }
    Ok(outcome)
}

/// Where nothing was done at all, that is the answer.
fn broken_off(error: Failure, outcome: &mut Outcome) -> Result<(), Failure> {
    if outcome.done == 0 {
        return Err(error);
    }
    let rest = outcome.asked - outcome.done - outcome.reasons.values().sum::<i64>();
    outcome.not(format!("not tried any more ({})", error.detail()), rest);
    Ok(())
}

async fn step(
    work: &Work<'_>,
    action: Action,
    ids: Vec<MsgId>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    outcome.asked += i64::try_from(ids.len()).unwrap_or(0);
    match action {
        Action::Delete => settle(work, ids, &broker::Action::Delete, outcome).await,
        Action::Archive => settle(work, ids, &broker::Action::Archive, outcome).await,
        Action::GiveBack => {
            settle(work, ids, &broker::Action::Hide(Visibility::NOW), outcome).await
        }
        Action::Redrive => redrive(work, ids, outcome).await,
        Action::Replay => replay(work, ids, outcome).await,
    }
}

async fn settle(
    work: &Work<'_>,
    ids: Vec<MsgId>,
    action: &broker::Action,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let entry = |id| (action.clone(), SettleTarget { msg_id: Some(id), receipt: None });
    let entries = ids.into_iter().map(entry).collect();
    let settled = work.broker.settle(work.stats, work.queue.clone(), Settle { entries }).await?;
    for SettledEntry { error, .. } in settled {
        match error {
            None => outcome.done += 1,
            Some(error) => outcome.not(reason(&error), 1),
        }
    }
    Ok(())
}

/// Why it was not done to one, in few words.
fn reason(error: &broker::Error) -> String {
    use broker::Error as E;
    match error {
        E::MessageNotFound { .. } => "were gone".to_owned(),
        E::Locked(_) => "were locked".to_owned(),
        E::MessageKept { .. } => "were kept by the database".to_owned(),
        E::MessageConflict(_) => "are in the archive already".to_owned(),
        E::MessageUnreadable(_) => "cannot be read".to_owned(),
        E::OutcomeUnknown(_) => "may be done or not".to_owned(),
        other => format!("failed ({other})"),
    }
}

async fn redrive(work: &Work<'_>, ids: Vec<MsgId>, outcome: &mut Outcome) -> Result<(), Failure> {
    let ids = ids.into_iter().map(MsgId::get).collect();
    let within = work.caller.scope(Some(Right::Send));
    let moved = work.broker.redrive_these(work.stats, work.queue.clone(), ids, within).await?;
    outcome.done += moved.moved;
    let why = moved.why.map_or_else(
        || "could not be moved as something was locked".to_owned(),
        |why| format!("could not be moved ({why})"),
    );
    outcome.not(why, moved.failed);
    Ok(())
}

async fn replay(work: &Work<'_>, ids: Vec<MsgId>, outcome: &mut Outcome) -> Result<(), Failure> {
    let ids = ids.into_iter().map(MsgId::get).collect();
    let what = Replay {
        queue: work.queue.clone(),
        to: None,
        which: Archived { msg_ids: Some(ids), ..Archived::default() },
        limit: None,
        dry_run: false,
    };
    outcome.done += work.broker.replay(work.stats, what).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_what_was_done_and_why_not_the_rest() {
        let mut outcome = Outcome { asked: 40, done: 37, ..Outcome::default() };
        assert_eq!(outcome.said(Action::Delete), "Deleted 37 of 40: 3 stayed.");
        outcome.not("were gone", 2);
        assert_eq!(outcome.said(Action::Delete), "Deleted 37 of 40: 2 were gone, 1 stayed.");
        outcome.not("were gone", 1);
        assert_eq!(outcome.said(Action::Archive), "Archived 37 of 40: 3 were gone.");
        let all = Outcome { asked: 2, done: 2, ..Outcome::default() };
        assert_eq!(all.said(Action::Replay), "Moved back into the queue 2 of 2.");
    }
}
