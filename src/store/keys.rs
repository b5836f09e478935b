//! Keys with which clients are let in.

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime, Utc};
use sqlx::{Connection, Row, postgres::PgRow};
use tracing::warn;

use crate::domain::{Grant, Grants, KeyHash, KeyLimits, StoredKey};

use super::{
    Conn, ConnectOptions, DatabaseClock, KeyError, PrepareError,
    decode::{Text, Timestamp, get, text, time, time_option},
    error,
    reports::Reports,
    trust,
};

/// A key as it is listed.
#[derive(Clone, Debug)]
pub struct ListedKey {
    /// What names it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub grants: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Whether it lets anybody in.
    pub state: KeyState,
    /// The end of its life.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, by the minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Whether a key lets anybody in, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It does.
    InForce,
    /// It was ended.
    Revoked,
    /// The end of its life is past.
    Expired,
    /// Its row makes no sense, whoever wrote that.
    Invalid,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InForce => "in force",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
        })
    }
}

/// Whether there are keys, of use or not; none where there is no table for them yet. Changes nothing.
pub async fn any_keys(options: &ConnectOptions) -> Result<bool, KeyError> {
    let mut connection = options.connect().await?;
    let table =
        "/* any_keys_table */ SELECT pg_catalog.to_regclass('pgmq_gateway.api_keys') IS NOT NULL";
    let is_there: bool = sqlx::query_scalar(table).fetch_one(&mut connection).await?;
    let any = "/* any_keys */ SELECT EXISTS (SELECT FROM pgmq_gateway.api_keys)";
    let any = is_there && sqlx::query_scalar(any).fetch_one(&mut connection).await?;
    let _ = connection.close().await;
    Ok(any)
}

