//! The rights that a gateway's role needs where an administrator has installed everything.

use sqlx::Connection;

use super::ConnectOptions;

/// Why the rights could not be granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// There is no such role.
    #[error("there is no role {0} in this PostgreSQL: make it with CREATE ROLE first")]
    NoRole(String),
    /// The database refused.
    #[error("cannot grant: {0}")]
    Database(#[from] sqlx::Error),
}

/// What `role`, as a quoted identifier, needs, with the schema of pg_partman if that is there, to
/// send, receive, list, purge and create. Dropping a queue takes the ownership of its tables, which a
/// role has of the queues that it made.
fn statements(role: &str, partman: Option<&str>) -> Vec<String> {
    let mut statements = vec![
        format!("GRANT USAGE ON SCHEMA pgmq_gateway TO {role}"),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA pgmq_gateway TO {role}"),
        format!(
            "GRANT INSERT, UPDATE, DELETE ON pgmq_gateway.queue_settings, \
             pgmq_gateway.idempotency_keys, pgmq_gateway.queue_attributes, \
             pgmq_gateway.deduplication_ids, pgmq_gateway.move_tasks TO {role}"
        ),
        // Whoever has it and the ids of access keys has their secrets.
        format!("REVOKE ALL ON pgmq_gateway.master_key FROM {role}"),
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
    for (kind, rights) in [
        ("TABLES", "SELECT, INSERT, UPDATE, DELETE, TRUNCATE"),
        ("SEQUENCES", "USAGE, SELECT, UPDATE"),
    ] {
        statements.push(format!("GRANT {rights} ON ALL {kind} IN SCHEMA pgmq TO {role}"));
        // For the queues that the administrator makes from now on.
        statements.push(format!(
            "ALTER DEFAULT PRIVILEGES IN SCHEMA pgmq GRANT {rights} ON {kind} TO {role}"
        ));
    }
    statements
}

/// Grants `role` what the gateway needs, in one transaction.
pub async fn grant_to(options: &ConnectOptions, role: &str) -> Result<(), GrantError> {
    let mut connection = options.connect().await?;
    let known: Option<String> = sqlx::query_scalar(
        "SELECT pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles WHERE rolname = $1",
    )
    .bind(role)
    .fetch_optional(&mut connection)
    .await?;
    let role = known.ok_or_else(|| GrantError::NoRole(role.to_owned()))?;
    let partman: Option<String> = sqlx::query_scalar(
        "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_partman'",
    )
    .fetch_optional(&mut connection)
    .await?;
    let mut transaction = connection.begin().await?;
    for statement in statements(&role, partman.as_deref()) {
        sqlx::query(&statement).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}
