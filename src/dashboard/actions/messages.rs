//! Doing something to messages: to some, or to all that a search finds, a bounded part at a time.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use crate::{
    broker::{
        self, Archived, Broker, BrowseMessages, ListedMessage, MessageSearch, Position, Replay,
        Settle, SettleTarget, SettledEntry,
    },
    domain::{Call, MsgId, QueueName, Right, Visibility},
    http::{Caller, WireError},
};

use super::{
    super::{failure::Failure, text},
    action::Action,
    audit::Tally,
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

/// What is said of those of which nobody knows.
const MAY_BE_DONE: &str = "may be done or not";
const NOT_IN_TIME: &str = "were left, as the time was up";

/// Which messages are meant.
#[derive(Clone, Debug)]
pub(in super::super) enum Messages {
    /// These.
    These(Vec<MsgId>),
    /// All that a search finds.
    Found(Sweep),
}

/// All that a search finds that was there at a moment, from a place on.
#[derive(Clone, Debug)]
pub(in super::super) struct Sweep {
    /// Says until when, so that nothing is found that came of the action itself.
    pub(in super::super) search: MessageSearch,
    pub(in super::super) after: Option<Position>,
    /// The most that are given back where PGMQ does not say when they were last delivered.
    pub(in super::super) left: i64,
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
    /// Where to go on, and how many are left as [`Sweep::left`] counts them.
    pub(in super::super) next: Option<(Position, i64)>,
    /// What broke it off, in words and as a code.
    pub(in super::super) broken_off: Option<(String, &'static str)>,
}

/// For whom, and where.
pub(in super::super) struct Work<'a> {
    pub(in super::super) broker: &'a Broker,
    pub(in super::super) call: &'a Arc<Call>,
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
        if let Some((why, _)) = &self.broken_off {
            said.push_str(" Then it broke off: ");
            said.push_str(why);
        }
        said
    }

    /// What the log says of it.
    pub(in super::super) fn tally(&self) -> Tally {
        let error = self.broken_off.as_ref().map(|(_, code)| *code);
        Tally { asked: Some(self.asked), done: Some(self.done), error }
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
        Messages::Found(Sweep { search, after, .. }) => (search, *after),
    };
    let mut number = 0;
    let begun = Instant::now();
    for _ in 0..MOST_LOOKS {
        let found = find(work, search, after).await?;
        number += i64::try_from(found.messages.len()).unwrap_or(0);
        after = found.next;
        if after.is_none() || number >= MOST_COUNTED || begun.elapsed() >= TIME {
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
    Ok(work.broker.browse_messages(work.call, what).await?)
}

/// Does it. What was done before something went wrong is done, and told.
pub(in super::super) async fn perform(
    work: &Work<'_>,
    action: Action,
    messages: Messages,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    let ended = match messages {
        Messages::These(ids) => each(work, action, &ids, &mut outcome).await,
        Messages::Found(sweep) => all(work, action, sweep, &mut outcome).await,
    };
    match ended {
        // Where nothing came of it at all, that is the answer.
        Err(error) if outcome.done == 0 && outcome.reasons.is_empty() => Err(error),
        Err(error) => {
            outcome.broken_off = Some((error.detail().to_owned(), error.code()));
            Ok(outcome)
        }
        Ok(()) => Ok(outcome),
    }
}

async fn each(
    work: &Work<'_>,
    action: Action,
    ids: &[MsgId],
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    for ids in ids.chunks(STEP as usize) {
        step(work, action, ids.to_vec(), outcome).await?;
    }
    Ok(())
}

async fn all(
    work: &Work<'_>,
    action: Action,
    sweep: Sweep,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let Sweep { search, mut after, mut left } = sweep;
    let begun = Instant::now();
    loop {
        // Where it goes on if this fails.
        outcome.next = after.map(|after| (after, left));
        let found = find(work, &search, after).await?;
        let ids = meant(action, &found.messages, search.until, &mut left);
        if !ids.is_empty() {
            step(work, action, ids, outcome).await?;
        }
        after = found.next;
        let asked = usize::try_from(outcome.asked).unwrap_or(usize::MAX);
        if after.is_none() || asked >= MOST || begun.elapsed() >= TIME {
            outcome.next = after.map(|after| (after, left));
            return Ok(());
        }
    }
}

/// Which of those that were found are meant. What was given back may have been delivered again since, and is
/// found again behind those that are hidden: it is left out or, where nobody knows when it was delivered, no more
/// are taken than there were.
fn meant(
    action: Action,
    found: &[ListedMessage],
    until: Option<DateTime<Utc>>,
    left: &mut i64,
) -> Vec<MsgId> {
    let mut is_meant = |message: &&ListedMessage| match message.last_read_at {
        _ if action != Action::GiveBack => true,
        Some(at) => until.is_none_or(|until| at <= until),
        None => {
            *left -= 1;
            *left >= 0
        }
    };
    let found = found.iter().filter(|message| is_meant(message));
    found.map(|message| MsgId::saturating(message.msg_id)).collect()
}

/// Does it to some. Where it fails, all of these are told of as what the failure says of them.
async fn step(
    work: &Work<'_>,
    action: Action,
    ids: Vec<MsgId>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let count = i64::try_from(ids.len()).unwrap_or(0);
    let is_first = outcome.asked == 0;
    outcome.asked += count;
    let done = try_step(work, action, ids, outcome).await;
    if let Err(error) = &done
        && !is_first
    {
        outcome.not(if error.may_be_done() { MAY_BE_DONE } else { "were not done" }, count);
    }
    done
}

async fn try_step(
    work: &Work<'_>,
    action: Action,
    ids: Vec<MsgId>,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
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
    let entry =
        |id: MsgId| (action.clone(), SettleTarget { msg_id: Some(id.get()), receipt: None });
    let entries = ids.into_iter().map(entry).collect();
    let settled = work.broker.settle(work.call, work.queue.clone(), Settle { entries }).await?;
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
        E::OutcomeUnknown(_) => MAY_BE_DONE.to_owned(),
        other => format!("failed ({other})"),
    }
}

async fn redrive(work: &Work<'_>, ids: Vec<MsgId>, outcome: &mut Outcome) -> Result<(), Failure> {
    let ids = ids.into_iter().map(MsgId::get).collect();
    let within = work.caller.scope(Some(Right::Send));
    let moved = work.broker.redrive_these(work.call, work.queue.clone(), ids, within).await?;
    outcome.done += moved.moved;
    let why = moved.why.map_or_else(
        || "could not be moved as something was locked".to_owned(),
        |why| format!("could not be moved ({why})"),
    );
    outcome.not(why, moved.failed);
    outcome.not(NOT_IN_TIME, moved.left);
    Ok(())
}

async fn replay(work: &Work<'_>, ids: Vec<MsgId>, outcome: &mut Outcome) -> Result<(), Failure> {
    let ids: Vec<i64> = ids.into_iter().map(MsgId::get).collect();
    let all = ids.clone();
    let what = Replay {
        queue: work.queue.clone(),
        to: None,
        which: Archived { msg_ids: Some(ids), ..Archived::default() },
        limit: None,
        after: None,
        dry_run: false,
    };
    let moved = work.broker.replay(work.call, what).await?;
    outcome.done += moved.count;
    let left = all.iter().filter(|id| moved.next.is_some_and(|next| **id > next)).count();
    outcome.not(NOT_IN_TIME, i64::try_from(left).unwrap_or(0));
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
        outcome.not(MAY_BE_DONE, 500);
        outcome.asked += 500;
        outcome.broken_off = Some(("no answer.".to_owned(), "outcome_unknown"));
        assert_eq!(
            outcome.said(Action::Delete),
            "Deleted 37 of 540: 500 may be done or not, 3 were gone. Then it broke off: no answer."
        );
        assert_eq!(outcome.tally().error, Some("outcome_unknown"));
        let all = Outcome { asked: 2, done: 2, ..Outcome::default() };
        assert_eq!(all.said(Action::Replay), "Moved back into the queue 2 of 2.");
    }
    #[test]
    fn what_was_delivered_since_is_not_given_back_again() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let message = |msg_id, last_read_at| ListedMessage {
            msg_id,
            read_ct: 1,
            enqueued_at: DateTime::UNIX_EPOCH,
            last_read_at,
            vt: DateTime::UNIX_EPOCH,
            archived_at: None,
            message: None,
            headers: None,
            has_headers: false,
            bytes: 0,
        };
        let ids = |action, found: &[ListedMessage], left: &mut i64| {
            let meant = meant(action, found, at(10), left);
            meant.into_iter().map(MsgId::get).collect::<Vec<_>>()
        };
        let known = [message(1, at(9)), message(2, at(10)), message(3, at(11))];
        assert_eq!(ids(Action::GiveBack, &known, &mut 0), [1, 2]);
        assert_eq!(ids(Action::Archive, &known, &mut 0), [1, 2, 3]);
        // Where nobody knows, no more than there were: from page to page.
        let unknown = [message(1, None), message(2, None), message(3, None)];
        let mut left = 4;
        assert_eq!(ids(Action::GiveBack, &unknown, &mut left), [1, 2, 3]);
        assert_eq!(ids(Action::GiveBack, &unknown, &mut left), [1]);
        assert!(ids(Action::GiveBack, &unknown, &mut left).is_empty());
    }
}
