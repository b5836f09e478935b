//! A gateway whose role has the rights of `migrate --grant-to` and no more: policies hold for it.

use pgmq_gateway::{
    app::{Database, Gateway},
    config::{Secret, Settings},
};
use tokio::task::JoinSet;

use super::{Answer, Client, TestDatabase, gateway::try_start};

/// A gateway, a client of it, and the database, whose owner policies don't hold for.
pub struct Guarded {
    pub client: Client,
    pub database: TestDatabase,
    _gateway: Gateway,
}

impl Guarded {
    /// With a queue `q` that the owner made, and on which `sql` was run.
    pub async fn start(sql: &str) -> Self {
        Self::with(sql, |_| {}).await
    }

    /// The same with other settings than the defaults.
    pub async fn with(sql: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let database = TestDatabase::new().await;
        let role = format!("guarded_{}", database.name);
        database.execute(&format!("CREATE ROLE {role} LOGIN")).await;
        let mut settings = Settings::default();
        settings.database.url = Some(Secret::new(database.url()));
        let opened = Database::open(&settings).await.expect("configured");
        opened.migrate(&settings, Some(&role)).await.expect("migrated");
        for queue in ["q", "other"] {
            database.execute(&format!("SELECT pgmq.create('{queue}')")).await;
        }
        database.execute(sql).await;
        let gateway = try_start(&database.url_as(&role), change).await.expect("gateway started");
        let client = Client::new(&gateway.url());
        Self { client, database, _gateway: gateway }
    }

    /// The ids of all messages that are in a table of PGMQ's, whoever may see them.
    pub async fn ids(&self, table: &str) -> Vec<i64> {
        let ids =
            format!("SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{{}}') FROM pgmq.{table}");
        self.database.value(&ids).await
    }
}

impl std::ops::Deref for Guarded {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Policies on a table that allow some commands on all rows, and none of the others.
pub fn allow(table: &str, commands: &[&str]) -> String {
    let policy = |command: &&str| {
        let what = if *command == "INSERT" { "WITH CHECK (true)" } else { "USING (true)" };
        format!("CREATE POLICY may_{command} ON pgmq.{table} FOR {command} {what};")
    };
    let policies: String = commands.iter().map(policy).collect();
    format!("ALTER TABLE pgmq.{table} ENABLE ROW LEVEL SECURITY; {policies}")
}

/// What clients are answered that come at the same time, the first of whom is number 0.
pub async fn together<F>(count: i64, request: impl Fn(i64) -> F) -> Vec<Answer>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let mut crowd = JoinSet::new();
    for n in 0..count {
        let request = request(n);
        crowd.spawn(async move { (n, request.await) });
    }
    let mut answers = crowd.join_all().await;
    answers.sort_by_key(|(n, _)| *n);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
