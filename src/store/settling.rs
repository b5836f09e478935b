//! What becomes of delivered messages, in SQL.

use std::sync::Arc;

use crate::domain::{
    Delay, DeliveryId, Message, QueueName, RetryBackoff, Settled, Target, Visibility,
};

use super::{
    Conn, Rejection,
    decode::{ColumnAt, Text, get},
    error::{Error, Result},
    messages::{decode, moment, moments},
    statement::Statement,
};
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;

/// What to do to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete it.
    Delete,
    /// Move it into the archive.
    Archive,
    /// Move it to the dead letters, for a reason that its headers are to say.
    DeadLetter(Option<Arc<str>>),
    /// Hide it until then.
    Hide(Visibility),
    /// Give it back.
    Retry {
        /// Seconds until it can be delivered again; as the queue's back-off says where nothing is said.
        after: Option<Delay>,
        /// Whether its delivery is taken back, so that it does not count.
        uncounted: bool,
    },
}

/// What holds for all that is settled in one statement.
#[derive(Clone, Copy, Debug, Default)]
pub struct SettleRules<'a> {
    /// Where dead letters go; the archive where nothing is said.
    pub dead_letter_queue: Option<&'a QueueName>,
    /// How long those wait that are given back without a delay; they don't where nothing is said.
    pub backoff: Option<RetryBackoff>,
}

/// A change of the moment from which a message may be delivered again.
#[derive(Clone, Copy, Debug)]
pub struct VisibilityChange {
    /// The message.
    pub target: Target,
    /// The moment.
    pub visible: Visibility,
    /// Whether the message is to be returned as it is then.
    pub shown: bool,
}

impl Action {
    /// The word for it in SQL.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::DeadLetter(_) => "dead_letter",
            Self::Hide(_) | Self::Retry { .. } => "hide",
        }
    }

    /// Nothing where the back-off says it.
    fn visibility(&self) -> Option<Visibility> {
        match self {
            Self::Hide(visible) => Some(*visible),
            Self::Retry { after: Some(delay), .. } => Some(Visibility::After(*delay)),
            Self::Retry { after: None, uncounted: false } => None,
            // What is given back uncounted was not tried.
            Self::Retry { .. } | Self::Delete | Self::Archive | Self::DeadLetter(_) => {
                Some(Visibility::NOW)
            }
        }
    }

    /// Whether the message is over for its queue then, so that nothing of it can be delivered next.
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Delete | Self::Archive | Self::DeadLetter(_))
    }

    fn is_uncounted(&self) -> bool {
        matches!(self, Self::Retry { uncounted: true, .. })
    }

    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::DeadLetter(reason) => reason.as_deref(),
            _ => None,
        }
    }
}

/// Deletes messages by ids that are in ascending order, and returns what became of those that were there.
pub async fn delete(
    conn: &mut Conn,
    queue: &QueueName,
    messages: &[i64],
) -> Result<Vec<(i64, Settled)>> {
    let query = sqlx::query("/* delete */ SELECT * FROM pgmq_gateway.delete($1, $2)");
    let rows = conn.on(queue).change(query.bind(queue.as_str()).bind(messages)).await?;
    rows.iter().map(ended).collect()
}

/// Moves messages into the archive. Otherwise as [`delete`].
pub async fn archive(
    conn: &mut Conn,
    queue: &QueueName,
    messages: &[i64],
) -> Result<Vec<(i64, Settled)>> {
    let query = sqlx::query("/* archive */ SELECT * FROM pgmq_gateway.archive($1, $2)");
    let rows = conn.on(queue).change(query.bind(queue.as_str()).bind(messages)).await?;
    rows.iter().map(ended).collect()
}

/// The targets of several actions, as arrays.
#[derive(Default)]
pub(super) struct Targets {
    pub(super) ids: Vec<i64>,
    pub(super) counts: Vec<Option<i32>>,
    pub(super) stamps: Vec<Option<i64>>,
    pub(super) queues: Vec<Option<i64>>,
}

impl Targets {
    /// As parameters of a statement. Mostly nobody says which delivery it is, and then no list says so of each.
    pub(super) fn bind(self, query: Statement<'_>) -> Statement<'_> {
        let is_said = self.queues.iter().any(Option::is_some);
        query
            .bind(self.ids)
            .bind(is_said.then_some(self.counts))
            .bind(is_said.then_some(self.stamps))
            .bind(is_said.then_some(self.queues))
    }
}

impl<'a> FromIterator<&'a Target> for Targets {
    fn from_iter<I: IntoIterator<Item = &'a Target>>(targets: I) -> Self {
        let mut arrays = Self::default();
        for Target { msg_id, delivered } in targets {
            arrays.ids.push(*msg_id);
            arrays.counts.push(delivered.map(|delivered| delivered.read_ct));
            arrays.stamps.push(delivered.and_then(DeliveryId::stamp));
            arrays.queues.push(delivered.map(|delivered| delivered.queue_id));
        }
        arrays
    }
}

