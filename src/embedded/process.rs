//! The running PostgreSQL.

use std::{
    fs::File,
    io::{Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use chrono::Utc;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::config::{self, Secret};

use super::{
    EmbeddedError,
    cluster::{self, Cluster, last_lines},
    directory::Directory,
    failed, leftovers,
};

/// Time for a start, recovery from a crash included.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Time for a stop before the next harder signal.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks at a process that starts or stops.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Seconds by which the clock may have been set back while a process was started.
const CLOCK_SLACK: i64 = 2;
/// Connections that the server has beyond those of the gateway: for psql and the like.
const SPARE_CONNECTIONS: u32 = 30;
/// Where the server writes until it keeps a log, and the most bytes of it that are repeated.
const STARTUP_LOG: &str = "startup.log";
const MAX_LOG: u64 = 64 << 10;

/// The turn to start, stop or shortly use a private PostgreSQL, which one process has at a time.
#[derive(Debug)]
pub struct Turn {
    /// Released by the system when the process ends, however it does.
    _lock: File,
}

impl Turn {
    /// Waits for it, for as long as `limit`. A gateway that serves does not have it.
    pub async fn wait(embedded: &config::Embedded, limit: Duration) -> Result<Self, EmbeddedError> {
        Self::wait_in(&Cluster::make_top(embedded)?, limit).await
    }

    async fn wait_in(top: &Directory, limit: Duration) -> Result<Self, EmbeddedError> {
        let deadline = Instant::now() + limit;
        loop {
            match cluster::turn_lock(top) {
                Ok(lock) => return Ok(Self { _lock: lock }),
                Err(EmbeddedError::InUse(_)) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// A private PostgreSQL, while it runs. Dropped, it is left to end with the process.
#[derive(Debug)]
pub struct EmbeddedServer {
    cluster: Cluster,
    child: Child,
    /// What it says before it keeps a log.
    startup_log: File,
}

impl EmbeddedServer {
    /// Starts it, and returns once it takes connections. Call this on the main thread: the server
    /// is told to stop when the thread that started it ends.
    ///
    /// `connections` is how many the gateway will open at the most; `settings` go to the server on
    /// top of its own.
    pub async fn start(
        embedded: &config::Embedded,
        connections: u32,
        settings: &[(&str, &str)],
    ) -> Result<Self, EmbeddedError> {
        let cluster = Cluster::open(embedded)?;
        leftovers::clear(&cluster).await?;
        let startup_log = cluster.log.new_file(STARTUP_LOG)?;
        let spawned = Utc::now().timestamp();
        let child = spawn(&cluster, &startup_log, connections, settings)?;
        let mut server = Self { cluster, child, startup_log };
        server.wait_until_ready(spawned).await?;
        info!(directory = %server.dir().display(), "private PostgreSQL runs");
        Ok(server)
    }

    /// Where the gateway connects: the socket.
    pub fn url(&self) -> Secret {
        socket_url(self.cluster.run.path(), self.cluster.port())
    }

    /// Where one that another gateway runs is reached, by whoever may enter its directory.
    pub fn url_of_running(embedded: &config::Embedded) -> Result<Secret, EmbeddedError> {
        let (directory, port) = Cluster::socket(embedded)?;
        Ok(socket_url(&directory, port))
    }

    /// Looks at all that a start needs, or says what of it is missing. Changes nothing.
    pub fn inspect(embedded: &config::Embedded) -> Result<(), EmbeddedError> {
        Cluster::inspect(embedded).map(drop)
    }

    /// Whether there is none yet: the next start would make it. Changes nothing.
    pub fn is_new(embedded: &config::Embedded) -> Result<bool, EmbeddedError> {
        Cluster::is_new(embedded)
    }

    /// Where it is, or is going to be.
    pub fn directory(embedded: &config::Embedded) -> Result<PathBuf, EmbeddedError> {
        cluster::directory(embedded)
    }

    /// The command with which a person gets to it.
    pub fn psql(&self) -> String {
        let directory = self.cluster.run.path();
        match self.cluster.tcp_port {
            None => format!("psql -h {} -U postgres", directory.display()),
            Some(port) => format!(
                "PGPASSWORD=$(cat {}) psql -h 127.0.0.1 -p {port} -U postgres",
                self.cluster.password_file().display()
            ),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    /// Waits until it ends by itself, which it should not.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits until nobody else uses it shortly, for as long as `limit`.
    pub async fn turn(&self, limit: Duration) -> Result<Turn, EmbeddedError> {
        Turn::wait_in(self.cluster.top(), limit).await
    }

    /// Stops it: open transactions are rolled back, and everything committed is on disk.
    pub async fn stop(mut self) {
        for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
            let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else {
                return;
            };
            if kill(Pid::from_raw(pid), signal).is_err() {
                return;
            }
            if timeout(STOP_LIMIT, self.child.wait()).await.is_ok() {
                info!("private PostgreSQL stopped");
                return;
            }
            warn!(%signal, "private PostgreSQL does not stop");
        }
    }

    async fn wait_until_ready(&mut self, spawned: i64) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + START_LIMIT;
        let pid_file = self.cluster.data.path().join("postmaster.pid");
        let own_pid = self.child.id();
        loop {
            let ended = self.child.try_wait().map_err(failed("cannot wait for", &pid_file))?;
            if ended.is_some() || Instant::now() >= deadline {
                let output = last_lines(&self.said_at_start());
                return Err(EmbeddedError::Failed { program: "postgres", output });
            }
            let file = PidFile::read(&self.cluster.data);
            if file.is_some_and(|file| file.ready && file.is_of(own_pid, spawned)) {
                return Ok(());
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// What it said before it kept a log. Read from where it was written: its place may be another's now.
    fn said_at_start(&mut self) -> String {
        let mut said = Vec::new();
        let read = self.startup_log.rewind();
        let read = read.and_then(|()| (&self.startup_log).take(MAX_LOG).read_to_end(&mut said));
        read.map_or_else(|error| error.to_string(), |_| String::from_utf8_lossy(&said).into_owned())
    }
}

fn spawn(
    cluster: &Cluster,
    log: &File,
    connections: u32,
    settings: &[(&str, &str)],
) -> Result<Child, EmbeddedError> {
    let log_path = cluster.log.path().join(STARTUP_LOG);
    let log = || log.try_clone().map_err(failed("cannot write", &log_path));
    let addresses = if cluster.tcp_port.is_some() { "127.0.0.1" } else { "" };
    let max_connections = (connections + SPARE_CONNECTIONS).max(100).to_string();
    let directory = cluster.log.path().display().to_string();
    let mut command = cluster.server();
    command.arg("-D").arg(cluster.data.path());
    command.arg("-k").arg(cluster.run.path());
    command.arg("-p").arg(cluster.port().to_string());
    let own: [(&str, &str); 8] = [
        ("listen_addresses", addresses),
        ("max_connections", &max_connections),
        ("unix_socket_permissions", "0700"),
        // A log file for each day of the week, the oldest overwritten.
        ("logging_collector", "on"),
        ("log_directory", &directory),
        ("log_filename", "postgresql-%a.log"),
        ("log_rotation_age", "1d"),
        ("log_truncate_on_rotation", "on"),
    ];
    for (name, value) in own.iter().chain(settings) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    // A process group of its own: Ctrl-C on a terminal is for the gateway, which stops the server
    // when its own work is done.
    command.stdout(Stdio::from(log()?)).stderr(Stdio::from(log()?)).process_group(0);
    end_with_parent(&mut command);
    let program = cluster.binaries.program("postgres");
    Command::from(command).spawn().map_err(failed("cannot run", &program))
}

/// Has the system tell the server to stop if the gateway is killed.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the only way to run code between fork and exec")]
fn end_with_parent(command: &mut std::process::Command) {
    // SAFETY: prctl(2) is async-signal-safe and touches no memory of the parent's.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?));
    }
}

/// Elsewhere the next start stops what was left behind.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut std::process::Command) {}

/// What `postmaster.pid` says.
struct PidFile {
    pid: u32,
    /// When its server began, in seconds.
    started: Option<i64>,
    ready: bool,
}

impl PidFile {
    fn read(data: &Directory) -> Option<Self> {
        let content = data.read("postmaster.pid").ok()?;
        Self::parse(std::str::from_utf8(&content).ok()?)
    }

    fn parse(content: &str) -> Option<Self> {
        let mut lines = content.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let started = lines.nth(1).and_then(|time| time.trim().parse().ok());
        // The eighth line is the state.
        let ready = lines.nth(4).is_some_and(|state| state.trim() == "ready");
        Some(Self { pid, started, ready })
    }

    /// Whether it is of the process that was started at that time. In a container, the same number may have been
    /// that of a server which is long gone and could not remove its file.
    fn is_of(&self, pid: Option<u32>, spawned: i64) -> bool {
        let since = spawned - CLOCK_SLACK;
        Some(self.pid) == pid && self.started.is_some_and(|started| started >= since)
    }
}

fn socket_url(directory: &Path, port: u16) -> Secret {
    let host = utf8_percent_encode(&directory.to_string_lossy(), NON_ALPHANUMERIC).to_string();
    Secret::new(format!(
        "postgres://postgres@localhost:{port}/postgres?host={host}&sslmode=disable"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eighth_line_is_the_state() {
        for (state, ready) in [("ready   ", true), ("starting", false)] {
            let content = format!("4711\n/data\n1700000000\n5432\n/run\n\n  1 2\n{state}\n");
            let file = PidFile::parse(&content).expect("readable");
            assert_eq!((file.pid, file.ready), (4711, ready));
            assert!(file.is_of(Some(4711), 1_700_000_001) && !file.is_of(Some(1), 1_700_000_001));
            assert!(!file.is_of(Some(4711), 1_700_000_060), "a server before it");
        }
        assert!(!PidFile::parse("4711\n/data\n").expect("readable").ready);
    }
}
