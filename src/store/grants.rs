//! The rights that a gateway's role needs where an administrator has installed everything.

use sqlx::{Connection, Executor, PgConnection, postgres::types::Oid};

use super::{
    ConnectOptions,
    missing_grants::{MissingGrant, missing_grants, named},
};

/// Why the rights could not be granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// There is no such role.
    #[error("there is no role {0} in this PostgreSQL: make it with CREATE ROLE first")]
    NoRole(String),
    /// Some are not for this user to grant.
    #[error(
        "the schemas are up to date, but {role} still lacks {}, which {by} may not grant; all else is granted: have \
         their owners or a superuser grant these, or grant them to {by} WITH GRANT OPTION and run this again",
        named(missing)
    )]
    Missing {
        /// The role that needs them.
        role: String,
        /// The role that could not grant them.
        by: String,
        /// What is missing.
        missing: Vec<MissingGrant>,
    },
    /// The database refused.
    #[error("cannot grant: {0}")]
    Database(#[from] sqlx::Error),
}

/// A role that is granted something.
struct Grantee {
    oid: Oid,
    /// As a quoted identifier.
    name: String,
}

/// What the tables and the sequences of queues take.
const OF_QUEUES: [(&str, &str); 2] = [
    ("TABLES", "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"),
    ("SEQUENCES", "USAGE, SELECT, UPDATE"),
];

/// What `role`, as a quoted identifier, needs, with the schema of pg_partman if that is there, to
/// send, receive, list, purge and create. Dropping a queue takes the ownership of its tables, which a
/// role has of the queues that it made.
fn statements(role: &str, partman: Option<&str>) -> Vec<String> {
    let mut statements = vec![
        format!("GRANT USAGE ON SCHEMA pgmq_gateway TO {role}"),
        // Whoever has the master key and the ids of access keys has their secrets.
        format!(
            "GRANT SELECT ON ALL TABLES IN SCHEMA pgmq_gateway TO {role}; \
             REVOKE ALL ON pgmq_gateway.master_key FROM {role}"
        ),
        format!(
            "GRANT INSERT, UPDATE, DELETE ON pgmq_gateway.queue_settings, \
             pgmq_gateway.idempotency_keys, pgmq_gateway.queue_attributes, \
             pgmq_gateway.deduplication_ids, pgmq_gateway.move_tasks TO {role}"
        ),
        // It notes when a key was used, and makes none.
        format!("GRANT UPDATE (last_used_at) ON pgmq_gateway.api_keys TO {role}"),
        format!("GRANT USAGE, CREATE ON SCHEMA pgmq TO {role}"),
        format!("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgmq_gateway, pgmq TO {role}"),
    ];
    if let Some(schema) = partman {
        statements.extend([
            format!("GRANT ALL ON SCHEMA {schema} TO {role}"),
            format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}"),
            format!("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA {schema} TO {role}"),
        ]);
    }
    let of_queues =
        |(kind, rights)| format!("GRANT {rights} ON ALL {kind} IN SCHEMA pgmq TO {role}");
    statements.extend(OF_QUEUES.map(of_queues));
    statements
}

/// Grants `role` what the gateway needs, as far as that is for this user to grant, and says what of it is missing.
pub async fn grant_to(options: &ConnectOptions, role: &str) -> Result<(), GrantError> {
    let mut connection = options.connect().await?;
    let outcome = grant_on(&mut connection, role).await;
    let _ = connection.close().await;
    outcome
}

async fn grant_on(connection: &mut PgConnection, role: &str) -> Result<(), GrantError> {
    let (grantee, by) = find(connection, role).await?;
    let partman: Option<String> = sqlx::query_scalar(
        "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman'",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let mut transaction = connection.begin().await?;
    for statement in statements(&grantee.name, partman.as_deref()) {
        attempt(&mut transaction, &statement).await?;
    }
    for (kind, rights) in OF_QUEUES {
        // For the queues that the administrator makes from now on.
        let statement = format!(
            "ALTER DEFAULT PRIVILEGES IN SCHEMA pgmq GRANT {rights} ON {kind} TO {}",
            grantee.name
        );
        transaction.execute(&*statement).await?;
    }
    // One thing that is another's has kept all from being granted that one statement is about.
    for missing in missing_grants(&mut transaction, grantee.oid).await? {
        attempt(&mut transaction, &missing.statement(&grantee.name)).await?;
    }
    // Of what is not for this user to grant, PostgreSQL mostly warns only.
    let missing = missing_grants(&mut transaction, grantee.oid).await?;
    transaction.commit().await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(GrantError::Missing { role: grantee.name, by, missing })
}

/// The role of this name, and what this user is called.
async fn find(connection: &mut PgConnection, role: &str) -> Result<(Grantee, String), GrantError> {
    let found: Option<(Oid, String, String)> = sqlx::query_as(
        "SELECT oid, pg_catalog.quote_ident(rolname), pg_catalog.quote_ident(current_user) \
         FROM pg_catalog.pg_roles WHERE rolname = $1",
    )
    .bind(role)
    .fetch_optional(connection)
    .await?;
    let (oid, name, by) = found.ok_or_else(|| GrantError::NoRole(role.to_owned()))?;
    Ok((Grantee { oid, name }, by))
}

/// Runs a statement that changes nothing if the database refuses it; what came of it is asked for later.
async fn attempt(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    match savepoint.execute(statement).await {
        Ok(_) => savepoint.commit().await,
        Err(sqlx::Error::Database(_)) => savepoint.rollback().await,
        Err(error) => Err(error),
    }
}
