//! Somebody else at work in the database, in a transaction that does not end.

use std::time::Duration;

use sqlx::{Executor, PgConnection};

use super::{TestDatabase, eventually};

/// For how long the gateway tries what is locked.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Time after which nobody is to wait for a lock any more, on a busy machine.
pub const LOCK_LIMIT: Duration = Duration::from_secs(9);

/// A transaction that goes on until it is told to end.
pub struct Holder(PgConnection);

impl Holder {
    /// One in which these statements were run.
    pub async fn of(database: &TestDatabase, statements: &str) -> Self {
        let mut connection = database.connect().await;
        let begin = format!("BEGIN; {statements}");
        connection.execute(&*begin).await.unwrap_or_else(|e| panic!("{statements}: {e}"));
        Self(connection)
    }

    /// One that holds a lock on tables of PGMQ's: `q_orders`, say.
    pub async fn of_tables(database: &TestDatabase, tables: &[&str], mode: &str) -> Self {
        let tables: Vec<String> = tables.iter().map(|table| format!("pgmq.\"{table}\"")).collect();
        Self::of(database, &format!("LOCK TABLE {} IN {mode} MODE", tables.join(", "))).await
    }

    pub async fn commit(mut self) {
        self.0.execute("COMMIT").await.expect("committed");
    }

    pub async fn rollback(mut self) {
        self.0.execute("ROLLBACK").await.expect("rolled back");
    }
}

/// Statements of gateways on this database that have waited for a lock for longer than a moment.
pub async fn stuck_statements(database: &TestDatabase) -> Vec<String> {
    let sql = "SELECT coalesce(array_agg(query), '{}') FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name = 'pgmq-gateway' \
               AND wait_event_type = 'Lock' AND now() - query_start > '1 s'";
    database.value(sql).await
}

/// How many statements of gateways on this database wait for a lock whose text begins like this.
pub async fn blocked_statements(database: &TestDatabase, beginning: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'pgmq-gateway' AND wait_event_type = 'Lock' \
         AND query LIKE '{beginning}%'"
    );
    database.value(&sql).await
}

/// Waits until one does.
pub async fn wait_for_blocked(database: &TestDatabase, beginning: &str) {
    let what = format!("a statement `{beginning}…` waits for a lock");
    let blocked = async || (blocked_statements(database, beginning).await > 0).then_some(());
    eventually(&what, blocked).await;
}