/// Looks whether there is a table of keys, and whether it can be trusted. Changes nothing.
pub async fn check_keys(options: &ConnectOptions) -> Result<(), PrepareError> {
    let target = options.describe_target();
    let failed = |source| PrepareError::Database { target: target.clone(), source };
    let mut connection = options.connect().await.map_err(failed)?;
    trust::check(&mut connection, &target).await?;
    let is_there: bool = sqlx::query_scalar(
        "/* check_keys */ SELECT EXISTS (SELECT FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'pgmq_gateway' AND c.relname = 'api_keys')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(failed)?;
    let _ = connection.close().await;
    if is_there { Ok(()) } else { Err(PrepareError::NoKeys { target }) }
}

/// Every key, the newest last; with an id, that one.
pub async fn list_keys(
    options: &ConnectOptions,
    id: Option<&str>,
) -> Result<Vec<ListedKey>, KeyError> {
    let mut connection = options.connect().await?;
    let rows = sqlx::query(
        "/* list_keys */ SELECT pgmq_gateway.as_text(id) AS id, pgmq_gateway.as_text(name) AS name, \
                ARRAY(SELECT coalesce(pgmq_gateway.as_text(g), '') FROM pg_catalog.unnest(grants) g) AS grants, created_at, \
                CASE WHEN expires_at < 'infinity' THEN expires_at END AS expires_at, coalesce(expires_at <= now(), false) AS expired, \
                revoked_at, last_used_at, \
                pgmq_gateway.key_makes_sense(id, name, hash, grants, requests_per_second, max_waiters) AS makes_sense \
         FROM pgmq_gateway.api_keys WHERE $1 IS NULL OR id = $1 ORDER BY created_at, id",
    )
    .bind(id)
    .fetch_all(&mut connection)
    .await?;
    let _ = connection.close().await;
    rows.iter().map(|row| listed(row).map_err(KeyError::from)).collect()
}

/// The first keys, those in force first, for people who look.
pub async fn shown_keys(conn: &mut Conn, max_rows: i32) -> error::Result<Vec<ListedKey>> {
    let query = sqlx::query("/* shown_keys */ SELECT * FROM pgmq_gateway.shown_keys($1)");
    let rows = conn.run_repeatable(query.bind(max_rows)).await?;
    rows.iter().map(|row| listed(row).map_err(error::Error::unexpected)).collect()
}

fn listed(row: &PgRow) -> Result<ListedKey, sqlx::Error> {
    let time = |column: &str| row.try_get::<Option<Timestamp>, _>(column);
    let time = |column: &str| time(column).map(|time| time.map(|time| time.0));
    let grants = texts(row.try_get("grants")?);
    let revoked_at = time("revoked_at")?;
    // As where they are loaded.
    let makes_sense = row.try_get("makes_sense")? && grants_of(&grants).is_some();
    let state = match (revoked_at, row.try_get("expired")?, makes_sense) {
        (Some(_), _, _) => KeyState::Revoked,
        (None, true, _) => KeyState::Expired,
        (None, false, false) => KeyState::Invalid,
        (None, false, true) => KeyState::InForce,
    };
    Ok(ListedKey {
        id: row.try_get::<Text, _>("id")?.0,
        name: row.try_get::<Text, _>("name")?.0,
        grants,
        created_at: row.try_get::<Timestamp, _>("created_at")?.0,
        state,
        expires_at: time("expires_at")?,
        revoked_at,
        last_used_at: time("last_used_at")?,
    })
}

/// Grants as they are written, unless one cannot be read.
fn grants_of(grants: &[String]) -> Option<Grants> {
    let grants = grants.iter().map(|grant| grant.parse::<Grant>()).collect::<Result<_, _>>();
    grants.ok().map(Grants::new)
}

fn texts(texts: Vec<Text>) -> Vec<String> {
    texts.into_iter().map(|text| text.0).collect()
}

/// The keys that a gateway has to know.
#[derive(Clone, Debug, Default)]
pub struct LoadedKeys {
    /// Those that make sense.
    pub keys: Vec<StoredKey>,
    /// Whether there is any at all, whether it makes sense or not.
    pub any: bool,
}

static SENSELESS: Reports = Reports::new();

/// Loads the keys; tells `clock` what time it is there. One that makes no sense is left out, and said once.
pub async fn load_keys(conn: &mut Conn, clock: &DatabaseClock) -> error::Result<LoadedKeys> {
    let query = sqlx::query("/* load_keys */ SELECT * FROM pgmq_gateway.loaded_keys()");
    let asked = Utc::now();
    let rows = conn.run_repeatable(query).await?;
    if let Some(row) = rows.first() {
        clock.observe(asked, time(row, "now")?, Utc::now());
    }
    let (mut keys, mut bad) = (Vec::with_capacity(rows.len()), BTreeSet::new());
    for row in &rows {
        match stored(row, clock) {
            Ok(Some(key)) => keys.push(key),
            // What cannot even be read is no key either.
            Ok(None) | Err(_) => {
                bad.insert(text(row, "id").unwrap_or_else(|_| "(unreadable)".to_owned()));
            }
        }
    }
    for id in SENSELESS.news(bad) {
        warn!(id, "a row of pgmq_gateway.api_keys makes no sense and lets nobody in");
    }
    Ok(LoadedKeys { keys, any: !rows.is_empty() })
}

/// A row as a key, or nothing if it makes no sense. The ends are by the database's clock; they are told by
/// ours.
fn stored(row: &PgRow, clock: &DatabaseClock) -> error::Result<Option<StoredKey>> {
    let hash: Vec<u8> = get(row, "hash")?;
    let previous: Option<Vec<u8>> = get(row, "previous_hash")?;
    let previous = previous.and_then(|hash| KeyHash::from_bytes(&hash));
    let until = time_option(row, "previous_until")?.map(|end| clock.by_ours(end));
    let grants = grants_of(&texts(get(row, "grants")?));
    let (Some(hash), Some(grants), true) =
        (KeyHash::from_bytes(&hash), grants, get(row, "makes_sense")?)
    else {
        return Ok(None);
    };
    let limit = |limit: Option<i32>| limit.and_then(|limit| u32::try_from(limit).ok());
    Ok(Some(StoredKey {
        id: text(row, "id")?,
        name: text(row, "name")?,
        hash,
        previous: previous.zip(until),
        grants,
        expires_at: time_option(row, "expires_at")?.map(|end| clock.by_ours(end)),
        limits: KeyLimits {
            requests_per_second: limit(get(row, "requests_per_second")?),
            max_waiters: limit(get(row, "max_waiters")?),
        },
        revoked: get(row, "revoked")?,
    }))
}

/// Notes that keys were used, at times by our clock.
pub async fn keys_used(conn: &mut Conn, ids: &[String], at: &[DateTime<Utc>]) -> error::Result<()> {
    let now = Utc::now();
    let ages: Vec<i64> = at.iter().map(|at| (now - at).num_seconds().max(0)).collect();
    let query = sqlx::query("/* keys_used */ SELECT pgmq_gateway.note_used_keys($1, $2)");
    conn.change(query.bind(ids).bind(ages)).await.map(drop)
}
