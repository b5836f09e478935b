//! Keys with which requests are done once, and what became of a request that stores messages.

use std::time::Duration;

use sqlx::postgres::PgRow;
use tracing::warn;

use crate::domain::NewMessage;

use super::{
    decode::get,
    error::{Error, Result},
    rejection::refusal_code,
    statement::Statement,
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

/// What became of a request, or why it was not stored.
pub type SendOutcome = Result<Sent>;

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

/// That a key could not be claimed, for no reason of the messages'.
pub(super) fn key_failed(code: Option<&str>) -> Error {
    let source = |code: &str| {
        sqlx::Error::Protocol(format!("an idempotency key cannot be claimed: SQLSTATE {code}"))
    };
    match code {
        // The table is not as it should be.
        Some(code) if code.starts_with("42") && code != "42501" || code.starts_with("XX") => {
            Error::unexpected(source(code))
        }
        code => Error::KeyRefused(code.and_then(refusal_code)),
    }
}
