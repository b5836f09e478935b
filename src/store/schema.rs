//! The gateway's own schema, `pgmq_gateway`: tables that migrate by numbered steps, and functions that
//! are applied as a set whenever the set has changed.

use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, Row, error::DatabaseError, migrate::Migrator};

use super::upgrade_locks::LockWait;

static TABLES: Migrator = sqlx::migrate!("./migrations/tables");

/// The functions by topic. Their order is of no concern: bodies are not checked while they are made.
const FUNCTIONS: &[&str] = &[
    include_str!("../../migrations/functions/helpers.sql"),
    include_str!("../../migrations/functions/sessions.sql"),
    include_str!("../../migrations/functions/rules.sql"),
    include_str!("../../migrations/functions/after_triggers.sql"),
    include_str!("../../migrations/functions/shapes.sql"),
    include_str!("../../migrations/functions/identity.sql"),
    include_str!("../../migrations/functions/registration.sql"),
    include_str!("../../migrations/functions/creation.sql"),
    include_str!("../../migrations/functions/queues.sql"),
    include_str!("../../migrations/functions/purging.sql"),
    include_str!("../../migrations/functions/settings.sql"),
    include_str!("../../migrations/functions/sequences.sql"),
    include_str!("../../migrations/functions/send.sql"),
    include_str!("../../migrations/functions/idempotency.sql"),
    include_str!("../../migrations/functions/floor.sql"),
    include_str!("../../migrations/functions/receive.sql"),
    include_str!("../../migrations/functions/unreadable.sql"),
    include_str!("../../migrations/functions/take.sql"),
    include_str!("../../migrations/functions/settle_alone.sql"),
    include_str!("../../migrations/functions/settle.sql"),
    include_str!("../../migrations/functions/settle_and_receive.sql"),
    include_str!("../../migrations/functions/visibility.sql"),
    include_str!("../../migrations/functions/dead_letters.sql"),
    include_str!("../../migrations/functions/redrive.sql"),
    include_str!("../../migrations/functions/fifo.sql"),
    include_str!("../../migrations/functions/fair.sql"),
    include_str!("../../migrations/functions/transactions.sql"),
    include_str!("../../migrations/functions/shared_transactions.sql"),
    include_str!("../../migrations/functions/shared_sends.sql"),
    include_str!("../../migrations/functions/topics.sql"),
    include_str!("../../migrations/functions/archive.sql"),
    include_str!("../../migrations/functions/keys.sql"),
    include_str!("../../migrations/functions/maintenance.sql"),
    include_str!("../../migrations/functions/sqs.sql"),
    include_str!("../../migrations/functions/move_tasks.sql"),
    include_str!("../../migrations/functions/dashboard.sql"),
    include_str!("../../migrations/functions/plain_tables.sql"),
    include_str!("../../migrations/functions/rights.sql"),
    include_str!("../../migrations/functions/multi_queue.sql"),
];

/// The generation of the functions; raised in every release that changes them. A gateway replaces
/// functions of its own generation and of earlier ones, never those of a later gateway.
const REVISION: i32 = 1;

/// Two booleans: whether PGMQ is there, the migration `$1` was applied and functions of at least
/// generation `$2` are in force; whether no changes are taken.
pub(super) const HEALTH: &str = "/* health */ \
    SELECT EXISTS (SELECT FROM pgmq_gateway._sqlx_migrations WHERE version = $1 AND success) \
       AND EXISTS (SELECT FROM pgmq_gateway.functions_in_force WHERE revision >= $2) \
       AND EXISTS (SELECT FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = 'pgmq' AND c.relname = 'meta'), \
    pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only')::bool";

/// Drops every function of the schema: those that the set has are made anew, the others are dead. Those of
/// triggers are replaced: to drop them would take a lock on the tables.
const DROP_FUNCTIONS: &str = "DO $$ DECLARE signature regprocedure; BEGIN \
    FOR signature IN SELECT p.oid FROM pg_catalog.pg_proc p \
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'pgmq_gateway' \
          AND p.prorettype <> 'pg_catalog.trigger'::pg_catalog.regtype \
    LOOP EXECUTE pg_catalog.format('DROP FUNCTION %s', signature); END LOOP; END $$";

/// Whoever may use the schema may call its functions and look at its tables, as `--grant-to` grants.
const GRANT_AGAIN: &str = "DO $$ DECLARE grantee text; BEGIN \
    FOR grantee IN SELECT DISTINCT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_namespace n, \
        pg_catalog.aclexplode(n.nspacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
        WHERE n.nspname = 'pgmq_gateway' AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner \
    LOOP \
        EXECUTE 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgmq_gateway TO ' || grantee; \
        EXECUTE 'GRANT SELECT ON ALL TABLES IN SCHEMA pgmq_gateway TO ' || grantee; \
        EXECUTE 'REVOKE ALL ON pgmq_gateway.master_key FROM ' || grantee; \
    END LOOP; END $$";

