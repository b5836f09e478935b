//! PostgreSQL and the gateways, each a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use pgmq_gateway::{config::Embedded, embedded::EmbeddedServer};
use sqlx::{Connection, Executor, PgConnection};

/// A gateway of its own process.
pub struct Gateway {
    child: Child,
    pub address: String,
}

/// Everything that runs.
pub struct Stage {
    server: EmbeddedServer,
    pub url: String,
    pub gateway: Gateway,
    pub other_gateway: Gateway,
    pub without_sharing: Gateway,
    directory: PathBuf,
}

impl Stage {
    pub async fn set() -> Self {
        let directory = std::env::temp_dir().join("pgmq-gateway-bench");
        let _ = fs::remove_dir_all(&directory);
        let embedded = Embedded { data_dir: Some(directory.clone()), ..Embedded::default() };
        let settings = [("shared_buffers", "512MB"), ("max_wal_size", "4GB")];
        let server = EmbeddedServer::start(&embedded, 300, &settings).await.expect("PostgreSQL");
        let url = server.url().expose().to_owned();
        let gateway = Gateway::start(&url, &[]);
        let other_gateway = Gateway::start(&url, &[]);
        let without_sharing = Gateway::start(
            &url,
            &[
                ("PGMQ_GATEWAY__ENGINE__MAX_BATCH_ROWS", "1"),
                ("PGMQ_GATEWAY__ENGINE__STATEMENTS_PER_LANE", "20"),
                ("PGMQ_GATEWAY__ENGINE__READ", "pgmq"),
                ("PGMQ_GATEWAY__DATABASE__MAX_CONNECTIONS", "26"),
                ("PGMQ_GATEWAY__LONG_POLL__STRATEGY", "read_with_poll"),
            ],
        );
        Self { server, url, gateway, other_gateway, without_sharing, directory }
    }

    /// The machine and the versions.
    pub fn describe() {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let version = |program: &str| {
            let output = Command::new(program).arg("--version").output();
            output.map_or_else(
                |_| "?".to_owned(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            )
        };
        println!("{cores} cores for everything; {}; {}", version("postgres"), version("rustc"));
        println!("pgmq-gateway {}, fsync and synchronous_commit on", env!("CARGO_PKG_VERSION"));
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connected")
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// One number.
    pub async fn number(&self, sql: &str) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// Makes a queue anew, with messages of 130 bytes in it.
    pub async fn fill(&self, queue: &str, messages: usize) {
        let body = "x".repeat(118);
        self.execute(&format!(
            "SELECT pgmq.drop_queue('{queue}') FROM pgmq.meta WHERE queue_name = '{queue}'; \
             SELECT pgmq.create('{queue}'); \
             INSERT INTO pgmq.q_{queue} (vt, message) \
             SELECT clock_timestamp(), jsonb_build_object('data', '{body}') \
             FROM generate_series(1, {messages})"
        ))
        .await;
        self.execute(&format!("VACUUM ANALYZE pgmq.q_{queue}")).await;
        self.execute("CHECKPOINT").await;
    }

    /// A file that goes with the stage.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub async fn strike(self) {
        for gateway in [self.gateway, self.other_gateway, self.without_sharing] {
            drop(gateway);
        }
        self.server.stop().await;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Gateway {
    pub fn start(url: &str, more: &[(&str, &str)]) -> Self {
        Self::start_program(None, url, more)
    }

    /// The same with another build of it.
    pub fn start_program(program: Option<PathBuf>, url: &str, more: &[(&str, &str)]) -> Self {
        let own = || PathBuf::from(env!("CARGO_BIN_EXE_pgmq-gateway"));
        let mut command = Command::new(program.unwrap_or_else(own));
        command.env("DATABASE_URL", url).env("PGMQ_GATEWAY__SERVER__PORT", "0");
        // A line for every request is for those who want it; here it would measure the terminal.
        command.env("PGMQ_GATEWAY__LOG__LEVEL", "warn,pgmq_gateway::app=info");
        command.envs(more.iter().copied()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("gateway");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("it listens").expect("text");
            let listens = line.split_once("listening on http");
            let address = listens.and_then(|(_, rest)| rest.split_once("://"));
            if let Some((_, rest)) = address {
                break rest.split_whitespace().next().expect("an address").to_owned();
            }
        };
        // Whatever it has to say goes where it can be seen.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| eprintln!("{line}"));
        });
        Self { child, address }
    }

    /// Prepares a database, and grants a role what a gateway needs.
    pub fn migrate(url: &str, role: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgmq-gateway"));
        command.args(["migrate", "--grant-to", role]).env("DATABASE_URL", url);
        let done = command.stderr(Stdio::null()).status().expect("gateway");
        assert!(done.success(), "migrated");
    }

    /// Resident memory in kB.
    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
