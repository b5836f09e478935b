//! What of the rights that a gateway needs its role does not have.

use std::fmt;

use sqlx::{PgConnection, postgres::types::Oid};

/// How many of the missing rights are named.
const MAX_NAMED: usize = 10;

/// What of its rights on something the role does not have.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct MissingGrant {
    /// Whether it is the table of a queue or of its archive, of which messages are sent and received.
    of_queue: bool,
    /// What it is, as in GRANT.
    kind: String,
    /// Its quoted name.
    name: String,
    /// Who owns it, quoted.
    owner: String,
    privileges: String,
}

impl MissingGrant {
    /// Grants it.
    pub(super) fn statement(&self, role: &str) -> String {
        format!("GRANT {} ON {} {} TO {role}", self.privileges, self.kind, self.name)
    }

    /// Whether a queue that is there cannot be used without it; to empty one takes TRUNCATE besides.
    pub(super) fn closes_a_queue(&self) -> bool {
        self.of_queue && self.privileges != "TRUNCATE"
    }
}

/// The first few, in one line.
pub(super) fn named(missing: &[MissingGrant]) -> String {
    let mut named: Vec<_> = missing.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let more = missing.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        named.push(format!("what {more} more take"));
    }
    named.join("; ")
}

impl fmt::Display for MissingGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, owner, privileges, .. } = self;
        write!(f, "{privileges} on {} {name} of {owner}", kind.to_ascii_lowercase())
    }
}

/// Every right that is needed, with what it is about. What else is in the schemas is nobody's concern.
const NEEDED: &str = "\
    SELECT 'SCHEMA' AS kind, pg_catalog.quote_ident(n.nspname) AS name, n.nspowner AS owner, p.privilege, \
           pg_catalog.has_schema_privilege($1, n.oid, p.privilege) AS granted \
    FROM pg_catalog.pg_namespace n, pg_catalog.unnest('{USAGE,CREATE}'::pg_catalog.text[]) p (privilege) \
    WHERE n.nspname = 'pgmq' OR p.privilege = 'USAGE' AND (n.nspname = 'pgmq_gateway' \
        OR n.oid IN (SELECT e.extnamespace FROM pg_catalog.pg_extension e WHERE e.extname = 'pg_partman')) \
    UNION ALL \
    SELECT 'TABLE', pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, p.privilege, \
           pg_catalog.has_table_privilege($1, c.oid, p.privilege) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, \
         pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::pg_catalog.text[]) p (privilege) \
    WHERE c.relkind IN ('r', 'p') AND ( \
        n.nspname = 'pgmq' AND (c.relname OPERATOR(pg_catalog.~) '^[qa]_' \
                                OR c.relname IN ('meta', 'topic_bindings', 'notify_insert_throttle')) \
        OR n.nspname = 'pgmq_gateway' AND c.relname <> 'master_key' AND p.privilege = 'SELECT' \
        OR n.nspname = 'pgmq_gateway' AND p.privilege IN ('INSERT', 'UPDATE', 'DELETE') \
           AND c.relname IN ('queue_settings', 'idempotency_keys', 'queue_attributes', 'deduplication_ids', \
                             'move_tasks') \
        OR p.privilege <> 'TRUNCATE' AND c.relname IN ('part_config', 'part_config_sub') AND n.oid IN ( \
           SELECT e.extnamespace FROM pg_catalog.pg_extension e WHERE e.extname = 'pg_partman')) \
    UNION ALL \
    SELECT 'TABLE', 'pgmq_gateway.api_keys', c.relowner, 'UPDATE (last_used_at)', \
           pg_catalog.has_column_privilege($1, c.oid, 'last_used_at', 'UPDATE') \
    FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass('pgmq_gateway.api_keys')::pg_catalog.oid \
    UNION ALL \
    SELECT 'SEQUENCE', pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, p.privilege, \
           pg_catalog.has_sequence_privilege($1, c.oid, p.privilege) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, \
         pg_catalog.unnest('{USAGE,SELECT,UPDATE}'::pg_catalog.text[]) p (privilege) \
    WHERE c.relkind = 'S' AND n.nspname = 'pgmq' AND c.relname OPERATOR(pg_catalog.~) '^[qa]_' \
    UNION ALL \
    SELECT 'FUNCTION', pg_catalog.format('%I.%I(%s)', n.nspname, f.proname, \
                                         pg_catalog.pg_get_function_identity_arguments(f.oid)), \
           f.proowner, 'EXECUTE', pg_catalog.has_function_privilege($1, f.oid, 'EXECUTE') \
    FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace \
    WHERE f.prokind = 'f' AND n.nspname IN ('pgmq', 'pgmq_gateway')";

/// What of the rights that it needs a role does not have, what is about most first.
pub(super) async fn missing_grants(
    connection: &mut PgConnection,
    role: Oid,
) -> Result<Vec<MissingGrant>, sqlx::Error> {
    let query = format!(
        "/* missing_grants */ SELECT m.kind, m.name, pg_catalog.quote_ident(r.rolname) AS owner, \
                m.kind = 'TABLE' AND m.name OPERATOR(pg_catalog.~) '^pgmq[.]\"?[qa]_' AS of_queue, \
                pg_catalog.string_agg(m.privilege, ', ' ORDER BY m.privilege) AS privileges \
         FROM ({NEEDED}) m JOIN pg_catalog.pg_roles r ON r.oid = m.owner WHERE NOT m.granted \
         GROUP BY m.kind, m.name, r.rolname \
         ORDER BY pg_catalog.array_position(ARRAY['SCHEMA', 'TABLE', 'SEQUENCE', 'FUNCTION'], m.kind), m.name"
    );
    sqlx::query_as(&query).bind(role).fetch_all(connection).await
}