/// The version of the last step of the tables that this program knows.
pub(super) fn latest_version() -> i64 {
    TABLES.iter().map(|m| m.version).max().unwrap_or(0)
}

/// The generation of this program's functions.
pub(super) fn revision() -> i32 {
    REVISION
}

/// Whether an error means that the schema is missing or out of reach.
pub(super) fn is_missing(error: &dyn DatabaseError) -> bool {
    let code = error.code();
    code.is_some_and(|code| matches!(&*code, "42P01" | "3F000" | "42501"))
}

/// Whether every step of this program has been applied and its functions, or a later gateway's, are in
/// force.
pub(super) async fn is_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let ready = sqlx::query(HEALTH).bind(latest_version()).bind(REVISION);
    let ready = match ready.fetch_one(&mut *connection).await {
        Ok(row) => row.try_get(0)?,
        Err(sqlx::Error::Database(error)) if is_missing(&*error) => false,
        Err(error) => return Err(error),
    };
    Ok(ready && functions_are_current(connection).await?)
}

async fn functions_are_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let current: Option<bool> = sqlx::query_scalar(
        "SELECT revision > $1 OR revision = $1 AND hash = $2 FROM pgmq_gateway.functions_in_force",
    )
    .bind(REVISION)
    .bind(hash())
    .fetch_optional(connection)
    .await?;
    Ok(current.unwrap_or(false))
}

fn hash() -> String {
    let mut hasher = Sha256::new();
    for file in FUNCTIONS {
        hasher.update(file);
    }
    format!("{:x}", hasher.finalize())
}

/// Brings the schema up to date. Call it on a connection that has the turn to install and is closed afterwards: it
/// changes the search path, so that the history of migrations stands in our schema. What is locked is waited for
/// shortly; what was done by then is done, and another call goes on.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(LockWait::SHORTLY).execute(&mut *connection).await?;
    let done = take_steps(connection).await;
    // Also where it failed: behind a pooler, the session is somebody else's next.
    let undone = sqlx::query(LockWait::AS_EVER).execute(connection).await.map(drop);
    done.and(undone)
}

async fn take_steps(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'pgmq_gateway')",
    )
    .fetch_one(&mut *connection)
    .await?;
    // IF NOT EXISTS would ask for the right to create schemas even where it is there.
    if !exists {
        sqlx::query("CREATE SCHEMA pgmq_gateway").execute(&mut *connection).await?;
    }
    sqlx::query("SET search_path = pgmq_gateway, pg_temp").execute(&mut *connection).await?;
    // The steps of the set before this one, 1 to 14, are on record and not in the program any more. The turn to install
    // is a lock that is enough.
    let migrator = Migrator { ignore_missing: true, locking: false, ..tables() };
    migrator.run(&mut *connection).await?;
    if !functions_are_current(connection).await? {
        apply_functions(connection).await?;
        separate_queues(connection).await?;
    }
    Ok(())
}

/// Gives queues that have one identity between them one each, before a gateway serves them. What is locked is left to
/// the janitor.
async fn separate_queues(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const STEP: i32 = 50;
    loop {
        let separated: i32 = sqlx::query_scalar("SELECT pgmq_gateway.separate_queues($1)")
            .bind(STEP)
            .fetch_one(&mut *connection)
            .await?;
        if separated < STEP {
            return Ok(());
        }
    }
}

/// Replaces all functions, in one transaction: nobody ever sees some of them.
async fn apply_functions(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET LOCAL check_function_bodies = off").execute(&mut *transaction).await?;
    sqlx::raw_sql(DROP_FUNCTIONS).execute(&mut *transaction).await?;
    for file in FUNCTIONS {
        sqlx::raw_sql(file).execute(&mut *transaction).await?;
    }
    sqlx::raw_sql(GRANT_AGAIN).execute(&mut *transaction).await?;
    sqlx::query(
        "INSERT INTO pgmq_gateway.functions_in_force (revision, hash) VALUES ($1, $2) \
         ON CONFLICT (only_row) DO UPDATE \
         SET revision = excluded.revision, hash = excluded.hash, applied_at = now()",
    )
    .bind(REVISION)
    .bind(hash())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

fn tables() -> Migrator {
    Migrator {
        migrations: TABLES.migrations.clone(),
        ignore_missing: TABLES.ignore_missing,
        locking: TABLES.locking,
        no_tx: TABLES.no_tx,
    }
}
