//! The gateway's own schema, `pgmq_gateway`, and its migrations.

use sqlx::{PgConnection, Row, error::DatabaseError, migrate::Migrator};

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Two booleans: whether PGMQ is there and the migration `$1` was applied; whether it is a standby.
pub(super) const HEALTH: &str = "/* health */ \
    SELECT EXISTS (SELECT FROM pgmq_gateway._sqlx_migrations WHERE version = $1 AND success) \
       AND EXISTS (SELECT FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                   WHERE n.nspname = 'pgmq' AND c.relname = 'meta'), \
    pg_catalog.pg_is_in_recovery()";

/// The version of the last migration this program knows.
pub(super) fn latest_version() -> i64 {
    MIGRATOR.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Whether an error means that the schema is missing or out of reach.
pub(super) fn is_missing(error: &dyn DatabaseError) -> bool {
    let code = error.code();
    code.is_some_and(|code| matches!(&*code, "42P01" | "3F000" | "42501"))
}

/// Whether every migration of this program has been applied. A newer gateway may have applied more.
pub(super) async fn is_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match sqlx::query(HEALTH).bind(latest_version()).fetch_one(connection).await {
        Ok(row) => row.try_get(0),
        Err(sqlx::Error::Database(error)) if is_missing(&*error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Brings the schema up to date. Call it on a connection that is closed afterwards: it changes the
/// search path, so that the history of migrations stands in our schema.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let exists: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'pgmq_gateway')",
    )
    .fetch_one(&mut *connection)
    .await?;
    // IF NOT EXISTS would ask for the right to create schemas even where it is there.
    if !exists {
        sqlx::query("CREATE SCHEMA pgmq_gateway").execute(&mut *connection).await?;
    }
    sqlx::query("SET search_path = pgmq_gateway").execute(&mut *connection).await?;
    let migrator = Migrator { ignore_missing: true, ..migrator() };
    migrator.run(connection).await?;
    Ok(())
}

fn migrator() -> Migrator {
    Migrator {
        migrations: MIGRATOR.migrations.clone(),
        ignore_missing: MIGRATOR.ignore_missing,
        locking: MIGRATOR.locking,
        no_tx: MIGRATOR.no_tx,
    }
}