/// Deletes, archives, dead-letters and hides messages in one transaction, and says what became of each. A row
/// that its table refuses fails the whole, unless they are done `one_by_one`.
pub async fn settle(
    conn: &mut Conn,
    queue: &QueueName,
    entries: &[(Action, Target)],
    rules: SettleRules<'_>,
    one_by_one: bool,
) -> Result<Vec<Settled>> {
    let targets: Targets = entries.iter().map(|(_, target)| target).collect();
    let actions = || entries.iter().map(|(action, _)| action);
    let (delays, times): (Vec<Option<i32>>, Vec<Option<DateTime<Utc>>>) =
        actions().map(|action| moment(action.visibility())).unzip();
    let uncounted: Vec<bool> = actions().map(Action::is_uncounted).collect();
    let reasons: Vec<Option<&str>> = actions().map(Action::reason).collect();
    let query = sqlx::query(
        "/* settle */ SELECT outcome, constraint_name FROM pgmq_gateway.settle( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(actions().map(Action::as_str).collect::<Vec<_>>())
    .bind(targets.ids)
    .bind(targets.counts)
    .bind(targets.stamps)
    .bind(targets.queues)
    .bind(delays)
    .bind(times)
    .bind(Some(uncounted).filter(|all| all.contains(&true)))
    .bind(Some(reasons).filter(|all| all.iter().any(Option::is_some)))
    .bind(rules.dead_letter_queue.map(QueueName::as_str))
    .bind(rules.backoff.map(|backoff| backoff.parts().to_vec()))
    .bind(one_by_one);
    let rows = conn.on(queue).change(query).await?;
    if rows.len() != entries.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter()
        .map(|row| {
            let constraint: Option<Text> = get(row, "constraint_name")?;
            settled(get(row, "outcome")?, constraint.as_ref().map(|name| &*name.0))
        })
        .collect()
}

/// Hides messages, each until a moment of its own, and returns those that were there, and are to be shown, as
/// they are now. Of two wishes for one message the later one holds. Otherwise as [`settle`].
pub async fn set_visibility(
    conn: &mut Conn,
    queue: &QueueName,
    changes: &[&VisibilityChange],
    one_by_one: bool,
) -> Result<Vec<(Settled, Option<Message>)>> {
    let targets: Targets = changes.iter().map(|change| &change.target).collect();
    let (delays, times) = moments(changes.iter().map(|change| change.visible));
    let query = sqlx::query(
        "/* set_vt */ SELECT * FROM pgmq_gateway.set_visibility($1, $2, $3, $4, $5, $6, $7, $8, $9) \
         ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(targets.ids)
    .bind(targets.counts)
    .bind(targets.stamps)
    .bind(targets.queues)
    .bind(delays)
    .bind(times)
    .bind(changes.iter().map(|change| change.shown).collect::<Vec<_>>())
    .bind(one_by_one);
    let rows = conn.on(queue).change(query).await?;
    if rows.len() != changes.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter()
        .zip(changes)
        .map(|(row, change)| {
            let constraint: Option<Text> = get(row, "constraint_name")?;
            let settled = settled(get(row, "outcome")?, constraint.as_ref().map(|name| &*name.0))?;
            let found = settled == Settled::Done && change.shown;
            Ok((settled, if found { Some(decode(row)?) } else { None }))
        })
        .collect()
}

/// A message, and what became of it.
fn ended(row: &PgRow) -> Result<(i64, Settled)> {
    let word = get(row, ColumnAt(1, "outcome"))?;
    Ok((get(row, ColumnAt(0, "id"))?, settled(word, None)?))
}

pub(super) fn settled(word: &str, constraint: Option<&str>) -> Result<Settled> {
    Ok(match word {
        "done" => Settled::Done,
        "missing" => Settled::Missing,
        "stale" => Settled::Stale,
        "locked" => Settled::Locked,
        "unreadable" => Settled::Unreadable,
        "no_archive" => Settled::NoArchive,
        "no_uncount" => Settled::NoUncount,
        "no_reason" => Settled::NoReason,
        other => match Rejection::from_outcome(other, None, constraint) {
            Some(Rejection::Conflict(_)) => Settled::Conflict,
            Some(Rejection::Failed(_)) => Settled::Failed,
            Some(Rejection::Differs(_)) => Settled::Differs,
            Some(_) => Settled::Kept,
            None => return Err(Error::unexpected_word(other)),
        },
    })
}
