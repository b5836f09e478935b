//! Finding out what is in the database, and installing what is missing.

use std::{fmt, time::Duration};

use pgmq::PgmqError;
use sqlx::{Connection, PgConnection, Row};
use tracing::{info, warn};

use crate::domain::{MasterKey, PeerKey, ReceiptKey};

use super::{
    ConnectOptions, PrepareError, schema, trust,
    upgrade_locks::{LockWait, Locked, is_locked, said},
};

/// The version of PGMQ that the gateway installs.
const EMBEDDED_VERSION: (u32, u32, u32) = (1, 11, 1);

/// How PGMQ came into the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgmqSource {
    /// `CREATE EXTENSION pgmq`.
    Extension,
    /// By SQL, with a record of its version.
    Sql,
    /// By SQL, by hand.
    ByHand,
}

/// The PGMQ that is in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgmqInstall {
    /// How it came there.
    pub source: PgmqSource,
    /// Its version, where that is on record and may be read.
    pub version: Option<String>,
}

/// What the PGMQ in the database can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Messages have headers and `last_read_at` (1.10 or later), so that its own functions can be
    /// called; otherwise ours stand in for them.
    pub modern: bool,
}

/// A database that is ready.
pub struct Prepared {
    /// How PGMQ came there.
    pub pgmq: PgmqInstall,
    /// What it can do.
    pub features: Features,
    /// The key with which receipts are signed, unless the configuration has one.
    pub receipt_key: ReceiptKey,
    /// The key by which gateways on this database know each other.
    pub peer_key: PeerKey,
    /// What secrets of access keys are derived from, if the role may read it.
    pub master_key: Option<MasterKey>,
}

impl fmt::Display for PgmqInstall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            PgmqSource::Extension => "extension",
            PgmqSource::Sql => "installed by SQL",
            PgmqSource::ByHand => "loaded by hand",
        };
        write!(f, "{} ({source})", self.version.as_deref().unwrap_or("of unknown version"))
    }
}

/// Makes the database ready: PGMQ where it is missing (or old and ours to upgrade) and `install` is
/// true, then our own schema. What is there already is not touched, so that a role that may only
/// use it will do. Gateways that start together take turns, and what others have locked is tried for as
/// long as `patience`.
pub async fn prepare(
    options: &ConnectOptions,
    install: bool,
    patience: Duration,
) -> Result<Prepared, PrepareError> {
    let target = options.describe_target();
    let failed = |source| PrepareError::Database { target: target.clone(), source };
    let mut connection = options.connect().await.map_err(failed)?;
    let wait = LockWait::new(&target, patience);
    let outcome = prepare_on(&mut connection, options, install, wait, &target).await;
    let _ = connection.close().await;
    outcome
}

async fn prepare_on(
    connection: &mut PgConnection,
    options: &ConnectOptions,
    install: bool,
    mut wait: LockWait<'_>,
    target: &str,
) -> Result<Prepared, PrepareError> {
    let failed = |source| PrepareError::Database { target: target.to_owned(), source };
    trust::check(connection, target).await?;
    check_rights(connection, target).await?;
    let found = look(connection).await.map_err(failed)?;
    let settled = found.as_ref().is_some_and(|pgmq| !(install && is_ours_and_old(pgmq)));
    if !settled || !schema::is_current(connection).await.map_err(failed)? {
        wait.turn(connection).await?;
        // Another gateway may have done it while this one waited.
        install_pgmq(connection, options, install, &mut wait, target).await?;
        migrate(connection, &mut wait, target).await?;
    }
    let pgmq = look(connection).await.map_err(failed)?;
    let pgmq = pgmq.ok_or_else(|| PrepareError::Missing { target: target.to_owned() })?;
    let features = features(connection, &pgmq, target).await?;
    let secret: Vec<u8> =
        sqlx::query_scalar("SELECT value FROM pgmq_gateway.secret WHERE name = 'receipts'")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
    let (receipt_key, peer_key) = (ReceiptKey::new(&secret), PeerKey::derive(&secret));
    let master_key = master_key(connection).await.map_err(failed)?;
    Ok(Prepared { pgmq, features, receipt_key, peer_key, master_key })
}

/// The master key, where the role may read it.
async fn master_key(connection: &mut PgConnection) -> Result<Option<MasterKey>, sqlx::Error> {
    let may: bool = sqlx::query_scalar(
        "SELECT pg_catalog.has_table_privilege('pgmq_gateway.master_key', 'SELECT')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !may {
        return Ok(None);
    }
    let key: Option<Vec<u8>> = sqlx::query_scalar("SELECT value FROM pgmq_gateway.master_key")
        .fetch_optional(connection)
        .await?;
    Ok(key.and_then(|key| MasterKey::new(&key)))
}

