//! What a start would find in the database, asked without changing anything.

use sqlx::{Connection, PgConnection};

use super::{
    ConnectOptions, PrepareError,
    install::{PgmqInstall, check_rights, features, is_ours_and_old, look},
    schema, trust,
};

/// What there is, and what a start would do.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The PGMQ that is there.
    pub pgmq: Option<PgmqInstall>,
    /// Whether a start would install or upgrade it.
    pub installs: bool,
    /// Whether a start would make or change schema `pgmq_gateway`.
    pub migrates: bool,
}

/// Looks at all that a start needs, or says what of it is missing. `install` is whether it may install PGMQ.
pub async fn inspect(options: &ConnectOptions, install: bool) -> Result<Inspection, PrepareError> {
    let target = options.describe_target();
    let failed = |source| PrepareError::Database { target: target.clone(), source };
    let mut connection = options.connect().await.map_err(failed)?;
    let outcome = inspect_on(&mut connection, install, &target).await;
    let _ = connection.close().await;
    outcome
}

async fn inspect_on(
    connection: &mut PgConnection,
    install: bool,
    target: &str,
) -> Result<Inspection, PrepareError> {
    let failed = |source| PrepareError::Database { target: target.to_owned(), source };
    trust::check(connection, target).await?;
    check_rights(connection, target).await?;
    let pgmq = look(connection).await.map_err(failed)?;
    if pgmq.is_none() && !install {
        return Err(PrepareError::Missing { target: target.to_owned() });
    }
    let installs = pgmq.as_ref().is_none_or(|pgmq| install && is_ours_and_old(pgmq));
    if let Some(pgmq) = pgmq.as_ref().filter(|_| !installs) {
        features(connection, pgmq, target).await?;
    }
    let migrates = !schema::is_current(connection).await.map_err(failed)?;
    check_queues(connection, target).await?;
    if installs || migrates {
        check_create(connection, target).await?;
    }
    Ok(Inspection { pgmq, installs, migrates })
}

/// Whether the role may make the schemas that are missing.
async fn check_create(connection: &mut PgConnection, target: &str) -> Result<(), PrepareError> {
    let (fine, role, database): (bool, String, String) = sqlx::query_as(
        "/* inspect_create */ SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') \
            OR (SELECT pg_catalog.count(*) = 2 FROM pg_catalog.pg_namespace n \
                WHERE n.nspname IN ('pgmq', 'pgmq_gateway')), \
            pg_catalog.quote_ident(current_user), pg_catalog.quote_ident(pg_catalog.current_database())",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PrepareError::Database { target: target.to_owned(), source })?;
    if fine {
        return Ok(());
    }
    Err(PrepareError::Forbidden {
        what: "make the schemas pgmq and pgmq_gateway",
        target: target.to_owned(),
        statement: format!(
            "GRANT CREATE ON DATABASE {database} TO {role}, or pgmq-gateway migrate --grant-to {role}"
        ),
        role,
    })
}

/// Whether the role may use the tables of the queues that are there.
async fn check_queues(connection: &mut PgConnection, target: &str) -> Result<(), PrepareError> {
    let (fine, role): (bool, String) = sqlx::query_as(
        "/* inspect_queues */ SELECT NOT EXISTS ( \
            SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE n.nspname = 'pgmq' AND c.relkind IN ('r', 'p') \
              AND c.relname OPERATOR(pg_catalog.~) '^[qa]_' \
              AND NOT (pg_catalog.has_table_privilege(c.oid, 'SELECT') \
                       AND pg_catalog.has_table_privilege(c.oid, 'INSERT') \
                       AND pg_catalog.has_table_privilege(c.oid, 'UPDATE') \
                       AND pg_catalog.has_table_privilege(c.oid, 'DELETE'))), \
            pg_catalog.quote_ident(current_user)",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PrepareError::Database { target: target.to_owned(), source })?;
    if fine {
        return Ok(());
    }
    Err(PrepareError::Forbidden {
        what: "use the tables of every queue",
        target: target.to_owned(),
        statement: format!("pgmq-gateway migrate --grant-to {role}"),
        role,
    })
}
