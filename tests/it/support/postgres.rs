//! A PostgreSQL for all tests, and a database for each.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use pgmq_gateway::{
    app::Database,
    config::{Embedded, Secret, Settings},
    embedded::EmbeddedServer,
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::runtime;

/// What the directories of test servers begin with.
const PREFIX: &str = "pgmq-gateway-test-";
const TEMPLATE: &str = "gateway_template";

/// A server that is as fast as it gets: the data is thrown away.
const THROW_AWAY: [(&str, &str); 6] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("max_connections", "500"),
    ("shared_buffers", "64MB"),
    ("autovacuum_naptime", "10s"),
];

/// A database of a test's own.
#[derive(Clone, Debug)]
pub struct TestDatabase {
    pub name: String,
    url: String,
}

impl TestDatabase {
    /// With PGMQ and the gateway's schema installed.
    pub async fn new() -> Self {
        Self::create(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// With nothing in it.
    pub async fn empty() -> Self {
        Self::create("").await
    }

    /// With nothing in it, in another encoding.
    pub async fn encoded(encoding: &str) -> Self {
        let options = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
        Self::create(&format!("ENCODING '{encoding}' {options}")).await
    }

    /// As it is: a copy of all that is in another one, in which nobody is at work.
    pub async fn copy(other: &Self) -> Self {
        Self::create(&format!("TEMPLATE {}", other.name)).await
    }

    /// On a server of the test's own, with nothing in it.
    pub async fn on_server(url: &str, name: &str) -> Self {
        connect(url).await.execute(&*format!("CREATE DATABASE {name}")).await.expect("created");
        Self { name: name.to_owned(), url: url.replace("/postgres?", &format!("/{name}?")) }
    }

    /// One that is there, on a server of the test's own.
    pub fn at(url: &str) -> Self {
        Self { name: "postgres".to_owned(), url: url.to_owned() }
    }

    async fn create(options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Relaxed));
        let mut admin = connect(server()).await;
        let create = format!("CREATE DATABASE {name} {options}");
        admin.execute(&*create).await.expect("database created");
        let url = server().replace("/postgres?", &format!("/{name}?"));
        Self { name, url }
    }

    /// As the owner of everything.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// As another role.
    pub fn url_as(&self, role: &str) -> String {
        self.url.replace("//postgres@", &format!("//{role}@"))
    }

    /// A connection for SQL of the test's own.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.url).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// One value.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        value.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("connected to the test server")
}

/// The URL of the server that all tests share, which is started when it is first asked for.
pub fn server() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let (send, receive) = mpsc::channel();
        // The server stops when the thread that started it ends: this one never does.
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(async {
                let (server, url) = start_shared().await;
                send.send(url).expect("somebody waits");
                std::future::pending::<()>().await;
                drop(server);
            });
        });
        receive.recv().expect("the test server started")
    })
}

async fn start_shared() -> (EmbeddedServer, String) {
    let server = start(&new_directory(), &THROW_AWAY).await;
    let url = server.url().expose().to_owned();
    let create = format!("CREATE DATABASE {TEMPLATE}");
    connect(&url).await.execute(&*create).await.expect("template created");
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(url.replace("/postgres?", "/gateway_template?")));
    let database = Database::open(&settings).await.expect("configured");
    database.migrate(&settings, None).await.expect("template installed");
    (server, url)
}

/// Starts a server in a directory. `TEST_PG_BIN` names the programs of another version.
pub async fn start(directory: &Path, settings: &[(&str, &str)]) -> EmbeddedServer {
    start_on(None, directory, settings).await
}

/// The same, with a port for TCP.
pub async fn start_on(
    port: Option<u16>,
    directory: &Path,
    settings: &[(&str, &str)],
) -> EmbeddedServer {
    let embedded = Embedded {
        data_dir: Some(directory.to_owned()),
        bin_dir: bin_dir(),
        port,
        ..Embedded::default()
    };
    EmbeddedServer::start(&embedded, 100, settings).await.expect("PostgreSQL started")
}

/// Where the programs are, if that is not left to the search.
pub fn bin_dir() -> Option<PathBuf> {
    std::env::var_os("TEST_PG_BIN").map(PathBuf::from)
}

/// A directory for a server; those of runs that ended are removed.
pub fn new_directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent).expect("temporary directory").flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let run = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if run.is_some_and(|run| !Path::new("/proc").join(run).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NUMBER.fetch_add(1, Relaxed);
    parent.join(format!("{PREFIX}{}-{number}", std::process::id()))
}
