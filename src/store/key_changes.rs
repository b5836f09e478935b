//! Changes of keys, and what became of them.

use std::time::{Duration, Instant};

use sqlx::{
    Connection, Postgres,
    postgres::{PgArguments, types::PgInterval},
    query::QueryScalar,
    query_scalar,
};
use tokio::time::sleep;

use crate::domain::{KeyHash, NewApiKey};

use super::{Backoff, ConnectOptions, KeyError, KeyState, failure, list_keys};

/// Time in which a server may come back that was lost in the middle of a change.
const READ_BACK_PATIENCE: Duration = Duration::from_secs(5);

/// What a change leaves behind.
#[derive(Clone, Copy)]
enum Trace<'a> {
    Hash(&'a [u8]),
    Revoked,
}

/// A statement that returns whether the row of the key is as it was meant.
type Change<'q> = QueryScalar<'q, Postgres, bool, PgArguments>;

/// Stores a key.
pub async fn create_key(options: &ConnectOptions, new: &NewApiKey) -> Result<(), KeyError> {
    let hash = &new.hash.as_bytes()[..];
    let limit = |limit: Option<u32>| limit.and_then(|limit| i32::try_from(limit).ok());
    let statement = query_scalar(
        "/* create_key */ INSERT INTO pgmq_gateway.api_keys \
         (id, name, hash, grants, expires_at, requests_per_second, max_waiters) \
         VALUES ($1, $2, $3, $4, now() + $5, $6, $7) RETURNING hash = $3",
    )
    .bind(&new.id)
    .bind(&new.name)
    .bind(hash)
    .bind(&new.grants)
    .bind(new.expires_in.map(interval))
    .bind(limit(new.limits.requests_per_second))
    .bind(limit(new.limits.max_waiters));
    match change(options, &new.id, statement, Trace::Hash(hash)).await? {
        Some(true) => Ok(()),
        _ => Err(KeyError::NotStored(new.id.clone())),
    }
}

/// Ends a key for good.
pub async fn revoke_key(options: &ConnectOptions, id: &str) -> Result<(), KeyError> {
    let statement = query_scalar(
        "/* revoke_key */ UPDATE pgmq_gateway.api_keys SET revoked_at = now() \
         WHERE id = $1 AND revoked_at IS NULL RETURNING revoked_at IS NOT NULL",
    );
    let changed = change(options, id, statement.bind(id), Trace::Revoked).await?;
    let in_force = "/* unrevoked_key */ SELECT EXISTS (SELECT FROM pgmq_gateway.api_keys \
                    WHERE id = $1 AND revoked_at IS NULL)";
    check_changed(options, id, changed, in_force).await
}

/// Gives a key that is in force another secret; the one before is taken for as long as `overlap` says.
pub async fn rotate_key(
    options: &ConnectOptions,
    id: &str,
    hash: KeyHash,
    overlap: Duration,
) -> Result<(), KeyError> {
    let found = list_keys(options, Some(id)).await?;
    if found.iter().any(|key| key.state == KeyState::Invalid) {
        return Err(KeyError::Invalid(id.to_owned()));
    }
    let hash = &hash.as_bytes()[..];
    let statement = query_scalar(
        "/* rotate_key */ UPDATE pgmq_gateway.api_keys \
         SET previous_hash = hash, previous_until = now() + $3, hash = $2 \
         WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
         RETURNING hash = $2",
    );
    let statement = statement.bind(id).bind(hash).bind(interval(overlap));
    let changed = change(options, id, statement, Trace::Hash(hash)).await?;
    let in_force = "/* key_in_force */ SELECT EXISTS (SELECT FROM pgmq_gateway.api_keys \
                    WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))";
    check_changed(options, id, changed, in_force).await
}

/// Tells a key that is not there from one that was kept as it is.
async fn check_changed(
    options: &ConnectOptions,
    id: &str,
    changed: Option<bool>,
    in_force: &str,
) -> Result<(), KeyError> {
    let is_there = match changed {
        Some(true) => return Ok(()),
        Some(false) => true,
        None => ask(options, query_scalar(in_force).bind(id)).await? == Some(true),
    };
    let id = id.to_owned();
    Err(if is_there { KeyError::NotStored(id) } else { KeyError::NoKey(id) })
}

/// Makes a change. Where the connection is lost, what became of it is looked up.
async fn change(
    options: &ConnectOptions,
    id: &str,
    statement: Change<'_>,
    trace: Trace<'_>,
) -> Result<Option<bool>, KeyError> {
    let mut connection = options.connect().await?;
    match statement.fetch_optional(&mut connection).await {
        Ok(changed) => {
            // It is committed, however this goes.
            let _ = connection.close().await;
            Ok(changed)
        }
        Err(error) if is_unsent(&error) || is_answer(&error) => Err(error.into()),
        Err(_) if is_found(options, id, trace).await => Ok(Some(true)),
        Err(source) => Err(KeyError::Unknown { id: id.to_owned(), source }),
    }
}

/// A time as PostgreSQL has it, which does not count nanoseconds.
fn interval(time: Duration) -> PgInterval {
    let microseconds = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}

/// Whether a statement could not even be written down, so that nothing was sent.
fn is_unsent(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Encode(_))
}

/// Whether an error is the database's answer to a statement, which has then changed nothing. The end of a session is
/// none: it may come while a commit waits for a standby.
fn is_answer(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some() && !failure::ends_session(error)
}

/// Whether a change is found to be done. That it is not may change: it may be under way still.
async fn is_found(options: &ConnectOptions, id: &str, trace: Trace<'_>) -> bool {
    let started = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
    loop {
        let query = match trace {
            Trace::Hash(hash) => query_scalar(
                "/* key_hash */ SELECT hash = $2 FROM pgmq_gateway.api_keys WHERE id = $1",
            )
            .bind(id)
            .bind(hash),
            Trace::Revoked => query_scalar(
                "/* key_revoked */ SELECT revoked_at IS NOT NULL FROM pgmq_gateway.api_keys WHERE id = $1",
            )
            .bind(id),
        };
        if let Ok(Some(true)) = ask(options, query).await {
            return true;
        }
        if started.elapsed() > READ_BACK_PATIENCE {
            return false;
        }
        sleep(backoff.pause()).await;
    }
}

async fn ask(options: &ConnectOptions, query: Change<'_>) -> Result<Option<bool>, sqlx::Error> {
    let mut connection = options.connect().await?;
    let answer = query.fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    answer
}