async fn install_pgmq(
    connection: &mut PgConnection,
    options: &ConnectOptions,
    install: bool,
    wait: &mut LockWait<'_>,
    target: &str,
) -> Result<(), PrepareError> {
    let failed = |source| PrepareError::Database { target: target.to_owned(), source };
    let found = look(connection).await.map_err(failed)?;
    let foreign = trust::foreign_object(connection).await.map_err(failed)?;
    match (found, foreign) {
        (Some(pgmq), Some(foreign)) if install && is_ours_and_old(&pgmq) => {
            warn!(%pgmq, "not upgrading PGMQ: {foreign}");
            return Ok(());
        }
        (Some(pgmq), None) if install && is_ours_and_old(&pgmq) => info!(%pgmq, "upgrading PGMQ"),
        (Some(_), _) => return Ok(()),
        (None, Some(reason)) if install => {
            return Err(PrepareError::Untrusted { target: target.to_owned(), reason });
        }
        (None, None) if install => info!("installing PGMQ"),
        (None, _) => return Err(PrepareError::Missing { target: target.to_owned() }),
    }
    let right: (bool, String, String) = sqlx::query_as(
        "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'), \
                pg_catalog.quote_ident(current_user), \
                pg_catalog.quote_ident(pg_catalog.current_database())",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let (may_create, role, database) = right;
    if !may_create {
        let what = "install PGMQ";
        let statement = format!("GRANT CREATE ON DATABASE {database} TO {role}");
        return Err(PrepareError::Forbidden { role, what, target: target.to_owned(), statement });
    }
    loop {
        let Err(error) = run_installer(options).await else { return Ok(()) };
        if !matches!(&error, PgmqError::DatabaseError(error) if is_locked(error)) {
            let (target, reason) = (target.to_owned(), error.to_string());
            return Err(PrepareError::Install { target, reason });
        }
        wait.pause(connection, Locked::Pgmq).await?;
    }
}

/// All of it is one transaction. It changes the tables of all queues: see [`LockWait::SHORTLY`].
async fn run_installer(options: &ConnectOptions) -> Result<(), PgmqError> {
    // The installer takes a pool, which is of one connection.
    let pool = options.single_connection_pool();
    let outcome = match sqlx::query(LockWait::SHORTLY).execute(&pool).await {
        Ok(_) => pgmq::install::install_sql_from_embedded(&pool).await,
        Err(error) => Err(error.into()),
    };
    // Behind a pooler, the session is somebody else's next.
    let _ = sqlx::query(LockWait::AS_EVER).execute(&pool).await;
    pool.close().await;
    outcome
}

async fn migrate(
    connection: &mut PgConnection,
    wait: &mut LockWait<'_>,
    target: &str,
) -> Result<(), PrepareError> {
    let failed = |source| PrepareError::Database { target: target.to_owned(), source };
    let error = loop {
        match schema::migrate(connection).await {
            Ok(()) => return Ok(()),
            Err(error) if is_locked(&error) => wait.pause(connection, Locked::OwnSchema).await?,
            Err(error) => break error,
        }
    };
    let Some(refused) = refusal(&error) else { return Err(failed(error)) };
    let (role, database): (String, String) = sqlx::query_as(
        "SELECT pg_catalog.quote_ident(current_user), \
                pg_catalog.quote_ident(pg_catalog.current_database())",
    )
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    let statement = if refused.contains("pg_control_system") {
        format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {role}")
    } else {
        format!(
            "GRANT CREATE ON DATABASE {database} TO {role}, or pgmq-gateway migrate --grant-to {role}"
        )
    };
    let what = "create or change schema pgmq_gateway";
    Err(PrepareError::Forbidden { role, what, target: target.to_owned(), statement })
}

/// What the server says where a right is missing.
fn refusal(error: &sqlx::Error) -> Option<String> {
    let error = said(error)?;
    (error.code()? == "42501").then(|| error.message().to_owned())
}

/// What is there, asked of the catalogues, which every role may read. As the installer's history counts a
/// table alone that belongs to the owner of PGMQ's own, and says the same to everybody: others may put a
/// view there.
pub(super) async fn look(
    connection: &mut PgConnection,
) -> Result<Option<PgmqInstall>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pgmq') AS version, \
                pg_catalog.bool_or(c.relname = 'meta') AS has_meta, \
                pg_catalog.bool_or(c.is_history) AS has_history, \
                pg_catalog.bool_or(c.is_history AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
                        AND pg_catalog.has_table_privilege(c.oid, 'SELECT')) AS may_read_history \
         FROM pg_catalog.pg_namespace n JOIN ( \
             SELECT c.oid, c.relname, c.relnamespace, \
                    c.relname = '__pgmq_migrations' AND c.relkind = 'r' AND NOT c.relrowsecurity \
                    AND c.relowner = (SELECT m.relowner FROM pg_catalog.pg_class m \
                                      WHERE m.relnamespace = c.relnamespace AND m.relname = 'meta') \
                    AS is_history \
             FROM pg_catalog.pg_class c) c ON c.relnamespace = n.oid \
         WHERE n.nspname = 'pgmq'",
    )
    .fetch_one(&mut *connection)
    .await?;
    let truth = |column: &str| {
        let value: Option<bool> = row.try_get(column)?;
        Ok::<_, sqlx::Error>(value.unwrap_or(false))
    };
    let extension: Option<String> = row.try_get("version")?;
    if extension.is_some() {
        return Ok(Some(PgmqInstall { source: PgmqSource::Extension, version: extension }));
    }
    if !truth("has_meta")? {
        return Ok(None);
    }
    if !truth("has_history")? {
        return Ok(Some(PgmqInstall { source: PgmqSource::ByHand, version: None }));
    }
    let version = if truth("may_read_history")? { recorded(connection).await? } else { None };
    Ok(Some(PgmqInstall { source: PgmqSource::Sql, version }))
}

