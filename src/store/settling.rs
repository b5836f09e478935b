//! What becomes of delivered messages, in SQL.

use crate::domain::{Message, QueueName, Settled, Target, Visibility};

use super::{
    Conn, Rejection,
    decode::{Text, get},
    error::{Error, Result},
    messages::{decode, moments},
};
use sqlx::postgres::PgRow;

/// What to do to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delete it.
    Delete,
    /// Move it into the archive.
    Archive,
    /// Hide it until then.
    Hide(Visibility),
}

impl Action {
    /// The word for it in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::Hide(_) => "hide",
        }
    }

    const fn visibility(self) -> Option<Visibility> {
        match self {
            Self::Hide(visible) => Some(visible),
            Self::Delete | Self::Archive => None,
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
    rows.iter().map(|row| Ok((get(row, "id")?, outcome(row)?))).collect()
}

/// Moves messages into the archive. Otherwise as [`delete`].
pub async fn archive(
    conn: &mut Conn,
    queue: &QueueName,
    messages: &[i64],
) -> Result<Vec<(i64, Settled)>> {
    let query = sqlx::query("/* archive */ SELECT * FROM pgmq_gateway.archive($1, $2)");
    let rows = conn.on(queue).change(query.bind(queue.as_str()).bind(messages)).await?;
    rows.iter().map(|row| Ok((get(row, "id")?, outcome(row)?))).collect()
}

/// The targets of several actions as three arrays.
fn arrays<'a>(
    targets: impl Iterator<Item = &'a Target>,
) -> (Vec<i64>, Vec<Option<i32>>, Vec<Option<i64>>) {
    let (mut ids, mut counts, mut queues) = (Vec::new(), Vec::new(), Vec::new());
    for Target { msg_id, delivered } in targets {
        ids.push(*msg_id);
        counts.push(delivered.map(|delivered| delivered.read_ct));
        queues.push(delivered.map(|delivered| delivered.queue_id));
    }
    (ids, counts, queues)
}

/// Deletes, archives and hides messages in one transaction, and says what became of each. A row that its
/// table refuses fails the whole, unless they are done `one_by_one`.
pub async fn settle(
    conn: &mut Conn,
    queue: &QueueName,
    entries: &[(Action, Target)],
    one_by_one: bool,
) -> Result<Vec<Settled>> {
    let (ids, counts, queues) = arrays(entries.iter().map(|(_, target)| target));
    let visible = entries.iter().map(|(action, _)| action.visibility().unwrap_or(Visibility::NOW));
    let (delays, times) = moments(visible);
    let actions: Vec<&str> = entries.iter().map(|(action, _)| action.as_str()).collect();
    let query = sqlx::query(
        "/* settle */ SELECT outcome, constraint_name \
         FROM pgmq_gateway.settle($1, $2, $3, $4, $5, $6, $7, $8) ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(actions)
    .bind(ids)
    .bind(counts)
    .bind(queues)
    .bind(delays)
    .bind(times)
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

/// Hides messages, each until a moment of its own, and returns those that were there as they are
/// now. Of two wishes for one message the later one holds. Otherwise as [`settle`].
pub async fn set_visibility(
    conn: &mut Conn,
    queue: &QueueName,
    wishes: &[&(Target, Visibility)],
    one_by_one: bool,
) -> Result<Vec<(Settled, Option<Message>)>> {
    let (ids, counts, queues) = arrays(wishes.iter().map(|(target, _)| target));
    let (delays, times) = moments(wishes.iter().map(|(_, visible)| *visible));
    let query = sqlx::query(
        "/* set_vt */ SELECT * FROM pgmq_gateway.set_visibility($1, $2, $3, $4, $5, $6, $7) \
         ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(ids)
    .bind(counts)
    .bind(queues)
    .bind(delays)
    .bind(times)
    .bind(one_by_one);
    let rows = conn.on(queue).change(query).await?;
    if rows.len() != wishes.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter()
        .map(|row| {
            let constraint: Option<Text> = get(row, "constraint_name")?;
            let settled = settled(get(row, "outcome")?, constraint.as_ref().map(|name| &*name.0))?;
            let found = settled == Settled::Done;
            Ok((settled, if found { Some(decode(row)?) } else { None }))
        })
        .collect()
}

fn outcome(row: &PgRow) -> Result<Settled> {
    settled(get(row, "outcome")?, None)
}

pub(super) fn settled(word: &str, constraint: Option<&str>) -> Result<Settled> {
    Ok(match word {
        "done" => Settled::Done,
        "missing" => Settled::Missing,
        "stale" => Settled::Stale,
        "locked" => Settled::Locked,
        "unreadable" => Settled::Unreadable,
        "no_archive" => Settled::NoArchive,
        other => match Rejection::from_outcome(other, None, constraint) {
            Some(Rejection::Conflict(_)) => Settled::Conflict,
            Some(Rejection::Failed(_)) => Settled::Failed,
            Some(_) => Settled::Kept,
            None => return Err(Error::unexpected_word(other)),
        },
    })
}
