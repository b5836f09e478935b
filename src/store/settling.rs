//! What becomes of delivered messages, in SQL.

use sqlx::{Row, postgres::types::Oid};

use crate::domain::{Message, QueueName, Settled, Target, Visibility};

use super::{
    Conn,
    error::{Error, Result},
    messages::{decode, ids, moments},
};

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

/// Deletes messages and returns the ids of those that were there.
pub async fn delete(conn: &mut Conn, queue: &QueueName, messages: &[i64]) -> Result<Vec<i64>> {
    let query = sqlx::query(
        "/* delete */ SELECT * FROM pgmq.delete(pgmq_gateway.queue_named($1), $2::bigint[])",
    );
    ids(&conn.change(query.bind(queue.as_str()).bind(messages)).await?)
}

/// Moves messages into the archive and returns the ids of those that were there.
pub async fn archive(conn: &mut Conn, queue: &QueueName, messages: &[i64]) -> Result<Vec<i64>> {
    let query = sqlx::query(
        "/* archive */ SELECT * FROM pgmq.archive(pgmq_gateway.queue_named($1), $2::bigint[])",
    );
    ids(&conn.change(query.bind(queue.as_str()).bind(messages)).await?)
}

/// The targets of several actions as three arrays.
fn arrays<'a>(
    targets: impl Iterator<Item = &'a Target>,
) -> (Vec<i64>, Vec<Option<i32>>, Vec<Option<Oid>>) {
    let (mut ids, mut counts, mut relations) = (Vec::new(), Vec::new(), Vec::new());
    for Target { msg_id, delivered } in targets {
        ids.push(*msg_id);
        counts.push(delivered.map(|delivered| delivered.read_ct));
        relations.push(delivered.map(|delivered| Oid(delivered.relation)));
    }
    (ids, counts, relations)
}

/// Deletes, archives and hides messages in one transaction, and says what became of each.
pub async fn settle(
    conn: &mut Conn,
    queue: &QueueName,
    entries: &[(Action, Target)],
) -> Result<Vec<Settled>> {
    let (ids, counts, relations) = arrays(entries.iter().map(|(_, target)| target));
    let visible = entries.iter().map(|(action, _)| action.visibility().unwrap_or(Visibility::NOW));
    let (delays, times) = moments(visible);
    let actions: Vec<&str> = entries.iter().map(|(action, _)| action.as_str()).collect();
    let query = sqlx::query(
        "/* settle */ SELECT outcome FROM pgmq_gateway.settle($1, $2, $3, $4, $5, $6, $7) \
         ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(actions)
    .bind(ids)
    .bind(counts)
    .bind(relations)
    .bind(delays)
    .bind(times);
    let rows = conn.change(query).await?;
    rows.iter().map(|row| outcome(row.try_get("outcome"))).collect()
}

/// Hides messages, each until a moment of its own, and returns those that were there as they are
/// now. Of two wishes for one message the later one holds.
pub async fn set_visibility(
    conn: &mut Conn,
    queue: &QueueName,
    wishes: &[&(Target, Visibility)],
) -> Result<Vec<(Settled, Option<Message>)>> {
    let (ids, counts, relations) = arrays(wishes.iter().map(|(target, _)| target));
    let (delays, times) = moments(wishes.iter().map(|(_, visible)| *visible));
    let query = sqlx::query(
        "/* set_vt */ SELECT * FROM pgmq_gateway.set_visibility($1, $2, $3, $4, $5, $6) \
         ORDER BY place",
    )
    .bind(queue.as_str())
    .bind(ids)
    .bind(counts)
    .bind(relations)
    .bind(delays)
    .bind(times);
    let rows = conn.change(query).await?;
    rows.iter()
        .map(|row| {
            let settled = outcome(row.try_get("outcome"))?;
            let found = settled == Settled::Done;
            Ok((settled, if found { Some(decode(row)?) } else { None }))
        })
        .collect()
}

fn outcome(word: std::result::Result<&str, sqlx::Error>) -> Result<Settled> {
    match word.map_err(Error::unexpected)? {
        "ok" => Ok(Settled::Done),
        "missing" => Ok(Settled::Missing),
        "stale" => Ok(Settled::Stale),
        other => Err(Error::unexpected(sqlx::Error::Protocol(format!("outcome `{other}`")))),
    }
}