/// The highest version in the installer's history.
async fn recorded(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let versions: Vec<String> =
        sqlx::query_scalar("SELECT version FROM ONLY pgmq.__pgmq_migrations")
            .fetch_all(connection)
            .await?;
    Ok(versions.into_iter().max_by_key(|version| numbers(version)))
}

fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

pub(super) fn is_ours_and_old(pgmq: &PgmqInstall) -> bool {
    let version = pgmq.version.as_deref().and_then(numbers);
    pgmq.source == PgmqSource::Sql && version.is_some_and(|version| version < EMBEDDED_VERSION)
}

/// Looks at what is there, whatever the version is called.
pub(super) async fn features(
    connection: &mut PgConnection,
    pgmq: &PgmqInstall,
    target: &str,
) -> Result<Features, PrepareError> {
    let (complete, modern): (bool, bool) = sqlx::query_as(
        "SELECT pg_catalog.to_regprocedure('pgmq.format_table_name(text, text)') IS NOT NULL \
            AND pg_catalog.to_regprocedure('pgmq.archive(text, bigint[])') IS NOT NULL, \
                EXISTS (SELECT FROM pg_catalog.pg_attribute a \
                        WHERE a.attrelid = pg_catalog.to_regclass('pgmq.message_record')::oid \
                          AND a.attname = 'last_read_at')",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PrepareError::Database { target: target.to_owned(), source })?;
    if complete {
        return Ok(Features { modern });
    }
    Err(PrepareError::TooOld {
        found: pgmq.to_string(),
        target: target.to_owned(),
        remedy: match pgmq.source {
            PgmqSource::Extension => "have an administrator run ALTER EXTENSION pgmq UPDATE",
            PgmqSource::Sql => "set database.install_pgmq to true, or run pgmq-gateway migrate",
            PgmqSource::ByHand => "upgrade it the way it was loaded",
        },
    })
}

/// Says at the start what every request would otherwise fail with: what is there must be open to
/// the role.
pub(super) async fn check_rights(
    connection: &mut PgConnection,
    target: &str,
) -> Result<(), PrepareError> {
    let (open, role): (bool, String) = sqlx::query_as(
        "SELECT coalesce(pg_catalog.bool_and(pg_catalog.has_schema_privilege(n.oid, 'USAGE')), true) \
            AND coalesce(pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')), true), \
                pg_catalog.quote_ident(current_user) \
         FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_class c \
           ON c.relnamespace = n.oid AND c.relname IN ('meta', '_sqlx_migrations', 'functions_in_force', 'secret', 'queue_settings') \
         WHERE n.nspname IN ('pgmq', 'pgmq_gateway')",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PrepareError::Database { target: target.to_owned(), source })?;
    if open {
        return Ok(());
    }
    Err(PrepareError::Forbidden {
        what: "use schema pgmq or pgmq_gateway",
        target: target.to_owned(),
        statement: format!("pgmq-gateway migrate --grant-to {role}"),
        role,
    })
}
