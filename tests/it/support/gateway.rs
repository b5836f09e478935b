//! A gateway in this process, on a port of its own.

use std::future::Future;

use pgmq_gateway::{
    app::{Database, Gateway, StartError},
    config::{Log, Secret, Settings},
};

use super::{Client, TestDatabase};

/// A gateway and a client of it.
pub struct TestGateway {
    pub gateway: Gateway,
    pub client: Client,
    pub database: TestDatabase,
}

/// Neither a statement nor a request runs out of time while a test holds it up.
pub fn patient(settings: &mut Settings) {
    settings.database.statement_timeout_ms = 60_000;
    settings.server.request_timeout_seconds = 90;
}

impl TestGateway {
    /// On a database of its own.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// On a database of its own, with other settings than the defaults.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(&TestDatabase::new().await, change).await
    }

    /// Two, side by side on a database of their own.
    pub async fn pair() -> [Self; 2] {
        let database = TestDatabase::new().await;
        [Self::on(&database, |_| {}).await, Self::on(&database, |_| {}).await]
    }

    /// On a database that is there.
    pub async fn on(database: &TestDatabase, change: impl FnOnce(&mut Settings)) -> Self {
        let gateway = try_start(&database.url(), change).await.expect("gateway started");
        let client = Client::new(&gateway.url());
        Self { gateway, client, database: database.clone() }
    }
}

/// Starts a gateway, or says why it doesn't.
pub fn try_start<F: FnOnce(&mut Settings)>(
    url: &str,
    change: F,
) -> impl Future<Output = Result<Gateway, StartError>> + use<F> {
    let mut settings = Settings::default();
    // `TEST_LOG=debug cargo test …` shows what the gateways say.
    if let Ok(level) = std::env::var("TEST_LOG") {
        pgmq_gateway::telemetry::init_logs(&Log { level, ..Log::default() });
    }
    settings.server.port = 0;
    settings.database.url = Some(Secret::new(url));
    change(&mut settings);
    async move {
        let database = Database::open(&settings).await?;
        Gateway::start(&settings, &database).await
    }
}

impl std::ops::Deref for TestGateway {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
