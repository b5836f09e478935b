//! What a start would find in the database, asked without changing anything.

use sqlx::{Connection, PgConnection, postgres::types::Oid};

use super::{
    ConnectOptions, PrepareError,
    install::{PgmqInstall, check_rights, features, is_ours_and_old, look},
    missing_grants::{MissingGrant, missing_grants, named},
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
    /// The role, as a quoted identifier.
    role: String,
    missing: Vec<MissingGrant>,
}

impl Inspection {
    /// What the role lacks with which the gateway would start and refuse some requests, and what would help.
    pub fn missing_rights(&self) -> Option<String> {
        if self.missing.is_empty() {
            return None;
        }
        let (role, missing) = (&self.role, named(&self.missing));
        Some(format!("{role} lacks {missing}: have an administrator run {}", remedy(role)))
    }
}

fn remedy(role: &str) -> String {
    format!("pgmq-gateway migrate --grant-to {role}")
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
    let (role, missing) = missing_rights(connection).await.map_err(failed)?;
    if missing.iter().any(MissingGrant::closes_a_queue) {
        return Err(PrepareError::Forbidden {
            what: "use the tables of every queue",
            target: target.to_owned(),
            statement: remedy(&role),
            role,
        });
    }
    if installs || migrates {
        check_create(connection, target).await?;
    }
    Ok(Inspection { pgmq, installs, migrates, role, missing })
}

/// This role, as a quoted identifier, and what it lacks of what is there.
async fn missing_rights(
    connection: &mut PgConnection,
) -> Result<(String, Vec<MissingGrant>), sqlx::Error> {
    let (oid, role): (Oid, String) = sqlx::query_as(
        "SELECT oid, pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles \
         WHERE rolname = current_user",
    )
    .fetch_one(&mut *connection)
    .await?;
    Ok((role, missing_grants(connection, oid).await?))
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
