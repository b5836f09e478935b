//! Requests that are done once, however often they are sent, in SQL.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde_json::value::RawValue;
use sqlx::{Postgres, Row, postgres::PgArguments, postgres::PgRow, query::Query, types::Json};
use tracing::warn;

use crate::domain::{NewMessage, QueueName};

use super::{
    Conn,
    decode::{get, only_row},
    error::{Error, Result},
    messages::{SendOutcome, key_failed, moments, visibility},
};

/// What stands for a request that is to be done once.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// What the key is for: a method and a path, say. The same key in another scope is another key.
    pub scope: String,
    /// The client's key.
    pub key: String,
    /// What tells one request from another.
    pub fingerprint: [u8; 32],
    /// How long the key is remembered.
    pub lifetime: Duration,
}

/// Messages that are stored all or none and, with a key, once.
#[derive(Clone, Copy, Debug)]
pub struct SendRequest<'a> {
    /// The messages.
    pub messages: &'a [NewMessage],
    /// What stands for the request.
    pub once: Option<&'a Idempotency>,
}

/// What became of a request that stores messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// They are stored; their ids in order.
    Stored(Vec<i64>),
    /// They were stored before, for a request with the same key; their ids in order.
    Replayed(Vec<i64>),
    /// Its key stands for another request.
    KeyConflict,
    /// It was done before, and what it came to is lost.
    AnswerLost,
}

impl Idempotency {
    /// The lifetime as PostgreSQL counts it.
    pub(super) fn seconds(&self) -> i32 {
        i32::try_from(self.lifetime.as_secs()).unwrap_or(i32::MAX)
    }
}

impl Sent {
    /// Reads what a function of ours says of a request with so many messages; nothing if it is no word for a
    /// request that went through.
    pub(super) fn from_row(word: &str, row: &PgRow, messages: usize) -> Result<Option<Self>> {
        let ids = || get::<Option<Vec<i64>>>(row, "ids").map(Option::unwrap_or_default);
        Ok(Some(match word {
            "done" => {
                let ids = ids()?;
                if ids.len() != messages {
                    return Err(Error::unexpected(sqlx::Error::RowNotFound));
                }
                Self::Stored(ids)
            }
            "replayed" => match ids()? {
                ids if ids.len() == messages => Self::Replayed(ids),
                _ => Self::lost(),
            },
            "unreadable" => Self::lost(),
            "key_conflict" => Self::KeyConflict,
            _ => return Ok(None),
        }))
    }

    /// The ids of what is stored, be it by this request or by one before.
    pub fn into_ids(self) -> Vec<i64> {
        match self {
            Self::Stored(ids) | Self::Replayed(ids) => ids,
            Self::KeyConflict | Self::AnswerLost => Vec::new(),
        }
    }

    fn lost() -> Self {
        warn!("an answer in pgmq_gateway.idempotency_keys makes no sense");
        Self::AnswerLost
    }
}

/// A statement with its parameters.
type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Adds the keys of requests to a statement, an array for each part of them; no arrays if none has a key.
pub(super) fn bind_keys<'q>(
    query: Statement<'q>,
    once: &[Option<&'q Idempotency>],
) -> Statement<'q> {
    let any = once.iter().any(Option::is_some);
    let once = || once.iter().copied();
    let scopes = any.then(|| once().map(|once| once.map(|once| &*once.scope)).collect::<Vec<_>>());
    let keys = any.then(|| once().map(|once| once.map(|once| &*once.key)).collect::<Vec<_>>());
    let fingerprints =
        any.then(|| once().map(|once| once.map(|once| &once.fingerprint[..])).collect::<Vec<_>>());
    let lifetimes =
        any.then(|| once().map(|once| once.map(Idempotency::seconds)).collect::<Vec<_>>());
    query.bind(scopes).bind(keys).bind(fingerprints).bind(lifetimes)
}

/// Stores the messages of several requests in one statement, those with a key once. If one is refused, nothing
/// is done. `in_turn` holds back whoever else stores there until it is committed. `look_first` is worth its price
/// where keys are likely to be known.
pub async fn send_once(
    conn: &mut Conn,
    queue: &QueueName,
    requests: &[SendRequest<'_>],
    in_turn: bool,
    look_first: bool,
) -> Result<Vec<SendOutcome>> {
    let all = || requests.iter().flat_map(|request| request.messages);
    let headers: Vec<Option<Json<&RawValue>>> =
        all().map(|new| new.headers.as_deref().map(Json)).collect();
    let (delays, times) = moments(all().map(visibility));
    let owner = |(n, request): (usize, &SendRequest<'_>)| {
        std::iter::repeat_n(ordinal(n), request.messages.len())
    };
    let owners: Vec<i32> = requests.iter().enumerate().flat_map(owner).collect();
    let query = sqlx::query(
        "/* send_once */ SELECT place, ids, outcome \
         FROM pgmq_gateway.send_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(queue.as_str())
    .bind(all().map(|new| new.stored().map(Json)).collect::<Vec<_>>())
    .bind(headers.iter().any(Option::is_some).then_some(headers))
    .bind(delays)
    .bind(times)
    .bind(in_turn)
    .bind(owners);
    let once: Vec<_> = requests.iter().map(|request| request.once).collect();
    let query = bind_keys(query, &once).bind(look_first || !are_distinct(&once));
    let rows = conn.on(queue).store(query).await?;
    let mut by_place = HashMap::new();
    for row in &rows {
        by_place.insert(row.try_get::<i32, _>("place").map_err(Error::unexpected)?, row);
    }
    let outcome = |(n, request): (usize, &SendRequest<'_>)| {
        let row = by_place.get(&ordinal(n));
        let row = row.ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
        match get(row, "outcome")? {
            "locked" => Ok(Err(Error::Locked)),
            "key_failed" => Ok(Err(key_failed(None))),
            word => match Sent::from_row(word, row, request.messages.len())? {
                Some(sent) => Ok(Ok(sent)),
                None => Err(Error::unexpected_word(word)),
            },
        }
    };
    requests.iter().enumerate().map(outcome).collect()
}

/// Whether no key stands there twice.
fn are_distinct(once: &[Option<&Idempotency>]) -> bool {
    let mut seen = HashSet::with_capacity(once.len());
    once.iter().flatten().all(|once| seen.insert((&*once.scope, &*once.key)))
}

/// What became of an earlier request with the same key, which was about so many messages; nothing if there is none.
pub async fn earlier_answer(
    conn: &mut Conn,
    queue: &QueueName,
    once: &Idempotency,
    messages: usize,
) -> Result<Option<Sent>> {
    let query = sqlx::query(
        "/* earlier_answer */ SELECT * FROM pgmq_gateway.answer_in_force($1, $2, $3, $4, $5)",
    )
    .bind(queue.as_str())
    .bind(&once.scope)
    .bind(&once.key)
    .bind(&once.fingerprint[..])
    .bind(once.seconds());
    let rows = conn.on(queue).look(query).await?;
    let row = only_row(&rows)?;
    match get(row, "outcome")? {
        None | Some("locked" | "key_failed") => Ok(None),
        Some(word) => match Sent::from_row(word, row, messages)? {
            Some(sent) => Ok(Some(sent)),
            None => Err(Error::unexpected_word(word)),
        },
    }
}

/// A place as PostgreSQL counts them.
fn ordinal(index: usize) -> i32 {
    i32::try_from(index + 1).unwrap_or(i32::MAX)
}
