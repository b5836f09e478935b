//! Requests that are done once, however often they are sent, in SQL.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;
use sqlx::{Row, types::Json};

use crate::domain::QueueName;

use super::{
    Conn,
    decode::{get, only_row},
    error::{Error, Result},
    idempotency::{Idempotency, SendOutcome, SendRequest, Sent, bind_keys, key_failed},
    messages::{moments, visibility},
};

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
    let rows = conn.on(queue).run_repeatable(query).await?;
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
