//! What is believed of a database. Others may put views, functions and tables where PGMQ and the gateway
//! look for their own; what such an object does, it does as the role that looks at it, which may be an
//! administrator's. So everything here asks the catalogues alone.

use sqlx::PgConnection;

use super::PrepareError;

/// The roles `r` in whose schemas this role installs and upgrades: itself, superusers and, unless it is one
/// of those, roles whose rights it has anyway.
const TRUSTED: &str = "r.rolsuper OR r.rolname = current_user \
    OR NOT me.rolsuper AND pg_catalog.pg_has_role(me.oid, r.oid, 'USAGE')";

/// Refuses to work with what is no table where one should be, or with a schema of ours whose owner would
/// become a superuser by it.
pub(super) async fn check(connection: &mut PgConnection, target: &str) -> Result<(), PrepareError> {
    let untrusted: Option<String> = sqlx::query_scalar(
        "SELECT pg_catalog.format('%I.%I is no table', n.nspname, c.relname) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind NOT IN ('r', 'p') \
           AND (n.nspname = 'pgmq' AND c.relname = 'meta' \
                OR n.nspname = 'pgmq_gateway' AND c.relname IN ( \
                    '_sqlx_migrations', 'functions_in_force', 'secret', 'queue_settings', \
                    'idempotency_keys', 'api_keys')) \
         UNION ALL \
         SELECT pg_catalog.format('schema %I belongs to %I, who could become a superuser by %s: \
                                   connect as %2$I', n.nspname, r.rolname, current_user) \
         FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner \
         JOIN pg_catalog.pg_roles me ON me.rolname = current_user \
         WHERE n.nspname = 'pgmq_gateway' AND me.rolsuper AND NOT r.rolsuper LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(|source| PrepareError::Database { target: target.to_owned(), source })?;
    match untrusted {
        None => Ok(()),
        Some(reason) => Err(PrepareError::Untrusted { target: target.to_owned(), reason }),
    }
}

/// What somebody else has put into schema `pgmq`, queues' tables left aside: an installer that goes through
/// it would run it, or take it for its own.
pub(super) async fn foreign_object(
    connection: &mut PgConnection,
) -> Result<Option<String>, sqlx::Error> {
    let query = format!(
        "SELECT pg_catalog.format('%s belongs to %I', o.name, r.rolname) \
         FROM (SELECT 'schema pgmq' AS name, n.nspowner AS owner, n.oid AS schema \
               FROM pg_catalog.pg_namespace n \
               UNION ALL \
               SELECT pg_catalog.format('function pgmq.%I', p.proname), p.proowner, p.pronamespace \
               FROM pg_catalog.pg_proc p \
               UNION ALL \
               SELECT pg_catalog.format('pgmq.%I', c.relname), c.relowner, c.relnamespace \
               FROM pg_catalog.pg_class c \
               WHERE c.relkind NOT IN ('i', 'I', 't') AND c.relname OPERATOR(pg_catalog.!~) '^[qa]_') o \
         JOIN pg_catalog.pg_roles r ON r.oid = o.owner \
         JOIN pg_catalog.pg_roles me ON me.rolname = current_user \
         WHERE o.schema = (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgmq') \
           AND NOT ({TRUSTED}) \
         ORDER BY o.name = 'schema pgmq' DESC, o.name LIMIT 1"
    );
    sqlx::query_scalar(&query).fetch_optional(connection).await
}
